//! Ring hashing as ketama does it: each member owns many points on a circle, a
//! key goes to the next point clockwise.
//!
//! Weights count by distance: a point of twice the weight looks half as far away. The nearest
//! of a member's points is at a distance that is distributed exponentially, and the least of
//! such distances, each divided by a weight, is a member's with the probability of its share of
//! the weight. (Ketama gives the heavier more points instead, whose number has to be scaled by
//! the weights of all: a change of one weight may then move everybody's points.)
//!
//! Removing a member moves its own keys and no others, because its points depend on its name,
//! and their reach on its weight. A pick is a binary search.

use std::cmp::Reverse;

use crate::routing::balance::Member;
use crate::routing::balance::hashed::by_name;
use crate::routing::balance::hashed::hash_member;
use crate::routing::balance::hashed::mix;

const MEMBER_SEED: u64 = 0x4556_4752_5249_4e47;

/// Points of a member: ketama's 160 in a very large cluster, where shares
/// within 8 % of each other will do; more in a small one, where 8 % of a share is a lot of
/// sessions (with 2,560 points shares are within 2 % of each other).
const FEWEST_POINTS: usize = 160;
const MOST_POINTS: usize = 2560;

/// Bounds the ring of a cluster of up to 4,096 members (8 MB). Above 256 members each has fewer
/// points the more there are: one member more or less takes or gives some points of everybody,
/// and moves as many keys again as its own.
const POINTS: usize = 655_360;

/// Owners looked at before the other members are asked in another order: enough
/// to meet an open one by chance unless most are closed.
const MAX_STEPS: usize = 64;

#[derive(Debug)]
pub(super) struct Ring {
    /// Ascending ends of the arcs of the circle …
    ends: Vec<u64>,
    /// … and who owns each.
    owners: Vec<u32>,
}

impl Ring {
    pub(super) fn new(members: &[Member], configured: usize) -> Self {
        let points = points(members, configured);
        let mut arcs = Arcs::default();
        // From the highest down, and once more: a reach goes on past the circle's beginning.
        for point in &points {
            arcs.add(*point, CIRCLE);
        }
        arcs.walk_to(CIRCLE - 1);
        arcs.owned.clear();
        for point in &points {
            arcs.add(*point, 0);
        }
        arcs.walk_to(-1);
        let (ends, owners) = arcs.owned.into_iter().rev().unzip();
        Self { ends, owners }
    }

    /// Walks clockwise over a bounded number of arcs.
    pub(super) fn first(&self, key: u64, accepts: &impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.ends.partition_point(|end| *end < key);
        let (before, after) = self.owners.split_at(start);
        after
            .iter()
            .chain(before)
            .take(MAX_STEPS)
            .map(|owner| *owner as usize)
            .find(|owner| accepts(*owner))
    }
}

/// The highest first.
fn points(members: &[Member], configured: usize) -> Vec<Point> {
    let mut points = Vec::new();
    // Sorted by name and then stably: of two that share a place, the same is first everywhere.
    for owner in by_name(members) {
        let member = &members[owner as usize];
        points.extend(places(member, configured).map(|place| Point {
            place,
            weight: member.weight,
            owner,
        }));
    }
    points.sort_by_key(|point| Reverse(point.place));
    points
}

/// Where the points of a member are.
pub(super) fn places(member: &Member, configured: usize) -> impl Iterator<Item = u64> {
    let count = (POINTS / configured.max(1)).clamp(FEWEST_POINTS, MOST_POINTS) as u64;
    let hash = hash_member(member, MEMBER_SEED);
    (0..count).map(move |number| mix(hash, spread(number)))
}

#[derive(Debug, Clone, Copy)]
struct Point {
    place: u64,
    weight: u32,
    owner: u32,
}

/// Two rounds take 65 bits, and a product with a weight 97.
type Place = i128;

const CIRCLE: Place = 1 << 64;

/// Walks down the circle, and notes to whom each part of it is nearest.
#[derive(Default)]
struct Arcs {
    /// Ends and owners, the highest first. An arc begins where the next one ends.
    owned: Vec<(u64, u32)>,
    /// Down to here the circle has owners.
    from: Place,
    /// The last is nearest to `from`. Each of the others overtakes its successor further down,
    /// the last but one first: it is heavier, and so its distance grows more slowly.
    contenders: Vec<Contender>,
}

struct Contender {
    place: Place,
    weight: u32,
    owner: u32,
    /// From here down its predecessor is nearer.
    overtaken: Option<Place>,
}

impl Arcs {
    /// At its own place a point is nearest.
    fn add(&mut self, point: Point, round: Place) {
        let mut new = Contender {
            place: round + Place::from(point.place),
            weight: point.weight,
            owner: point.owner,
            overtaken: None,
        };
        self.walk_to(new.place);
        while let Some(last) = self.contenders.last() {
            if last.weight > new.weight {
                let overtaken = last.overtakes(&new);
                if last.overtaken.is_none_or(|place| place < overtaken) {
                    new.overtaken = Some(overtaken);
                    break;
                }
            }
            self.contenders.pop();
        }
        self.contenders.push(new);
    }

    /// Gives owners to what is above `place` and has none.
    fn walk_to(&mut self, place: Place) {
        while let Some(nearest) = self.contenders.last() {
            let until = nearest.overtaken.map_or(place, |until| until.max(place));
            if until < self.from {
                // Ends lie on the circle once its first round, which nobody keeps, is over.
                self.owned.push((self.from as u64, nearest.owner));
                self.from = until;
            }
            if until == place {
                return;
            }
            self.contenders.pop();
        }
        self.from = place;
    }
}

impl Contender {
    /// The highest place at which it is as near as one that is lighter and now nearer.
    fn overtakes(&self, lighter: &Self) -> Place {
        let (heavy, light) = (Place::from(self.weight), Place::from(lighter.weight));
        (lighter.place * heavy - self.place * light).div_euclid(heavy - light)
    }
}

/// Spreads small numbers over all bits (the golden ratio's fraction).
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
