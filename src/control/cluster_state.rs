//! One cluster as the control plane knows it.

use std::sync::Arc;
use std::time::Duration;

use crate::config::ClusterConfig;
use crate::config::Panic;
use crate::control::backend::BackendState;
use crate::routing::BackendEntry;
use crate::routing::ClusterHandle;
use crate::tls::TlsConnector;

/// Spreading of the first probes and bound on fast probing: 2,000 a second and
/// cluster cost a fraction of a core.
const PROBE_SPACING: Duration = Duration::from_micros(500);

/// One cluster and its backends, in the order of the configuration.
#[derive(Debug)]
pub struct ClusterState {
    pub config: Arc<ClusterConfig>,
    pub handle: Arc<ClusterHandle>,
    pub tls: Option<TlsConnector>,
    pub backends: Vec<BackendState>,
    /// A fact that routing reads is newer than the last table.
    pub changed: bool,
    /// Somebody was eligible when this was last looked at.
    pub served: bool,
}

impl ClusterState {
    /// The backends at this moment, as the routing table shows them.
    pub fn entries(&self) -> Vec<BackendEntry> {
        self.backends.iter().map(BackendState::entry).collect()
    }

    /// Somebody is eligible.
    pub fn is_served(&self) -> bool {
        self.backends.iter().any(BackendState::is_eligible)
    }

    /// Nobody is eligible, but somebody could be.
    pub fn wants_somebody(&self) -> bool {
        !self.is_served() && self.backends.iter().any(BackendState::is_candidate)
    }

    /// The pause between probes while they are urgent.
    pub fn fast_interval(&self) -> Duration {
        let check = &self.config.health_check;
        let fast = check.fast_interval.max(spacing(self.backends.len()));
        fast.min(check.interval)
    }

    /// Tells the sessions of each backend what becomes of them.
    pub fn settle_fates(&mut self) {
        let panicking = self.config.failover.panic == Panic::TryAll && !self.is_served();
        for state in &mut self.backends {
            state.settle_fate(panicking && state.is_candidate());
        }
    }
}

/// The time over which the probes of this many backends are spread.
pub fn spacing(backends: usize) -> Duration {
    PROBE_SPACING.saturating_mul(u32::try_from(backends).unwrap_or(u32::MAX))
}
