//! Keeps repeated warnings from flooding the log: at most ten lines per second
//! and cause, and the next line says how many were left out. Pure: `now` is an
//! argument.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;

/// Enough to see what is going on, too few to fill a disk.
pub const MAX_LINES_PER_WINDOW: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);

/// A line that may be logged, and how many were left out since the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    pub suppressed: u64,
}

/// The limit of one place in the code.
#[derive(Debug, Default)]
pub struct RateLimit {
    window_start: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl RateLimit {
    /// `None`: leave the line out.
    pub fn admit(&mut self, now: Instant) -> Option<Admitted> {
        let window_over = self
            .window_start
            .is_none_or(|start| now.saturating_duration_since(start) >= WINDOW);
        if window_over {
            self.window_start = Some(now);
            self.lines = 0;
        }
        if self.lines == MAX_LINES_PER_WINDOW {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        let suppressed = std::mem::take(&mut self.suppressed);
        Some(Admitted { suppressed })
    }
}

/// One limit per cause, shared by all threads that log from one place.
#[derive(Debug)]
pub struct CauseLimits(Mutex<Vec<RateLimit>>);

impl Default for CauseLimits {
    fn default() -> Self {
        let limits = Cause::ALL.iter().map(|_| RateLimit::default());
        Self(Mutex::new(limits.collect()))
    }
}

impl CauseLimits {
    /// `None`: leave the line out.
    pub fn admit(&self, cause: Cause, now: Instant) -> Option<Admitted> {
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limits[cause as usize].admit(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_ten_lines_a_second_and_a_count() {
        let start = Instant::now();
        let mut limit = RateLimit::default();
        let mut admitted = Vec::new();
        for millisecond in 0..3000 {
            let now = start + Duration::from_millis(millisecond);
            admitted.extend(limit.admit(now));
        }
        assert_eq!(admitted.len(), 30);
        let suppressed: Vec<_> = admitted.iter().map(|line| line.suppressed).collect();
        assert_eq!(suppressed[0], 0);
        assert_eq!(suppressed[10], 990);
        assert_eq!(suppressed[20], 990);
        assert_eq!(suppressed.iter().sum::<u64>(), 1980);
    }

    #[test]
    fn rare_lines_are_never_left_out() {
        let start = Instant::now();
        let mut limit = RateLimit::default();
        for tenth in 0..100 {
            let now = start + Duration::from_millis(tenth * 101);
            assert_eq!(limit.admit(now), Some(Admitted { suppressed: 0 }));
        }
    }

    #[test]
    fn one_cause_does_not_silence_another() {
        let now = Instant::now();
        let limits = CauseLimits::default();
        let admitted = (0..100).filter_map(|_| limits.admit(Cause::Reset, now));
        assert_eq!(admitted.count(), 10);
        for cause in Cause::ALL.iter().filter(|cause| **cause != Cause::Reset) {
            assert!(limits.admit(*cause, now).is_some(), "{cause}");
        }
    }
}
