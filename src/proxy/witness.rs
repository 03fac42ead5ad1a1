//! What a session tells of its backend: a reason to ask it, never a verdict.

use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::WantedRole;
use crate::proxy::dialect::Peer;
use crate::report::Report;
use crate::report::Reporter;
use crate::throttle::CauseLimits;

/// Between two reports of one session: a client that fails all the time proves nothing new.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Reports what one session's answers prove.
#[derive(Debug)]
pub struct Witness {
    peer: Peer,
    reporter: Reporter,
    last_report: Option<Instant>,
}

impl Witness {
    pub fn new(peer: Peer, reporter: Reporter) -> Self {
        Self {
            peer,
            reporter,
            last_report: None,
        }
    }

    /// Whose answers these are.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The session came to write: a read-only answer is news.
    pub fn came_to_write(&self) -> bool {
        self.peer.role == WantedRole::Primary
    }

    /// Tells the control plane, unless this session has just told something.
    pub fn report(&mut self, cause: Cause) {
        let now = Instant::now();
        let is_due = |last: Instant| now.saturating_duration_since(last) >= REPORT_INTERVAL;
        if self.last_report.is_none_or(is_due) {
            self.last_report = Some(now);
            if cause == Cause::ReadOnly {
                self.peer.backend.doubt(now);
            }
            let backend = self.peer.backend.id;
            self.reporter.send(Report { backend, cause });
        }
    }

    /// Tells the operator of what no honest server does.
    pub fn accuse_of_robbery(&self, warnings: &CauseLimits) {
        if let Some(admitted) = warnings.admit(Cause::BadProtocol, Instant::now()) {
            tracing::warn!(
                cluster = %self.peer.backend.cluster,
                backend = %self.peer.backend.name,
                suppressed = admitted.suppressed,
                "a server asked for a client's local file that was not offered"
            );
        }
    }
}
