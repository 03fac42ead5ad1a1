//! PostgreSQL: timelines.

use super::*;

/// `a` is primary on timeline 1, `b` and `c` follow it.
fn cluster() -> Scene {
    let mut scene = Scene::new(&["a", "b", "c"]);
    scene.sees("a", primary(1));
    scene.sees("b", replica(1)).sees("c", replica(1));
    assert_eq!(scene.primary(), Some("a"));
    scene
}

#[test]
fn the_one_claimant_is_primary_and_the_rest_are_replicas() {
    let scene = cluster();
    assert_eq!(scene.role("a"), PRIMARY);
    assert_eq!(scene.role("b"), REPLICA);
    assert_eq!(scene.role("c"), REPLICA);
    assert!(scene.wants_fresh().is_empty());
}

#[test]
fn nobody_is_primary_before_everybody_had_a_first_verdict() {
    let mut scene = Scene::new(&["a", "b", "c"]);
    scene.sees("a", primary(1)).sees("b", replica(1));
    assert_eq!(scene.role("a"), (Role::Unknown, Cause::Started));
    assert_eq!(scene.role("b"), REPLICA, "reads need not wait");
    assert_eq!(scene.wants_fresh(), ["c"]);
    scene.loses("c");
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn a_backend_that_is_added_later_holds_nobody_up() {
    let mut scene = cluster();
    scene.nodes.push(Node::new("d"));
    scene.decide();
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn of_the_claimants_at_the_first_start_the_highest_timeline_wins() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.sees("a", primary(1)).sees("b", primary(2));
    assert_eq!(scene.primary(), Some("b"));
    assert_eq!(scene.role("a"), fenced(Cause::StaleTimeline));
    assert!(!scene.is_split());
}

#[test]
fn a_primary_that_is_down_is_nothing() {
    let mut scene = cluster();
    scene.loses("a");
    assert_eq!(scene.primary(), None);
    assert_eq!(scene.role("a"), (Role::Unknown, Cause::CheckTimeout));
    scene.sees("a", primary(1));
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn writes_follow_the_promoted_replica_when_the_primary_is_down() {
    let mut scene = cluster();
    scene.loses("a").sees("b", primary(2));
    assert_eq!(scene.primary(), Some("b"));
    assert!(scene.decision.memory_changed);
}

#[test]
fn one_refused_probe_proves_that_the_primary_has_yielded() {
    let mut scene = cluster();
    scene.fails("a", Health::Up, Cause::ConnectRefused);
    assert_eq!(scene.primary(), Some("a"), "health decides without a rival");
    scene.sees("b", primary(2));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn one_slow_probe_proves_nothing() {
    let mut scene = cluster();
    scene.fails("a", Health::Up, Cause::CheckTimeout);
    scene.sees("b", primary(2));
    assert_eq!(scene.role("b"), fenced(Cause::AwaitingYield));
    scene.loses("a");
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn the_old_primary_that_comes_back_first_is_fenced() {
    let mut scene = cluster();
    scene.loses("a").sees("b", primary(2)).loses("b");
    scene.sees("a", primary(1));
    assert_eq!(scene.primary(), None);
    assert_eq!(scene.role("a"), fenced(Cause::StaleTimeline));
    scene.sees("b", primary(2));
    assert_eq!(scene.primary(), Some("b"));
    assert_eq!(scene.role("a"), fenced(Cause::StaleTimeline));
    assert!(!scene.is_split(), "it is known who is stale");
}

#[test]
fn a_timeline_that_only_a_replica_has_seen_fences_the_old_primary() {
    let mut scene = cluster();
    scene.sees("c", replica(2));
    assert_eq!(scene.primary(), None);
    assert_eq!(scene.role("a"), fenced(Cause::StaleTimeline));
    assert_eq!(scene.role("c"), REPLICA);
    scene.sees("b", primary(2)).sees("a", replica(1));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn the_fence_survives_a_restart() {
    let mut scene = cluster();
    scene.loses("a").sees("b", primary(2));
    scene.restarts().loses("b").loses("c").sees("a", primary(1));
    assert_eq!(scene.primary(), None);
    assert_eq!(scene.role("a"), fenced(Cause::StaleTimeline));
}

#[test]
fn in_a_switchover_the_new_primary_waits_for_the_old_one_to_yield() {
    let mut scene = cluster();
    scene.sees("b", primary(2));
    assert_eq!(scene.primary(), None);
    assert_eq!(scene.role("a"), fenced(Cause::StaleTimeline));
    assert_eq!(scene.role("b"), fenced(Cause::AwaitingYield));
    assert_eq!(scene.wants_fresh(), ["a"]);
    assert!(!scene.is_split());
    scene.sees("a", replica(1));
    assert_eq!(scene.primary(), Some("b"));
    assert_eq!(scene.role("a"), REPLICA);
}

#[test]
fn an_old_primary_that_refuses_writes_has_yielded() {
    for proof in [Cause::ReadOnly, Cause::ShuttingDown] {
        let mut scene = cluster();
        scene.node("a").quarantine = Some(proof);
        scene.decide();
        assert_eq!(scene.role("a"), fenced(proof));
        scene.sees("b", primary(2));
        assert_eq!(scene.primary(), Some("b"));
    }
    let mut scene = cluster();
    let mut read_only = primary(1);
    read_only.is_writable = false;
    scene.sees("a", read_only);
    assert_eq!(scene.role("a"), fenced(Cause::ReadOnly));
    scene.sees("b", primary(2));
    assert_eq!(scene.primary(), Some("b"));
}

/// Went wrong once: it was waited for without an alarm, for as long as it was full.
#[test]
fn a_full_primary_beside_a_promoted_replica_is_a_split_brain() {
    let mut scene = cluster();
    scene.fails("a", Health::Up, Cause::TooManyConnections);
    assert_eq!(
        scene.primary(),
        Some("a"),
        "a full server is not a dead one"
    );
    scene.sees("b", primary(2));
    assert_eq!(scene.role("b"), fenced(Cause::AwaitingYield));
    assert_eq!(scene.wants_fresh(), ["a"]);
    scene.fails("a", Health::Up, Cause::TooManyConnections);
    assert!(scene.is_split());
    // Its sessions are gone: it can be asked again.
    scene.sees("a", replica(1));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn an_answer_from_before_the_claim_is_no_split_brain() {
    let mut scene = cluster();
    // Both probes are under way; the old primary's answer is the older one.
    scene.probes += 2;
    let (early, late) = (scene.probes - 1, scene.probes);
    scene.answers("b", early, primary(2));
    scene.answers("a", late, primary(1));
    assert_eq!(scene.role("b"), fenced(Cause::AwaitingYield));
    assert!(!scene.is_split());
    scene.sees("a", replica(1));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn a_replica_promoted_beside_a_live_primary_is_a_split_brain() {
    let mut scene = cluster();
    scene.sees("b", primary(2)).sees("a", primary(1));
    assert!(scene.is_split());
    assert_eq!(scene.primary(), None);
    assert_eq!(scene.role("a"), fenced(Cause::SplitBrain));
    assert_eq!(scene.role("b"), fenced(Cause::SplitBrain));
    scene.sees("b", primary(2)).sees("c", replica(1));
    assert!(scene.is_split(), "it does not pass by itself");
    scene.sees("a", replica(1));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn a_split_brain_survives_a_restart() {
    for order in [["a", "b", "c"], ["b", "a", "c"], ["c", "b", "a"]] {
        let mut scene = cluster();
        scene.sees("b", primary(2)).sees("a", primary(1)).restarts();
        for round in 0..3 {
            for name in order {
                match name {
                    "a" => scene.sees("a", primary(1)),
                    "b" => scene.sees("b", primary(2)),
                    _ => scene.sees("c", replica(1)),
                };
                assert_eq!(scene.primary(), None, "round {round}");
            }
        }
        assert!(scene.is_split());
    }
}

#[test]
fn a_restart_in_mid_failover_waits_for_the_old_primary_all_the_same() {
    let mut scene = cluster();
    scene.sees("b", primary(2)).restarts();
    scene.sees("b", primary(2)).sees("c", replica(1));
    assert_eq!(scene.primary(), None);
    assert_eq!(scene.wants_fresh(), ["a"]);
    scene.loses("a");
    assert_eq!(scene.primary(), Some("b"));
}

/// Went wrong once: what a restart remembered made a split brain of what timelines decide, and
/// nobody was written to until an operator came. The host of the old primary had crashed, and
/// this process with it.
#[test]
fn an_old_primary_that_is_back_after_a_restart_stands_in_nobodys_way() {
    for order in [["a", "b", "c"], ["b", "a", "c"], ["c", "b", "a"]] {
        let mut scene = cluster();
        scene.restarts();
        for _ in 0..2 {
            for name in order {
                match name {
                    "a" => scene.sees("a", primary(1)),
                    "b" => scene.sees("b", primary(2)),
                    _ => scene.sees("c", replica(2)),
                };
            }
        }
        assert_eq!(scene.primary(), Some("b"), "{order:?}");
        assert_eq!(scene.role("a"), fenced(Cause::StaleTimeline));
        assert!(!scene.is_split());
    }
}

#[test]
fn an_old_primary_that_was_gone_and_is_fenced_stands_in_nobodys_way() {
    let mut scene = cluster();
    // A replica has seen the new timeline before we have seen who is on it.
    scene.loses("a").sees("c", replica(2)).sees("a", primary(1));
    assert_eq!(scene.role("a"), fenced(Cause::StaleTimeline));
    scene.sees("b", primary(2));
    assert_eq!(scene.primary(), Some("b"));
    assert_eq!(scene.role("a"), fenced(Cause::StaleTimeline));
}

#[test]
fn an_old_primary_that_was_written_to_again_stands_in_the_way_again() {
    let mut scene = cluster();
    scene.loses("a").sees("a", primary(1));
    assert_eq!(scene.primary(), Some("a"));
    scene.sees("b", primary(2)).sees("a", primary(1));
    assert!(scene.is_split());
    // Also after a restart in which it comes back as it was.
    scene.restarts().sees("b", primary(2)).sees("c", replica(1));
    scene.sees("a", primary(1)).sees("b", primary(2));
    assert!(scene.is_split());
    scene.loses("a");
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn two_claimants_on_one_timeline_are_a_split_brain() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.sees("a", primary(2)).sees("b", primary(2));
    assert!(scene.is_split());
    assert_eq!(scene.role("a"), fenced(Cause::SplitBrain));
    assert_eq!(scene.role("b"), fenced(Cause::SplitBrain));
    scene.sees("a", replica(2));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn a_second_claimant_on_the_primarys_timeline_is_a_split_brain_once_confirmed() {
    let mut scene = cluster();
    scene.sees("b", primary(1));
    assert_eq!(scene.role("a"), (Role::Unknown, Cause::AwaitingYield));
    assert_eq!(scene.role("b"), fenced(Cause::AwaitingYield));
    scene.sees("a", primary(1));
    assert!(scene.is_split());
    scene.sees("b", replica(1));
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn a_loser_on_the_same_timeline_is_never_written_to_again_until_it_follows() {
    let mut scene = cluster();
    scene.loses("a").sees("b", primary(2)).loses("b");
    // Promoted without having heard of `b`: the number is the same, the history is not.
    scene.sees("c", primary(2));
    assert_eq!(scene.primary(), Some("c"));
    scene.sees("b", primary(2));
    assert_eq!(scene.role("b"), fenced(Cause::Diverged));
    assert_eq!(scene.primary(), Some("c"), "it is known who lost");
    scene.loses("c");
    assert_eq!(scene.primary(), None);
    scene.restarts().sees("b", primary(2)).loses("a").loses("c");
    assert_eq!(scene.role("b"), fenced(Cause::Diverged));
    scene.sees("b", replica(2)).sees("b", primary(3));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn a_loser_is_written_to_again_when_the_winner_follows_it() {
    let mut scene = cluster();
    scene.loses("a").sees("b", primary(2)).loses("b");
    scene.sees("c", primary(2)).loses("c").sees("b", primary(2));
    assert_eq!(scene.primary(), None);
    let mut ahead = replica(2);
    ahead.received_lsn += 1;
    scene.sees("c", ahead);
    assert_eq!(scene.primary(), None, "it has what the loser never wrote");
    scene.sees("c", replica(2));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn a_foreign_system_is_fenced_in_every_role() {
    let mut scene = cluster();
    for evidence in [primary(9), replica(9)] {
        let foreign = PostgresEvidence {
            system_identifier: 8,
            ..evidence
        };
        scene.sees("c", foreign);
        assert_eq!(scene.role("c"), fenced(Cause::ForeignSystem));
        assert_eq!(scene.primary(), Some("a"));
    }
}

#[test]
fn two_systems_at_the_first_start_are_a_split_brain() {
    let foreign = PostgresEvidence {
        system_identifier: 8,
        ..primary(5)
    };
    let mut scene = Scene::new(&["a", "b"]);
    scene.sees("a", primary(1)).sees("b", foreign.clone());
    assert!(scene.is_split());
    scene.loses("b");
    assert_eq!(scene.primary(), Some("a"));
    scene.sees("b", foreign);
    assert_eq!(scene.role("b"), fenced(Cause::ForeignSystem));
}

#[test]
fn the_loser_of_a_split_brain_is_not_written_to_when_it_comes_back() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.sees("a", primary(2)).sees("b", primary(2));
    assert!(scene.is_split());
    scene.loses("a");
    assert_eq!(scene.primary(), Some("b"));
    scene.sees("a", primary(2));
    assert_eq!(scene.primary(), Some("b"));
    scene.loses("b");
    assert_eq!(scene.primary(), None);
    assert_eq!(scene.role("a"), fenced(Cause::Diverged));
}

#[test]
fn a_removed_primary_stands_in_nobodys_way() {
    let mut scene = cluster();
    scene.nodes.remove(0);
    scene.sees("b", primary(2));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn a_primary_that_crashed_and_rises_again_is_outlived_by_a_higher_timeline() {
    let mut scene = cluster();
    scene.loses("a");
    scene.probes += 1;
    let number = scene.probes;
    let node = scene.node("a");
    // One good answer: not healthy yet by `rise`, but it does take writes.
    (node.failed, node.observed) = (None, number);
    scene.decide();
    scene.sees("b", primary(1));
    assert_eq!(scene.role("b"), fenced(Cause::AwaitingYield));
    scene.sees("b", primary(2));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn a_backend_whose_protocol_tells_no_role_has_none() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.sees("a", Evidence::Silent).loses("b");
    assert_eq!(scene.role("a"), (Role::Unknown, Cause::CheckPassed));
    assert_eq!(scene.role("b"), (Role::Unknown, Cause::CheckTimeout));
    assert_eq!(scene.primary(), None);
    assert!(scene.wants_fresh().is_empty());
}

#[test]
fn a_primary_whose_health_is_asked_anew_is_waited_for() {
    let mut scene = cluster();
    // It comes out of maintenance, or its name has another address.
    scene.node("a").health = Health::Unknown;
    scene.decide();
    assert_eq!(scene.primary(), None);
    scene.sees("b", primary(2));
    assert_eq!(scene.role("b"), fenced(Cause::AwaitingYield));
    assert_eq!(scene.wants_fresh(), ["a"]);
    scene.sees("a", replica(1));
    assert_eq!(scene.primary(), Some("b"));
}

/// A loser has to prove itself first; who lost nothing must not have to.
#[test]
fn only_who_may_have_writes_of_its_own_is_a_loser() {
    let mut scene = Scene::new(&["a", "b", "c"]);
    scene
        .sees("a", primary(1))
        .sees("b", replica(1))
        .sees("c", replica(1));
    scene.loses("c").sees("a", replica(1)).sees("b", primary(2));
    assert_eq!(scene.primary(), Some("b"));
    let memory = scene.failover.memory();
    assert_eq!(memory.deposed("a"), None, "it was seen to step down");
    assert_eq!(memory.deposed("c"), None, "it was never written to");
}
