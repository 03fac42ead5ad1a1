//! What concerns one backend of several: that it is down, or ejected.

use super::*;

#[test]
fn one_backend_of_several_is_down_and_flaps_in_one_incident() {
    let mut story = Story::new(false, &["db1", "db2"]);
    for times in 1..=3 {
        story.dies("db1").later(1000);
        let incident = story.the_incident();
        assert_eq!((incident.kind, incident.times), (Kind::BackendDown, times));
        assert_eq!(incident.closed, None);
        assert_eq!(story.journal.next_look(), None, "nothing to wait for");
        story.health("db1", Health::Up, Cause::CheckPassed);
        story.settle().later(1);
        story.facts.first_answer = Some(story.now);
        story.later(1000).look();
        assert!(story.the_incident().closed.is_some());
    }
    story.later(60_000).dies("db1");
    assert_eq!(story.journal.latest(10).len(), 2);
}

#[test]
fn an_ejection_is_told_and_another_soon_after_counts_in_it() {
    let mut story = Story::new(false, &["db1", "db2"]);
    story.ejected = Some(("db1", Cause::SuccessRate));
    story.later(100).settle();
    story.ejected = None;
    story.later(30_000).settle().later(10);
    story.facts.first_answer = Some(story.now);
    story.look();
    let incident = story.the_incident();
    assert_eq!(incident.kind, Kind::Ejection);
    assert_eq!(incident.lost.as_deref(), Some("db1"));
    let told = [
        "last_good_answer",
        "detected",
        "fenced",
        "backend_returns",
        "released",
        "first_good_answer",
        "closed",
    ];
    assert_eq!(phases(&incident), told);
    let causes: Vec<_> = incident.steps.iter().filter_map(|it| it.cause).collect();
    assert_eq!(causes, [Cause::SuccessRate, Cause::EjectionOver]);

    story.ejected = Some(("db1", Cause::ServerErrors));
    story.later(1000).settle();
    let incident = story.the_incident();
    assert_eq!((incident.times, incident.closed), (2, None));
    let id = story.journal.open_id(&"a".into(), Some(&"db1".into()));
    assert_eq!(id, Some(incident.id));
}

#[test]
fn one_that_is_ejected_and_dies_has_an_incident_for_each() {
    let mut story = Story::new(false, &["db1", "db2"]);
    story.ejected = Some(("db1", Cause::SuccessRate));
    story.later(100).settle();
    story.dies("db1");
    let kinds: Vec<_> = story.journal.latest(9).iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [Kind::BackendDown, Kind::Ejection]);
    story.health("db1", Health::Up, Cause::CheckPassed);
    story.later(100).settle();
    let open = |kind| {
        let all = story.journal.latest(9);
        let one = all.into_iter().find(|it| it.kind == kind).unwrap();
        one.found.is_none()
    };
    assert!(open(Kind::Ejection) && !open(Kind::BackendDown));
}

#[test]
fn an_ejection_while_nobody_is_written_to_is_a_step_of_that() {
    let mut story = Story::new(true, &["db1", "db2"]);
    story.later(100).dies("db1");
    story.ejected = Some(("db2", Cause::SlowAnswers));
    story.later(100).settle();
    story.ejected = None;
    story.later(100).settle();
    let told = phases(&story.the_incident());
    assert!(
        told.ends_with(&["backend_ejected", "backend_returns"]),
        "{told:?}"
    );
}
