//! Balancers: pure picks among the members of one group.

use std::sync::atomic::AtomicU64;

use crate::cluster::Name;
use crate::config::Policy;

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
    fn latency(&self, member: usize) -> std::time::Duration;
    /// Neither full nor tried before by this session.
    fn open(&self, member: usize) -> bool;
    /// Slow start: the share of its weight it has back, 0.0 to 1.0.
    fn warmth(&self, member: usize) -> f64;
}

/// A policy prepared for one group of members.
#[derive(Debug)]
pub struct Balancer {}

impl Balancer {
    pub fn new(_policy: Policy, _members: Vec<Member>) -> Self {
        todo!()
    }

    pub fn members(&self) -> &[Member] {
        todo!()
    }

    /// The position of the picked member; `None` when no member is open.
    pub fn pick(
        &self,
        _key: u64,
        _cursor: &AtomicU64,
        _random: &mut fastrand::Rng,
        _view: &impl View,
    ) -> Option<usize> {
        todo!()
    }
}
