//! The control plane: decides, never touches client bytes.
//!
//! One task on a thread of its own, so that a saturated data plane cannot fake
//! a failed health check.

mod authority;
mod backend;
mod cluster_state;
mod core;
mod discovery;
mod evidence;
mod failover;
#[cfg(test)]
mod fakes;
#[cfg(test)]
mod fixtures;
mod happening;
mod health;
mod hooks;
mod journal;
mod keeper;
mod lag;
mod outlier;
mod plane;
mod probe;
mod publish;
mod recorder;
mod roles;
mod schedule;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod simulation;
mod state_dir;

use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::cluster::AdminState;
use crate::config::Config;
use crate::control::keeper::Keeper;
use crate::control::plane::Command;
use crate::control::plane::Plane;
use crate::control::recorder::Recorder;
use crate::metrics::Metrics;
use crate::report::Report;
use crate::routing::SharedTable;
use crate::tls::TlsMaterial;

pub use journal::Incident;
pub use journal::Kind as IncidentKind;
pub use journal::MAX_INCIDENTS;
pub use journal::Phase as IncidentPhase;
pub use journal::Step as IncidentStep;
pub use journal::seconds;
pub use recorder::SharedJournal;
pub use state_dir::StateDir;
pub use state_dir::StateError;

/// What the planes should look like from now on.
#[derive(Debug, Clone)]
pub struct Desired {
    pub config: Arc<Config>,
    pub tls: TlsMaterial,
}

/// Talks to the control plane's task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ControlHandle {
    commands: mpsc::Sender<Command>,
    journal: SharedJournal,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The message names near misses.
    #[error("{0}")]
    Unknown(String),
    /// It exists, but what is asked cannot be.
    #[error("{0}")]
    Refused(String),
    /// What is remembered of a new cluster cannot be read.
    #[error("{0}")]
    State(String),
    #[error("the control plane has stopped")]
    Stopped,
}

/// Commands in flight: they come from people and file changes.
const MAX_PENDING_COMMANDS: usize = 16;

/// Starts the thread. It ends when every handle is dropped.
///
/// # Errors
/// The thread or its event loop could not be created.
pub fn start(
    table: SharedTable,
    reports: mpsc::Receiver<Report>,
    metrics: Arc<Metrics>,
    state_dir: Option<StateDir>,
) -> std::io::Result<ControlHandle> {
    let keeper = state_dir.map(Keeper::start).transpose()?;
    let journal = SharedJournal::default();
    let recorder = Recorder::new(journal.clone(), Arc::clone(&metrics));
    let (commands, receiver) = mpsc::channel(MAX_PENDING_COMMANDS);
    // First the thread: a loop without one would be dropped here, inside another loop, and panic.
    let (hand_over, handed_over) = std::sync::mpsc::channel::<Runtime>();
    std::thread::Builder::new()
        .name("evergate-control".to_owned())
        .spawn(move || {
            let Ok(runtime) = handed_over.recv() else {
                return;
            };
            let plane = Plane::new(table, metrics, receiver, reports, keeper, recorder);
            LocalSet::new().block_on(&runtime, plane.run());
        })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The thread waits for it.
    let _ = hand_over.send(runtime);
    Ok(ControlHandle { commands, journal })
}

impl ControlHandle {
    /// Replaces the desired state; returns once the new table is published.
    ///
    /// # Errors
    /// What is remembered of a new cluster cannot be read: nothing has changed. Or the
    /// control plane has stopped.
    pub async fn apply(&self, desired: Desired) -> Result<(), CommandError> {
        let desired = Box::new(desired);
        self.ask(|done| Command::Apply { desired, done }).await
    }

    /// The latest incidents, the newest first.
    pub fn incidents(&self, limit: usize) -> Vec<Incident> {
        self.journal.latest(limit)
    }

    /// Sets the admin state of one backend, by names; returns once the new table is published.
    ///
    /// # Errors
    /// There is no such cluster or backend, or the control plane has stopped.
    pub async fn set_admin_state(
        &self,
        cluster: &str,
        backend: &str,
        state: AdminState,
    ) -> Result<(), CommandError> {
        let command = |done| Command::SetAdminState {
            cluster: cluster.to_owned(),
            backend: backend.to_owned(),
            state,
            done,
        };
        self.ask(command).await
    }

    /// Decides who is primary, by names; returns once the new table is published. It promotes
    /// nobody.
    ///
    /// # Errors
    /// There is no such cluster or backend, it cannot be the primary, or the control plane has
    /// stopped.
    pub async fn appoint(&self, cluster: &str, backend: &str) -> Result<(), CommandError> {
        let command = |done| Command::Appoint {
            cluster: cluster.to_owned(),
            backend: backend.to_owned(),
            done,
        };
        self.ask(command).await
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), CommandError>>) -> Command,
    ) -> Result<(), CommandError> {
        let (done, answer) = oneshot::channel();
        let sent = self.commands.send(command(done)).await;
        sent.map_err(|_| CommandError::Stopped)?;
        answer.await.map_err(|_| CommandError::Stopped)?
    }
}

#[cfg(test)]
mod tests;
