//! Passive health in the core: counts in, ejections out.

use std::sync::Arc;
use std::time::Instant;

use tracing::info;
use tracing::warn;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Role;
use crate::control::backend::BackendState;
use crate::control::backend::Moment;
use crate::control::cluster_state::ClusterState;
use crate::control::core::Core;
use crate::control::core::locate;
use crate::control::outlier::Observed;
use crate::control::outlier::Verdict;

impl Core {
    /// Judges the answers of every cluster whose time has come. To be called after every
    /// batch of events.
    pub fn judge_outliers(&mut self, now: Moment) {
        for cluster in self.clusters.values_mut() {
            let due = cluster.outliers.next_due();
            if due.is_some_and(|due| due <= now.instant) {
                cluster.judge_outliers(now);
            }
        }
    }

    /// When [`Self::judge_outliers`] has something to do next.
    pub fn next_judgement(&self) -> Option<Instant> {
        let dues = self.clusters.values().map(|it| it.outliers.next_due());
        dues.flatten().min()
    }

    /// Judges the answers in a backend's cluster now.
    pub(super) fn judge_outliers_of(&mut self, id: BackendId, now: Moment) {
        if let Some((cluster, _)) = locate(&self.places, &mut self.clusters, id) {
            cluster.judge_outliers(now);
        }
    }
}

impl ClusterState {
    /// Judges all backends by what has become of their requests.
    pub fn judge_outliers(&mut self, now: Moment) {
        let config = Arc::clone(&self.config);
        let config = config.outlier();
        if config.is_none() && self.outliers.next_due().is_none() && !self.is_watched {
            return;
        }
        self.is_watched = config.is_some();
        let observed: Vec<Observed> = self.backends.iter().map(observe).collect();
        let verdicts = self.outliers.judge(config, &observed, now.instant);
        for verdict in verdicts {
            self.changed = true;
            let mut states = self.backends.iter_mut();
            if let Some(state) = states.find(|state| state.handle.id == verdict.id) {
                state.set_ejection(verdict, now);
            }
        }
        for state in &self.backends {
            // Also a new handle of an old name.
            state.handle.outcomes().watch(config);
        }
    }
}

fn observe(state: &BackendState) -> Observed {
    Observed {
        id: state.handle.id,
        is_eligible: state.is_eligible() && state.role != Role::Fenced,
        is_down: state.tracker.health() == Health::Down,
        counted: state.handle.outcomes().read(),
    }
}

impl BackendState {
    fn set_ejection(&mut self, verdict: Verdict, now: Moment) {
        self.ejected = verdict.ejection;
        let suppressed = self.log_budget.admit(now.instant);
        let (cluster, backend) = (&self.handle.cluster, &self.handle.name);
        let Some(ejection) = verdict.ejection else {
            self.handle.outcomes().forgive();
            // As one that was down: what it could not take may have been the load.
            self.warming_since = Some(now.instant);
            if let Some(suppressed) = suppressed {
                let cause = Cause::EjectionOver;
                info!(%cluster, %backend, %cause, suppressed, "backend returns");
            }
            return;
        };
        self.handle.count_ejection(ejection.cause);
        if let Some(suppressed) = suppressed {
            let left = ejection.until.saturating_duration_since(now.instant);
            warn!(
                %cluster, %backend, cause = %ejection.cause,
                for_seconds = left.as_secs_f64(), suppressed, "backend ejected"
            );
        }
    }
}

/// Traffic has proved something about answers, not about health.
pub(super) fn is_of_answers(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::ServerErrors | Cause::GatewayErrors | Cause::RetryAfter
    )
}
