//! What several nodes say, made one answer.
//!
//! Pure. Every node has its own view of who is primary, and one that was frozen or cut off
//! may tell an old one.

use std::cmp::Reverse;

use crate::control::authority::Silence;
use crate::control::evidence::Authority;

/// A view, and by how many nodes it is held.
type Tally = Vec<(Authority, usize)>;

/// The view of more than half of the `asked` nodes, whether they answered or not.
pub(super) fn majority(views: &[Authority], asked: usize) -> Option<Authority> {
    let mut tally = tally(views).into_iter();
    let (view, _) = tally.find(|(_, votes)| 2 * votes > asked)?;
    Some(view)
}

/// Sentinels: a majority or nothing.
///
/// # Errors
/// There is none.
pub(super) fn sentinel(views: &[Authority], asked: usize) -> Result<Authority, Silence> {
    majority(views, asked).ok_or(match views.len() {
        answers if 2 * answers > asked => Silence::Disagreement,
        answers => Silence::TooFew { answers, asked },
    })
}

/// Patroni: a majority; failing that, the answers that there are, the newest first.
///
/// All nodes read one store, so they differ only while it changes or while one of them is
/// cut off from it. A promotion raises the timeline and the new leader writes it there: of
/// two leaders, the one on the higher timeline was told later. A majority goes before that,
/// so that a single node that lies cannot decide while the others are there. `floor` is the
/// timeline of the last leader that was believed: below it, fewer than a majority are out
/// of date.
///
/// # Errors
/// Nobody has answered, or as many name one leader as another.
pub(super) fn patroni(
    views: &[Authority],
    asked: usize,
    floor: Option<u32>,
) -> Result<Authority, Silence> {
    if let Some(view) = majority(views, asked) {
        return Ok(view);
    }
    if views.is_empty() {
        return Err(Silence::TooFew { answers: 0, asked });
    }
    let mut tally = tally(views);
    tally.retain(|(view, _)| match view {
        Authority::Leader { timeline, .. } => *timeline >= floor,
        Authority::NoLeader => true,
    });
    tally.sort_by_key(|(view, votes)| Reverse((rank(view), *votes)));
    match &tally[..] {
        [] => Err(Silence::Outdated),
        [(first, votes), (second, others), ..]
            if (rank(first), votes) == (rank(second), others) =>
        {
            Err(Silence::Disagreement)
        }
        [(first, _), ..] => Ok(first.clone()),
    }
}

/// Whoever knows a leader knows more than who knows none; then the timeline counts.
fn rank(view: &Authority) -> (bool, Option<u32>) {
    match view {
        Authority::Leader { timeline, .. } => (true, *timeline),
        Authority::NoLeader => (false, None),
    }
}

/// The highest timeline of each leader counts: its own record is written last.
fn tally(views: &[Authority]) -> Tally {
    let mut tally = Tally::new();
    for view in views {
        let known = tally.iter_mut().find(|(known, _)| is_same(known, view));
        let Some((known, votes)) = known else {
            tally.push((view.clone(), 1));
            continue;
        };
        *votes += 1;
        if rank(view) > rank(known) {
            *known = view.clone();
        }
    }
    tally
}

fn is_same(one: &Authority, other: &Authority) -> bool {
    match (one, other) {
        (
            Authority::Leader { host, port, .. },
            Authority::Leader {
                host: other_host,
                port: other_port,
                ..
            },
        ) => port == other_port && host.eq_ignore_ascii_case(other_host),
        (Authority::NoLeader, Authority::NoLeader) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a1`: leader `a` on timeline 1; `a`: on none; `-`: no leader.
    fn view(text: &str) -> Authority {
        if text == "-" {
            return Authority::NoLeader;
        }
        let (host, timeline) = text.split_at(1);
        Authority::Leader {
            host: host.to_owned(),
            port: 5432,
            timeline: timeline.parse().ok(),
        }
    }

    fn views(text: &str) -> Vec<Authority> {
        text.split_whitespace().map(view).collect()
    }

    #[test]
    fn patronis_answers_become_one() {
        // (what was answered, nodes asked, floor, what counts)
        let few = |answers, asked| Err(Silence::TooFew { answers, asked });
        let table = [
            ("a1 a1 a1", 3, None, Ok("a1")),
            // The leader's own record is the newest, and its name has no case.
            ("a1 a2 A1", 3, None, Ok("a2")),
            // A majority goes before the timeline: one node that lies is outvoted.
            ("a1 a1 b9", 3, None, Ok("a1")),
            ("- - a1", 3, None, Ok("-")),
            ("a1 a1", 3, Some(7), Ok("a1")),
            // Without a majority the higher timeline is the newer one.
            ("a1 b2", 3, None, Ok("b2")),
            ("b2 a1", 2, None, Ok("b2")),
            ("a b1", 2, None, Ok("b1")),
            ("a1 a1 b2 c1", 4, None, Ok("b2")),
            // On the same timeline, votes; of three views, two are no majority of five.
            ("a1 b1 b1", 5, None, Ok("b1")),
            ("a1 b1", 2, None, Err(Silence::Disagreement)),
            ("a1 b1", 3, None, Err(Silence::Disagreement)),
            ("a b", 2, None, Err(Silence::Disagreement)),
            ("a1 b2 c2", 3, None, Err(Silence::Disagreement)),
            // Who names a leader has seen more than who names none.
            ("- a1", 2, None, Ok("a1")),
            ("- - a1 a1", 4, None, Ok("a1")),
            // One node that answers is enough, unless it is behind what is known.
            ("a2", 3, None, Ok("a2")),
            ("a2", 3, Some(2), Ok("a2")),
            ("a1", 3, Some(2), Err(Silence::Outdated)),
            ("a", 3, Some(2), Err(Silence::Outdated)),
            ("a1 b3", 4, Some(2), Ok("b3")),
            ("-", 3, Some(2), Ok("-")),
            ("- a1", 4, Some(2), Ok("-")),
            ("", 3, None, few(0, 3)),
        ];
        for (answers, asked, floor, expected) in table {
            let counted = patroni(&views(answers), asked, floor);
            assert_eq!(
                counted,
                expected.map(view),
                "{answers:?} of {asked}, {floor:?}"
            );
        }
    }

    #[test]
    fn a_majority_of_all_sentinels_decides() {
        let few = |answers, asked| Err(Silence::TooFew { answers, asked });
        let table = [
            ("a a a", 3, Ok("a")),
            ("a b a", 3, Ok("a")),
            ("a a", 3, Ok("a")),
            ("a", 1, Ok("a")),
            // Those that are silent count as well.
            ("a", 3, few(1, 3)),
            ("a", 2, few(1, 2)),
            ("", 3, few(0, 3)),
            ("a a", 5, few(2, 5)),
            ("a b", 3, Err(Silence::Disagreement)),
            ("a b c", 3, Err(Silence::Disagreement)),
            ("a a b b", 4, Err(Silence::Disagreement)),
        ];
        for (answers, asked, expected) in table {
            let counted = sentinel(&views(answers), asked);
            assert_eq!(counted, expected.map(view), "{answers:?} of {asked}");
        }
    }

    #[test]
    fn another_port_is_another_leader() {
        let other = Authority::Leader {
            host: "a".to_owned(),
            port: 5433,
            timeline: Some(1),
        };
        assert_eq!(majority(&[view("a1"), other], 3), None);
    }
}
