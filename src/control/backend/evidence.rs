//! What probes and traffic say of one backend, and when it is asked again because of it.

use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::Role;
use crate::control::backend::BackendState;
use crate::control::evidence::Evidence;

/// Who was busy for some time is found to be ready at most one part in this many later.
pub const BUSY_SHARE: u32 = 10;

impl BackendState {
    /// Notes what a probe has heard of it; that answers what traffic has said before.
    /// Returns whether traffic had spoken.
    pub fn hear(&mut self, evidence: Evidence, number: u64) -> bool {
        self.evidence = evidence;
        self.observed = number;
        self.failed = None;
        self.full = None;
        self.busy_since = None;
        // What was asked before traffic spoke may have been answered before, too.
        let is_older = self.quarantined_during.take() == Some(number);
        !is_older && self.quarantined.take().is_some()
    }

    /// Notes why a probe has failed.
    pub fn fail(&mut self, cause: Cause, number: u64, now: Instant) {
        self.failed = Some(cause);
        self.full = (cause == Cause::TooManyConnections).then_some(number);
        let is_busy = matches!(
            cause,
            Cause::StartingUp | Cause::ShuttingDown | Cause::TooManyConnections
        );
        self.busy_since = is_busy.then(|| self.busy_since.unwrap_or(now));
    }

    /// The pause between two probes that are urgent: `fast`, and longer the longer it has had no
    /// time for us. Each try is a line in its log, and a recovery may take an hour.
    pub fn urgent_pause(&self, fast: Duration, now: Instant) -> Duration {
        let busy = self.busy_since.map(|at| now.saturating_duration_since(at));
        let pause = busy.map_or(fast, |busy| fast.max(busy / BUSY_SHARE));
        pause.min(self.target.cluster.health_check.interval.max(fast))
    }

    /// It is asked something else from now on: what it said before is no answer to that.
    pub fn unhear(&mut self) {
        self.evidence = Evidence::Silent;
        self.observed = 0;
        self.quarantined = None;
    }

    /// What traffic has said of it was not so.
    pub fn refute(&mut self, now: Instant) {
        if self.role == Role::Primary {
            self.refuted = Some(now);
        }
    }

    /// It may not be written to until a probe has asked it; `false` when that was done a
    /// moment ago: a statement in a read-only transaction fails the same way, and one client
    /// must not be able to stop all others by it.
    pub fn quarantine(&mut self, cause: Cause, now: Instant) -> bool {
        let pause = self.target.cluster.health_check.interval;
        let refuted = |at| now.saturating_duration_since(at) < pause;
        if self.role != Role::Primary || self.refuted.is_some_and(refuted) {
            return false;
        }
        self.quarantined = Some(cause);
        self.quarantined_during = self.flight.map(|flight| flight.number);
        true
    }

    /// Evidence from a session or from the check's own connection. New sessions shun it until a probe
    /// has asked it: it may be dying, and accept them all the same. Not again within an
    /// interval after that was wrong: who makes it reset its own sessions must not keep others away.
    pub fn suspect(&mut self, cause: Cause, now: Instant) {
        self.tracker.suspect(cause);
        let pause = self.target.cluster.health_check.interval;
        let cleared = |at| now.saturating_duration_since(at) < pause;
        if self.tracker.is_suspected() && !self.cleared.is_some_and(cleared) {
            self.handle.set_suspected(true);
        }
    }

    /// A probe has asked it.
    pub fn note_suspicion(&mut self, now: Instant) {
        if self.handle.is_suspected() && !self.tracker.is_suspected() {
            self.handle.set_suspected(false);
            self.cleared = Some(now);
        }
    }
}
