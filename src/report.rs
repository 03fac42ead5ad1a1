//! What the data plane tells the control plane.
//!
//! The channel is bounded and a full channel drops the report: a report only
//! asks for an early probe, it never decides anything by itself.

use std::net::SocketAddr;

use tokio::sync::mpsc;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::cluster::Phase;

/// Reports in flight. A burst of failed connects needs one probe, not thousands.
pub const MAX_PENDING_REPORTS: usize = 1024;

/// Hard evidence against one backend, seen by a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub backend: BackendId,
    /// `ConnectRefused`, `ConnectTimeout`, `Unreachable`, `TlsFailed`, `Reset` or `EarlyClose`;
    /// in the backend's own words `StartingUp`, `ShuttingDown`, `TooManyConnections` or `ReadOnly`;
    /// of its answers over HTTP `ServerErrors`, `GatewayErrors` or `RetryAfter`.
    pub cause: Cause,
}

/// The data plane's end of the pipe.
#[derive(Debug, Clone)]
pub struct Reporter(mpsc::Sender<Report>);

impl Reporter {
    /// Sends the report, or drops it when the control plane is behind.
    pub fn send(&self, report: Report) {
        // A dropped report costs at most one check interval of detection time.
        let _ = self.0.try_send(report);
    }
}

/// The pipe from the data plane up to the control plane.
pub fn channel() -> (Reporter, mpsc::Receiver<Report>) {
    let (sender, receiver) = mpsc::channel(MAX_PENDING_REPORTS);
    (Reporter(sender), receiver)
}

/// One live session, for the admin API.
#[derive(Debug, Clone)]
pub struct SessionView {
    pub id: u64,
    pub listener: Name,
    pub cluster: Option<Name>,
    pub backend: Option<Name>,
    pub backend_id: Option<BackendId>,
    pub client: SocketAddr,
    pub phase: Phase,
    pub age_seconds: f64,
    pub idle_seconds: f64,
    /// From the client.
    pub received_bytes: u64,
    /// To the client.
    pub sent_bytes: u64,
}
