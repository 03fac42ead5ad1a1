//! Ring hashing as ketama does it: each member owns many points on a circle, a
//! key goes to the next point clockwise.
//!
//! Removing a member moves its own keys and no others, because a point depends on
//! its member's name only. A pick is a binary search.

use crate::config::DEFAULT_WEIGHT;
use crate::routing::balance::Member;
use crate::routing::balance::Scale;
use crate::routing::balance::hashed::by_name;
use crate::routing::balance::hashed::hash_member;
use crate::routing::balance::hashed::mix;

const MEMBER_SEED: u64 = 0x4556_4752_5249_4e47;

/// Points of a member of average weight: ketama's 160 in a large cluster, where shares
/// within 8 % of each other will do; more in a small one, where 8 % of a share is a lot of
/// sessions (with 2,560 points shares are within 2 % of each other).
const POINTS_IN_LARGE_CLUSTER: f64 = 160.0;
const POINTS_IN_SMALL_CLUSTER: f64 = 2560.0;

/// Bounds the ring of a small cluster to 655,360 points (8 MB). Passing it moves most
/// keys once, so it is beyond what most clusters reach.
const MAX_SMALL_CLUSTER: usize = 256;

/// Points looked at before the other members are asked in another order: enough
/// to meet an open one by chance unless most are closed.
const MAX_STEPS: usize = 64;

#[derive(Debug)]
pub(super) struct Ring {
    /// Ascending places on the circle …
    places: Vec<u64>,
    /// … and who owns each.
    owners: Vec<u32>,
}

impl Ring {
    pub(super) fn new(members: &[Member], scale: Scale) -> Self {
        let per_weight = points_per_weight(scale);
        let positions = by_name(members);
        let mut points = Vec::new();
        for (rank, position) in positions.iter().enumerate() {
            let member = &members[*position as usize];
            let hash = hash_member(member, MEMBER_SEED);
            let count = (f64::from(member.weight) * per_weight).round().max(1.0) as u64;
            points.extend((0..count).map(|number| (mix(hash, spread(number)), rank)));
        }
        // By place, then name, so that the first of two equal places is the same everywhere.
        points.sort_unstable();
        let (places, owners) = points
            .into_iter()
            .map(|(place, rank)| (place, positions[rank]))
            .unzip();
        Self { places, owners }
    }

    /// Walks clockwise for a bounded number of points.
    pub(super) fn first(&self, key: u64, accepts: &impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.places.partition_point(|place| *place < key);
        let (before, after) = self.owners.split_at(start);
        after
            .iter()
            .chain(before)
            .take(MAX_STEPS)
            .map(|owner| *owner as usize)
            .find(|owner| accepts(*owner))
    }
}

/// A power of two times the density for members of the default weight. In such coarse
/// steps, a change of the average weight hardly ever changes the density, which would
/// move most keys.
fn points_per_weight(scale: Scale) -> f64 {
    let points = if scale.members <= MAX_SMALL_CLUSTER {
        POINTS_IN_SMALL_CLUSTER
    } else {
        POINTS_IN_LARGE_CLUSTER
    };
    let average = scale.weight.max(1) as f64 / scale.members.max(1) as f64;
    let doublings = (f64::from(DEFAULT_WEIGHT) / average).log2().round();
    points / f64::from(DEFAULT_WEIGHT) * doublings.exp2()
}

/// Spreads small numbers over all bits (the golden ratio's fraction).
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
