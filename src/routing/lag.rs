//! How far a backend is behind its primary, as last seen; written by the control plane.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Not known.
const UNKNOWN: u64 = u64::MAX;

/// Live, because it changes with every probe and no table is published for it.
#[derive(Debug)]
pub struct Lag {
    micros: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Lag {
    fn default() -> Self {
        Self {
            micros: AtomicU64::new(UNKNOWN),
            bytes: AtomicU64::new(UNKNOWN),
        }
    }
}

impl Lag {
    pub fn set(&self, time: Option<Duration>, bytes: Option<u64>) {
        // A lag of half a million years may pass for an unknown one.
        let micros = time.map_or(UNKNOWN, |time| {
            u64::try_from(time.as_micros()).unwrap_or(UNKNOWN)
        });
        self.micros.store(micros, Ordering::Relaxed);
        self.bytes
            .store(bytes.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    pub fn time(&self) -> Option<Duration> {
        known(&self.micros).map(Duration::from_micros)
    }

    pub fn bytes(&self) -> Option<u64> {
        known(&self.bytes)
    }
}

fn known(value: &AtomicU64) -> Option<u64> {
    Some(value.load(Ordering::Relaxed)).filter(|value| *value != UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_seen_is_unknown_and_not_zero() {
        let lag = Lag::default();
        assert_eq!((lag.time(), lag.bytes()), (None, None));
        lag.set(Some(Duration::from_millis(1500)), Some(4096));
        assert_eq!(lag.time(), Some(Duration::from_millis(1500)));
        assert_eq!(lag.bytes(), Some(4096));
        lag.set(Some(Duration::ZERO), None);
        assert_eq!((lag.time(), lag.bytes()), (Some(Duration::ZERO), None));
    }
}
