//! Limits wrong cancel keys: protocol 3.0 has 32 secret bits, which a patient stranger could try
//! one by one.

use std::hash::BuildHasher;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

/// Wrong keys from one address before it has to wait: clients that cancel what has just ended.
const MAX_MISSES: u32 = 100;
/// One more is allowed each time this passes: 2³² guesses take 13 years.
const RECOVERY: Duration = Duration::from_millis(100);
/// Addresses share slots by chance: no memory for those who come from many.
const SLOTS: usize = 1024;

/// Counts wrong keys by the client's address.
#[derive(Debug)]
pub struct GuessLimit {
    hasher: RandomState,
    slots: Mutex<Vec<Slot>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    misses: u32,
    since: Option<Instant>,
}

impl Default for GuessLimit {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            slots: Mutex::new(vec![Slot::default(); SLOTS]),
        }
    }
}

impl GuessLimit {
    /// Whether a key from this address is worth a look.
    pub fn may_guess(&self, client: IpAddr, now: Instant) -> bool {
        self.with(client, |slot| {
            slot.recover(now);
            slot.misses < MAX_MISSES
        })
    }

    pub fn note_miss(&self, client: IpAddr, now: Instant) {
        self.with(client, |slot| {
            slot.recover(now);
            slot.misses += 1;
        });
    }

    fn with<T>(&self, client: IpAddr, act: impl FnOnce(&mut Slot) -> T) -> T {
        let slot = self.hasher.hash_one(client) as usize % SLOTS;
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut slots[slot])
    }
}

impl Slot {
    fn recover(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since).as_millis() / RECOVERY.as_millis();
        let recovered = u32::try_from(passed).unwrap_or(u32::MAX);
        self.misses = self.misses.saturating_sub(recovered);
        // The rest of an interval counts for the next.
        self.since = match self.misses {
            0 => Some(now),
            _ => Some(since + RECOVERY.saturating_mul(recovered)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_guesses_is_slowed_down_and_others_are_not() {
        let start = Instant::now();
        let limit = GuessLimit::default();
        let client = IpAddr::from([192, 0, 2, 1]);
        let mut looked_at = 0;
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            if limit.may_guess(client, now) {
                looked_at += 1;
                limit.note_miss(client, now);
            }
        }
        assert!((190..=210).contains(&looked_at), "{looked_at}");
        let others = (2..=100).map(|last| IpAddr::from([192, 0, 2, last]));
        let now = start + Duration::from_secs(10);
        assert!(others.filter(|other| limit.may_guess(*other, now)).count() > 90);
    }
}
