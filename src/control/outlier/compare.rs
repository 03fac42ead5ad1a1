//! One backend's rates beside those of the others.
//!
//! The rule for success rates is Envoy's (outlier detection, success rate): below the mean by
//! some standard deviations. One of n backends is never further from the mean than √(n − 1) of
//! them, so that a factor above that finds nobody.

use std::time::Duration;

use crate::cluster::BackendId;
use crate::config::OutlierConfig;
use crate::routing::Counted;

/// Below the mean by less than this is no outlier, however well the others agree: where four
/// fail nothing, one failure in a thousand is two standard deviations.
const MIN_RATE_GAP: f64 = 0.05;

/// Slower than the others by less than this is no outlier: four times a fifth of a
/// millisecond hurts nobody and may be another zone.
const MIN_LATENCY_GAP: Duration = Duration::from_millis(5);

/// What one backend did in one interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    id: BackendId,
    successes: u64,
    failures: u64,
    /// Of all successes together.
    latency: Duration,
}

impl Sample {
    pub(super) fn between(id: BackendId, before: Counted, after: Counted) -> Self {
        Self {
            id,
            successes: after.successes.saturating_sub(before.successes),
            failures: after.failures.saturating_sub(before.failures),
            latency: after.latency.saturating_sub(before.latency),
        }
    }

    fn requests(&self) -> u64 {
        self.successes + self.failures
    }

    fn rate(&self) -> f64 {
        self.successes as f64 / self.requests() as f64
    }

    fn mean_seconds(&self) -> f64 {
        self.latency.as_secs_f64() / self.successes as f64
    }
}

/// Whose success rate is an outlier; the worst first.
pub(super) fn failing(config: &OutlierConfig, samples: &[Sample]) -> Vec<BackendId> {
    let rates = enough(config, samples, Sample::requests, Sample::rate);
    if config.success_rate_factor <= 0.0 || rates.is_empty() {
        return Vec::new();
    }
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let squares = rates.iter().map(|(_, rate)| (rate - mean).powi(2));
    let deviation = (squares.sum::<f64>() / count).sqrt();
    let gap = (config.success_rate_factor * deviation).max(MIN_RATE_GAP);
    // Ascending: the lowest rates come first.
    let outliers = rates.into_iter().filter(|(_, rate)| *rate < mean - gap);
    outliers.map(|(id, _)| id).collect()
}

/// Whose mean latency is an outlier; the worst first.
pub(super) fn slow(config: &OutlierConfig, samples: &[Sample]) -> Vec<BackendId> {
    let means = enough(
        config,
        samples,
        |sample| sample.successes,
        Sample::mean_seconds,
    );
    if config.latency_factor <= 0.0 {
        return Vec::new();
    }
    let min_gap = MIN_LATENCY_GAP.as_secs_f64();
    let is_outlier = |position: usize| {
        let usual = median_of_others(&means, position);
        let (_, mean) = means[position];
        mean > usual * config.latency_factor && mean > usual + min_gap
    };
    let positions = (0..means.len()).rev();
    let outliers = positions.filter(|position| is_outlier(*position));
    outliers.map(|position| means[position].0).collect()
}

/// The rates of those that have done enough, ascending; empty when they are too few.
fn enough(
    config: &OutlierConfig,
    samples: &[Sample],
    requests: impl Fn(&Sample) -> u64,
    rate: impl Fn(&Sample) -> f64,
) -> Vec<(BackendId, f64)> {
    // Of none there is no rate, and one has nobody to be compared with.
    let min_requests = u64::from(config.min_requests).max(1);
    let min_backends = config.min_backends.max(2);
    let samples = samples.iter().filter(|it| requests(it) >= min_requests);
    let mut rates: Vec<_> = samples.map(|it| (it.id, rate(it))).collect();
    if rates.len() < min_backends {
        return Vec::new();
    }
    rates.sort_by(|(_, left), (_, right)| left.total_cmp(right));
    rates
}

/// The median of ascending rates without the one at `skipped`; there are others.
fn median_of_others(rates: &[(BackendId, f64)], skipped: usize) -> f64 {
    let others = rates.len() - 1;
    let other = |position: usize| rates[position + usize::from(position >= skipped)].1;
    let upper = other(others / 2);
    match others % 2 {
        0 => f64::midpoint(other(others / 2 - 1), upper),
        _ => upper,
    }
}
