//! Least connections: the member with the fewest sessions for its weight.
//!
//! One pass over all members, so a pick costs O(n); what it reads is one
//! counter per member. Ties are drawn by lot, or all workers would send every
//! session of a quiet cluster to the first backend of the file.

use crate::routing::balance::Lowest;
use crate::routing::balance::Member;
use crate::routing::balance::View;
use crate::routing::balance::warm_weight;

pub(super) fn pick(
    members: &[Member],
    random: &mut fastrand::Rng,
    view: &impl View,
) -> Option<usize> {
    let mut lowest = Lowest::new();
    for member in 0..members.len() {
        // The session that is being placed counts, so that an idle cluster goes by weight.
        let sessions = f64::from(view.active(member)) + 1.0;
        let score = sessions / warm_weight(members, member, view);
        if lowest.wants(score) && view.open(member) {
            lowest.offer(member, score, random);
        }
    }
    lowest.member
}
