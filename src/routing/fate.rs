//! What the control plane wants of a backend's sessions, *whatever table they started under*.

use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::WantedRole;
use crate::config::Intent;
use crate::config::MaxLag;

/// What becomes of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// It lives as long as its peers like.
    #[default]
    Serve,
    /// It may go on until `deadline`, then it is severed.
    Drain { deadline: Instant, cause: Cause },
    /// It is severed when its transaction ends, at the latest at `deadline`.
    Grace { deadline: Instant, cause: Cause },
    /// It is severed now.
    Sever { cause: Cause },
}

/// What becomes of the sessions of one backend, by what they came for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fates {
    /// Of all sessions.
    pub all: Fate,
    /// Of those that need the primary.
    pub writes: Fate,
    /// Of those that came with this limit of lag.
    pub lagging: Vec<(MaxLag, Fate)>,
    /// A session that came to write and was refused it need not wait for a verdict: it ends as
    /// soon as it is in no transaction.
    pub ends_refused: bool,
}

impl Fates {
    /// The strictest that applies.
    pub fn of(&self, intent: Intent) -> Fate {
        let own = match (intent.role, intent.max_lag) {
            (WantedRole::Primary, _) => self.writes,
            (_, Some(max)) => self.of_lag(max),
            (_, None) => Fate::Serve,
        };
        if own.severity() > self.all.severity() {
            own
        } else {
            self.all
        }
    }

    fn of_lag(&self, max: MaxLag) -> Fate {
        let mut limits = self.lagging.iter();
        let found = limits.find(|(limit, _)| *limit == max);
        found.map_or(Fate::Serve, |(_, fate)| *fate)
    }
}

impl Fate {
    fn severity(self) -> u8 {
        match self {
            Self::Serve => 0,
            Self::Drain { .. } => 1,
            Self::Grace { .. } => 2,
            Self::Sever { .. } => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Fallback;
    use std::time::Duration;

    fn intent(role: WantedRole, max_lag: Option<MaxLag>) -> Intent {
        Intent {
            role,
            max_lag,
            fallback: Fallback::Nobody,
        }
    }

    #[test]
    fn a_demoted_primary_keeps_its_readers() {
        let severed = Fate::Sever {
            cause: Cause::BackendDemoted,
        };
        let fates = Fates {
            writes: severed,
            ..Fates::default()
        };
        assert_eq!(fates.of(intent(WantedRole::Primary, None)), severed);
        assert_eq!(fates.of(intent(WantedRole::Replica, None)), Fate::Serve);
        assert_eq!(fates.of(intent(WantedRole::Any, None)), Fate::Serve);
    }

    #[test]
    fn lag_concerns_only_sessions_that_came_with_the_limit() {
        let max = MaxLag::Time(Duration::from_secs(5));
        let severed = Fate::Sever {
            cause: Cause::BackendLagging,
        };
        let fates = Fates {
            lagging: vec![(max, severed)],
            ..Fates::default()
        };
        assert_eq!(fates.of(intent(WantedRole::Replica, Some(max))), severed);
        let other = Some(MaxLag::Bytes(1));
        assert_eq!(fates.of(intent(WantedRole::Replica, other)), Fate::Serve);
    }

    #[test]
    fn the_strictest_fate_wins() {
        let now = Instant::now();
        let drained = Fate::Drain {
            deadline: now,
            cause: Cause::BackendDrained,
        };
        let graced = Fate::Grace {
            deadline: now,
            cause: Cause::BackendDemoted,
        };
        let fates = Fates {
            all: drained,
            writes: graced,
            ..Fates::default()
        };
        assert_eq!(fates.of(intent(WantedRole::Primary, None)), graced);
        assert_eq!(fates.of(intent(WantedRole::Any, None)), drained);
        let dead = Fate::Sever {
            cause: Cause::BackendDead,
        };
        let fates = Fates { all: dead, ..fates };
        assert_eq!(fates.of(intent(WantedRole::Primary, None)), dead);
    }
}
