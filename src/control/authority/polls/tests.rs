//! Who is asked when, and whose word counts for how long.

use super::*;
use crate::cluster::Cause;
use crate::config::AuthorityConfig;
use crate::control::fixtures::SECOND;
use crate::control::fixtures::cluster;
use crate::control::fixtures::config;
use std::net::IpAddr;
use std::num::NonZeroU16;

const FAST: Duration = Duration::from_millis(50);
const REFUSED: Silence = Silence::Unanswered(Cause::ConnectRefused);

struct Scene {
    authorities: Authorities,
    discovery: Discovery,
    now: Instant,
}

fn patroni(port: u16) -> Option<AuthorityConfig> {
    let port = NonZeroU16::new(port).unwrap();
    Some(AuthorityConfig::Patroni { port, tls: false })
}

fn leader(timeline: u32) -> Authority {
    Authority::Leader {
        host: "10.0.0.1".to_owned(),
        port: 5432,
        timeline: Some(timeline),
    }
}

fn name() -> Name {
    Name::from("orders")
}

impl Scene {
    fn new(backends: &[&str]) -> Self {
        let mut scene = Self {
            authorities: Authorities::seeded(7),
            discovery: Discovery::default(),
            now: Instant::now(),
        };
        scene.apply(backends, patroni(8008));
        scene
    }

    fn apply(&mut self, backends: &[&str], authority: Option<AuthorityConfig>) {
        let mut cluster = cluster("orders", backends);
        cluster.failover.authority = authority;
        let config = config(vec![cluster]);
        let none = HashMap::new();
        self.authorities.apply(&config, &none, self.now);
        self.discovery.apply(&config, self.now);
    }

    fn start(&mut self) -> Option<Poll> {
        self.authorities.start_due(self.now, &self.discovery)
    }

    /// Goes on to the next poll and answers it; returns when it was due.
    fn poll(&mut self, answer: Result<Authority, Silence>) -> Instant {
        self.now = self.authorities.next_due().expect("a poll").max(self.now);
        let due = self.now;
        let poll = self.start().expect("it is due");
        self.finish(poll.number, answer);
        due
    }

    fn finish(&mut self, number: u64, answer: Result<Authority, Silence>) -> bool {
        self.authorities.finish(&name(), number, answer, self.now)
    }

    fn current(&self) -> Option<&Authority> {
        self.authorities.current(&name())
    }
}

#[test]
fn an_authority_is_asked_at_once_and_then_every_interval() {
    let mut scene = Scene::new(&["db1", "db2"]);
    let mut last = scene.poll(Ok(leader(1)));
    for _ in 0..100 {
        let due = scene.poll(Ok(leader(1)));
        let pause = due - last;
        assert!(SECOND * 9 / 10 <= pause && pause <= SECOND * 11 / 10);
        last = due;
    }
}

#[test]
fn one_poll_is_under_way_at_a_time() {
    let mut scene = Scene::new(&["db1"]);
    let poll = scene.start().unwrap();
    scene.authorities.hurry(|_| true);
    scene.now += SECOND * 60;
    assert!(scene.start().is_none());
    assert!(scene.finish(poll.number, Ok(leader(1))));
    assert!(!scene.finish(poll.number, Ok(leader(2))), "only once");
    assert!(scene.start().is_some());
}

#[test]
fn it_is_asked_fast_while_that_is_urgent() {
    let mut scene = Scene::new(&["db1"]);
    let mut last = scene.poll(Ok(leader(1)));
    for _ in 0..10 {
        scene.authorities.hurry(|_| true);
        let due = scene.poll(Ok(leader(1)));
        assert_eq!(due - last, FAST);
        last = due;
    }
    scene.authorities.hurry(|_| false);
    assert!(scene.poll(Ok(leader(1))) - last > FAST * 10);
}

#[test]
fn a_disagreement_is_asked_about_fast() {
    let mut scene = Scene::new(&["db1"]);
    let first = scene.poll(Err(Silence::Disagreement));
    assert!(scene.poll(Ok(leader(1))) - first <= FAST * 11 / 10);
}

#[test]
fn the_last_answer_counts_for_three_intervals_of_silence() {
    let mut scene = Scene::new(&["db1"]);
    let heard = scene.poll(Ok(leader(1)));
    loop {
        let due = scene.poll(Err(REFUSED));
        let age = due - heard;
        let expected = leader(1);
        let counts = (age < SECOND * 3).then_some(&expected);
        assert_eq!(scene.current(), counts, "{age:?}");
        if age > SECOND * 5 {
            break;
        }
    }
    scene.poll(Ok(leader(2)));
    assert_eq!(scene.current(), Some(&leader(2)));
}

#[test]
fn fast_polls_do_not_shorten_how_long_an_answer_counts() {
    let mut scene = Scene::new(&["db1"]);
    let heard = scene.poll(Ok(leader(1)));
    let mut failures = 0;
    while scene.current().is_some() {
        scene.authorities.hurry(|_| true);
        assert!(scene.poll(Err(REFUSED)) - heard <= SECOND * 3);
        failures += 1;
    }
    assert!(failures > 50, "{failures}");
}

#[test]
fn the_first_failure_is_silence() {
    let mut scene = Scene::new(&["db1"]);
    scene.poll(Err(REFUSED));
    assert_eq!(scene.authorities.asked[&name()].word, Word::Silent);
}

#[test]
fn every_backend_is_asked_and_told_the_last_timeline() {
    let mut scene = Scene::new(&["db1", "db2"]);
    scene.poll(Ok(leader(4)));
    scene.now += SECOND * 2;
    let poll = scene.start().unwrap();
    let Question::Patroni { nodes, floor } = poll.question else {
        panic!("{:?}", poll.question);
    };
    assert_eq!(floor, Some(4));
    let asked: Vec<_> = nodes.iter().map(|n| (n.address, n.port.get())).collect();
    let address = |digit| Some(IpAddr::from([10, 0, 0, digit]));
    assert_eq!(asked, [(address(1), 8008), (address(2), 8008)]);
}

#[test]
fn the_first_poll_waits_for_the_names_to_be_looked_up() {
    let mut scene = Scene::new(&["db.x", "db2"]);
    assert!(scene.start().is_none());
    assert_eq!(scene.discovery.start_due(scene.now), Some("db.x".into()));
    scene.now += LOOKUP_PAUSE;
    assert!(scene.start().is_none());
    scene.discovery.finish(&"db.x".into(), None, scene.now);
    scene.now += LOOKUP_PAUSE;
    // It cannot be found: the others are asked.
    assert!(scene.start().is_some());
}

#[test]
fn a_reload_keeps_what_counts_and_asks_anew_only_if_asked_otherwise() {
    let mut scene = Scene::new(&["db1"]);
    scene.poll(Ok(leader(1)));
    let due = scene.authorities.next_due();
    scene.apply(&["db1"], patroni(8008));
    assert_eq!(scene.authorities.next_due(), due);

    scene.now = due.unwrap();
    let old = scene.start().unwrap();
    scene.apply(&["db1"], patroni(8009));
    assert_eq!(scene.current(), Some(&leader(1)));
    assert!(
        !scene.finish(old.number, Err(REFUSED)),
        "an answer to the old question"
    );
    assert!(scene.start().is_some());

    scene.apply(&["db1"], None);
    assert_eq!(scene.current(), None);
    scene.now += SECOND * 60;
    assert!(scene.start().is_none());
    assert_eq!(scene.authorities.next_due(), None);
}
