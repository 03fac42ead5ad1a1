//! Redis: replication ids.

use super::*;
use crate::control::evidence::RedisEvidence;
use crate::control::fixtures::redis;

fn master(id: &str, previous: Option<&str>) -> Evidence {
    redis(id, previous, true)
}

fn slave(id: &str) -> Evidence {
    redis(id, None, false)
}

/// A replica whose link to its primary is down.
fn unlinked(id: &str) -> Evidence {
    match slave(id) {
        Evidence::Redis(evidence) => Evidence::Redis(RedisEvidence {
            is_linked: false,
            ..evidence
        }),
        other => panic!("{other:?}"),
    }
}

/// `a` is primary with the history `A`; `b` and `c` follow it.
fn cluster() -> Scene {
    let mut scene = Scene::new(&["a", "b", "c"]);
    scene.sees("a", master("A", None));
    scene.sees("b", slave("A")).sees("c", slave("A"));
    assert_eq!(scene.primary(), Some("a"));
    scene
}

#[test]
fn a_replica_promoted_out_of_the_history_takes_over() {
    let mut scene = cluster();
    scene.loses("a").sees("b", master("B", Some("A")));
    assert_eq!(scene.primary(), Some("b"));
    scene.sees("a", master("A", None));
    assert_eq!(scene.role("a"), fenced(Cause::Diverged));
    scene.loses("b");
    assert_eq!(scene.primary(), None, "it lacks what was written since");
    scene.sees("c", master("C", Some("B")));
    assert_eq!(scene.primary(), Some("c"));
}

#[test]
fn an_unrelated_history_is_not_written_to() {
    let mut scene = cluster();
    scene.loses("a").sees("b", master("X", None));
    assert_eq!(scene.role("b"), fenced(Cause::Diverged));
    assert_eq!(scene.primary(), None);
}

#[test]
fn the_established_primary_may_restart_into_another_history() {
    let mut scene = cluster();
    scene.loses("a").sees("a", master("A2", None));
    assert_eq!(scene.primary(), Some("a"));
    scene.sees("b", slave("A2")).loses("a");
    scene.sees("b", master("B", Some("A2")));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn the_primary_before_is_written_to_until_the_promotion_is_seen_and_never_after() {
    let mut scene = cluster();
    scene.sees("b", master("B", Some("A")));
    assert_eq!(scene.role("a"), (Role::Unknown, Cause::AwaitingYield));
    assert_eq!(scene.wants_fresh(), ["a"]);
    scene.sees("a", master("A", None));
    assert!(scene.is_split());
    scene.sees("a", slave("B"));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn two_replicas_promoted_out_of_one_history_are_a_split_brain() {
    let mut scene = cluster();
    scene.loses("a").restarts();
    scene.loses("a").sees("b", master("B", Some("A")));
    scene.sees("c", master("C", Some("A")));
    assert!(scene.is_split());
    scene.sees("c", slave("B"));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn of_several_histories_the_youngest_wins_at_the_first_start() {
    let mut scene = Scene::new(&["a", "b", "c"]);
    scene
        .sees("a", master("A", None))
        .sees("b", master("B", Some("A")))
        .loses("c");
    assert_eq!(scene.primary(), Some("b"));
    assert_eq!(scene.role("a"), fenced(Cause::Diverged));
}

#[test]
fn who_the_last_primary_follows_is_right_whatever_its_history() {
    let mut scene = cluster();
    // Restarted before the promotion was seen: its new history is remembered.
    scene.loses("a").sees("a", master("A2", None));
    scene.sees("b", master("B", Some("A")));
    assert_eq!(scene.role("b"), fenced(Cause::Diverged));
    scene.sees("a", slave("B"));
    assert_eq!(scene.primary(), Some("b"));
}

/// It may have been told to follow and not have reached anybody: it still has its own history.
#[test]
fn the_last_primary_vouches_only_for_whom_it_is_linked_to() {
    for follows in [unlinked("B"), slave("Z")] {
        let mut scene = cluster();
        scene.loses("a").sees("a", master("A2", None));
        scene.sees("b", master("B", Some("A"))).sees("a", follows);
        assert_eq!(scene.role("b"), fenced(Cause::Diverged));
    }
}

#[test]
fn a_replica_without_its_link_has_lost_its_primary() {
    let mut scene = cluster();
    assert_eq!(scene.role("b"), REPLICA);
    scene.sees("b", unlinked("A"));
    assert_eq!(scene.role("b"), (Role::Replica, Cause::LostPrimary));
}

#[test]
fn the_authority_decides_whatever_the_history() {
    let mut scene = cluster();
    scene.sees("b", master("X", None)).leader("b");
    assert_eq!(scene.primary(), Some("b"));
    assert_eq!(scene.role("a"), fenced(Cause::Diverged));
    scene.is_told(None);
    assert_eq!(scene.primary(), Some("b"));
}

/// Sentinel promotes first and names the new primary up to a second later; what the old one
/// takes meanwhile is discarded. A planned failover lost some 1,500 acknowledged writes so.
#[test]
fn a_leader_that_another_was_promoted_out_of_is_not_written_to() {
    let mut scene = cluster();
    scene.leader("a");
    assert_eq!(scene.primary(), Some("a"));
    scene.sees("b", master("B", Some("A")));
    assert_eq!(scene.role("a"), fenced(Cause::AwaitingYield));
    assert_eq!(scene.role("b"), fenced(Cause::NotLeader));
    assert!(!scene.is_split());
    scene.leader("b");
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn an_authority_that_insists_on_its_leader_is_right() {
    let mut scene = cluster();
    scene.leader("a").sees("b", master("B", Some("A")));
    assert_eq!(scene.primary(), None);
    scene.failover.doubt_leader(false);
    scene.sees("b", master("B", Some("A")));
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn a_disowned_history_stays_fenced_until_it_follows() {
    let mut scene = cluster();
    scene
        .sees("b", master("B", Some("A")))
        .sees("a", master("A", None));
    assert!(scene.is_split());
    scene.appoints("a").unwrap();
    assert_eq!(scene.primary(), Some("a"));
    assert_eq!(scene.role("b"), fenced(Cause::Diverged));
    scene.loses("a");
    assert_eq!(scene.primary(), None);
    scene
        .sees("b", slave("A"))
        .sees("b", master("B2", Some("A")));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn the_history_that_the_last_primary_follows_is_the_clusters() {
    let mut scene = cluster();
    scene.sees("a", slave("Z")).loses("a");
    scene.sees("b", master("B", Some("Z")));
    assert_eq!(scene.primary(), Some("b"));
}
