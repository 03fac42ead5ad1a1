//! Least latency: the lowest peak average × sessions for its weight.
//!
//! A member that was never measured counts as fast as the fastest known one:
//! optimistic enough to be tried soon, while its own sessions push it back
//! like anyone else's, so that a new backend is not stampeded before its first
//! answer is in. A pick costs O(n) decays, some 30 ns each: in a cluster of
//! thousands, random two is the cheaper choice.

use std::time::Duration;

use crate::routing::balance::Lowest;
use crate::routing::balance::Member;
use crate::routing::balance::View;
use crate::routing::balance::warm_weight;

pub(super) fn pick(
    members: &[Member],
    random: &mut fastrand::Rng,
    view: &impl View,
) -> Option<usize> {
    let mut known = Lowest::new();
    let mut unknown = Lowest::new();
    let mut fastest = Duration::MAX;
    for member in (0..members.len()).filter(|member| view.open(*member)) {
        let sessions = f64::from(view.active(member)) + 1.0;
        let load = sessions / warm_weight(members, member, view);
        let latency = view.latency(member);
        if latency.is_zero() {
            unknown.offer(member, load, random);
        } else {
            fastest = fastest.min(latency);
            known.offer(member, load * latency.as_secs_f64(), random);
        }
    }
    match (known.member, unknown.member) {
        (Some(_), Some(unmeasured)) => {
            let equals = unknown.equals;
            known.join(
                unmeasured,
                unknown.score * fastest.as_secs_f64(),
                equals,
                random,
            );
            known.member
        }
        (known, unknown) => known.or(unknown),
    }
}
