//! Services that tell their role by themselves.

use super::*;
use crate::control::evidence::ToldEvidence;

fn told(is_primary: bool, timeline: Option<u32>) -> Evidence {
    Evidence::Told(ToldEvidence {
        is_primary,
        timeline,
    })
}

#[test]
fn a_service_that_says_it_is_primary_is_believed() {
    let mut scene = Scene::new(&["a", "b"]);
    scene
        .sees("a", told(true, None))
        .sees("b", told(false, None));
    assert_eq!(scene.role("a"), PRIMARY);
    assert_eq!(scene.role("b"), REPLICA);
    scene.loses("a").sees("b", told(true, None));
    assert_eq!(scene.primary(), Some("b"));
    scene
        .sees("b", told(false, None))
        .sees("a", told(true, None));
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn a_service_that_went_away_and_is_told_to_lead_again_is_believed() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.sees("a", told(true, None)).loses("b").loses("a");
    scene
        .sees("b", told(true, None))
        .loses("b")
        .sees("a", told(true, None));
    assert_eq!(scene.primary(), Some("a"));
}

#[test]
fn several_tellers_are_decided_by_their_timelines() {
    let mut scene = Scene::new(&["a", "b"]);
    scene
        .sees("a", told(true, Some(3)))
        .sees("b", told(true, Some(2)));
    assert_eq!(scene.primary(), Some("a"));
    assert_eq!(scene.role("b"), fenced(Cause::StaleTimeline));
    scene.loses("a");
    assert_eq!(scene.primary(), None);
    scene.sees("b", told(true, Some(4)));
    assert_eq!(scene.primary(), Some("b"));
}

#[test]
fn several_tellers_without_timelines_are_a_split_brain() {
    for (one, other) in [(None, None), (Some(2), None), (Some(2), Some(2))] {
        let mut scene = Scene::new(&["a", "b"]);
        scene
            .sees("a", told(true, one))
            .sees("b", told(true, other));
        assert!(scene.is_split(), "{one:?} {other:?}");
        scene.sees("a", told(false, one));
        assert_eq!(scene.primary(), Some("b"));
    }
}

#[test]
fn the_primary_before_has_to_yield_here_too() {
    let mut scene = Scene::new(&["a", "b"]);
    scene
        .sees("a", told(true, None))
        .sees("b", told(false, None));
    scene.sees("b", told(true, None));
    assert_eq!(scene.role("b"), fenced(Cause::AwaitingYield));
    assert_eq!(scene.wants_fresh(), ["a"]);
    scene.sees("a", told(true, None));
    assert!(scene.is_split());
    scene.sees("a", told(false, None));
    assert_eq!(scene.primary(), Some("b"));
}

/// Went untested: the appointed one would be fenced for its lower timeline at once.
#[test]
fn an_appointment_outweighs_a_higher_timeline() {
    let mut scene = Scene::new(&["a", "b"]);
    scene
        .sees("a", told(true, Some(2)))
        .sees("b", told(true, Some(3)))
        .sees("a", told(true, Some(2)));
    scene.appoints("a").unwrap();
    assert_eq!(scene.primary(), Some("a"));
    assert_eq!(scene.role("b"), fenced(Cause::Diverged));
    assert_eq!(scene.failover.memory().highest_timeline(), Some(2));
    scene.loses("a").sees("b", told(true, Some(3)));
    assert_eq!(scene.primary(), None, "its timeline was disowned");
    scene.sees("b", told(true, Some(2)));
    assert_eq!(scene.primary(), None, "it has not followed since");
    scene.sees("b", told(true, Some(4)));
    assert_eq!(scene.primary(), Some("b"), "it was promoted once more");
}

#[test]
fn a_replica_on_a_lower_timeline_still_follows() {
    let mut scene = Scene::new(&["a", "b"]);
    scene
        .sees("a", told(true, Some(3)))
        .sees("b", told(false, Some(2)));
    assert_eq!(scene.role("b"), REPLICA);
}
