//! Three real PostgreSQL servers in a temporary directory.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::timeout;

use crate::cli::demo::MEMBERS;
use crate::cli::demo::NAMES;
use crate::cli::demo::client::Client;
use crate::cli::demo::node::Ending;
use crate::cli::demo::port::ReservedPort;
use crate::cli::demo::programs::PATIENCE;
use crate::cli::demo::programs::Programs;
use crate::cli::demo::sql;

/// At the very end a server gets this long to remove its shared memory.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
wal_log_hints = on
wal_keep_size = '256MB'
max_connections = 60
shared_buffers = '16MB'
hot_standby = on
wal_receiver_status_interval = 1
wal_retrieve_retry_interval = 200
";

/// A primary and its replicas.
#[derive(Debug)]
pub struct Servers {
    programs: Programs,
    servers: Vec<Server>,
    directory: TempDir,
}

#[derive(Debug)]
struct Server {
    port: ReservedPort,
    data: PathBuf,
    running: Option<Child>,
}

impl Servers {
    /// Creates and starts them.
    ///
    /// # Errors
    /// Also that PostgreSQL is not installed, with what to install.
    pub async fn start() -> anyhow::Result<Self> {
        let programs = Programs::find()?;
        let directory = tempfile::Builder::new()
            .prefix("evergate-demo-postgres-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        programs.give(directory.path())?;
        let mut servers = Vec::new();
        for name in NAMES {
            servers.push(Server {
                port: ReservedPort::new()?,
                data: directory.path().join(name),
                running: None,
            });
        }
        let mut all = Self {
            programs,
            servers,
            directory,
        };
        all.create_primary().await?;
        for replica in 1..MEMBERS {
            all.clone_primary(replica).await?;
        }
        Ok(all)
    }

    pub fn address(&self, server: usize) -> SocketAddr {
        self.servers[server].port.address
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    async fn create_primary(&mut self) -> anyhow::Result<()> {
        let data = self.servers[0].data.clone();
        let fixed = [
            "--no-sync",
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "-D",
        ];
        let arguments = fixed.map(OsStr::new).into_iter().chain([data.as_os_str()]);
        self.programs.run("initdb", arguments).await?;
        self.configure(0, SETTINGS)?;
        self.start_again(0).await?;
        let mut client = Client::connect(self.address(0)).await?;
        client.query(sql::CREATE).await?;
        client.leave().await;
        Ok(())
    }

    async fn clone_primary(&mut self, server: usize) -> anyhow::Result<()> {
        let data = self.servers[server].data.clone();
        let port = self.address(0).port().to_string();
        let fixed = [
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "-c",
            "fast",
        ];
        let more = ["--no-sync", "-X", "stream", "-D"];
        let words = fixed.into_iter().chain(more).map(OsStr::new);
        let arguments = words.chain([data.as_os_str()]);
        self.programs.run("pg_basebackup", arguments).await?;
        self.follow_from_start(server, 0)?;
        self.start_again(server).await
    }

    /// As a machine that loses its power: SIGKILL, and nobody says goodbye.
    pub async fn kill(&mut self, server: usize) -> anyhow::Result<()> {
        self.stop(server, Ending::Crash).await
    }

    pub async fn shut_down(&mut self, server: usize) -> anyhow::Result<()> {
        self.stop(server, Ending::Shutdown).await
    }

    async fn stop(&mut self, server: usize, ending: Ending) -> anyhow::Result<()> {
        let signal = match ending {
            Ending::Crash => Signal::KILL,
            Ending::Shutdown => Signal::INT,
        };
        let Some(mut child) = self.servers[server].running.take() else {
            return Ok(());
        };
        send(&child, signal);
        let ended = timeout(PATIENCE, child.wait()).await;
        ended.with_context(|| format!("{} does not stop", NAMES[server]))??;
        Ok(())
    }

    pub async fn promote(&self, server: usize) -> anyhow::Result<()> {
        let mut client = Client::connect(self.address(server)).await?;
        client.query("SELECT pg_promote(true, 30)").await?;
        client.leave().await;
        Ok(())
    }

    /// A running replica turns to another primary.
    pub async fn follow(&mut self, server: usize, upstream: usize) -> anyhow::Result<()> {
        let settings = self.upstream(upstream);
        self.configure(server, &settings)?;
        let mut client = Client::connect(self.address(server)).await?;
        client.query("SELECT pg_reload_conf()").await?;
        client.leave().await;
        Ok(())
    }

    /// Makes a former primary a replica and starts it.
    pub async fn rejoin(&mut self, server: usize, upstream: usize) -> anyhow::Result<()> {
        let was_running = self.servers[server].running.is_some();
        self.shut_down(server).await?;
        if was_running {
            let data = self.servers[server].data.clone();
            let port = self.address(upstream).port();
            let source =
                format!("--source-server=host=127.0.0.1 port={port} user=postgres dbname=postgres");
            let words = ["--no-sync", &source, "-D"].map(OsStr::new);
            let arguments = words.into_iter().chain([data.as_os_str()]);
            self.programs.run("pg_rewind", arguments).await?;
        }
        self.follow_from_start(server, upstream)?;
        self.start_again(server).await
    }

    fn follow_from_start(&self, server: usize, upstream: usize) -> anyhow::Result<()> {
        let settings = self.upstream(upstream);
        self.configure(server, &settings)?;
        let mark = self.servers[server].data.join("standby.signal");
        fs::write(&mark, "")?;
        self.programs.give(&mark)
    }

    fn upstream(&self, upstream: usize) -> String {
        let port = self.address(upstream).port();
        format!("primary_conninfo = 'host=127.0.0.1 port={port} user=postgres'\n")
    }

    /// The last setting of a name counts.
    fn configure(&self, server: usize, settings: &str) -> anyhow::Result<()> {
        let file = self.servers[server].data.join("postgresql.conf");
        let before = fs::read_to_string(&file)?;
        let port = self.address(server).port();
        fs::write(&file, format!("{before}\n{settings}\nport = {port}\n"))?;
        Ok(())
    }

    /// Starts it as what it was, and waits until it can be asked.
    pub async fn start_again(&mut self, server: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let address = self.address(server);
        while Instant::now() < deadline {
            let log = self.directory.path().join(format!("{}.log", NAMES[server]));
            let log = fs::File::options().create(true).append(true).open(log)?;
            let mut command = self.programs.command("postgres");
            command.arg("-D").arg(&self.servers[server].data);
            command.stdout(log.try_clone()?).stderr(log);
            self.servers[server].running = Some(command.spawn()?);
            while Instant::now() < deadline {
                if let Ok(client) = Client::connect(address).await {
                    client.leave().await;
                    return Ok(());
                }
                let child = self.servers[server].running.as_mut();
                // Processes of the one that was killed may still be going away: once more.
                if child.is_none_or(|child| !matches!(child.try_wait(), Ok(None))) {
                    break;
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            tokio::time::sleep(LOOK_INTERVAL * 5).await;
        }
        let log = self.directory.path().join(format!("{}.log", NAMES[server]));
        let log = fs::read_to_string(log).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(5).collect();
        bail!(
            "{} does not start; its last words, newest first:\n{}",
            NAMES[server],
            last.join("\n")
        )
    }
}

impl Drop for Servers {
    /// Before their directory goes.
    fn drop(&mut self) {
        for server in &self.servers {
            if let Some(child) = &server.running {
                // Immediate shutdown: its own processes end first.
                send(child, Signal::QUIT);
            }
        }
        let deadline = Instant::now() + LAST_PATIENCE;
        for server in &mut self.servers {
            let Some(child) = &mut server.running else {
                continue;
            };
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(LOOK_INTERVAL);
            }
        }
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // It may have ended by itself; whoever waits for it sees that.
        let _ = kill_process(pid, signal);
    }
}
