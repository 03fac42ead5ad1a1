//! How long the reads of a cluster take: its latest latencies, by their size.
//!
//! A histogram of logarithmic classes, shared by all workers without a lock. When it has counted
//! [`MAX_COUNTED`] it forgets half, so that what is new outweighs what is old.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Classes for each power of two: a class is at most a quarter wider than its lower bound.
const STEPS: u32 = 4;
/// Powers of two, from 1 µs to over an hour.
const POWERS: u32 = 33;
const CLASSES: usize = (STEPS * POWERS) as usize;
/// Forgets half after this many: some seconds of a busy cluster.
const MAX_COUNTED: u32 = 4096;
/// Fewer say nothing of a percentile.
const MIN_COUNTED: u32 = 50;

/// The latest latencies of one cluster.
#[derive(Debug)]
pub struct Quantiles {
    classes: [AtomicU32; CLASSES],
    counted: AtomicU32,
}

impl Default for Quantiles {
    fn default() -> Self {
        Self {
            classes: std::array::from_fn(|_| AtomicU32::new(0)),
            counted: AtomicU32::new(0),
        }
    }
}

impl Quantiles {
    pub fn record(&self, latency: Duration) {
        self.classes[class(latency)].fetch_add(1, Ordering::Relaxed);
        // One worker alone meets the number itself.
        if self.counted.fetch_add(1, Ordering::Relaxed) + 1 == MAX_COUNTED {
            self.forget_half();
        }
    }

    /// The latency that this share of the latest ones does not exceed, rounded up to its class;
    /// `None` while too few are known.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let counts = self.classes.each_ref();
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        let counted: u32 = counts.iter().sum();
        if counted < MIN_COUNTED {
            return None;
        }
        let wanted = (f64::from(counted) * share).ceil() as u32;
        let mut seen = 0;
        let found = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        Some(upper_bound(found.unwrap_or(CLASSES - 1)))
    }

    fn forget_half(&self) {
        let mut forgotten = 0;
        for count in &self.classes {
            // Others only add meanwhile.
            let half = count.load(Ordering::Relaxed).div_ceil(2);
            count.fetch_sub(half, Ordering::Relaxed);
            forgotten += half;
        }
        self.counted.fetch_sub(forgotten, Ordering::Relaxed);
    }
}

/// Class of a latency: its power of two in µs, and which quarter of it.
fn class(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros())
        .unwrap_or(u64::MAX)
        .max(1);
    let power = micros.ilog2();
    let quarter = match power >= 2 {
        true => (micros >> (power - 2)) & 3,
        false => (micros << (2 - power)) & 3,
    };
    let class = u64::from(power * STEPS) + quarter;
    usize::try_from(class).unwrap_or(CLASSES).min(CLASSES - 1)
}

/// Where the next class begins.
fn upper_bound(class: usize) -> Duration {
    let next = class as u64 + 1;
    let (power, quarter) = (next / u64::from(STEPS), next % u64::from(STEPS));
    let micros = ((u64::from(STEPS) + quarter) << power) / u64::from(STEPS);
    Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_few_latencies_say_nothing() {
        let quantiles = Quantiles::default();
        for _ in 1..MIN_COUNTED {
            quantiles.record(Duration::from_millis(1));
        }
        assert_eq!(quantiles.quantile(0.5), None);
        quantiles.record(Duration::from_millis(1));
        assert!(quantiles.quantile(0.5).is_some());
    }

    #[test]
    fn what_is_new_outweighs_what_is_old() {
        let quantiles = Quantiles::default();
        for _ in 0..10 * MAX_COUNTED {
            quantiles.record(Duration::from_millis(1));
        }
        for _ in 0..2 * MAX_COUNTED {
            quantiles.record(Duration::from_millis(100));
        }
        let median = quantiles.quantile(0.5).unwrap();
        assert!(median >= Duration::from_millis(100), "{median:?}");
    }

    proptest! {
        #[test]
        fn a_quantile_is_at_most_a_quarter_above_the_true_one(
            mut micros in proptest::collection::vec(1..10_000_000_u64, 50..500),
            share in 0.5..0.999_f64,
        ) {
            let quantiles = Quantiles::default();
            for micros in &micros {
                quantiles.record(Duration::from_micros(*micros));
            }
            micros.sort_unstable();
            let at = (micros.len() as f64 * share).ceil() as usize - 1;
            let exact = Duration::from_micros(micros[at]);
            let told = quantiles.quantile(share).unwrap();
            prop_assert!(told > exact, "{told:?} {exact:?}");
            let widest = exact.mul_f64(1.25) + Duration::from_micros(1);
            prop_assert!(told <= widest, "{told:?} {exact:?}");
        }
    }
}
