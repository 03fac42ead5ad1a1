//! How many requests of a cluster may be sent again: retries must never become a storm.
//!
//! Each request pays a share into the budget and each retry takes a whole out of it, so that
//! retries stay a share of the load. A quiet cluster has nothing saved: a few retries a second are
//! allowed anyway. As in Finagle's retry budgets.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// One retry, in the units of the balance.
const RETRY: i64 = 1000;
/// Saved retries; more would let a storm through after a long calm.
const MAX_SAVED: i64 = 100 * RETRY;
/// Bits of `free` that count; the others hold the second.
const COUNT_BITS: u32 = 24;

/// The budget of one cluster, shared by all workers.
#[derive(Debug, Default)]
pub struct RetryBudget {
    balance: AtomicI64,
    /// The present second, and how many free retries it has seen.
    free: AtomicU64,
}

impl RetryBudget {
    /// Counts a request; `share` is 0 to 1.
    pub fn deposit(&self, share: f64) {
        // Races lose or save a fraction of a retry.
        let balance = self.balance.load(Ordering::Relaxed);
        let saved = balance.saturating_add((share * RETRY as f64) as i64);
        self.balance.store(saved.min(MAX_SAVED), Ordering::Relaxed);
    }

    /// Takes one retry. `now` is the time since any fixed moment.
    pub fn take(&self, min_per_second: u32, now: Duration) -> bool {
        if self.take_free(min_per_second, now.as_secs()) {
            return true;
        }
        let paid = self
            .balance
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |balance| {
                (balance >= RETRY).then(|| balance - RETRY)
            });
        paid.is_ok()
    }

    fn take_free(&self, max: u32, second: u64) -> bool {
        let taken = self
            .free
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| {
                let count = match free >> COUNT_BITS == second {
                    true => free & ((1 << COUNT_BITS) - 1),
                    false => 0,
                };
                (count < u64::from(max)).then(|| second << COUNT_BITS | (count + 1))
            });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quiet_cluster_may_retry_a_little() {
        let budget = RetryBudget::default();
        let now = Duration::from_secs(7);
        assert!(budget.take(2, now));
        assert!(budget.take(2, now));
        assert!(!budget.take(2, now));
        assert!(budget.take(2, now + Duration::from_secs(1)));
    }

    #[test]
    fn a_long_calm_saves_no_storm() {
        let budget = RetryBudget::default();
        for _ in 0..1_000_000 {
            budget.deposit(1.0);
        }
        let taken = (0..10_000).filter(|_| budget.take(0, Duration::ZERO));
        assert_eq!(taken.count(), 100);
    }

    proptest! {
        #[test]
        fn retries_are_at_most_their_share_of_the_requests_and_the_free_ones(
            share in 0.0..=1.0_f64,
            free in 0..20_u32,
            steps in proptest::collection::vec((any::<bool>(), 0..300_u64), 1..400),
        ) {
            let budget = RetryBudget::default();
            let (mut now, mut requests, mut retries) = (Duration::ZERO, 0.0, 0.0);
            for (is_request, millis) in steps {
                now += Duration::from_millis(millis);
                if is_request {
                    budget.deposit(share);
                    requests += 1.0;
                } else if budget.take(free, now) {
                    retries += 1.0;
                }
            }
            let seconds = now.as_secs() as f64 + 1.0;
            prop_assert!(retries <= requests * share + seconds * f64::from(free) + 1e-6);
        }
    }
}
