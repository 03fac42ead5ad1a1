//! What the data plane counts for the flight recorder, and the moments it notes when asked to.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What became of one cluster's sessions since it is known.
#[derive(Debug, Default)]
pub struct Tally {
    severed: AtomicU64,
    lost: AtomicU64,
    held: AtomicU64,
    refused: AtomicU64,
    failovers: AtomicU64,
    switchovers: AtomicU64,
    first_held: Mark,
}

/// A [`Tally`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Sessions that we ended because of their backend's health, role or admin state.
    pub severed: u64,
    /// Sessions that their backend ended, in whatever way.
    pub lost: u64,
    /// Sessions that waited because nobody was eligible.
    pub held: u64,
    /// Sessions that waited for nothing.
    pub refused: u64,
}

/// The moment at which something happens for the first time after it was armed.
#[derive(Debug, Default)]
pub struct Mark {
    armed: AtomicBool,
    struck: Mutex<Option<Instant>>,
}

impl Tally {
    pub fn count_severed(&self) {
        self.severed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_held(&self, now: Instant) {
        self.held.fetch_add(1, Ordering::Relaxed);
        self.first_held.strike(now);
    }

    pub fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Control plane only: another backend is primary now, after the old one had failed …
    pub fn count_failover(&self) {
        self.failovers.fetch_add(1, Ordering::Relaxed);
    }

    /// … or had yielded.
    pub fn count_switchover(&self) {
        self.switchovers.fetch_add(1, Ordering::Relaxed);
    }

    pub fn failovers(&self) -> u64 {
        self.failovers.load(Ordering::Relaxed)
    }

    pub fn switchovers(&self) -> u64 {
        self.switchovers.load(Ordering::Relaxed)
    }

    /// When a session was held for the first time since this was armed.
    pub fn first_held(&self) -> &Mark {
        &self.first_held
    }

    pub fn read(&self) -> Counts {
        Counts {
            severed: self.severed.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            held: self.held.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

impl Counts {
    /// What has been added since.
    pub fn since(self, before: Self) -> Self {
        Self {
            severed: self.severed.saturating_sub(before.severed),
            lost: self.lost.saturating_sub(before.lost),
            held: self.held.saturating_sub(before.held),
            refused: self.refused.saturating_sub(before.refused),
        }
    }
}

impl Mark {
    /// Control plane only: the next strike counts.
    pub fn arm(&self) {
        *self.lock() = None;
        self.armed.store(true, Ordering::Release);
    }

    /// It happens now. Costs one relaxed load when nobody wants to know.
    pub fn strike(&self, now: Instant) {
        if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::AcqRel) {
            *self.lock() = Some(now);
        }
    }

    /// When it happened, if it has since it was armed.
    pub fn read(&self) -> Option<Instant> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.struck.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_the_first_strike_after_arming_counts() {
        let mark = Mark::default();
        let start = Instant::now();
        mark.strike(start);
        assert_eq!(mark.read(), None, "not armed");
        mark.arm();
        mark.strike(start + Duration::from_secs(1));
        mark.strike(start + Duration::from_secs(2));
        assert_eq!(mark.read(), Some(start + Duration::from_secs(1)));
        mark.arm();
        assert_eq!(mark.read(), None);
    }

    #[test]
    fn each_thing_is_counted_by_itself() {
        let tally = Tally::default();
        let before = tally.read();
        tally.count_severed();
        (0..2).for_each(|_| tally.count_lost());
        (0..3).for_each(|_| tally.count_held(Instant::now()));
        (0..4).for_each(|_| tally.count_refused());
        (0..5).for_each(|_| tally.count_failover());
        (0..6).for_each(|_| tally.count_switchover());
        let counts = Counts {
            severed: 1,
            lost: 2,
            held: 3,
            refused: 4,
        };
        assert_eq!((before, tally.read()), (Counts::default(), counts));
        assert_eq!(tally.read().since(counts), Counts::default());
        assert_eq!((tally.failovers(), tally.switchovers()), (5, 6));
    }

    #[test]
    fn the_first_held_session_is_noted_once_it_is_asked_for() {
        let (tally, start) = (Tally::default(), Instant::now());
        tally.first_held().arm();
        tally.count_held(start);
        tally.count_held(start + Duration::from_secs(1));
        assert_eq!(tally.first_held().read(), Some(start));
    }
}
