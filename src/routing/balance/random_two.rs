//! Random two: two distinct members drawn by weight, the less loaded one wins.
//!
//! "The power of two choices" (Mitzenmacher, 2001): nearly as even as least
//! connections at O(log n) a pick, and without its herd of workers that all
//! see the same least loaded member.

use crate::routing::balance::Member;
use crate::routing::balance::View;
use crate::routing::balance::warm_weight;

/// Draws before all members are looked at one by one: enough to find an open
/// member by chance unless most are closed.
const MAX_DRAWS: usize = 16;

#[derive(Debug)]
pub(super) struct RandomTwo {
    /// Running sums of the weights.
    ends: Vec<u64>,
}

impl RandomTwo {
    pub(super) fn new(members: &[Member]) -> Self {
        let ends = members.iter().scan(0, |sum, member| {
            *sum += u64::from(member.weight.max(1));
            Some(*sum)
        });
        Self {
            ends: ends.collect(),
        }
    }

    pub(super) fn pick(
        &self,
        members: &[Member],
        random: &mut fastrand::Rng,
        view: &impl View,
    ) -> Option<usize> {
        let first = self.draw(members, None, random, view)?;
        let Some(second) = self.draw(members, Some(first), random, view) else {
            return Some(first);
        };
        // The drawing has counted the weight of an idle member, hence no "+ 1" here: it
        // would send every session of an idle cluster to the heavier one.
        let load = |member| f64::from(view.active(member)) / warm_weight(members, member, view);
        Some(if load(second) < load(first) {
            second
        } else {
            first
        })
    }

    /// An open member other than `not`, by weight and warmth.
    fn draw(
        &self,
        members: &[Member],
        not: Option<usize>,
        random: &mut fastrand::Rng,
        view: &impl View,
    ) -> Option<usize> {
        if self.ends.len() <= usize::from(not.is_some()) {
            return None;
        }
        let total = *self.ends.last()?;
        for _ in 0..MAX_DRAWS {
            let point = random.u64(..total);
            let member = self.ends.partition_point(|end| *end <= point);
            if Some(member) != not
                && view.open(member)
                && random.f64() < view.warmth(member).clamp(0.0, 1.0)
            {
                return Some(member);
            }
        }
        draw_one_by_one(members, not, random, view)
    }
}

/// Weighted reservoir sampling over all open members: slow and certain.
fn draw_one_by_one(
    members: &[Member],
    not: Option<usize>,
    random: &mut fastrand::Rng,
    view: &impl View,
) -> Option<usize> {
    let mut drawn = None;
    let mut sum = 0.0;
    for member in (0..members.len()).filter(|member| Some(*member) != not && view.open(*member)) {
        let weight = warm_weight(members, member, view);
        sum += weight;
        if drawn.is_none() || random.f64() * sum < weight {
            drawn = Some(member);
        }
    }
    drawn
}
