//! What becomes of a backend's sessions: what is known of it, and the policies of its cluster.

use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Role;
use crate::config::MaxLag;
use crate::config::OnDead;
use crate::config::SessionPolicy;
use crate::control::backend::BackendState;
use crate::control::backend::Moment;
use crate::control::health::says_it_lives;
use crate::routing::Fate;
use crate::routing::Fates;

impl BackendState {
    /// Tells the sessions what becomes of them. `panicking`: nobody in the
    /// cluster is healthy and sessions are routed all the same.
    pub fn settle_fates(&mut self, panicking: bool) {
        let fates = Fates {
            all: self.fate_of_all(panicking),
            writes: self.fate_of_writes(),
            lagging: self.fates_of_lagging(),
            ends_refused: self.ends_refused(),
        };
        self.tell(fates);
    }

    fn fate_of_all(&self, panicking: bool) -> Fate {
        let severs = self.target.cluster.failover.on_dead == OnDead::Sever;
        if self.tracker.health() == Health::Down && severs && !panicking && !self.is_alive() {
            Fate::Sever {
                cause: Cause::BackendDead,
            }
        } else if let Some(fate) = self.fate_of_fenced() {
            fate
        } else if let Some(deadline) = self.drain_deadline {
            Fate::Drain {
                deadline,
                cause: Cause::BackendDrained,
            }
        } else {
            Fate::Serve
        }
    }

    /// It is down for new sessions only.
    fn is_alive(&self) -> bool {
        let cause = self.tracker.cause();
        // Shutting down, it ends its sessions itself or lets them finish (a smart shutdown of
        // PostgreSQL). Full, they are so many that no health check gets in: if it was replaced, it
        // would not be heard while they are there, and what they write is lost.
        let is_unheard = cause == Cause::TooManyConnections && self.replaced_since.is_some();
        says_it_lives(cause) && !is_unheard
    }

    /// What a backend of another history has is not what the cluster has: nobody is served
    /// there. One that only takes no writes is still read from.
    fn fate_of_fenced(&self) -> Option<Fate> {
        let is_astray = matches!(
            self.role_cause,
            Cause::StaleTimeline
                | Cause::ForeignSystem
                | Cause::Diverged
                | Cause::NotLeader
                | Cause::SplitBrain
        );
        if self.role != Role::Fenced || !is_astray {
            return None;
        }
        let policy = self.target.cluster.failover.on_fenced;
        let fate = fate(policy, self.role_since, Cause::BackendFenced);
        Some(fate).filter(|fate| *fate != Fate::Serve)
    }

    /// Of one whose role is not known, nothing speaks against its sessions, until another
    /// is promoted: it may still take writes, and nobody else would have them.
    fn fate_of_writes(&self) -> Fate {
        // One session's error condemns nobody else's; the probe that it has asked for may.
        if self.quarantined.is_some() && self.replaced_since.is_none() {
            return Fate::Serve;
        }
        let failover = &self.target.cluster.failover;
        let since = self.role_since;
        match (self.role, self.replaced_since) {
            (Role::Primary, _) | (Role::Unknown, None) => Fate::Serve,
            (Role::Replica, _) => fate(failover.on_demoted, since, Cause::BackendDemoted),
            (Role::Fenced, _) => fate(failover.on_fenced, since, Cause::BackendFenced),
            (Role::Unknown, Some(replaced)) => {
                let since = since.max(replaced);
                fate(failover.on_fenced, since, Cause::BackendFenced)
            }
        }
    }

    /// Whether it was demoted or only takes no writes is not known at that moment.
    fn ends_refused(&self) -> bool {
        let failover = &self.target.cluster.failover;
        ![failover.on_demoted, failover.on_fenced].contains(&SessionPolicy::Keep)
    }

    fn fates_of_lagging(&self) -> Vec<(MaxLag, Fate)> {
        let policy = self.target.cluster.failover.on_lagging;
        if self.role != Role::Replica {
            return Vec::new();
        }
        self.over()
            .map(|(max, since)| (max, fate(policy, since, Cause::BackendLagging)))
            .collect()
    }

    /// There is nobody at its address any more: its sessions may go on for a while.
    pub fn leave(&mut self, now: Moment) {
        let mut fates = self.fates.clone().unwrap_or_default();
        if !matches!(fates.all, Fate::Sever { .. }) {
            let promised = now.instant + self.target.cluster.failover.drain_timeout;
            let deadline = self.drain_deadline.unwrap_or(promised);
            fates.all = Fate::Drain {
                deadline,
                cause: Cause::BackendRemoved,
            };
            self.tell(fates);
        }
    }

    fn tell(&mut self, fates: Fates) {
        if self.fates.as_ref() != Some(&fates) {
            self.handle.set_fates(fates.clone());
            self.fates = Some(fates);
        }
    }
}

/// What a policy makes of sessions from `since` on.
pub fn fate(policy: SessionPolicy, since: Instant, cause: Cause) -> Fate {
    match policy {
        SessionPolicy::Keep => Fate::Serve,
        SessionPolicy::Sever => Fate::Sever { cause },
        SessionPolicy::Grace(grace) => Fate::Grace {
            deadline: since + grace,
            cause,
        },
    }
}
