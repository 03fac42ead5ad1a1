//! When each cluster's authority is asked, and for how long its answer counts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tracing::debug;
use tracing::info;
use tracing::warn;

use crate::cluster::Name;
use crate::config::AuthorityConfig;
use crate::config::ClusterConfig;
use crate::config::Config;
use crate::config::Host;
use crate::control::authority::Question;
use crate::control::authority::Silence;
use crate::control::authority::patroni;
use crate::control::authority::sentinel;
use crate::control::discovery::Discovery;
use crate::control::evidence::Authority;
use crate::control::schedule::Schedule;
use crate::tls::TlsConnector;

/// An answer counts for this many intervals. Shorter, one lost packet would change who
/// decides; longer, a leader of the past would bar the one that the backends agree on.
const MAX_AGE_INTERVALS: u32 = 3;
/// While a name is looked up for the first time, its poll waits in steps of this.
const LOOKUP_PAUSE: Duration = Duration::from_millis(10);

/// The clusters that have an authority.
#[derive(Debug, Default)]
pub struct Authorities {
    asked: HashMap<Name, Asked>,
    schedule: Schedule<Name>,
    next_number: u64,
    random: fastrand::Rng,
}

/// One poll to send now.
#[derive(Debug)]
pub struct Poll {
    pub cluster: Name,
    pub number: u64,
    pub question: Question,
    pub timeout: Duration,
}

#[derive(Debug)]
struct Asked {
    cluster: Arc<ClusterConfig>,
    tls: Option<TlsConnector>,
    in_flight: Option<Flight>,
    last_started: Option<Instant>,
    word: Word,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    number: u64,
    started: Instant,
}

/// What counts at present.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// Nothing has come yet.
    Unheard,
    Said {
        authority: Authority,
        /// When that was asked.
        asked: Instant,
    },
    Silent,
}

impl Authorities {
    /// With a seed of its own, for jitter.
    pub fn seeded(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            ..Self::default()
        }
    }

    /// Asks for the clusters of this configuration and no others. What is known of one that
    /// stays counts on, although it may be asked in another way from now on.
    pub fn apply(
        &mut self,
        config: &Config,
        connectors: &HashMap<Name, TlsConnector>,
        now: Instant,
    ) {
        let mut old = std::mem::take(&mut self.asked);
        for cluster in &config.clusters {
            if cluster.failover.authority.is_none() {
                continue;
            }
            let mut asked = Asked {
                cluster: Arc::new(cluster.clone()),
                tls: connectors.get(&cluster.name).cloned(),
                in_flight: None,
                last_started: None,
                word: Word::Unheard,
            };
            match old.remove(&cluster.name) {
                Some(known) if known.asks_the_same(cluster) => {
                    asked.in_flight = known.in_flight;
                    asked.last_started = known.last_started;
                    asked.word = known.word;
                }
                known => {
                    asked.word = known.map_or(Word::Unheard, |known| known.word);
                    self.schedule.set(Arc::clone(&cluster.name), now);
                }
            }
            self.asked.insert(Arc::clone(&cluster.name), asked);
        }
        for name in old.keys() {
            self.schedule.remove(name);
        }
    }

    /// What the authority says, as far as it counts at present.
    pub fn current(&self, cluster: &Name) -> Option<&Authority> {
        match &self.asked.get(cluster)?.word {
            Word::Said { authority, .. } => Some(authority),
            Word::Unheard | Word::Silent => None,
        }
    }

    pub fn next_due(&mut self) -> Option<Instant> {
        self.schedule.next()
    }

    /// Asks every fast interval for as long as this says so of a cluster, in each round.
    pub fn hurry(&mut self, is_urgent: impl Fn(&Name) -> bool) {
        for (name, asked) in &self.asked {
            // One that is under way, or has never been, is as soon as can be.
            if let (None, Some(started)) = (asked.in_flight, asked.last_started)
                && is_urgent(name)
            {
                let due = started + asked.fast_interval();
                self.schedule.pull(Arc::clone(name), due);
            }
        }
    }

    /// Takes the next poll that is due.
    pub fn start_due(&mut self, now: Instant, discovery: &Discovery) -> Option<Poll> {
        while let Some(name) = self.schedule.pop(now) {
            let Some(asked) = self.asked.get_mut(&name) else {
                continue;
            };
            if asked.in_flight.is_some() {
                continue;
            }
            if asked.hosts().any(|host| is_pending(host, discovery)) {
                self.schedule.set(name, now + LOOKUP_PAUSE);
                continue;
            }
            let Some(question) = asked.question(discovery) else {
                continue;
            };
            self.next_number += 1;
            let number = self.next_number;
            asked.in_flight = Some(Flight {
                number,
                started: now,
            });
            asked.last_started = Some(now);
            let timeout = asked.cluster.health_check.timeout;
            return Some(Poll {
                cluster: name,
                number,
                question,
                timeout,
            });
        }
        None
    }

    /// Notes an answer; `false` when nobody waits for it any more.
    pub fn finish(
        &mut self,
        cluster: &Name,
        number: u64,
        answer: Result<Authority, Silence>,
        now: Instant,
    ) -> bool {
        // ±10 %, so that the polls of many instances drift apart.
        let jitter = 0.9 + 0.2 * self.random.f64();
        let Some(asked) = self.asked.get_mut(cluster) else {
            return false;
        };
        let Some(flight) = asked.in_flight.filter(|flight| flight.number == number) else {
            return false;
        };
        asked.in_flight = None;
        let pause = match answer {
            // It is changing just now.
            Err(Silence::Disagreement) => asked.fast_interval(),
            _ => asked.cluster.health_check.interval,
        };
        let due = flight.started + pause.mul_f64(jitter);
        match answer {
            Ok(authority) => asked.hear(authority, flight.started),
            Err(silence) => asked.miss(silence, now),
        }
        self.schedule.set(Arc::clone(cluster), due.max(now));
        true
    }
}

impl Asked {
    fn asks_the_same(&self, new: &ClusterConfig) -> bool {
        (&self.cluster.failover.authority, &self.cluster.backends)
            == (&new.failover.authority, &new.backends)
    }

    fn fast_interval(&self) -> Duration {
        let check = &self.cluster.health_check;
        check.fast_interval.min(check.interval)
    }

    /// Whose addresses are needed.
    fn hosts(&self) -> impl Iterator<Item = &Host> {
        let sentinels = match &self.cluster.failover.authority {
            Some(AuthorityConfig::Sentinel { sentinels, .. }) => Some(sentinels),
            _ => None,
        };
        let backends = match sentinels {
            Some(_) => None,
            None => Some(self.cluster.backends.iter().map(|backend| &backend.host)),
        };
        let sentinels = sentinels.into_iter().flatten().map(|(host, _)| host);
        sentinels.chain(backends.into_iter().flatten())
    }

    fn question(&self, discovery: &Discovery) -> Option<Question> {
        match self.cluster.failover.authority.as_ref()? {
            AuthorityConfig::Patroni { port, tls } => {
                let nodes = self.cluster.backends.iter().map(|backend| patroni::Node {
                    backend: backend.clone(),
                    address: address(&backend.host, discovery),
                    port: *port,
                    source: Arc::clone(&self.cluster.connect.source),
                    tls: self.tls.clone().filter(|_| *tls),
                });
                Some(Question::Patroni {
                    nodes: nodes.collect(),
                    floor: self.timeline(),
                })
            }
            AuthorityConfig::Sentinel {
                sentinels,
                service,
                user,
                password,
            } => {
                let service: Arc<str> = service.as_str().into();
                let nodes = sentinels.iter().map(|(host, port)| sentinel::Node {
                    address: address(host, discovery),
                    port: *port,
                    source: Arc::clone(&self.cluster.connect.source),
                    service: Arc::clone(&service),
                    user: user.clone(),
                    password: password.clone(),
                });
                Some(Question::Sentinel(nodes.collect()))
            }
        }
    }

    /// Of the leader that counts.
    fn timeline(&self) -> Option<u32> {
        match &self.word {
            Word::Said {
                authority: Authority::Leader { timeline, .. },
                ..
            } => *timeline,
            _ => None,
        }
    }

    fn hear(&mut self, authority: Authority, asked: Instant) {
        let cluster = &self.cluster.name;
        match (&self.word, &authority) {
            (
                Word::Said {
                    authority: known, ..
                },
                new,
            ) if known == new => {}
            (_, Authority::Leader { host, port, .. }) => {
                let leader = format!("{host}:{port}");
                info!(%cluster, %leader, "the authority names a leader");
            }
            (_, Authority::NoLeader) => warn!(%cluster, "the authority knows no leader"),
        }
        self.word = Word::Said { authority, asked };
    }

    fn miss(&mut self, silence: Silence, now: Instant) {
        let cluster = &self.cluster.name;
        debug!(%cluster, error = %silence, "the authority said nothing that counts");
        let max_age = self.cluster.health_check.interval * MAX_AGE_INTERVALS;
        match self.word {
            Word::Silent => return,
            Word::Said { asked, .. } if now.saturating_duration_since(asked) < max_age => return,
            Word::Said { .. } | Word::Unheard => {}
        }
        warn!(
            %cluster, error = %silence,
            "the authority is silent: what the backends say themselves decides"
        );
        self.word = Word::Silent;
    }
}

fn address(host: &Host, discovery: &Discovery) -> Option<IpAddr> {
    match host {
        Host::Ip(address) => Some(*address),
        Host::Name(name) => discovery.address(name),
    }
}

fn is_pending(host: &Host, discovery: &Discovery) -> bool {
    match host {
        Host::Ip(_) => false,
        Host::Name(name) => discovery.is_pending(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cause;
    use crate::control::fixtures::SECOND;
    use crate::control::fixtures::cluster;
    use crate::control::fixtures::config;
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
}
