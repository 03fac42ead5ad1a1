//! Consistent hashing: what its three algorithms share.
//!
//! Each algorithm gives a key an order of preference over the members; a pick
//! is the first member in that order that accepts the key:
//!
//! - it must be open;
//! - while it warms up, it takes only the keys whose second hash is below its
//!   warmth, so that each key comes home once and stays;
//! - with a bounded load `c`, it must hold fewer than ⌈c · (sessions + 1) ·
//!   its share of the weight⌉ sessions ("Consistent Hashing with Bounded
//!   Loads", Mirrokni, Thorup, Zadimoghaddam, 2016). The sum of these bounds is
//!   more than the number of sessions, so somebody always has room.
//!
//! When nobody accepts (everyone is warming up, or the members below their bound
//! were tried or are full), warmth and then the bound are waived: an
//! uneven load is better than no service.

use std::num::NonZeroU32;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::config::HashAlgorithm;
use crate::config::HashConfig;
use crate::routing::balance::Member;
use crate::routing::balance::Pick;
use crate::routing::balance::View;
use crate::routing::balance::maglev::Maglev;
use crate::routing::balance::rendezvous::Rendezvous;
use crate::routing::balance::ring::Ring;

const WARMTH_SEED: u64 = 0x4556_4752_5741_524d;

#[derive(Debug)]
pub(super) struct Hashed {
    order: Order,
    /// Fallback order, for keys that find nobody nearby in a lookup table.
    rendezvous: Rendezvous,
    bounded_load: Option<f64>,
    total_weight: u64,
}

#[derive(Debug)]
enum Order {
    Maglev(Maglev),
    Ring(Ring),
    Rendezvous,
}

impl Hashed {
    pub(super) fn new(config: HashConfig, members: &[Member], configured: usize) -> Self {
        let configured = configured.max(members.len());
        let order = match config.algorithm {
            HashAlgorithm::Maglev => Order::Maglev(Maglev::new(members, configured)),
            HashAlgorithm::Ring => Order::Ring(Ring::new(members, configured)),
            HashAlgorithm::Rendezvous => Order::Rendezvous,
        };
        Self {
            order,
            rendezvous: Rendezvous::new(members),
            bounded_load: config.bounded_load,
            total_weight: members.iter().map(|member| u64::from(member.weight)).sum(),
        }
    }

    pub(super) fn pick(&self, key: u64, members: &[Member], view: &impl View) -> Option<Pick> {
        // Three searches of everybody would find nobody; usually the first is open.
        while (0..members.len()).any(|member| view.open(member)) {
            let bound = self.bound(members, view);
            if let Some(member) = self.first_below(bound, key, members, view) {
                let bound = bound.and_then(|bound| NonZeroU32::new(bound.of(&members[member])));
                return Some(Pick { member, bound });
            }
            // Else other workers filled whoever had room between two looks: once more.
            if !self.has_room(members, view) {
                let member = self.first(key, |member| view.open(member))?;
                return Some(Pick {
                    member,
                    bound: None,
                });
            }
        }
        None
    }

    /// The first open member below its bound; those that are warm enough for the key first.
    fn first_below(
        &self,
        bound: Option<Bound>,
        key: u64,
        members: &[Member],
        view: &impl View,
    ) -> Option<usize> {
        let accepts = |member: usize| {
            let is_below = |bound: Bound| view.active(member) < bound.of(&members[member]);
            view.open(member) && bound.is_none_or(is_below)
        };
        let warmed = position_in_unit_interval(mix(key, WARMTH_SEED));
        self.first(key, |member| {
            warmed < view.warmth(member) && accepts(member)
        })
        .or_else(|| self.first(key, accepts))
    }

    /// The first member in the key's order of preference that accepts it.
    fn first(&self, key: u64, accepts: impl Fn(usize) -> bool) -> Option<usize> {
        match &self.order {
            Order::Maglev(maglev) => maglev.first(key, &accepts),
            Order::Ring(ring) => ring.first(key, &accepts),
            Order::Rendezvous => None,
        }
        .or_else(|| self.rendezvous.first(key, &accepts))
    }

    fn bound(&self, members: &[Member], view: &impl View) -> Option<Bound> {
        let factor = self.bounded_load?;
        let active = (0..members.len()).map(|member| u64::from(view.active(member)));
        Some(Bound::new(factor, active.sum(), self.total_weight))
    }

    /// Whether an open member is below its bound. Looks at each member once: the sessions
    /// that it sees are those that it sums up, whatever other workers do meanwhile.
    fn has_room(&self, members: &[Member], view: &impl View) -> bool {
        let Some(factor) = self.bounded_load else {
            return false;
        };
        let mut sessions = 0;
        let mut lowest: Option<(f64, u32, &Member)> = None;
        for (position, member) in members.iter().enumerate() {
            let active = view.active(position);
            sessions += u64::from(active);
            let load = f64::from(active) / f64::from(member.weight);
            if view.open(position) && lowest.is_none_or(|(lowest, ..)| load < lowest) {
                lowest = Some((load, active, member));
            }
        }
        let bound = Bound::new(factor, sessions, self.total_weight);
        lowest.is_some_and(|(_, active, member)| active < bound.of(member))
    }
}

/// Sessions that a member may hold for each unit of its weight.
#[derive(Clone, Copy)]
struct Bound {
    per_weight: f64,
}

impl Bound {
    /// For one session more than there are.
    fn new(factor: f64, sessions: u64, total_weight: u64) -> Self {
        Self {
            per_weight: factor.max(1.0) * (sessions + 1) as f64 / total_weight as f64,
        }
    }

    fn of(self, member: &Member) -> u32 {
        // Saturates; a product that should be whole must not be lifted by its last bit.
        (self.per_weight * f64::from(member.weight) * (1.0 - f64::EPSILON * 4.0)).ceil() as u32
    }
}

/// A member's identity for hashing: its name alone, stable across versions.
pub(super) fn hash_member(member: &Member, seed: u64) -> u64 {
    xxh3_64_with_seed(member.name.as_bytes(), seed)
}

/// Combines two hashes (MurmurHash3's finaliser over their difference).
pub(super) fn mix(left: u64, right: u64) -> u64 {
    let mut hash = left ^ right;
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// In (0, 1): the upper 53 bits and a half, so that a logarithm always exists.
pub(super) fn position_in_unit_interval(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// Positions of the members sorted by name: the order of the file must not matter.
pub(super) fn by_name(members: &[Member]) -> Vec<u32> {
    let mut positions: Vec<u32> = (0..).take(members.len()).collect();
    positions.sort_by(|left, right| {
        let name = |position: &u32| &members[*position as usize].name;
        name(left).cmp(name(right))
    });
    positions
}
