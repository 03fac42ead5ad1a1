//! An operator decides.

use super::*;

/// `a` is primary on timeline 1; `b` was promoted beside it, `c` follows `b`.
fn split() -> Scene {
    let mut scene = Scene::new(&["a", "b", "c"]);
    scene
        .sees("a", primary(1))
        .sees("c", replica(1))
        .sees("b", replica(1));
    assert_eq!(scene.primary(), Some("a"));
    scene
        .sees("b", primary(2))
        .sees("a", primary(1))
        .sees("c", replica(2));
    assert!(scene.is_split());
    scene
}

#[test]
fn the_appointed_backend_is_primary_although_its_timeline_is_lower() {
    let mut scene = split();
    scene.appoints("a").unwrap();
    assert_eq!(scene.primary(), Some("a"));
    assert_eq!(scene.role("b"), fenced(Cause::Diverged));
    assert_eq!(
        scene.role("c"),
        fenced(Cause::Diverged),
        "it has the disowned history"
    );
    assert_eq!(scene.failover.memory().highest_timeline(), Some(1));
    scene
        .sees("b", primary(2))
        .sees("c", replica(2))
        .sees("a", primary(1));
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn an_appointment_survives_a_restart() {
    let mut scene = split();
    scene.appoints("a").unwrap();
    scene.restarts();
    scene
        .sees("b", primary(2))
        .sees("c", replica(2))
        .sees("a", primary(1));
    assert_eq!(scene.primary(), Some("a"));
    assert_eq!(scene.role("b"), fenced(Cause::Diverged));
}

#[test]
fn the_disowned_count_again_once_they_follow() {
    let mut scene = split();
    scene.appoints("a").unwrap();
    scene.sees("b", replica(1)).sees("c", replica(1));
    assert_eq!(scene.role("b"), REPLICA);
    scene.loses("a").sees("b", primary(2));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn the_disowned_count_again_once_they_are_promoted_once_more() {
    let mut scene = split();
    scene.appoints("a").unwrap();
    scene.loses("a").sees("b", primary(3));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn the_higher_one_can_be_appointed_too() {
    let mut scene = split();
    scene.appoints("b").unwrap();
    assert_eq!(scene.primary(), Some("b"));
    assert_eq!(scene.role("a"), fenced(Cause::StaleTimeline));
    assert_eq!(scene.role("c"), REPLICA);
}

#[test]
fn a_backend_of_another_system_can_be_appointed() {
    let mut scene = split();
    let restored = PostgresEvidence {
        system_identifier: 8,
        ..primary(1)
    };
    scene.sees("c", restored);
    assert_eq!(scene.role("c"), fenced(Cause::ForeignSystem));
    scene.appoints("c").unwrap();
    assert_eq!(scene.primary(), Some("c"));
    assert_eq!(scene.role("a"), fenced(Cause::ForeignSystem));
}

#[test]
fn who_cannot_be_written_to_cannot_be_appointed() {
    let mut scene = split();
    let before = scene.failover.memory().clone();
    assert_eq!(scene.appoints("x"), Err(AppointError::Unknown));
    assert_eq!(scene.appoints("c"), Err(AppointError::NoClaim));
    scene.node("a").quarantine = Some(Cause::ReadOnly);
    assert_eq!(scene.appoints("a"), Err(AppointError::NoClaim));
    scene.loses("b");
    assert_eq!(scene.appoints("b"), Err(AppointError::NotUp));
    assert_eq!(*scene.failover.memory(), before);
}

#[test]
fn an_authority_is_not_overruled() {
    let mut scene = split();
    scene.leader("b");
    assert_eq!(scene.primary(), Some("b"));
    scene.sees("a", primary(1));
    scene.appoints("a").unwrap();
    assert_eq!(scene.primary(), Some("b"), "it names another");
}
