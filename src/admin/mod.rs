//! The admin API and /metrics: HTTP/1 on a TCP address, a Unix socket or both.
//!
//! Reading is open to whoever reaches the TCP address (loopback by default);
//! changing needs the token there, or the Unix socket. A request goes
//! `listen` (bounds) → `access` (may it?) → `route` (what is it?) → `answer`.

mod access;
mod answer;
mod explain;
mod incidents;
mod listen;
mod route;
mod scrape;
mod thread;
mod view;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

pub use listen::Bound;
pub use listen::bind;
pub use thread::IdleThread;
pub use thread::Running;

use crate::cluster::AdminState;
use crate::control::CommandError;
use crate::control::ControlHandle;
use crate::control::Incident;
use crate::metrics::Metrics;
use crate::report::SessionView;
use crate::routing::SharedTable;
use crate::shutdown::SharedStage;

/// A future that the lead's closures return.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// Sets the admin state of a backend, by cluster and backend name.
pub type SetAdminState =
    Arc<dyn Fn(String, String, AdminState) -> BoxFuture<Result<(), CommandError>> + Send + Sync>;
/// The operator's decision who is primary, by cluster and backend name.
pub type Appoint = Arc<dyn Fn(String, String) -> BoxFuture<Result<(), CommandError>> + Send + Sync>;
/// The latest incidents, the newest first; at most so many.
pub type ListIncidents = Arc<dyn Fn(usize) -> Vec<Incident> + Send + Sync>;
/// All live sessions of all workers.
pub type ListSessions = Arc<dyn Fn() -> BoxFuture<Vec<SessionView>> + Send + Sync>;
/// Reloads the files; the full text of every error when they are wrong.
pub type Reload = Arc<dyn Fn() -> BoxFuture<Result<String, String>> + Send + Sync>;

/// Counts of removed clusters go away this late.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Everything that the API shows or changes.
#[derive(Clone)]
pub struct Sources {
    pub table: SharedTable,
    pub metrics: Arc<Metrics>,
    pub stage: SharedStage,
    pub config: EffectiveConfig,
    pub sessions: ListSessions,
    pub set_admin_state: SetAdminState,
    pub appoint: Appoint,
    pub incidents: ListIncidents,
    pub reload: Reload,
}

/// The configuration in use, as `/api/v1/config` shows it: secrets are redacted already.
#[derive(Debug, Clone, Default)]
pub struct EffectiveConfig(Arc<Mutex<Arc<serde_json::Value>>>);

impl EffectiveConfig {
    pub fn set(&self, effective: serde_json::Value) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(effective);
    }

    fn load(&self) -> Arc<serde_json::Value> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// The control plane's command as a source.
pub fn admin_state_commands(control: ControlHandle) -> SetAdminState {
    Arc::new(move |cluster, backend, state| {
        let control = control.clone();
        Box::pin(async move { control.set_admin_state(&cluster, &backend, state).await })
    })
}

/// The control plane's other command as a source.
pub fn appoint_commands(control: ControlHandle) -> Appoint {
    Arc::new(move |cluster, backend| {
        let control = control.clone();
        Box::pin(async move { control.appoint(&cluster, &backend).await })
    })
}

/// Serves until `shutdown` resolves, then lets requests under way finish for a
/// moment and removes the Unix socket. Runs on the caller's runtime.
async fn serve(bound: Bound, sources: Sources, shutdown: impl Future<Output = ()>) {
    listen::serve(bound, Arc::new(sources), shutdown).await;
}

/// Keeps the metrics small, for ever: run it whether or not the API is served.
pub async fn keep_metrics(table: SharedTable, metrics: Arc<Metrics>) {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        let table = table.load_full();
        metrics.run_upkeep(|cluster| table.clusters.contains_key(cluster));
    }
}

#[cfg(test)]
mod tests;
