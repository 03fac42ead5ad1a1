//! One rule at a time.

mod simulation;

use super::*;
use crate::control::fixtures::outliers;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn config() -> OutlierConfig {
    OutlierConfig {
        max_ejection: SECOND * 100,
        ..outliers()
    }
}

/// Some backends, numbered from 0, and what judges them.
struct Bench {
    config: OutlierConfig,
    outliers: Outliers,
    backends: Vec<Observed>,
    now: Instant,
}

impl Bench {
    fn new(backends: u64) -> Self {
        let observed = |id| Observed {
            id: BackendId(id),
            is_eligible: true,
            is_down: false,
            counted: Counted::default(),
        };
        let mut bench = Self {
            config: config(),
            outliers: Outliers::default(),
            backends: (0..backends).map(observed).collect(),
            now: Instant::now(),
        };
        assert_eq!(bench.judge(), []);
        bench
    }

    /// Who is ejected for what now, and who returns.
    fn judge(&mut self) -> Vec<(usize, Option<Cause>)> {
        let verdicts = self
            .outliers
            .judge(Some(&self.config), &self.backends, self.now);
        for verdict in verdicts.iter().filter(|it| it.ejection.is_none()) {
            let counted = &mut self.backends[verdict.id.0 as usize].counted;
            (counted.consecutive_5xx, counted.consecutive_gateway) = (0, 0);
            counted.retry_after = None;
        }
        let told = |it: Verdict| (it.id.0 as usize, it.ejection.map(|it| it.cause));
        verdicts.into_iter().map(told).collect()
    }

    /// The end of an interval.
    fn compare(&mut self) -> Vec<(usize, Option<Cause>)> {
        self.now += self.config.interval;
        self.judge()
    }

    fn serve(&mut self, backend: usize, successes: u64, failures: u64, latency: Duration) {
        let counted = &mut self.backends[backend].counted;
        counted.successes += successes;
        counted.failures += failures;
        counted.latency += latency * u32::try_from(successes).unwrap();
    }

    fn serve_all(&mut self, successes: u64, failures: u64) {
        for backend in 0..self.backends.len() {
            self.serve(backend, successes, failures, MS);
        }
    }

    fn fail(&mut self, backend: usize, failures: u32) {
        self.backends[backend].counted.consecutive_5xx += failures;
    }

    fn left(&self, backend: usize) -> Option<Duration> {
        let ejection = self.outliers.ejection(BackendId(backend as u64))?;
        Some(ejection.until - self.now)
    }

    fn ejected(&self) -> usize {
        let all = 0..self.backends.len();
        all.filter(|it| self.left(*it).is_some()).count()
    }
}

#[test]
fn failures_in_a_row_eject_at_once() {
    let mut bench = Bench::new(2);
    bench.fail(1, 4);
    assert_eq!(bench.judge(), []);
    bench.fail(1, 1);
    assert_eq!(bench.judge(), [(1, Some(Cause::ServerErrors))]);
    assert_eq!(bench.left(1), Some(SECOND * 30));
    assert_eq!(bench.judge(), [], "once");
}

#[test]
fn gateway_errors_have_a_limit_of_their_own() {
    let mut bench = Bench::new(2);
    bench.backends[0].counted.consecutive_gateway = 3;
    assert_eq!(bench.judge(), [(0, Some(Cause::GatewayErrors))]);
}

#[test]
fn a_limit_of_zero_never_ejects() {
    let mut bench = Bench::new(4);
    bench.config.consecutive_5xx = 0;
    bench.config.consecutive_gateway = 0;
    bench.config.success_rate_factor = 0.0;
    bench.config.latency_factor = 0.0;
    bench.backends[0].counted.consecutive_5xx = 1_000_000;
    bench.backends[0].counted.consecutive_gateway = 1_000_000;
    bench.serve_all(1000, 0);
    bench.serve(0, 1000, 100_000, SECOND * 9);
    assert_eq!(bench.compare(), []);
}

#[test]
fn a_backend_alone_is_never_ejected() {
    let mut bench = Bench::new(1);
    bench.config.min_backends = 1;
    bench.fail(0, 1000);
    bench.serve(0, 100, 1000, SECOND);
    bench.backends[0].counted.retry_after = Some(bench.now + SECOND * 100);
    assert_eq!(bench.judge(), []);
    assert_eq!(bench.compare(), []);
}

#[test]
fn the_last_that_is_eligible_is_not_ejected() {
    let mut bench = Bench::new(3);
    bench.backends[1].is_eligible = false;
    bench.backends[2].is_eligible = false;
    bench.fail(0, 1000);
    assert_eq!(bench.judge(), []);
    bench.backends[2].is_eligible = true;
    assert_eq!(bench.judge(), [(0, Some(Cause::ServerErrors))]);
}

#[test]
fn at_most_max_ejected_and_the_rest_when_there_is_room() {
    let mut bench = Bench::new(5);
    for backend in 0..5 {
        bench.fail(backend, 100);
    }
    let ejected = Some(Cause::ServerErrors);
    assert_eq!(bench.judge(), [(0, ejected), (1, ejected)]);
    bench.now += SECOND * 30;
    let expected = [(0, None), (1, None), (2, ejected), (3, ejected)];
    assert_eq!(bench.judge(), expected);
}

#[test]
fn one_may_be_ejected_however_small_the_share() {
    let mut bench = Bench::new(3);
    bench.config.max_ejected = 0.0;
    bench.fail(0, 5);
    bench.fail(1, 5);
    assert_eq!(bench.judge().len(), 1);
}

#[test]
fn shares_are_rounded_down_but_not_by_floating_point() {
    let mut config = config();
    for (share, backends, expected) in [(0.29, 100, 29), (0.5, 3, 1), (1.0, 4, 4), (0.1, 5, 1)] {
        config.max_ejected = share;
        assert_eq!(max_ejected(&config, backends), expected, "{share}");
    }
}

#[test]
fn all_may_be_allowed_and_one_is_left_all_the_same() {
    let mut bench = Bench::new(4);
    bench.config.max_ejected = 1.0;
    for backend in 0..4 {
        bench.fail(backend, 100);
    }
    assert_eq!(bench.judge().len(), 3);
    assert_eq!(bench.ejected(), 3);
}

#[test]
fn each_further_ejection_takes_as_much_longer_up_to_the_longest() {
    let mut bench = Bench::new(2);
    let mut times = Vec::new();
    for _ in 0..6 {
        bench.fail(0, 5);
        bench.judge();
        let left = bench.left(0).unwrap();
        times.push(left.as_secs());
        bench.now += left;
        assert!(bench.judge().contains(&(0, None)));
    }
    assert_eq!(times, [30, 60, 90, 100, 100, 100]);
}

#[test]
fn ejections_are_forgotten_after_a_healthy_time() {
    let mut bench = Bench::new(2);
    let again = |bench: &mut Bench, healthy: u32| {
        bench.now += SECOND * healthy;
        bench.fail(0, 5);
        bench.judge();
        let left = bench.left(0).unwrap();
        bench.now += left;
        bench.judge();
        left.as_secs()
    };
    assert_eq!(again(&mut bench, 0), 30);
    assert_eq!(again(&mut bench, 29), 60);
    assert_eq!(again(&mut bench, 30), 60, "one is forgotten");
    assert_eq!(again(&mut bench, 60), 30, "all are forgotten");
}

#[test]
fn one_that_was_down_meanwhile_returns_with_its_health() {
    let mut bench = Bench::new(3);
    bench.fail(0, 5);
    bench.judge();
    let set = |bench: &mut Bench, is_up: bool| {
        bench.backends[0].is_eligible = is_up;
        bench.backends[0].is_down = !is_up;
    };
    set(&mut bench, false);
    bench.now += SECOND;
    assert_eq!(bench.judge(), [], "down and ejected are two things");
    set(&mut bench, true);
    assert_eq!(bench.judge(), [(0, None)]);
}

#[test]
fn a_wish_to_be_left_alone_is_granted_up_to_the_longest_ejection() {
    let mut bench = Bench::new(3);
    bench.backends[0].counted.retry_after = Some(bench.now + SECOND * 7);
    assert_eq!(bench.judge(), [(0, Some(Cause::RetryAfter))]);
    assert_eq!(bench.left(0), Some(SECOND * 7));
    bench.now += SECOND * 7;
    assert_eq!(bench.judge(), [(0, None)]);

    bench.backends[0].counted.retry_after = Some(bench.now + SECOND * 3600);
    bench.judge();
    assert_eq!(bench.left(0), Some(SECOND * 100));
    bench.now += SECOND * 100;
    assert_eq!(bench.judge(), [(0, None)], "and not again at once");
    assert_eq!(bench.judge(), []);

    bench.fail(0, 5);
    bench.judge();
    assert_eq!(bench.left(0), Some(SECOND * 30), "a wish is no fault");
}

#[test]
fn one_that_fails_more_than_the_others_is_ejected() {
    let mut bench = Bench::new(5);
    bench.serve_all(1000, 0);
    bench.serve(3, 0, 200, MS);
    assert_eq!(bench.compare(), [(3, Some(Cause::SuccessRate))]);
}

#[test]
fn all_that_fail_alike_are_left_alone() {
    let mut bench = Bench::new(5);
    for _ in 0..10 {
        bench.serve_all(50, 950);
        assert_eq!(bench.compare(), []);
        bench.serve_all(0, 1000);
        assert_eq!(bench.compare(), []);
    }
}

#[test]
fn one_failure_in_a_thousand_is_no_outlier() {
    let mut bench = Bench::new(5);
    bench.serve_all(1000, 0);
    bench.serve(3, 0, 1, MS);
    assert_eq!(bench.compare(), []);
}

#[test]
fn the_worst_is_ejected_first() {
    let mut bench = Bench::new(12);
    bench.config.max_ejected = 0.0;
    bench.serve_all(1000, 0);
    bench.serve(3, 0, 3000, MS);
    bench.serve(7, 0, 9000, MS);
    assert_eq!(bench.compare(), [(7, Some(Cause::SuccessRate))]);
    bench.config.max_ejected = 0.5;
    bench.serve_all(1000, 0);
    bench.serve(3, 0, 3000, MS);
    assert_eq!(bench.compare(), [(3, Some(Cause::SuccessRate))]);
}

#[test]
fn one_that_is_slower_than_the_others_is_ejected() {
    let mut bench = Bench::new(4);
    for backend in 0..3 {
        bench.serve(backend, 1000, 0, MS * 20);
    }
    bench.serve(3, 1000, 0, MS * 59);
    assert_eq!(bench.compare(), [], "not three times as slow");
    for backend in 0..3 {
        bench.serve(backend, 1000, 0, MS * 20);
    }
    bench.serve(3, 1000, 0, MS * 61);
    assert_eq!(bench.compare(), [(3, Some(Cause::SlowAnswers))]);
}

#[test]
fn a_few_milliseconds_are_no_outlier() {
    let mut bench = Bench::new(4);
    bench.serve_all(1000, 0);
    bench.serve(3, 1000, 0, MS * 9);
    assert_eq!(bench.compare(), []);
}

#[test]
fn rates_of_few_requests_say_nothing() {
    let mut bench = Bench::new(5);
    for backend in 0..4 {
        bench.serve(backend, 1000, 0, MS);
    }
    bench.serve(4, 1, 98, SECOND * 10);
    assert_eq!(bench.compare(), []);
    // Nor do they add up over intervals.
    for backend in 0..4 {
        bench.serve(backend, 1000, 0, MS);
    }
    bench.serve(4, 1, 98, SECOND * 10);
    assert_eq!(bench.compare(), []);
    for backend in 0..4 {
        bench.serve(backend, 1000, 0, MS);
    }
    bench.serve(4, 1, 99, SECOND * 10);
    assert_eq!(bench.compare(), [(4, Some(Cause::SuccessRate))]);
}

#[test]
fn latency_needs_enough_answers_that_were_good() {
    let mut bench = Bench::new(5);
    bench.config.success_rate_factor = 0.0;
    for (good, expected) in [(99, None), (100, Some(Cause::SlowAnswers))] {
        for backend in 0..4 {
            bench.serve(backend, 1000, 0, MS);
        }
        bench.serve(4, good, 500, SECOND);
        let expected: Vec<_> = expected.map(|cause| (4, Some(cause))).into_iter().collect();
        assert_eq!(bench.compare(), expected);
    }
}

#[test]
fn rates_of_few_backends_say_nothing() {
    let mut bench = Bench::new(4);
    bench.backends[0].is_eligible = false;
    bench.serve_all(1000, 0);
    bench.serve(3, 1000, 1000, SECOND);
    assert_eq!(bench.compare(), []);
}

#[test]
fn what_was_counted_before_a_return_does_not_count_again() {
    let mut bench = Bench::new(5);
    bench.fail(4, 5);
    bench.judge();
    // Requests in flight, and some that had nobody else.
    bench.serve(4, 0, 10_000, MS);
    bench.now += SECOND * 30;
    bench.serve_all(1000, 0);
    assert_eq!(bench.judge(), [(4, None)]);
    bench.serve_all(1000, 0);
    assert_eq!(bench.compare(), []);
}

#[test]
fn without_a_configuration_all_return() {
    let mut bench = Bench::new(3);
    bench.fail(1, 5);
    bench.judge();
    let verdicts = bench.outliers.judge(None, &bench.backends, bench.now);
    let returned = Verdict {
        id: BackendId(1),
        ejection: None,
    };
    assert_eq!(verdicts, [returned]);
    assert_eq!(bench.outliers.next_due(), None);
}

#[test]
fn one_that_is_removed_is_forgotten() {
    let mut bench = Bench::new(3);
    bench.fail(2, 5);
    bench.judge();
    bench.backends.pop();
    bench.judge();
    assert_eq!(bench.outliers.ejection(BackendId(2)), None);
    assert_eq!(bench.outliers.records.len(), 2);
}

#[test]
fn a_shorter_interval_is_in_force_at_once() {
    let mut bench = Bench::new(3);
    bench.config.interval = SECOND;
    bench.judge();
    assert_eq!(bench.outliers.next_due(), Some(bench.now + SECOND));
}
