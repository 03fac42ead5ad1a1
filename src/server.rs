//! Wires the planes together: start, reload (all or nothing), end.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::admin::EffectiveConfig;
use crate::cluster::AdminState;
use crate::config;
use crate::config::AdminConfig;
use crate::config::Config;
use crate::config::Diagnostic;
use crate::config::Diagnostics;
use crate::config::Loaded;
use crate::config::Place;
use crate::config::Severity;
use crate::control;
use crate::control::CommandError;
use crate::control::ControlHandle;
use crate::control::Desired;
use crate::control::StateDir;
use crate::control::StateError;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::net;
use crate::proxy::AccessLogs;
use crate::proxy::BindError;
use crate::proxy::Proxy;
use crate::report;
use crate::routing::SharedTable;
use crate::shutdown::SharedStage;
use crate::shutdown::Stage;
use crate::tls::TlsError;
use crate::tls::TlsMaterial;

/// Descriptors kept for listeners, files, the admin API and the event loops.
const RESERVED_DESCRIPTORS: usize = 256;
/// Each backend is asked by one probe at a time, and no more than this many at once.
const MAX_PROBE_DESCRIPTORS: usize = 2048;
/// The pipes that a worker keeps for bulk transfers.
const PIPE_DESCRIPTORS_PER_WORKER: usize = 32;
/// A relayed connection has two sockets.
const DESCRIPTORS_PER_CONNECTION: usize = 2;
/// Reload requests that may wait; more than one waiting reload would do the same work twice.
const MAX_PENDING_RELOADS: usize = 16;

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub enum Source {
    File(PathBuf),
    /// Text made by this process, under a name for its messages.
    Text {
        name: PathBuf,
        text: String,
    },
}

/// Why a configuration is not in force. Displays as the full report.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Config(#[from] Diagnostics),
    #[error("{problems}")]
    Tls {
        problems: Diagnostics,
        files: Vec<PathBuf>,
    },
    #[error("{}", lines(.0))]
    Bind(Vec<BindError>),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Control(#[from] CommandError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A configuration that is valid as far as files go; nothing is bound yet.
#[derive(Debug)]
pub struct Prepared {
    pub loaded: Loaded,
    tls: TlsMaterial,
}

/// A reload that someone asked for, with the way to answer.
#[derive(Debug)]
pub struct ReloadRequest {
    pub done: oneshot::Sender<Result<String, String>>,
}

/// The running process: both planes, the admin API and what reloads need.
#[derive(Debug)]
pub struct Server {
    source: Source,
    config: Arc<Config>,
    tls: TlsMaterial,
    files: Vec<PathBuf>,
    proxy: Proxy,
    control: ControlHandle,
    table: SharedTable,
    metrics: Arc<Metrics>,
    stage: SharedStage,
    effective: EffectiveConfig,
    admin: Option<admin::Running>,
    admin_stop: CancellationToken,
}

impl ApplyError {
    /// The files to mend: whoever watches must look at them too, new as they may be.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Config(problems) => {
                let places = problems.0.iter().map(|problem| &problem.place);
                places.map(|place| place.file.clone()).collect()
            }
            Self::Tls { files, .. } => files.clone(),
            Self::Bind(_) | Self::State(_) | Self::Control(_) | Self::Io(_) => Vec::new(),
        }
    }
}

impl Source {
    /// The name used in messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Text { name, .. } => name,
        }
    }

    /// Reads and checks everything that can be checked without binding.
    ///
    /// # Errors
    /// All that is wrong with the files.
    pub fn prepare(&self, previous: &TlsMaterial) -> Result<Prepared, ApplyError> {
        let loaded = match self {
            Self::File(path) => config::load(path)?,
            Self::Text { name, text } => config::load_text(name, text)?,
        };
        let tls = TlsMaterial::reload(&loaded.config, previous)
            .map_err(|errors| tls_problems(self.path(), &loaded, &errors))?;
        Ok(Prepared { loaded, tls })
    }
}

impl Server {
    /// Binds everything, starts both planes and publishes the first table. Returns the
    /// server and the reloads that the admin API asks for.
    ///
    /// # Errors
    /// What could not be bound or started; nothing runs then.
    pub async fn start(
        source: Source,
        prepared: Prepared,
        log_dropped: Arc<std::sync::atomic::AtomicU64>,
    ) -> Result<(Self, mpsc::Receiver<ReloadRequest>), ApplyError> {
        let Prepared { loaded, tls } = prepared;
        let config = fit_descriptors(loaded.config, &loaded.effective);
        // All that the API may lack is known before the first client is accepted.
        let admin = config.admin.as_ref().map(make_admin).transpose()?;
        let metrics = Arc::new(Metrics::new(log_dropped));
        let table = SharedTable::default();
        let (reporter, reports) = report::channel();
        let mut proxy = Proxy::start(
            config.workers,
            table.clone(),
            reporter,
            Arc::clone(&metrics),
            Arc::new(AccessLogs::new(metrics.access_log_dropped())),
        )?;
        let state_dir = config.state_dir.as_deref().map(StateDir::open);
        let state_dir = state_dir.transpose()?;
        let control = control::start(table.clone(), reports, Arc::clone(&metrics), state_dir)?;
        let config = Arc::new(config);
        put_in_force(&mut proxy, &control, &config, &tls).await?;
        metrics.record_first_load();

        let mut server = Self {
            source,
            config,
            tls,
            files: loaded.files,
            proxy,
            control,
            table,
            metrics,
            stage: SharedStage::default(),
            effective: EffectiveConfig::default(),
            admin: None,
            admin_stop: CancellationToken::new(),
        };
        server.effective.set(loaded.effective);
        let reloads = server.serve_admin(admin);
        server.stage.set(Stage::Serving);
        Ok((server, reloads))
    }

    fn serve_admin(
        &mut self,
        made: Option<(admin::Bound, admin::IdleThread)>,
    ) -> mpsc::Receiver<ReloadRequest> {
        let (requests, reloads) = mpsc::channel(MAX_PENDING_RELOADS);
        tokio::spawn(admin::keep_metrics(
            self.table.clone(),
            Arc::clone(&self.metrics),
        ));
        let Some((bound, thread)) = made else {
            return reloads;
        };
        let views = Arc::new(self.proxy.session_views());
        let sources = admin::Sources {
            table: self.table.clone(),
            metrics: Arc::clone(&self.metrics),
            stage: self.stage.clone(),
            config: self.effective.clone(),
            sessions: Arc::new(move || {
                let views = Arc::clone(&views);
                Box::pin(async move { views() })
            }),
            set_admin_state: admin::admin_state_commands(self.control.clone()),
            appoint: admin::appoint_commands(self.control.clone()),
            incidents: {
                let control = self.control.clone();
                Arc::new(move |limit| control.incidents(limit))
            },
            reload: Arc::new(move || Box::pin(ask_reload(requests.clone()))),
        };
        let stop = self.admin_stop.clone();
        self.admin = Some(thread.serve(bound, sources, stop.cancelled_owned()));
        reloads
    }

    /// Loads the source again. A bad one changes nothing, is logged whole and counted.
    ///
    /// # Errors
    /// What is wrong, as `evergate check` prints it.
    pub async fn reload(&mut self, log: Option<&Log>) -> Result<String, ApplyError> {
        let result = self.try_reload(log).await;
        self.metrics.count_reload(result.is_ok());
        match &result {
            Ok(summary) => tracing::info!(file = %self.source.path().display(), "{summary}"),
            Err(error) => {
                let file = self.source.path().display();
                let errors = log_causes(error);
                tracing::error!(%file, errors, "reload refused, nothing has changed");
            }
        }
        result
    }

    async fn try_reload(&mut self, log: Option<&Log>) -> Result<String, ApplyError> {
        let source = self.source.clone();
        let previous = self.tls.clone();
        // Files may be slow; the admin API on this thread must not wait for them.
        let prepared = net::on_own_thread("load", move || source.prepare(&previous)).await;
        let Prepared { loaded, tls } = prepared??;
        loaded.warnings.iter().for_each(log_problem);
        let config = Arc::new(fit_descriptors(loaded.config, &loaded.effective));
        put_in_force(&mut self.proxy, &self.control, &config, &tls).await?;

        let mut summary = format!(
            "configuration in force: {} clusters, {} listeners",
            config.clusters.len(),
            config.listeners.len()
        );
        for fixed in fixed_at_start(&self.config, &config) {
            summary.push_str(&format!("; `{fixed}` changes at the next restart"));
        }
        if let Some(log) = log {
            log.set_level(config.log.level);
        }
        self.effective.set(loaded.effective);
        self.files = loaded.files;
        self.config = config;
        self.tls = tls;
        Ok(summary)
    }

    /// Every file that the configuration in force was read from or names.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the data plane reads now.
    pub fn table(&self) -> &SharedTable {
        &self.table
    }

    /// Sets the admin state of one backend.
    ///
    /// # Errors
    /// No such backend.
    pub async fn set_admin_state(
        &self,
        cluster: &str,
        backend: &str,
        state: AdminState,
    ) -> Result<(), CommandError> {
        self.control.set_admin_state(cluster, backend, state).await
    }

    /// Readiness goes false for good; nothing else changes.
    pub fn announce_shutdown(&self) {
        self.stage.set(Stage::Draining);
    }

    /// Readiness goes false, listeners close, sessions may finish for `timeout`, the
    /// rest is severed. Returns how many that were.
    pub async fn drain(&mut self, timeout: Duration) -> usize {
        self.stage.set(Stage::Draining);
        self.proxy.drain(timeout).await
    }

    /// Ends everything at once.
    pub async fn stop(mut self) {
        self.stage.set(Stage::Draining);
        self.admin_stop.cancel();
        if let Some(admin) = self.admin.take() {
            admin.ended().await;
        }
        self.proxy.stop();
    }
}

/// What is wrong with certificates and keys, each at the key that names the file.
fn tls_problems(source: &Path, loaded: &Loaded, errors: &[TlsError]) -> ApplyError {
    let files: Vec<PathBuf> = errors.iter().filter_map(TlsError::path).collect();
    let problems = errors.iter().map(|error| {
        let path = error.path().unwrap_or_else(|| source.to_owned());
        loaded.problem_with(&path, error.to_string())
    });
    ApplyError::Tls {
        problems: Diagnostics(problems.collect()),
        files,
    }
}

fn make_admin(config: &AdminConfig) -> io::Result<(admin::Bound, admin::IdleThread)> {
    Ok((admin::bind(config)?, admin::IdleThread::start()?))
}

/// Binds what is new, publishes the table, starts and stops listeners: in this order, so
/// that a failure has changed nothing and nobody accepts for a table that is not there.
async fn put_in_force(
    proxy: &mut Proxy,
    control: &ControlHandle,
    config: &Arc<Config>,
    tls: &TlsMaterial,
) -> Result<(), ApplyError> {
    proxy.make_way(config).await;
    let bound = proxy.bind(config).map_err(ApplyError::Bind)?;
    let logs = proxy.access_logs().open(config)?;
    let desired = Desired {
        config: Arc::clone(config),
        tls: tls.clone(),
    };
    control.apply(desired).await?;
    proxy.access_logs().commit(logs, config);
    proxy.commit(bound, config);
    Ok(())
}

async fn ask_reload(requests: mpsc::Sender<ReloadRequest>) -> Result<String, String> {
    let (done, answer) = oneshot::channel();
    let stopping = || "the process is stopping".to_owned();
    let sent = requests.send(ReloadRequest { done }).await;
    sent.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?
}

/// More connections than descriptors would fail at the worst moment: lower the limit now.
fn fit_descriptors(mut config: Config, effective: &serde_json::Value) -> Config {
    let limit = usize::try_from(net::raise_open_files_limit()).unwrap_or(usize::MAX);
    let affordable = affordable_connections(limit, &config);
    if config.max_connections <= affordable {
        return config;
    }
    // Nobody asked for the default: it is simply what the process can afford.
    if !is_default(effective, "/max_connections") {
        tracing::warn!(
            max_connections = config.max_connections,
            in_force = affordable,
            open_files_limit = limit,
            "max_connections needs more descriptors than the process may open; raise LimitNOFILE"
        );
    }
    config.max_connections = affordable;
    config
}

fn affordable_connections(open_files_limit: usize, config: &Config) -> usize {
    let backends: usize = config.clusters.iter().map(|it| it.backends.len()).sum();
    let reserved = RESERVED_DESCRIPTORS
        + backends.min(MAX_PROBE_DESCRIPTORS)
        + config.workers.get() * PIPE_DESCRIPTORS_PER_WORKER;
    // Where descriptors are few, most of them are needed by the process itself.
    let reserved = reserved.min(open_files_limit / 3 * 2);
    (open_files_limit - reserved) / DESCRIPTORS_PER_CONNECTION
}

fn is_default(effective: &serde_json::Value, pointer: &str) -> bool {
    let defaults = effective["defaults"].as_array();
    defaults.is_some_and(|defaults| defaults.iter().any(|known| known == pointer))
}

/// Keys that differ but cannot change while the process runs.
fn fixed_at_start(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut fixed = Vec::new();
    if old.workers != new.workers {
        fixed.push("workers");
    }
    if old.admin != new.admin {
        fixed.push("admin");
    }
    if old.log.format != new.log.format {
        fixed.push("log.format");
    }
    if old.state_dir != new.state_dir {
        fixed.push("state_dir");
    }
    fixed
}

/// One line of the log for each thing that is wrong; returns how many errors that are.
fn log_causes(error: &ApplyError) -> usize {
    match error {
        ApplyError::Config(problems) => {
            problems.0.iter().for_each(log_problem);
            problems.errors()
        }
        ApplyError::Tls { problems, .. } => {
            problems.0.iter().for_each(log_problem);
            problems.errors()
        }
        ApplyError::Bind(errors) => {
            for BindError {
                listener,
                address,
                error,
            } in errors
            {
                tracing::error!(%listener, bind = %address, %error, "listener cannot bind");
            }
            errors.len()
        }
        ApplyError::State(_) | ApplyError::Control(_) | ApplyError::Io(_) => {
            tracing::error!("{error}");
            1
        }
    }
}

/// One problem of a file as one line, with its place in fields; `evergate check` draws it.
pub fn log_problem(problem: &Diagnostic) {
    let Place {
        file, line, column, ..
    } = &problem.place;
    let file = file.display();
    // Without a place in the file there is no number to show.
    let (line, column) = (
        (*line > 0).then_some(*line),
        (*column > 0).then_some(*column),
    );
    let help = problem.help.as_deref();
    let related = problem.related.as_ref().map(|(label, place)| {
        let (file, line, column) = (place.file.display(), place.line, place.column);
        format!("{label}: {file}:{line}:{column}")
    });
    let message = &problem.message;
    match problem.severity {
        Severity::Error => tracing::error!(%file, line, column, help, related, "{message}"),
        Severity::Warning => tracing::warn!(%file, line, column, help, related, "{message}"),
    }
}

fn lines<T: std::fmt::Display>(errors: &[T]) -> String {
    let lines: Vec<_> = errors
        .iter()
        .map(|error| format!("error: {error}"))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_descriptors_that_there_are() {
        let text = "version: 1\nworkers: 2\nclusters: {c: {backends: [\"a:1\", \"b:1\"]}}\n\
                    listeners: {l: {bind: \"127.0.0.1:1\", cluster: c}}\n";
        let config = config::load_text(Path::new("text"), text).unwrap().config;
        assert_eq!(affordable_connections(20_000, &config), 9_839);
        assert_eq!(affordable_connections(64, &config), 11);
        assert_eq!(affordable_connections(0, &config), 0);
    }

    /// A report that was its own source came twice.
    #[test]
    fn what_is_wrong_is_reported_once() {
        let source = Source::Text {
            name: PathBuf::from("wrong.yaml"),
            text: "version: 2\n".to_owned(),
        };
        let wrong = source.prepare(&TlsMaterial::default()).unwrap_err();
        let text = format!("{:#}", anyhow::Error::from(wrong));
        assert_eq!(text.matches("wrong.yaml:1:10").count(), 1, "{text}");
    }
}
