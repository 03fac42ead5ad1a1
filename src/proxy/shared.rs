//! What every session and listener needs.

use crate::proxy::http::AccessLogs;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::metrics::Metrics;
use crate::proxy::in_force::SharedInForce;
use crate::proxy::postgres::CancelKeys;
use crate::proxy::postgres::DoorRefusals;
use crate::proxy::worker::Worker;
use crate::report::Reporter;
use crate::routing::SharedTable;
use crate::throttle::CauseLimits;

/// A worker keeps its own connection unless another has this share less: at
/// few sessions the spread is exact, at many a handover is not worth its cost.
const IMBALANCE_SHARE: usize = 16;

/// What every session and listener needs.
#[derive(Debug)]
pub struct Shared {
    pub table: SharedTable,
    pub reporter: Reporter,
    pub metrics: Arc<Metrics>,
    pub access_logs: Arc<AccessLogs>,
    pub accept_warnings: CauseLimits,
    pub refusal_warnings: CauseLimits,
    pub dial_warnings: CauseLimits,
    pub(super) listeners_in_force: SharedInForce,
    pub cancel_keys: Arc<CancelKeys>,
    pub door_refusals: Arc<DoorRefusals>,
    pub(super) workers: Vec<Arc<Worker>>,
    pub(super) started: Instant,
    pub(super) active: AtomicUsize,
    pub(super) last_session_id: AtomicU64,
}

impl Shared {
    /// Client connections of the whole process.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    /// Time since the data plane was started.
    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn open(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn close(&self) {
        self.active.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn next_session_id(&self) -> u64 {
        self.last_session_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The worker for a new connection: the one with the fewest sessions, or `home`
    /// when it has hardly more than that.
    pub(super) fn least_loaded(&self, home: &Arc<Worker>) -> Arc<Worker> {
        let fewest = self.workers.iter().min_by_key(|worker| worker.sessions());
        match fewest {
            Some(fewest) if !is_near(home.sessions(), fewest.sessions()) => Arc::clone(fewest),
            _ => Arc::clone(home),
        }
    }
}

fn is_near(own: usize, fewest: usize) -> bool {
    own <= fewest + fewest / IMBALANCE_SHARE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_sessions_are_spread_exactly_and_many_nearly() {
        assert!(is_near(0, 0));
        assert!(!is_near(1, 0));
        assert!(!is_near(6, 5));
        assert!(is_near(1050, 1000));
        assert!(!is_near(1100, 1000));
    }
}
