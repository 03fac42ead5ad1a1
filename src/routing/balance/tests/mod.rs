//! Tests of the balancers, and the cluster they all play with.

mod properties;
mod stories;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::*;
use crate::config::HashAlgorithm;
use crate::config::HashConfig;

const ALGORITHMS: [HashAlgorithm; 3] = [
    HashAlgorithm::Maglev,
    HashAlgorithm::Ring,
    HashAlgorithm::Rendezvous,
];

fn hashed(algorithm: HashAlgorithm, bounded_load: Option<f64>) -> Policy {
    Policy::ConsistentHash(HashConfig {
        algorithm,
        bounded_load,
    })
}

fn all_policies() -> Vec<Policy> {
    let mut policies = vec![
        Policy::RoundRobin,
        Policy::LeastConnections,
        Policy::RandomTwo,
        Policy::LeastLatency,
    ];
    for algorithm in ALGORITHMS {
        policies.push(hashed(algorithm, None));
        policies.push(hashed(algorithm, Some(1.25)));
    }
    policies
}

fn members(weights: &[u32]) -> Vec<Member> {
    let member = |(number, weight): (usize, &u32)| Member {
        name: format!("backend-{number}:5432").into(),
        weight: *weight,
    };
    weights.iter().enumerate().map(member).collect()
}

fn balancer(policy: Policy, members: Vec<Member>) -> Balancer {
    let configured = members.len();
    Balancer::new(policy, members, configured)
}

/// Shares of all keys that a removal from the file moves.
#[derive(Debug)]
struct Moved {
    /// Those of the member that goes.
    own: f64,
    others: f64,
}

impl Moved {
    fn by_removal(algorithm: HashAlgorithm, weights: &[u32], removed: usize) -> Self {
        const KEYS: usize = 20_000;
        let all = members(weights);
        let mut rest = all.clone();
        let gone = rest.remove(removed).name;
        let policy = hashed(algorithm, None);
        let mut before = Cluster::of(balancer(policy, all.clone()));
        let mut after = Cluster::of(balancer(policy, rest));
        let mut again = Cluster::of(balancer(policy, all));
        let (mut own, mut others) = (0, 0);
        for key in keys(KEYS) {
            let home = before.name(key);
            assert_eq!(again.name(key), home);
            own += usize::from(home == gone);
            others += usize::from(home != gone && home != after.name(key));
        }
        Self {
            own: own as f64 / KEYS as f64,
            others: others as f64 / KEYS as f64,
        }
    }

    fn all(&self) -> f64 {
        self.own + self.others
    }
}

/// A well spread stream of keys.
fn keys(count: usize) -> impl Iterator<Item = u64> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..count).map(move |_| random.u64(..))
}

/// Members whose state a test sets.
#[derive(Clone)]
struct Fake {
    active: Vec<u32>,
    latency: Vec<Duration>,
    open: Vec<bool>,
    warmth: Vec<f64>,
}

impl Fake {
    fn idle(count: usize) -> Self {
        Self {
            active: vec![0; count],
            latency: vec![Duration::ZERO; count],
            open: vec![true; count],
            warmth: vec![1.0; count],
        }
    }
}

impl View for Fake {
    fn active(&self, member: usize) -> u32 {
        self.active[member]
    }
    fn latency(&self, member: usize) -> Duration {
        self.latency[member]
    }
    fn open(&self, member: usize) -> bool {
        self.open[member]
    }
    fn warmth(&self, member: usize) -> f64 {
        self.warmth[member]
    }
}

/// A balancer with the state that its cluster keeps.
struct Cluster {
    balancer: Balancer,
    cursor: AtomicU64,
    random: fastrand::Rng,
    view: Fake,
}

impl Cluster {
    fn new(policy: Policy, weights: &[u32]) -> Self {
        Self::of(balancer(policy, members(weights)))
    }

    fn of(balancer: Balancer) -> Self {
        Self {
            view: Fake::idle(balancer.members().len()),
            balancer,
            cursor: AtomicU64::new(0),
            random: fastrand::Rng::with_seed(1),
        }
    }

    fn pick(&mut self, key: u64) -> Option<usize> {
        let pick = self
            .balancer
            .pick(key, &self.cursor, &mut self.random, &self.view);
        pick.map(|pick| pick.member)
    }

    /// Picks and keeps the session.
    fn place(&mut self, key: u64) -> Option<usize> {
        let member = self.pick(key)?;
        self.view.active[member] += 1;
        Some(member)
    }

    fn name(&mut self, key: u64) -> Name {
        let member = self.pick(key).expect("some member is open");
        Name::clone(&self.balancer.members()[member].name)
    }
}

/// Sessions per member after `count` picks that end at once.
fn shares(cluster: &mut Cluster, count: usize) -> Vec<usize> {
    let mut shares = vec![0; cluster.view.open.len()];
    for key in keys(count) {
        shares[cluster.pick(key).expect("some member is open")] += 1;
    }
    shares
}
