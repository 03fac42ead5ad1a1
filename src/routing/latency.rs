//! Peak EWMA: a moving average of latency that jumps up at once and decays slowly.
//!
//! The rule is Finagle's: a value above the average replaces it, a lower one
//! pulls it down with the time constant [`DECAY`]; reading decays it as well, so
//! that a backend which was slow once is tried again. All workers share one
//! average without a lock: value and time are packed into one atomic word.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// Time in which an old measurement loses 63 % of its say: long enough to
/// outlast a pause between sessions, short enough to forgive one slow connect.
pub const DECAY: Duration = Duration::from_secs(10);

/// Smallest value read once there is a measurement; zero would mean "unknown".
const FLOOR: Duration = Duration::from_nanos(1);

/// Peak-sensitive moving average of one backend's latency.
#[derive(Debug, Default)]
pub struct PeakEwma {
    /// When the first measurement came; the times in `packed` count from here.
    first: OnceLock<Instant>,
    /// Seconds as `f32` bits in the upper half, milliseconds since `first`
    /// (wrapping after 49 days) in the lower. Zero before the first measurement.
    packed: AtomicU64,
}

impl PeakEwma {
    /// Folds one measurement in.
    pub fn record(&self, latency: Duration, now: Instant) {
        let first = *self.first.get_or_init(|| now);
        let latency = latency.max(FLOOR).as_secs_f32();
        let millis = millis_since(first, now);
        self.packed
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |packed| {
                let (average, then) = unpack(packed);
                let keep = decay(then, millis);
                let folded = if latency >= average * keep {
                    latency
                } else {
                    average * keep + latency * (1.0 - keep)
                };
                // Workers' clocks are read before they get here: never step back in time.
                Some(pack(folded, later(then, millis)))
            })
            .ok();
    }

    /// The average as it has decayed by `now`; zero before the first measurement.
    pub fn read(&self, now: Instant) -> Duration {
        let Some(first) = self.first.get() else {
            return Duration::ZERO;
        };
        let (average, then) = unpack(self.packed.load(Ordering::Acquire));
        if average == 0.0 {
            return Duration::ZERO;
        }
        let decayed = average * decay(then, millis_since(*first, now));
        Duration::from_secs_f32(decayed).max(FLOOR)
    }
}

fn pack(seconds: f32, millis: u32) -> u64 {
    u64::from(seconds.to_bits()) << 32 | u64::from(millis)
}

fn unpack(packed: u64) -> (f32, u32) {
    (f32::from_bits((packed >> 32) as u32), packed as u32)
}

/// Truncated on purpose: only differences of these are used, and they wrap.
fn millis_since(first: Instant, now: Instant) -> u32 {
    now.saturating_duration_since(first).as_millis() as u32
}

/// Milliseconds from `then` to `now`; zero when `now` is the earlier one.
fn elapsed(then: u32, now: u32) -> u32 {
    let elapsed = now.wrapping_sub(then);
    if elapsed > u32::MAX / 2 { 0 } else { elapsed }
}

fn later(then: u32, now: u32) -> u32 {
    then.wrapping_add(elapsed(then, now))
}

/// The share of an average that is left after the time from `then` to `now`.
fn decay(then: u32, now: u32) -> f32 {
    (-(elapsed(then, now) as f32) / DECAY.as_millis() as f32).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn close(left: Duration, right: Duration) -> bool {
        left.abs_diff(right) < right / 1000
    }

    #[test]
    fn an_average_without_measurement_is_zero() {
        assert_eq!(PeakEwma::default().read(Instant::now()), Duration::ZERO);
    }

    #[test]
    fn a_peak_replaces_the_average_at_once() {
        let (average, now) = (PeakEwma::default(), Instant::now());
        average.record(MS, now);
        average.record(100 * MS, now);
        assert!(close(average.read(now), 100 * MS));
    }

    #[test]
    fn a_fast_answer_right_after_a_peak_changes_little() {
        let (average, now) = (PeakEwma::default(), Instant::now());
        average.record(100 * MS, now);
        average.record(MS, now + 10 * MS);
        assert!(average.read(now + 10 * MS) > 95 * MS);
    }

    #[test]
    fn a_fast_answer_counts_for_what_the_average_has_lost() {
        let (average, now) = (PeakEwma::default(), Instant::now());
        average.record(100 * MS, now);
        average.record(10 * MS, now + DECAY);
        let kept = 1.0 / std::f64::consts::E;
        let expected = Duration::from_secs_f64(0.1 * kept + 0.01 * (1.0 - kept));
        assert!(close(average.read(now + DECAY), expected));
    }

    #[test]
    fn a_peak_is_forgiven_with_time_and_never_becomes_unknown() {
        let (average, now) = (PeakEwma::default(), Instant::now());
        average.record(100 * MS, now);
        assert!(close(
            average.read(now + DECAY),
            Duration::from_secs_f64(0.1 / std::f64::consts::E)
        ));
        assert_eq!(average.read(now + 1000 * DECAY), FLOOR);
    }

    #[test]
    fn a_measurement_from_before_the_last_one_does_not_turn_time_back() {
        let (average, now) = (PeakEwma::default(), Instant::now());
        average.record(MS, now);
        average.record(100 * MS, now + DECAY);
        average.record(MS, now + DECAY / 2);
        assert!(close(average.read(now + DECAY), 100 * MS));
    }

    #[test]
    fn a_measurement_of_zero_counts_as_known() {
        let (average, now) = (PeakEwma::default(), Instant::now());
        average.record(Duration::ZERO, now);
        assert_eq!(average.read(now), FLOOR);
    }

    #[test]
    fn half_of_all_times_lie_ahead_and_half_behind() {
        let half = u32::MAX / 2;
        assert_eq!(elapsed(0, half), half);
        assert_eq!(elapsed(0, half + 1), 0);
        assert_eq!(elapsed(u32::MAX, 4), 5, "it wraps");
    }
}
