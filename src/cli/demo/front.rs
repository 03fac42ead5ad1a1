//! The real proxy in front of the demo's backends, from a file as `evergate run` has it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cli::demo::ledger::Clock;
use crate::cluster::AdminState;
use crate::cluster::Health;
use crate::cluster::Role;
use crate::config::Config;
use crate::config::FileWatcher;
use crate::control::CommandError;
use crate::routing::BackendEntry;
use crate::routing::ClusterTable;
use crate::routing::SharedTable;
use crate::server::Server;
use crate::server::Source;
use crate::tls::TlsMaterial;

/// The one cluster's name.
pub const NAME: &str = "demo";
/// How long the script waits for anything; what comes later breaks a promise.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Reloads whose result nobody has read.
const MAX_UNREAD_RELOADS: usize = 16;

/// The running proxy and its file. Dropping it removes the file.
#[derive(Debug)]
pub struct Front {
    pub file: PathBuf,
    clock: Clock,
    table: SharedTable,
    commands: mpsc::Sender<Command>,
    reloads: mpsc::Receiver<Result<(), String>>,
    task: JoinHandle<()>,
    _directory: TempDir,
}

#[derive(Debug)]
enum Command {
    SetAdminState {
        backend: &'static str,
        state: AdminState,
        done: oneshot::Sender<Result<(), CommandError>>,
    },
    Config(oneshot::Sender<Config>),
    Drain {
        timeout: Duration,
        severed: oneshot::Sender<usize>,
    },
}

impl Front {
    pub async fn start(configuration: &str, clock: Clock) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("evergate-demo-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        let state = directory.path().join("state");
        fs::create_dir(&state).with_context(|| format!("cannot make {}", state.display()))?;
        let file = directory.path().join("evergate.yaml");
        fs::write(&file, configuration)
            .with_context(|| format!("cannot write {}", file.display()))?;

        let source = Source::File(file.clone());
        let prepared = source.prepare(&TlsMaterial::default())?;
        let watcher = FileWatcher::new(&prepared.loaded.files);
        let (server, _) = Server::start(source, prepared, Arc::default()).await?;
        let table = server.table().clone();
        let (commands, received) = mpsc::channel(1);
        let (reloaded, reloads) = mpsc::channel(MAX_UNREAD_RELOADS);
        let task = tokio::spawn(follow(server, watcher, received, reloaded));
        Ok(Self {
            file,
            clock,
            table,
            commands,
            reloads,
            task,
            _directory: directory,
        })
    }

    /// Replaces the file as a careful operator does: whole, by a rename.
    pub fn write(&self, configuration: &str) -> io::Result<()> {
        let fresh = self.file.with_extension("yaml.new");
        fs::write(&fresh, configuration)?;
        fs::rename(&fresh, &self.file)
    }

    /// The result of the next reload; `None` when there was none in time.
    pub async fn reloaded(&mut self) -> Option<Result<(), String>> {
        timeout(PATIENCE, self.reloads.recv()).await.ok().flatten()
    }

    /// When the routing table first satisfies this; `None` when it does not in time.
    pub async fn seen(&self, satisfied: impl Fn(&ClusterTable) -> bool) -> Option<Duration> {
        let mut published = self.table.follow();
        let waiting = async {
            while !self.cluster(&satisfied).unwrap_or(false) {
                published.changed().await.ok()?;
            }
            Some(self.clock.now())
        };
        timeout(PATIENCE, waiting).await.ok().flatten()
    }

    /// When a backend's health became this; `None` when it does not in time.
    pub async fn became(&self, backend: &str, health: Health) -> Option<Duration> {
        let has_health = |entry: &&BackendEntry| entry.health == health;
        let since = |cluster: &ClusterTable| {
            let entry = entry(cluster, backend).filter(has_health);
            entry.map(|entry| self.clock.at(entry.since))
        };
        self.seen(|cluster| since(cluster).is_some()).await?;
        self.cluster(since).flatten()
    }

    /// When a backend's role became this; `None` when it does not in time.
    pub async fn plays(&self, backend: &str, role: Role) -> Option<Duration> {
        let has_role = |entry: &BackendEntry| entry.role == role && entry.health == Health::Up;
        self.seen(|cluster| entry(cluster, backend).is_some_and(has_role))
            .await
    }

    /// Reads the cluster as the data plane sees it now.
    pub fn cluster<T>(&self, read: impl FnOnce(&ClusterTable) -> T) -> Option<T> {
        let table = self.table.load();
        table.clusters.get(NAME).map(|cluster| read(cluster))
    }

    pub async fn set_admin_state(
        &self,
        backend: &'static str,
        state: AdminState,
    ) -> anyhow::Result<()> {
        let (done, answer) = oneshot::channel();
        let command = Command::SetAdminState {
            backend,
            state,
            done,
        };
        self.commands.send(command).await?;
        Ok(answer.await??)
    }

    /// The configuration in force.
    pub async fn config(&self) -> anyhow::Result<Config> {
        let (config, answer) = oneshot::channel();
        self.commands.send(Command::Config(config)).await?;
        Ok(answer.await?)
    }

    /// Stops to listen and lets sessions finish. Returns how many had to be severed.
    pub async fn drain(&self, timeout: Duration) -> anyhow::Result<usize> {
        let (severed, answer) = oneshot::channel();
        let command = Command::Drain { timeout, severed };
        self.commands.send(command).await?;
        Ok(answer.await?)
    }

    /// Ends the proxy.
    pub async fn stop(self) -> anyhow::Result<()> {
        drop(self.commands);
        Ok(self.task.await?)
    }
}

/// The main loop of `evergate run`, with commands of the script instead of signals.
async fn follow(
    mut server: Server,
    mut watcher: FileWatcher,
    mut commands: mpsc::Receiver<Command>,
    reloads: mpsc::Sender<Result<(), String>>,
) {
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => obey(&mut server, command).await,
                None => break,
            },
            () = watcher.changed() => {
                let result = server.reload(None).await;
                watcher.set_files(server.files());
                let result = result.map(drop).map_err(|error| error.to_string());
                // A full queue means more reloads than the script made, which is no result.
                let _ = reloads.try_send(result);
            }
        }
    }
    server.stop().await;
}

async fn obey(server: &mut Server, command: Command) {
    // The script waits for each answer; without it nobody needs one.
    match command {
        Command::SetAdminState {
            backend,
            state,
            done,
        } => {
            let _ = done.send(server.set_admin_state(NAME, backend, state).await);
        }
        Command::Config(config) => {
            let _ = config.send(server.config().clone());
        }
        Command::Drain { timeout, severed } => {
            let _ = severed.send(server.drain(timeout).await);
        }
    }
}

/// A backend's entry, by name.
pub fn entry<'a>(cluster: &'a ClusterTable, backend: &str) -> Option<&'a BackendEntry> {
    let mut entries = cluster.backends.iter();
    entries.find(|entry| &*entry.config.name == backend)
}
