//! How many frames of a kind may come: some at once, and so many a second.

use std::time::Duration;

use super::flood::Flood;

/// Millionths of a frame: frames per second are millionths per microsecond.
const WHOLE: u64 = 1_000_000;

/// A bucket that leaks.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    of: Flood,
    burst: u32,
    per_second: u32,
    /// Millionths of a frame that have come and not been forgotten.
    spent: u64,
    at: Duration,
}

impl Allowance {
    pub const fn new(of: Flood, burst: u32, per_second: u32) -> Self {
        Self {
            of,
            burst,
            per_second,
            spent: 0,
            at: Duration::ZERO,
        }
    }

    /// Counts one frame; an error when it is one too many. A clock that goes back forgets nothing.
    pub fn spend(&mut self, now: Duration) -> Result<(), Flood> {
        let elapsed = now.saturating_sub(self.at).as_micros();
        let micros = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let forgotten = micros.saturating_mul(self.per_second.into());
        self.at = self.at.max(now);
        self.spent = self.spent.saturating_sub(forgotten) + WHOLE;
        if self.spent > u64::from(self.burst) * WHOLE {
            return Err(self.of);
        }
        Ok(())
    }

    /// Forgets so many halves of a frame, for something useful that the client has done.
    pub fn earn_halves(&mut self, halves: u64) {
        let forgotten = halves.saturating_mul(WHOLE / 2);
        self.spent = self.spent.saturating_sub(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_a_rate() {
        let mut allowance = Allowance::new(Flood::Pings, 3, 2);
        let start = Duration::from_secs(1000);
        let spent = [(); 5].map(|()| allowance.spend(start).is_ok());
        assert_eq!(spent, [true, true, true, false, false]);
        let later = start + Duration::from_secs(2);
        let spent = [(); 4].map(|()| allowance.spend(later).is_ok());
        assert_eq!(spent, [true, true, false, false]);
    }

    #[test]
    fn a_clock_that_jumps_breaks_nothing() {
        let mut allowance = Allowance::new(Flood::Pings, 1, u32::MAX);
        assert_eq!(allowance.spend(Duration::MAX), Ok(()));
        assert_eq!(allowance.spend(Duration::ZERO), Err(Flood::Pings));
        assert_eq!(allowance.spend(Duration::MAX), Err(Flood::Pings));
        allowance.earn_halves(6);
        assert_eq!(allowance.spend(Duration::MAX), Ok(()));
    }
}
