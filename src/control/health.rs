//! Probe results in, health out: rise/fall hysteresis, hard evidence, flap damping.
//!
//! Pure: the caller owns the clock and the sockets, so every transition is a
//! table test.

use std::num::NonZeroU32;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::Health;
use crate::config::HealthCheckConfig;

/// The cause of a backend that stays down changes at most this often: each time
/// a table is published, for people only.
const CAUSE_PAUSE: Duration = Duration::from_secs(1);

/// How results become health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub rise: NonZeroU32,
    pub fall: NonZeroU32,
    /// The first damped return waits twice this.
    pub interval: Duration,
    /// Longest wait of a damped return, and how long a backend has to stay up
    /// for one flap to be forgotten. Zero = no damping.
    pub max_damping: Duration,
}

/// Whether a flapping backend has to wait before it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damping {
    Apply,
    /// Somebody waits who has nobody else: a backend that flaps is better than none.
    Skip,
}

/// One change of health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    pub from: Health,
    pub to: Health,
    pub cause: Cause,
    /// How long `from` had lasted.
    pub after: Duration,
}

/// The health of one backend.
#[derive(Debug, Clone)]
pub struct Tracker {
    rules: Rules,
    health: Health,
    cause: Cause,
    cause_set_at: Instant,
    changed_at: Instant,
    /// Results in a row that disagree with `health`.
    streak: u32,
    /// Probes in a row that one that is down did not answer, since it said last that it lives.
    misses: u32,
    /// Hard evidence that the next probe has to confirm or refute.
    suspected: bool,
    /// It came back from Down at `changed_at`: only a return can be a flap.
    returned: bool,
    flaps: u32,
    /// A damped return is not before this.
    not_before: Instant,
}

/// Evidence that does not come from loss or load: somebody answered "no".
pub fn is_hard(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::ConnectRefused
            | Cause::Reset
            | Cause::Unreachable
            | Cause::TlsFailed
            | Cause::LoginFailed
            | Cause::StartingUp
            | Cause::ShuttingDown
            | Cause::Crashed
            | Cause::LostPrimary
    )
}

/// It answers that it has no time for new sessions; those that it has are alive.
pub fn says_it_lives(cause: Cause) -> bool {
    matches!(cause, Cause::ShuttingDown | Cause::TooManyConnections)
}

/// The backend itself has said to a session that it takes no writes.
pub fn is_proof(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::ReadOnly
            | Cause::ShuttingDown
            | Cause::Crashed
            | Cause::StartingUp
            | Cause::LostPrimary
    )
}

impl From<&HealthCheckConfig> for Rules {
    fn from(check: &HealthCheckConfig) -> Self {
        Self {
            rise: check.rise,
            fall: check.fall,
            interval: check.interval,
            max_damping: check.max_damping,
        }
    }
}

impl Rules {
    /// How long a backend that has flapped this often stays away.
    fn wait(&self, flaps: u32) -> Duration {
        if flaps == 0 {
            return Duration::ZERO;
        }
        // 2^16 intervals exceed every sensible max_damping; more could overflow.
        let factor = 1 << flaps.min(16);
        self.interval.saturating_mul(factor).min(self.max_damping)
    }
}

impl Tracker {
    pub fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            health: Health::Unknown,
            cause: Cause::Started,
            cause_set_at: now,
            changed_at: now,
            streak: 0,
            misses: 0,
            suspected: false,
            returned: false,
            flaps: 0,
            not_before: now,
        }
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// Why the health is what it is; of a backend that is down, why checks fail lately.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// There is hard evidence that no probe has confirmed or refuted yet.
    pub fn is_suspected(&self) -> bool {
        self.suspected
    }

    /// New rules for the same backend; what is known of it stays.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Evidence from live traffic: it decides nothing, but a failed probe that
    /// confirms hard evidence counts for the whole of `fall`.
    pub fn suspect(&mut self, cause: Cause) {
        self.suspected |= self.health == Health::Up && is_hard(cause);
    }

    /// Forgets the verdict: nobody has spoken to what is behind the name now.
    pub fn reset(&mut self, cause: Cause, now: Instant) -> Option<Transition> {
        self.suspected = false;
        self.streak = 0;
        (self.health != Health::Unknown).then(|| self.change(Health::Unknown, cause, now))
    }

    /// Folds one result in; returns the change it caused, if any.
    pub fn observe(
        &mut self,
        result: Result<(), Cause>,
        damping: Damping,
        now: Instant,
    ) -> Option<Transition> {
        match result {
            Ok(()) => self.passed(damping, now),
            // Our own shortage says nothing about the backend.
            Err(Cause::OutOfResources) => None,
            // It answers, only nothing new: a full server is not a dead one.
            Err(Cause::TooManyConnections) if self.health == Health::Up => {
                self.suspected = false;
                self.streak = 0;
                None
            }
            Err(cause) => self.failed(cause, now),
        }
    }

    fn passed(&mut self, damping: Damping, now: Instant) -> Option<Transition> {
        self.suspected = false;
        if self.health == Health::Up {
            self.streak = 0;
            return None;
        }
        // The first verdict is immediate: waiting out `rise` probes at the start
        // would refuse clients while every backend is fine.
        self.streak = self.streak.saturating_add(1);
        if self.health == Health::Down {
            let damped = damping == Damping::Apply && now < self.not_before;
            if damped || self.streak < self.rules.rise.get() {
                return None;
            }
        }
        Some(self.change(Health::Up, Cause::CheckPassed, now))
    }

    fn failed(&mut self, cause: Cause, now: Instant) -> Option<Transition> {
        if self.health == Health::Down {
            self.streak = 0;
            self.stays_down(cause, now);
            return None;
        }
        let confirmed = self.suspected && is_hard(cause);
        self.suspected |= is_hard(cause);
        self.streak = self.streak.saturating_add(1);
        if self.health == Health::Up && !confirmed && self.streak < self.rules.fall.get() {
            return None;
        }
        self.count_flap(now);
        self.suspected = false;
        Some(self.change(Health::Down, cause, now))
    }

    /// One that has said that it lives is dead no sooner than one that is up would be.
    fn stays_down(&mut self, cause: Cause, now: Instant) {
        let is_missed = says_it_lives(self.cause) && !says_it_lives(cause) && !is_hard(cause);
        self.misses = match is_missed {
            true => self.misses.saturating_add(1),
            false => 0,
        };
        let is_believed = is_missed && self.misses < self.rules.fall.get();
        let is_due = now.saturating_duration_since(self.cause_set_at) >= CAUSE_PAUSE;
        if is_due && !is_believed {
            self.set_cause(cause, now);
        }
    }

    /// A fall soon after a return is a flap; each stretch without a fall forgives one.
    fn count_flap(&mut self, now: Instant) {
        let window = self.rules.max_damping;
        if window.is_zero() {
            self.flaps = 0;
            return;
        }
        let stayed = now.saturating_duration_since(self.changed_at);
        if self.returned && stayed < window {
            self.flaps = self.flaps.saturating_add(1);
        } else {
            let forgiven = stayed.as_nanos() / window.as_nanos();
            let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
            self.flaps = self.flaps.saturating_sub(forgiven);
        }
        self.not_before = now + self.rules.wait(self.flaps);
    }

    fn change(&mut self, to: Health, cause: Cause, now: Instant) -> Transition {
        let from = std::mem::replace(&mut self.health, to);
        let after = now.saturating_duration_since(self.changed_at);
        self.returned = (from, to) == (Health::Down, Health::Up);
        self.set_cause(cause, now);
        self.changed_at = now;
        self.streak = 0;
        self.misses = 0;
        Transition {
            from,
            to,
            cause,
            after,
        }
    }

    fn set_cause(&mut self, cause: Cause, now: Instant) {
        if self.cause != cause {
            self.cause = cause;
            self.cause_set_at = now;
        }
    }
}

#[cfg(test)]
mod tests;
