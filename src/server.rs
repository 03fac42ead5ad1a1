//! Wires the planes together: start, reload (all or nothing), end.

mod descriptors;
mod problems;
mod source;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::admin::EffectiveConfig;
use crate::cluster::AdminState;
use crate::config::AdminConfig;
use crate::config::Config;
use crate::control;
use crate::control::CommandError;
use crate::control::ControlHandle;
use crate::control::Desired;
use crate::control::StateDir;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::net;
use crate::proxy::AccessLogs;
use crate::proxy::Proxy;
use crate::report;
use crate::routing::SharedTable;
use crate::server::descriptors::fit_descriptors;
use crate::server::problems::log_causes;
use crate::shutdown::SharedStage;
use crate::shutdown::Stage;
use crate::tls::TlsMaterial;

pub use problems::ApplyError;
pub use problems::log_problem;
pub use source::Prepared;
pub use source::Source;

/// Reload requests that may wait; more than one waiting reload would do the same work twice.
const MAX_PENDING_RELOADS: usize = 16;

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
