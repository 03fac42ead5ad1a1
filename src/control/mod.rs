//! The control plane: decides, never touches client bytes.
//!
//! One task on a thread of its own, so that a saturated data plane cannot fake
//! a failed health check.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::cluster::AdminState;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::report::Report;
use crate::routing::SharedTable;
use crate::tls::TlsMaterial;

/// What the planes should look like from now on.
#[derive(Debug, Clone)]
pub struct Desired {
    pub config: Arc<Config>,
    pub tls: TlsMaterial,
}

/// Talks to the control plane's task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ControlHandle {}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The message names near misses.
    #[error("{0}")]
    Unknown(String),
    #[error("the control plane has stopped")]
    Stopped,
}

/// Starts the thread. It ends when every handle is dropped.
pub fn start(
    _table: SharedTable,
    _reports: mpsc::Receiver<Report>,
    _metrics: Arc<Metrics>,
) -> std::io::Result<ControlHandle> {
    todo!()
}

impl ControlHandle {
    /// Replaces the desired state; returns once the new table is published.
    pub async fn apply(&self, _desired: Desired) -> Result<(), CommandError> {
        todo!()
    }

    /// Sets the admin state of one backend, by names.
    pub async fn set_admin_state(
        &self,
        _cluster: &str,
        _backend: &str,
        _state: AdminState,
    ) -> Result<(), CommandError> {
        todo!()
    }
}
