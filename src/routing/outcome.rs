//! What became of the requests that one backend was sent: the counters of passive health.
//!
//! Written by all workers without a lock, read by the control plane. A backend whose cluster
//! has no `outlier` keeps no counts: that costs one relaxed load.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;
use crate::config::OutlierConfig;

/// What became of one attempt to have a request answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub answer: Answer,
    /// From the request's head to the answer's head.
    pub latency: Duration,
    /// The answer's `Retry-After` (RFC 9110, section 10.2.3) from now on; heeded with a 503.
    pub retry_after: Option<Duration>,
}

/// How the backend answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The status of its final answer.
    Status(u16),
    /// None: it could not be connected to, or the connection was lost before an answer.
    GatewayError,
}

/// Nobody means more, and the sum with any instant fits. The control plane heeds at most
/// `max_ejection` of it.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The counters of one backend.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Failures in a row that the control plane is told of at once; 0 = none …
    told_5xx: AtomicU32,
    /// … the same for gateway errors.
    told_gateway: AtomicU32,
    /// The cluster has an `outlier`.
    is_watched: AtomicBool,
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    successes: AtomicU64,
    failures: AtomicU64,
    /// Of successes.
    latency_nanos: AtomicU64,
    /// When the first `Retry-After` came; the times in `retry_after_millis` count from here.
    first: OnceLock<Instant>,
    /// 0 = none.
    retry_after_millis: AtomicU64,
}

/// [`Outcomes`] at one moment. Totals only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Answers below 500.
    pub successes: u64,
    /// 5xx and gateway errors.
    pub failures: u64,
    /// Of all successes together.
    pub latency: Duration,
    /// Failures since the last success …
    pub consecutive_5xx: u32,
    /// … and gateway errors since the last other answer.
    pub consecutive_gateway: u32,
    /// It has asked to be left alone until then.
    pub retry_after: Option<Instant>,
}

impl Outcomes {
    /// Counts one outcome. The cause is what the control plane has to be told of at once.
    pub(super) fn record(&self, outcome: Outcome, now: Instant) -> Option<Cause> {
        if !self.is_watched.load(Ordering::Relaxed) {
            return None;
        }
        match outcome.answer {
            Answer::Status(status) if status < 500 => {
                self.succeed(outcome.latency);
                None
            }
            Answer::Status(status) => {
                let is_gateway = matches!(status, 502..=504);
                let crossed = self.fail(is_gateway);
                let pause = outcome.retry_after.filter(|_| status == 503);
                let asked = pause.and_then(|pause| self.leave_alone(pause, now));
                asked.or(crossed)
            }
            Answer::GatewayError => self.fail(true),
        }
    }

    fn succeed(&self, latency: Duration) {
        self.successes.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency_nanos.fetch_add(nanos, Ordering::Relaxed);
        // Nearly always 0 already: then the line is not written to.
        for consecutive in [&self.consecutive_5xx, &self.consecutive_gateway] {
            if consecutive.load(Ordering::Relaxed) != 0 {
                consecutive.store(0, Ordering::Relaxed);
            }
        }
    }

    fn fail(&self, is_gateway: bool) -> Option<Cause> {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let is_gateway_over = if is_gateway {
            crosses(&self.consecutive_gateway, &self.told_gateway)
        } else {
            self.consecutive_gateway.store(0, Ordering::Relaxed);
            false
        };
        let is_5xx_over = crosses(&self.consecutive_5xx, &self.told_5xx);
        match (is_gateway_over, is_5xx_over) {
            (true, _) => Some(Cause::GatewayErrors),
            (false, true) => Some(Cause::ServerErrors),
            (false, false) => None,
        }
    }

    /// Told once: as long as it wants to be left alone, later answers only say so again.
    fn leave_alone(&self, pause: Duration, now: Instant) -> Option<Cause> {
        let first = *self.first.get_or_init(|| now);
        let now = millis(now.saturating_duration_since(first));
        let pause = millis(pause.min(MAX_RETRY_AFTER));
        // Come again at once: that asks for nothing.
        if pause == 0 {
            return None;
        }
        let until = now + pause;
        let before = self.retry_after_millis.fetch_max(until, Ordering::Relaxed);
        (before <= now).then_some(Cause::RetryAfter)
    }

    pub fn read(&self) -> Counted {
        let retry_after = match self.retry_after_millis.load(Ordering::Relaxed) {
            0 => None,
            after => {
                let first = self.first.get();
                first.map(|first| *first + Duration::from_millis(after))
            }
        };
        Counted {
            successes: self.successes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            latency: Duration::from_nanos(self.latency_nanos.load(Ordering::Relaxed)),
            consecutive_5xx: self.consecutive_5xx.load(Ordering::Relaxed),
            consecutive_gateway: self.consecutive_gateway.load(Ordering::Relaxed),
            retry_after,
        }
    }

    /// Control plane only: counts from now on by these rules; `None` counts nothing.
    pub fn watch(&self, config: Option<&OutlierConfig>) {
        let told = |limit: fn(&OutlierConfig) -> u32| config.map_or(0, limit);
        self.told_5xx
            .store(told(|it| it.consecutive_5xx), Ordering::Relaxed);
        self.told_gateway
            .store(told(|it| it.consecutive_gateway), Ordering::Relaxed);
        self.is_watched.store(config.is_some(), Ordering::Relaxed);
    }

    /// Control plane only: it gets another chance, and what has failed in a row before does
    /// not count against it.
    pub fn forgive(&self) {
        self.consecutive_5xx.store(0, Ordering::Relaxed);
        self.consecutive_gateway.store(0, Ordering::Relaxed);
        self.retry_after_millis.store(0, Ordering::Relaxed);
    }
}

/// Counts one more; whether it is the one that has to be told. Of several workers one tells.
fn crosses(consecutive: &AtomicU32, told: &AtomicU32) -> bool {
    let before = consecutive.fetch_add(1, Ordering::Relaxed);
    before.wrapping_add(1) == told.load(Ordering::Relaxed) && before != u32::MAX
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> OutlierConfig {
        OutlierConfig {
            consecutive_5xx: 3,
            consecutive_gateway: 2,
            success_rate_factor: 0.0,
            latency_factor: 0.0,
            min_requests: 0,
            min_backends: 0,
            interval: SECOND,
            base_ejection: SECOND,
            max_ejection: SECOND,
            max_ejected: 0.5,
        }
    }

    fn watched() -> Outcomes {
        let outcomes = Outcomes::default();
        outcomes.watch(Some(&config()));
        outcomes
    }

    fn answer(answer: Answer) -> Outcome {
        Outcome {
            answer,
            latency: Duration::from_millis(10),
            retry_after: None,
        }
    }

    fn unavailable(seconds: u64) -> Outcome {
        Outcome {
            retry_after: Some(SECOND * u32::try_from(seconds).unwrap()),
            ..answer(Answer::Status(503))
        }
    }

    fn told(outcomes: &Outcomes, answers: &[Answer]) -> Vec<Option<Cause>> {
        let now = Instant::now();
        let record = |it: &Answer| outcomes.record(answer(*it), now);
        answers.iter().map(record).collect()
    }

    #[test]
    fn failures_in_a_row_are_told_once() {
        let outcomes = watched();
        let told = told(&outcomes, &[Answer::Status(500); 5]);
        let expected = [None, None, Some(Cause::ServerErrors), None, None];
        assert_eq!(told, expected);
        let counted = outcomes.read();
        assert_eq!((counted.consecutive_5xx, counted.failures), (5, 5));
        assert_eq!(counted.consecutive_gateway, 0);
    }

    #[test]
    fn lost_connections_and_gateway_statuses_count_together() {
        let outcomes = watched();
        let told = told(&outcomes, &[Answer::GatewayError, Answer::Status(502)]);
        assert_eq!(told, [None, Some(Cause::GatewayErrors)]);
        assert_eq!(outcomes.read().consecutive_5xx, 2, "they are failures, too");
    }

    #[test]
    fn a_good_answer_ends_a_row() {
        let outcomes = watched();
        let (bad, good) = (Answer::Status(500), Answer::Status(404));
        assert_eq!(told(&outcomes, &[bad, bad, good, bad, bad]), [None; 5]);
        let (bad, good) = (Answer::GatewayError, Answer::Status(200));
        assert_eq!(told(&outcomes, &[good, bad, good, bad]), [None; 4]);
    }

    #[test]
    fn another_failure_ends_a_row_of_gateway_errors_only() {
        let outcomes = watched();
        let row = [
            Answer::GatewayError,
            Answer::Status(500),
            Answer::GatewayError,
        ];
        assert_eq!(
            told(&outcomes, &row),
            [None, None, Some(Cause::ServerErrors)]
        );
    }

    #[test]
    fn latency_is_that_of_successes() {
        let outcomes = watched();
        told(
            &outcomes,
            &[
                Answer::Status(200),
                Answer::Status(500),
                Answer::Status(404),
            ],
        );
        let counted = outcomes.read();
        assert_eq!(counted.latency, Duration::from_millis(20));
        assert_eq!((counted.successes, counted.failures), (2, 1));
    }

    #[test]
    fn a_wish_to_be_left_alone_is_told_once_until_it_is_over() {
        let (outcomes, now) = (watched(), Instant::now());
        outcomes.watch(Some(&OutlierConfig {
            consecutive_5xx: 0,
            consecutive_gateway: 0,
            ..config()
        }));
        let wish = Some(Cause::RetryAfter);
        assert_eq!(outcomes.record(unavailable(5), now), wish);
        assert_eq!(outcomes.record(unavailable(7), now + SECOND), None);
        assert_eq!(outcomes.read().retry_after, Some(now + SECOND * 8));
        assert_eq!(outcomes.record(unavailable(1), now + SECOND * 9), wish);
        outcomes.forgive();
        assert_eq!(outcomes.read().retry_after, None);
    }

    #[test]
    fn only_a_503_may_ask_to_be_left_alone_and_not_for_ever() {
        let (outcomes, now) = (watched(), Instant::now());
        let throttled = Outcome {
            answer: Answer::Status(429),
            ..unavailable(5)
        };
        assert_eq!(outcomes.record(throttled, now), None);
        assert_eq!(outcomes.record(unavailable(0), now), None);
        let forever = Outcome {
            retry_after: Some(Duration::MAX),
            ..unavailable(0)
        };
        outcomes.record(forever, now);
        assert_eq!(outcomes.read().retry_after, Some(now + MAX_RETRY_AFTER));
    }

    #[test]
    fn nothing_is_counted_where_nobody_watches() {
        let outcomes = Outcomes::default();
        assert_eq!(told(&outcomes, &[Answer::GatewayError; 9]), [None; 9]);
        assert_eq!(outcomes.read(), Counted::default());
    }
}
