//! Patroni or Sentinel has a say.

use super::*;
use crate::control::failover::authority::leader as find;

fn cluster() -> Scene {
    let mut scene = Scene::new(&["a", "b", "c"]);
    scene.sees("a", primary(1));
    scene.sees("b", replica(1)).sees("c", replica(1));
    scene.leader("a");
    assert_eq!(scene.primary(), Some("a"));
    scene
}

#[test]
fn only_the_leader_is_primary() {
    let mut scene = cluster();
    scene.leader("b");
    assert_eq!(scene.primary(), None, "it does not claim yet");
    assert_eq!(scene.role("a"), fenced(Cause::NotLeader));
    assert_eq!(scene.role("b"), REPLICA);
    scene.sees("b", primary(2));
    assert_eq!(scene.primary(), Some("b"), "nobody's yield is waited for");
    assert_eq!(scene.role("a"), fenced(Cause::StaleTimeline));
    assert!(!scene.is_split());
}

#[test]
fn the_leader_is_written_to_before_everybody_had_a_verdict() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.leader("a").sees("a", primary(1));
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn the_authority_decides_a_split_brain() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.sees("a", primary(2)).sees("b", primary(2));
    assert!(scene.is_split());
    scene.leader("b");
    assert_eq!(scene.primary(), Some("b"));
    assert_eq!(scene.role("a"), fenced(Cause::Diverged));
}

#[test]
fn a_claimant_beside_the_leader_is_fenced() {
    let mut scene = cluster();
    scene.sees("b", primary(1));
    assert_eq!(scene.primary(), Some("a"));
    assert_eq!(scene.role("b"), fenced(Cause::NotLeader));
}

#[test]
fn a_leader_below_the_highest_timeline_is_not_written_to() {
    let mut scene = cluster();
    scene.sees("b", primary(2));
    assert_eq!(scene.primary(), None);
    assert!(scene.is_split(), "whoever is wrong, writes would be lost");
    assert_eq!(scene.role("a"), fenced(Cause::SplitBrain));
    scene.sees("b", replica(2));
    assert_eq!(scene.role("a"), fenced(Cause::StaleTimeline));
    assert_eq!(scene.primary(), None, "until an operator decides");
    scene.appoints("a").unwrap();
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn without_a_leader_the_established_primary_goes_on_alone() {
    let mut scene = cluster();
    scene.is_told(Some(Authority::NoLeader));
    assert_eq!(scene.primary(), Some("a"));
    scene.sees("b", primary(1));
    assert_eq!(scene.primary(), None);
    assert!(scene.is_split());
    scene.loses("a");
    assert_eq!(
        scene.role("b"),
        fenced(Cause::NotLeader),
        "it was never leader"
    );
    scene.leader("b");
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn without_a_leader_the_established_primary_goes_on_after_a_restart() {
    let mut scene = cluster();
    scene.restarts().is_told(Some(Authority::NoLeader));
    scene.sees("a", primary(1)).sees("b", replica(1)).loses("c");
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn without_a_leader_nobody_begins() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.is_told(Some(Authority::NoLeader));
    scene.sees("a", primary(1)).sees("b", replica(1));
    assert_eq!(scene.role("a"), fenced(Cause::NotLeader));
}

#[test]
fn a_silent_authority_leaves_the_decision_to_the_evidence() {
    let mut scene = cluster();
    scene.is_told(None);
    assert_eq!(scene.primary(), Some("a"));
    scene.loses("a").sees("b", primary(2));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn a_leader_that_is_none_of_ours_leaves_nobody() {
    let mut scene = cluster();
    scene.leader("elsewhere");
    assert_eq!(scene.role("a"), fenced(Cause::NotLeader));
    assert_eq!(scene.primary(), None);
}

#[test]
fn the_authority_overrules_what_is_remembered_of_a_loser() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.sees("a", primary(2)).sees("b", primary(2)).loses("a");
    assert_eq!(scene.primary(), Some("b"));
    scene.sees("a", primary(2)).leader("a");
    assert_eq!(scene.primary(), Some("a"));
    assert_eq!(scene.role("b"), fenced(Cause::Diverged));
    scene.is_told(None);
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn a_leader_of_a_foreign_system_is_not_written_to() {
    let mut scene = cluster();
    let foreign = PostgresEvidence {
        system_identifier: 8,
        ..primary(3)
    };
    scene.sees("b", foreign).leader("b");
    assert_eq!(scene.primary(), None);
    assert_eq!(scene.role("b"), fenced(Cause::ForeignSystem));
}

#[test]
fn a_leader_is_found_by_name_or_address() {
    let name = Name::from("a");
    let evidence = Evidence::Silent;
    let candidate = |host, address: Option<&str>| Candidate {
        name: &name,
        health: Health::Up,
        health_cause: Cause::CheckPassed,
        evidence: &evidence,
        observed: 1,
        failed: None,
        full: None,
        quarantine: None,
        host,
        address: address.map(|address| address.parse().unwrap()),
        port: 5432,
    };
    let found = |candidate, host, port| find(&[candidate], host, port) == Some(0);
    let named = candidate("pg1.test", Some("10.0.0.1"));
    assert!(found(named, "PG1.test.", 5432));
    assert!(found(named, "10.0.0.1", 5432));
    assert!(found(named, "::ffff:10.0.0.1", 5432));
    assert!(!found(named, "pg1.test", 5433));
    assert!(!found(named, "pg1", 5432));
    assert!(!found(named, "10.0.0.2", 5432));
    let numbered = candidate("fd00::1", None);
    assert!(found(numbered, "[fd00:0::1]", 5432));
    assert!(!found(candidate("pg1.test", None), "10.0.0.1", 5432));
}
