//! Keeps repeated log lines from becoming a flood.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

/// Lines of one kind that a person can still read as they pass.
const MAX_LINES_PER_PERIOD: u32 = 10;
const PERIOD: Duration = Duration::from_secs(1);

/// Lets at most ten lines of one kind through per second, and counts the rest.
#[derive(Debug, Default)]
pub struct Throttle {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    period_start: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl Throttle {
    /// `Some(suppressed)` when a line may be written now: how many were not since the last one.
    pub fn allow(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let expired = state
            .period_start
            .is_none_or(|start| now.saturating_duration_since(start) >= PERIOD);
        if expired {
            state.period_start = Some(now);
            state.lines = 0;
        }
        if state.lines >= MAX_LINES_PER_PERIOD {
            state.suppressed += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_ten_lines_a_second_and_a_count() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let written = (0..1000)
            .filter(|_| throttle.allow(start).is_some())
            .count();
        assert_eq!(written, 10);
        assert_eq!(throttle.allow(start + PERIOD), Some(990));
        assert_eq!(throttle.allow(start + PERIOD), Some(0));
    }
}
