//! Balancers: pure picks among the members of one group.
//!
//! A [`Balancer`] is built when a table is built and never changes; what does
//! change (sessions, latency, slow start) it asks of a [`View`]. All workers
//! share it without a lock. A pick never lands on a member that is not open,
//! and with consistent hashing walking on from a closed member depends on the
//! key alone, never on chance or on the order of the file.

mod hashed;
mod least_connections;
mod least_latency;
mod maglev;
mod random_two;
mod rendezvous;
mod ring;
mod round_robin;

#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::cluster::Name;
use crate::config::Policy;
use crate::routing::balance::hashed::Hashed;
use crate::routing::balance::random_two::RandomTwo;
use crate::routing::balance::round_robin::RoundRobin;

/// One backend that may be picked. Hashing uses the name, so that every
/// instance with the same file maps a key the same way.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub name: Name,
    /// At least 1.
    pub weight: u32,
}

/// What a pick may ask about the members, by their position in the group.
pub trait View {
    /// Sessions on it now.
    fn active(&self, member: usize) -> u32;
    /// Decayed peak latency; zero when unknown.
    fn latency(&self, member: usize) -> Duration;
    /// Neither full nor tried before by this session.
    fn open(&self, member: usize) -> bool;
    /// Slow start: the share of its weight it has back, 0.0 to 1.0.
    fn warmth(&self, member: usize) -> f64;
}

/// Whom a session may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Its position in the group.
    pub member: usize,
    /// It may hold so many sessions, with this one. Other workers pick at the same time, so
    /// whoever takes the place has to see to it, and to pick again when it is gone.
    pub bound: Option<NonZeroU32>,
}

/// A policy prepared for one group of members.
#[derive(Debug)]
pub struct Balancer {
    members: Vec<Member>,
    prepared: Prepared,
}

#[derive(Debug)]
enum Prepared {
    RoundRobin(RoundRobin),
    LeastConnections,
    RandomTwo(RandomTwo),
    LeastLatency,
    Hashed(Hashed),
}

impl Balancer {
    /// `configured` members are in the file, and `members` are those of them that may be picked:
    /// lookup tables go by the former, so that a change of health never resizes them.
    pub fn new(policy: Policy, members: Vec<Member>, configured: usize) -> Self {
        let prepared = match policy {
            Policy::RoundRobin => Prepared::RoundRobin(RoundRobin::new(&members)),
            Policy::LeastConnections => Prepared::LeastConnections,
            Policy::RandomTwo => Prepared::RandomTwo(RandomTwo::new(&members)),
            Policy::LeastLatency => Prepared::LeastLatency,
            Policy::ConsistentHash(config) => {
                Prepared::Hashed(Hashed::new(config, &members, configured))
            }
        };
        Self { members, prepared }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// `None` when no member is open.
    ///
    /// `key` matters to consistent hashing only; `cursor` is where round robin goes on, and
    /// is shared by all workers and all tables of a cluster.
    pub fn pick(
        &self,
        key: u64,
        cursor: &AtomicU64,
        random: &mut fastrand::Rng,
        view: &impl View,
    ) -> Option<Pick> {
        let member = match &self.prepared {
            Prepared::RoundRobin(prepared) => prepared.pick(cursor, random, view),
            Prepared::LeastConnections => least_connections::pick(&self.members, random, view),
            Prepared::RandomTwo(prepared) => prepared.pick(&self.members, random, view),
            Prepared::LeastLatency => least_latency::pick(&self.members, random, view),
            Prepared::Hashed(prepared) => return prepared.pick(key, &self.members, view),
        };
        let bound = None;
        member.map(|member| Pick { member, bound })
    }
}

/// A member's weight as slow start lets it count now. Never zero.
fn warm_weight(members: &[Member], member: usize, view: &impl View) -> f64 {
    // A member without any weight would never be picked and never show that it is well.
    const MIN_WARMTH: f64 = 1e-3;
    f64::from(members[member].weight.max(1)) * view.warmth(member).clamp(MIN_WARMTH, 1.0)
}

/// Keeps the member with the lowest score; of equals, each with the same chance.
struct Lowest {
    score: f64,
    member: Option<usize>,
    equals: usize,
}

impl Lowest {
    fn new() -> Self {
        Self {
            score: f64::INFINITY,
            member: None,
            equals: 0,
        }
    }

    /// Whether a member with this score would matter.
    fn wants(&self, score: f64) -> bool {
        score <= self.score
    }

    fn offer(&mut self, member: usize, score: f64, random: &mut fastrand::Rng) {
        self.join(member, score, 1, random);
    }

    /// Offers a member that was drawn by lot from `equals` with the same score.
    fn join(&mut self, member: usize, score: f64, equals: usize, random: &mut fastrand::Rng) {
        if self.member.is_none() || score < self.score {
            (self.score, self.member, self.equals) = (score, Some(member), equals);
        } else if score == self.score {
            self.equals += equals;
            // Reservoir sampling: the k-th equal replaces the others with chance 1/k.
            if random.usize(..self.equals) < equals {
                self.member = Some(member);
            }
        }
    }
}
