//! MySQL and MariaDB: executed transactions.

use std::time::Duration;

use super::*;
use crate::control::evidence::MySqlDialect;
use crate::control::evidence::MySqlEvidence;

/// `A1-9,B1`: transactions 1 to 9 by server A and the first by B.
fn gtids(text: &str) -> String {
    let sources = text.split(',').filter(|source| !source.is_empty());
    let sources = sources.map(|source| {
        let (server, range) = source.split_at(1);
        format!("{}:{range}", server.to_lowercase().repeat(32))
    });
    sources.collect::<Vec<_>>().join(",")
}

fn writable(text: &str) -> MySqlEvidence {
    MySqlEvidence {
        is_read_only: false,
        is_replica: false,
        gtid_set: gtids(text),
        dialect: MySqlDialect::MySql,
        lag: None,
        connections_used: 1,
        connections_allowed: 151,
    }
}

fn follower(text: &str) -> MySqlEvidence {
    MySqlEvidence {
        is_read_only: true,
        is_replica: true,
        lag: Some(Duration::ZERO),
        ..writable(text)
    }
}

fn read_only(text: &str) -> MySqlEvidence {
    MySqlEvidence {
        is_read_only: true,
        ..writable(text)
    }
}

fn maria(position: &str, is_replica: bool) -> MySqlEvidence {
    MySqlEvidence {
        is_read_only: is_replica,
        is_replica,
        gtid_set: position.to_owned(),
        dialect: MySqlDialect::MariaDb,
        lag: is_replica.then_some(Duration::ZERO),
        ..writable("")
    }
}

impl From<MySqlEvidence> for Evidence {
    fn from(evidence: MySqlEvidence) -> Self {
        Self::MySql(evidence)
    }
}

/// `a` is primary and has written, `b` and `c` follow it.
fn cluster() -> Scene {
    let mut scene = Scene::new(&["a", "b", "c"]);
    scene.sees("a", writable("A1-10"));
    scene
        .sees("b", follower("A1-10"))
        .sees("c", follower("A1-9"));
    assert_eq!(scene.primary(), Some("a"));
    scene.sees("a", writable("A1-20"));
    scene
}

#[test]
fn the_writable_one_is_primary_and_followers_are_replicas() {
    let scene = cluster();
    assert_eq!(scene.role("a"), PRIMARY);
    assert_eq!(scene.role("b"), REPLICA);
}

#[test]
fn a_read_only_server_that_follows_nobody_is_fenced() {
    let mut scene = cluster();
    scene.sees("c", read_only("A1-20"));
    assert_eq!(scene.role("c"), fenced(Cause::ReadOnly));
}

#[test]
fn a_replica_that_somebody_forgot_to_make_read_only_is_a_replica() {
    let mut scene = cluster();
    let forgotten = MySqlEvidence {
        is_read_only: false,
        ..follower("A1-20")
    };
    scene.sees("b", forgotten.clone());
    assert_eq!(scene.role("b"), REPLICA);
    assert_eq!(scene.primary(), Some("a"));
    scene.loses("a").sees("b", forgotten);
    assert_eq!(scene.primary(), None, "nobody promoted it");
}

#[test]
fn a_promoted_replica_takes_over_although_it_lacks_the_last_writes() {
    let mut scene = cluster();
    scene.sees("a", writable("A1-5000")).loses("a");
    scene.sees("b", writable("A1-4990"));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn the_old_primary_that_comes_back_first_is_fenced() {
    for restarted in [false, true] {
        let mut scene = cluster();
        scene.loses("a").sees("b", writable("A1-20"));
        scene.sees("b", writable("A1-20,B1-3")).loses("b");
        if restarted {
            scene.restarts().loses("b").loses("c");
        }
        scene.sees("a", writable("A1-22"));
        assert_eq!(scene.role("a"), fenced(Cause::Diverged));
        assert_eq!(scene.primary(), None);
        scene.sees("b", writable("A1-20,B1-3"));
        assert_eq!(scene.primary(), Some("b"));
        assert!(!scene.is_split());
    }
}

#[test]
fn a_history_that_lacks_the_primarys_own_writes_is_fenced_by_itself() {
    let mut scene = cluster();
    scene.loses("a").sees("b", writable("A1-20"));
    scene.sees("b", writable("A1-20,B1")).loses("b");
    // Never a loser by name, but it has not followed `b`.
    scene.sees("c", writable("A1-20"));
    assert_eq!(scene.role("c"), fenced(Cause::Diverged));
    scene.sees("c", writable("A1-20,B1"));
    assert_eq!(scene.primary(), Some("c"));
}

#[test]
fn writes_without_another_author_do_not_change_the_memory() {
    let mut scene = cluster();
    for last in 21..60 {
        scene.sees("a", writable(&format!("A1-{last}")));
        assert!(!scene.decision.memory_changed);
    }
}

#[test]
fn in_a_switchover_the_new_primary_waits_for_the_old_one_to_yield() {
    let mut scene = cluster();
    scene.sees("b", writable("A1-20"));
    assert_eq!(scene.role("a"), (Role::Unknown, Cause::AwaitingYield));
    assert_eq!(scene.role("b"), fenced(Cause::AwaitingYield));
    assert_eq!(scene.wants_fresh(), ["a"]);
    scene.sees("a", read_only("A1-20"));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn a_second_writable_server_without_writes_of_its_own_is_fenced() {
    let mut scene = cluster();
    scene
        .sees("b", writable("A1-20"))
        .sees("a", writable("A1-21"));
    assert_eq!(scene.primary(), Some("a"));
    assert_eq!(scene.role("b"), fenced(Cause::Diverged));
    assert!(!scene.is_split());
}

#[test]
fn a_second_writable_server_with_writes_of_its_own_is_a_split_brain() {
    let mut scene = cluster();
    scene
        .sees("b", writable("A1-20,B1"))
        .sees("a", writable("A1-21"));
    assert!(scene.is_split());
    assert_eq!(scene.role("a"), fenced(Cause::SplitBrain));
    assert_eq!(scene.role("b"), fenced(Cause::SplitBrain));
    scene.sees("a", follower("A1-21"));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn of_several_at_the_first_start_the_one_that_contains_all_others_wins() {
    let mut scene = Scene::new(&["a", "b", "c"]);
    scene
        .sees("a", writable("A1-9"))
        .sees("b", writable("A1-9,B1"));
    scene.sees("c", writable("A1-5"));
    assert_eq!(scene.primary(), Some("b"));
    assert_eq!(scene.role("a"), fenced(Cause::Diverged));
    for (one, other) in [("A1-9", "A1-8,B1"), ("A1-9", "A1-9"), ("", ""), ("A1", "")] {
        let mut scene = Scene::new(&["a", "b"]);
        scene.sees("a", writable(one)).sees("b", writable(other));
        assert!(scene.is_split(), "{one} {other}");
    }
}

#[test]
fn without_gtids_there_is_one_claimant_or_none() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.sees("a", writable("")).sees("b", follower(""));
    assert_eq!(scene.primary(), Some("a"));
    scene.sees("b", writable("")).sees("a", writable(""));
    assert!(scene.is_split());
    scene.loses("a");
    assert_eq!(scene.primary(), Some("b"));
    scene.loses("b").sees("a", writable(""));
    assert_eq!(
        scene.role("a"),
        fenced(Cause::Diverged),
        "it lost to the other"
    );
    scene.sees("a", follower("")).sees("a", writable(""));
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn a_wiped_primary_is_not_taken_for_what_it_was() {
    let mut scene = cluster();
    scene.loses("a").sees("a", writable("C1-2"));
    assert_eq!(scene.role("a"), fenced(Cause::Diverged));
    scene.sees("b", writable("A1-20"));
    assert_eq!(
        scene.primary(),
        Some("b"),
        "the wiped one is in nobody's way"
    );
}

#[test]
fn what_no_server_writes_proves_nothing() {
    let mut scene = cluster();
    let garbage = MySqlEvidence {
        gtid_set: "garbage".to_owned(),
        ..writable("")
    };
    scene.loses("a").sees("b", garbage);
    assert_eq!(scene.role("b"), fenced(Cause::Diverged));
}

#[test]
fn mariadb_positions_decide_as_sets_do() {
    let mut scene = Scene::new(&["a", "b"]);
    scene
        .sees("a", maria("0-1-100", false))
        .sees("b", maria("0-1-100", true));
    assert_eq!(scene.primary(), Some("a"));
    scene.loses("a").sees("b", maria("0-1-100", false));
    scene.sees("b", maria("0-2-105", false)).loses("b");
    // Further by number, but a loser: positions do not name their authors.
    scene.sees("a", maria("0-1-110", false));
    assert_eq!(scene.role("a"), fenced(Cause::Diverged));
    scene
        .sees("b", maria("0-2-105", false))
        .sees("a", maria("0-2-105", true));
    scene.loses("b").sees("a", maria("0-2-105", false));
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn in_circular_replication_the_operator_appoints() {
    let circular = |text| MySqlEvidence {
        is_read_only: false,
        ..follower(text)
    };
    let mut scene = Scene::new(&["a", "b"]);
    scene
        .sees("a", circular("A1-9"))
        .sees("b", follower("A1-9"));
    assert_eq!(scene.role("a"), REPLICA);
    assert_eq!(scene.appoints("b"), Err(AppointError::NoClaim));
    scene.appoints("a").unwrap();
    assert_eq!(scene.primary(), Some("a"));
    scene
        .restarts()
        .sees("b", follower("A1-9"))
        .sees("a", circular("A1-10"));
    assert_eq!(scene.primary(), Some("a"));
    scene.loses("a").sees("b", circular("A1-10"));
    assert_eq!(scene.primary(), None, "for one backend, not for all");
}

#[test]
fn a_last_primary_that_was_made_anew_takes_its_old_writes_out_of_the_memory() {
    let mut scene = cluster();
    // Rebuilt from `b`, which never had more than these; then it is gone.
    scene.sees("a", follower("A1-5,B1-3")).loses("a");
    scene.sees("b", writable("A1-5,B1-9"));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn a_primary_made_anew_unseen_is_vouched_for_by_its_followers() {
    let mut scene = cluster();
    scene.sees("a", writable("A1-5,B1"));
    assert_eq!(scene.role("a"), fenced(Cause::Diverged));
    scene.sees("b", follower("A1-5,B1"));
    assert_eq!(scene.primary(), None, "`c` has what it lacks");
    scene.sees("c", follower("A1-5,B1"));
    assert_eq!(scene.primary(), Some("a"));
    scene.loses("b").loses("c");
    assert_eq!(scene.primary(), Some("a"), "it is remembered");
}
