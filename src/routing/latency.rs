//! Peak EWMA: a moving average of latency that jumps up at once and decays slowly.

use std::time::Duration;
use std::time::Instant;

/// Peak-sensitive moving average of one backend's latency.
#[derive(Debug, Default)]
pub struct PeakEwma {}

impl PeakEwma {
    pub fn record(&self, _latency: Duration, _now: Instant) {
        todo!()
    }

    pub fn read(&self, _now: Instant) -> Duration {
        todo!()
    }
}
