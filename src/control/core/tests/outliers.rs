//! From what is counted to the table, the log and the flight recorder.

use super::*;
use crate::config::HttpClusterConfig;
use crate::control::fixtures::outliers;
use crate::control::happening::What;
use crate::routing::Answer;
use crate::routing::Ejection;
use crate::routing::Outcome;

const HALF_MINUTE: Duration = Duration::from_secs(30);

fn watched(names: &[&str]) -> ClusterConfig {
    ClusterConfig {
        http: Some(Arc::new(HttpClusterConfig {
            outlier: Some(outliers()),
            ..HttpClusterConfig::default()
        })),
        ..cluster("a", names)
    }
}

fn outcome(answer: Answer) -> Outcome {
    Outcome {
        answer,
        latency: Duration::from_millis(10),
        retry_after: None,
    }
}

impl World {
    /// Requests that all end like this; returns what the control plane has to be told.
    fn answers(&self, backend: &str, outcome: Outcome, times: u32) -> Vec<Cause> {
        let handle = self.entry(backend).handle;
        let record = |_| handle.record_outcome(outcome, self.now);
        (0..times).filter_map(record).collect()
    }

    /// As the data plane and the control plane do it together.
    fn answer_and_report(&mut self, backend: &str, outcome: Outcome, times: u32) {
        let (id, now) = (self.entry(backend).handle.id, self.moment());
        for cause in self.answers(backend, outcome, times) {
            self.core.report(id, cause, now);
        }
        self.settle();
    }

    fn judge(&mut self) {
        let now = self.moment();
        self.core.judge_outliers(now);
        self.settle();
    }

    fn ejected(&self, backend: &str) -> Option<Cause> {
        self.entry(backend).ejected.map(|ejection| ejection.cause)
    }

    /// Who was ejected and who has returned, and why.
    fn told(&mut self) -> Vec<(String, Cause)> {
        let happened = self.happened.drain(..);
        let told = happened.filter_map(|it| {
            let what = match it.what {
                What::Ejected { .. } => "ejected",
                What::Returned => "returned",
                _ => return None,
            };
            Some((format!("{} {what}", it.backend.unwrap()), it.cause))
        });
        told.collect()
    }
}

#[test]
fn one_that_fails_in_a_row_is_left_out_and_returns() {
    let mut world = World::new(vec![watched(&["db1", "db2"])]);
    world.run(SECOND, up);
    let due = world.core.next_due();
    world.answer_and_report("db1", outcome(Answer::Status(500)), 5);
    let ejection = Ejection {
        cause: Cause::ServerErrors,
        until: world.now + HALF_MINUTE,
    };
    assert_eq!(world.entry("db1").ejected, Some(ejection));
    assert_eq!(world.health("db1"), Health::Up, "ejection is not health");
    assert_eq!(world.core.next_due(), due, "answers ask for no check");
    assert_eq!(world.fate("db1"), Fate::Serve, "requests in flight go on");
    assert_eq!(
        world.told(),
        [("db1 ejected".to_owned(), Cause::ServerErrors)]
    );

    world.now += HALF_MINUTE - SECOND;
    world.judge();
    assert_eq!(world.ejected("db1"), Some(Cause::ServerErrors));
    assert_eq!(world.core.next_judgement(), Some(ejection.until));
    world.now += SECOND;
    world.judge();
    assert_eq!(world.ejected("db1"), None);
    assert_eq!(world.entry("db1").warming_since, Some(world.now));
    assert_eq!(
        world.told(),
        [("db1 returned".to_owned(), Cause::EjectionOver)]
    );

    let told = world.answers("db1", outcome(Answer::Status(500)), 4);
    assert_eq!(told, [], "what was before is forgiven");
    world.judge();
    assert_eq!(world.ejected("db1"), None);
    let ejections = world.entry("db1").handle;
    let ejections: u64 = ejections.ejections().map(|(_, count)| count).sum();
    assert_eq!(ejections, 1);
}

#[test]
fn a_report_that_was_lost_is_made_good_within_an_interval() {
    let mut world = World::new(vec![watched(&["db1", "db2"])]);
    world.run(SECOND, up);
    let told = world.answers("db1", outcome(Answer::GatewayError), 3);
    assert_eq!(told, [Cause::GatewayErrors]);
    world.now += SECOND * 10;
    world.judge();
    assert_eq!(world.ejected("db1"), Some(Cause::GatewayErrors));
}

#[test]
fn rates_are_compared_each_interval() {
    let names = ["db1", "db2", "db3", "db4"];
    let mut world = World::new(vec![watched(&names)]);
    world.run(SECOND, up);
    for name in names {
        assert_eq!(world.answers(name, outcome(Answer::Status(200)), 1000), []);
    }
    for _ in 0..200 {
        // Never five in a row.
        world.answers("db3", outcome(Answer::Status(500)), 4);
        world.answers("db3", outcome(Answer::Status(200)), 1);
    }
    world.judge();
    assert_eq!(world.ejected("db3"), None);
    world.now += SECOND * 10;
    world.judge();
    assert_eq!(world.ejected("db3"), Some(Cause::SuccessRate));
    assert_eq!(
        world.told(),
        [("db3 ejected".to_owned(), Cause::SuccessRate)]
    );
}

#[test]
fn one_that_says_when_to_come_again_is_left_alone_until_then() {
    let mut world = World::new(vec![watched(&["db1", "db2"])]);
    world.run(SECOND, up);
    let busy = Outcome {
        retry_after: Some(SECOND * 4),
        ..outcome(Answer::Status(503))
    };
    world.answer_and_report("db1", busy, 1);
    assert_eq!(world.ejected("db1"), Some(Cause::RetryAfter));
    world.answer_and_report("db2", busy, 1);
    assert_eq!(world.ejected("db2"), None, "nobody else is left");
    world.now += SECOND * 4;
    world.judge();
    assert_eq!(world.ejected("db1"), None);
}

#[test]
fn one_that_was_restarted_is_not_what_it_was_ejected_for() {
    let mut world = World::new(vec![watched(&["db1", "db2"])]);
    world.run(SECOND, up);
    world.answer_and_report("db1", outcome(Answer::GatewayError), 3);
    world.run(SECOND * 5, refuses("db1"));
    assert_eq!(world.health("db1"), Health::Down);
    assert_eq!(world.ejected("db1"), Some(Cause::GatewayErrors));
    world.run(SECOND * 5, up);
    assert_eq!(world.health("db1"), Health::Up);
    assert_eq!(world.ejected("db1"), None);
}

#[test]
fn a_reload_without_outliers_lets_all_return() {
    let mut world = World::new(vec![watched(&["db1", "db2"])]);
    world.run(SECOND, up);
    world.answer_and_report("db1", outcome(Answer::GatewayError), 3);
    assert!(world.ejected("db1").is_some());
    world.apply(vec![cluster("a", &["db1", "db2"])]);
    assert_eq!(world.ejected("db1"), None);
    assert_eq!(world.core.next_judgement(), None);
    assert_eq!(world.answers("db1", outcome(Answer::GatewayError), 9), []);
}

#[test]
fn a_reload_keeps_who_is_ejected() {
    let mut world = World::new(vec![watched(&["db1", "db2"])]);
    world.run(SECOND, up);
    world.answer_and_report("db1", outcome(Answer::GatewayError), 3);
    world.apply(vec![watched(&["db3", "db1", "db2"])]);
    assert_eq!(world.ejected("db1"), Some(Cause::GatewayErrors));
}

#[test]
fn another_server_behind_the_name_is_watched_and_not_ejected() {
    let mut world = World::new(vec![watched(&["one.test", "db2"])]);
    world.resolve("one.test", 7);
    world.run(SECOND, up);
    world.answer_and_report("one.test", outcome(Answer::GatewayError), 3);
    assert!(world.ejected("one.test").is_some());
    world.resolve("one.test", 8);
    assert_eq!(world.ejected("one.test"), None);
    world.run(SECOND, up);
    world.answer_and_report("one.test", outcome(Answer::GatewayError), 3);
    assert!(world.ejected("one.test").is_some());
}
