//! Lines about one backend, and a bound on how many a flapping one gets.

use std::time::Duration;
use std::time::Instant;

use tracing::info;

use crate::cluster::Cause;
use crate::cluster::Role;
use crate::control::backend::BackendState;
use crate::control::health::Transition;

/// Changes of one backend's health that are logged per minute. Who sees twenty
/// knows that it flaps.
const MAX_CHANGES_LOGGED: u32 = 20;
const LOG_WINDOW: Duration = Duration::from_secs(60);

/// Keeps a flapping backend from flooding the log.
#[derive(Debug, Default)]
pub struct LogBudget {
    window_start: Option<Instant>,
    logged: u32,
    suppressed: u32,
}

impl LogBudget {
    /// How many lines were left out before this one; `None`: leave it out, too.
    pub fn admit(&mut self, now: Instant) -> Option<u32> {
        let within = |start| now.saturating_duration_since(start) < LOG_WINDOW;
        if !self.window_start.is_some_and(within) {
            self.window_start = Some(now);
            self.logged = 0;
        }
        if self.logged == MAX_CHANGES_LOGGED {
            self.suppressed += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl BackendState {
    pub(super) fn log(&mut self, transition: Transition, now: Instant) {
        let Some(suppressed) = self.log_budget.admit(now) else {
            return;
        };
        info!(
            cluster = %self.handle.cluster,
            backend = %self.handle.name,
            from = transition.from.as_str(),
            to = transition.to.as_str(),
            cause = %transition.cause,
            after_seconds = transition.after.as_secs_f64(),
            suppressed,
            "health changed"
        );
    }

    /// That a dead backend's role is unknown needs no line of its own.
    pub(super) fn log_role(&mut self, to: Role, cause: Cause, now: Instant) {
        if to == Role::Unknown {
            return;
        }
        let Some(suppressed) = self.log_budget.admit(now) else {
            return;
        };
        info!(
            cluster = %self.handle.cluster,
            backend = %self.handle.name,
            from = self.role.as_str(),
            to = to.as_str(),
            %cause,
            suppressed,
            "role changed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flapping_backend_does_not_flood_the_log() {
        let start = Instant::now();
        let mut budget = LogBudget::default();
        let admitted = (0..100).filter(|_| budget.admit(start).is_some()).count();
        assert_eq!(admitted, 20);
        assert_eq!(budget.admit(start + LOG_WINDOW), Some(80));
    }
}
