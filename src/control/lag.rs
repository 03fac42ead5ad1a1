//! How far a replica is behind, told from positions alone.
//!
//! Pure. "Seconds since the last replay" grows on an idle primary and is no lag. Here
//! it is how long ago the primary was first seen beyond what the replica has
//! replayed: zero on an idle primary, and growing for a replica that is cut off only
//! while the primary moves on. It is as fine as the primary is probed often.

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::config::MaxLag;

/// Who is further behind than this is far over every sensible limit.
const HORIZON: Duration = Duration::from_secs(2 * 60 * 60);
/// Bounds the memory of a cluster to 24 KiB.
const MAX_SAMPLES: usize = 1024;
/// Old samples are thinned: an age is kept to within this part of itself.
/// 64 leaves about 570 samples in two hours.
const PRECISION: u32 = 64;
/// No age needs to be known better.
const FINEST: Duration = Duration::from_millis(20);

/// How far a replica is behind its primary; `None`: unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    pub time: Option<Duration>,
    pub bytes: Option<u64>,
}

/// When the primary of one cluster reached which position (LSN or replication offset).
#[derive(Debug, Clone, Default)]
pub struct LagClock {
    /// Within which history positions mean anything: the timeline or replication id.
    history: String,
    /// Ascending in both: when each position was first seen.
    samples: VecDeque<(Instant, u64)>,
    last_seen: Option<Instant>,
}

impl LagClock {
    /// Notes where the primary is. A new history, or a position that went back, starts anew.
    pub fn record(&mut self, history: &str, position: u64, now: Instant) {
        let last = self.samples.back().map(|(_, last)| *last);
        if self.history != history || last.is_some_and(|last| position < last) {
            history.clone_into(&mut self.history);
            self.samples.clear();
        }
        self.last_seen = Some(now);
        if self
            .samples
            .back()
            .is_some_and(|(_, last)| *last == position)
        {
            return;
        }
        if self.samples.len() == MAX_SAMPLES {
            self.thin(now);
        }
        self.samples.push_back((now, position));
    }

    /// How far behind somebody is who has replayed up to here.
    ///
    /// Nothing grows while the primary is silent: what is not known to exist is not lacking.
    pub fn lag_of(&self, replayed: u64) -> Lag {
        let (Some((_, newest)), Some(last_seen)) = (self.samples.back(), self.last_seen) else {
            return Lag::default();
        };
        let first_beyond = self
            .samples
            .partition_point(|(_, position)| *position <= replayed);
        let time = match self.samples.get(first_beyond) {
            None => Some(Duration::ZERO),
            // It was behind before the first sample: nobody knows for how long.
            Some(_) if first_beyond == 0 => None,
            Some((since, _)) => Some(last_seen.saturating_duration_since(*since)),
        };
        Lag {
            time,
            bytes: Some(newest.saturating_sub(replayed)),
        }
    }

    /// Drops samples that are close to a younger one, seen from now.
    fn thin(&mut self, now: Instant) {
        let mut kept = VecDeque::with_capacity(MAX_SAMPLES);
        let mut younger: Option<Instant> = None;
        for (at, position) in self.samples.iter().rev() {
            let age = now.saturating_duration_since(*at);
            let spacing = (age / PRECISION).max(FINEST);
            if younger.is_some_and(|younger| younger.duration_since(*at) < spacing) {
                continue;
            }
            younger = Some(*at);
            kept.push_front((*at, *position));
            if age > HORIZON {
                break;
            }
        }
        self.samples = kept;
    }
}

/// Whether a replica is over the limit, without coming and going at the edge.
#[derive(Debug, Clone, Copy)]
pub struct LagGate {
    limit: MaxLag,
    is_over: bool,
}

/// Who was over the limit is back at this part of it: a steady lag varies by less than
/// a fifth from probe to probe, and a reader who asked for the limit still gets it.
const RETURN_PERCENT: u32 = 80;

impl LagGate {
    /// Over until the first measurement: an unknown lag may be any.
    pub fn new(limit: MaxLag) -> Self {
        Self {
            limit,
            is_over: true,
        }
    }

    pub fn is_over(&self) -> bool {
        self.is_over
    }

    pub fn limit(&self) -> MaxLag {
        self.limit
    }

    /// Folds one measurement in; returns whether the replica is over the limit.
    pub fn observe(&mut self, lag: Lag) -> bool {
        let percent = match self.is_over {
            true => RETURN_PERCENT,
            false => 100,
        };
        let is_within = match self.limit {
            MaxLag::Time(limit) => {
                let bound = limit / 100 * percent;
                lag.time.is_some_and(|time| time <= bound)
            }
            MaxLag::Bytes(limit) => {
                let bound = u128::from(limit) * u128::from(percent) / 100;
                lag.bytes.is_some_and(|bytes| u128::from(bytes) <= bound)
            }
        };
        self.is_over = !is_within;
        self.is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A primary that writes 100 bytes a second for so long, probed every second.
    fn busy(seconds: u32) -> (LagClock, Instant) {
        let start = Instant::now();
        let mut clock = LagClock::default();
        for second in 0..=seconds {
            clock.record("1", u64::from(second) * 100, start + SECOND * second);
        }
        (clock, start + SECOND * seconds)
    }

    fn time(clock: &LagClock, replayed: u64) -> Option<Duration> {
        clock.lag_of(replayed).time
    }

    #[test]
    fn who_has_everything_has_no_lag() {
        let (clock, _) = busy(60);
        for replayed in [6000, 6001] {
            let lag = clock.lag_of(replayed);
            assert_eq!((lag.time, lag.bytes), (Some(Duration::ZERO), Some(0)));
        }
    }

    #[test]
    fn lag_is_how_long_ago_the_primary_went_beyond() {
        let (clock, _) = busy(60);
        assert_eq!(time(&clock, 5000), Some(SECOND * 9));
        assert_eq!(time(&clock, 4999), Some(SECOND * 10));
        assert_eq!(clock.lag_of(5000).bytes, Some(1000));
    }

    #[test]
    fn an_idle_primary_makes_nobody_lag() {
        let (mut clock, end) = busy(60);
        for second in 1..3600 {
            clock.record("1", 6000, end + SECOND * second);
            assert_eq!(time(&clock, 6000), Some(Duration::ZERO));
        }
        clock.record("1", 6001, end + SECOND * 3600);
        assert_eq!(time(&clock, 6000), Some(Duration::ZERO), "it is new");
    }

    #[test]
    fn a_replica_that_lacks_something_lags_more_while_the_primary_is_seen_to_have_it() {
        let (mut clock, end) = busy(60);
        clock.record("1", 6000, end + SECOND * 100);
        assert_eq!(time(&clock, 5900), Some(SECOND * 100));
    }

    #[test]
    fn silence_of_the_primary_changes_nothing() {
        let (clock, _) = busy(60);
        // No probe of it is answered any more: the same question has the same answer.
        assert_eq!(time(&clock, 5500), Some(SECOND * 4));
        assert_eq!(
            time(&clock, 5900),
            Some(Duration::ZERO),
            "it still catches up"
        );
    }

    #[test]
    fn before_the_first_sample_nobody_knows() {
        assert_eq!(LagClock::default().lag_of(7), Lag::default());
        let mut clock = LagClock::default();
        clock.record("1", 100, Instant::now());
        assert_eq!(time(&clock, 99), None);
        assert_eq!(clock.lag_of(99).bytes, Some(1));
        assert_eq!(time(&clock, 100), Some(Duration::ZERO));
    }

    #[test]
    fn another_history_starts_anew() {
        let (mut clock, end) = busy(60);
        clock.record("2", 6050, end + SECOND);
        assert_eq!(time(&clock, 6000), None, "it may follow the old one");
        assert_eq!(time(&clock, 6050), Some(Duration::ZERO));
        clock.record("2", 100, end + SECOND * 2);
        assert_eq!(
            time(&clock, 100),
            Some(Duration::ZERO),
            "the position went back"
        );
        assert_eq!(time(&clock, 99), None);
    }

    #[test]
    fn hours_of_fast_probes_are_remembered_in_little_memory() {
        let start = Instant::now();
        let mut clock = LagClock::default();
        let step = Duration::from_millis(50);
        let steps = 3 * 60 * 60 * 20;
        for number in 0..=steps {
            clock.record("1", u64::from(number), start + step * number);
            assert!(clock.samples.len() <= MAX_SAMPLES);
        }
        for lag_seconds in [1_u32, 10, 60, 600, 3600, 7000] {
            let replayed = u64::from(steps - lag_seconds * 20);
            let lag = time(&clock, replayed).unwrap();
            let exact = SECOND * lag_seconds;
            let error = exact.abs_diff(lag);
            assert!(error <= exact / 20 + step, "{lag:?} of {exact:?}");
        }
    }

    #[test]
    fn who_is_over_the_limit_returns_below_it() {
        let mut gate = LagGate::new(MaxLag::Time(SECOND * 10));
        assert!(gate.is_over());
        let mut over = |seconds| {
            gate.observe(Lag {
                time: Some(SECOND * seconds),
                bytes: None,
            })
        };
        let walk = [9, 8, 9, 10, 11, 10, 9, 8, 10].map(&mut over);
        assert_eq!(
            walk,
            [true, false, false, false, true, true, true, false, false]
        );
    }

    #[test]
    fn an_unknown_lag_is_over_every_limit() {
        for limit in [MaxLag::Time(Duration::MAX / 100), MaxLag::Bytes(u64::MAX)] {
            let mut gate = LagGate::new(limit);
            let known = Lag {
                time: Some(SECOND),
                bytes: Some(1),
            };
            assert!(!gate.observe(known));
            assert!(gate.observe(Lag::default()));
        }
    }

    #[test]
    fn bytes_are_limited_too() {
        let mut gate = LagGate::new(MaxLag::Bytes(1000));
        let lag = |bytes| Lag {
            time: None,
            bytes: Some(bytes),
        };
        assert!(!gate.observe(lag(800)));
        assert!(!gate.observe(lag(1000)));
        assert!(gate.observe(lag(1001)));
        assert!(gate.observe(lag(801)));
        assert!(!gate.observe(lag(800)));
    }
}
