//! How long things took: counts by upper bound, without locks.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Recording costs two additions.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds in seconds, ascending.
    bounds: &'static [f64],
    /// One for each bound, and one for what is over all of them.
    counts: Box<[AtomicU64]>,
    /// Nanoseconds; enough for 584 years together.
    sum_ns: AtomicU64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_ns: AtomicU64::new(0),
        }
    }

    pub fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Upper bounds and how many were up to them, but over the bound before.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.counts.iter();
        bounds.zip(counts.map(|count| count.load(Ordering::Relaxed)))
    }

    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed))
    }

    pub fn is_empty(&self) -> bool {
        self.buckets().all(|(_, count)| count == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_at_the_first_bound_that_it_is_not_over() {
        let histogram = Histogram::new(&[0.001, 0.01]);
        assert!(histogram.is_empty());
        for us in [0, 999, 1000, 1001, 10_000, 10_001, 5_000_000] {
            histogram.record(Duration::from_micros(us));
        }
        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!(buckets, [(0.001, 3), (0.01, 2), (f64::INFINITY, 2)]);
        assert_eq!(histogram.sum(), Duration::from_micros(5_023_001));
        assert!(!histogram.is_empty());
    }
}
