//! Incidents end, and neither they nor the journal grow for ever.

use super::*;

#[test]
fn an_incident_after_which_nobody_comes_is_closed_all_the_same() {
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.dies("pg1").later(100);
    story.leads("pg2", 2);
    assert!(story.journal.next_look().is_some());
    story.now += ANSWER_PATIENCE - Duration::from_millis(1);
    assert_eq!(story.look().the_incident().closed, None);
    story.later(1).look();
    let incident = story.the_incident();
    assert!(incident.closed.is_some());
    assert_eq!(incident.at(Phase::FirstGoodAnswer), None);
    assert_eq!(incident.duration(), Some(Duration::from_millis(200)));
}

#[test]
fn a_cluster_that_is_removed_closes_its_incident() {
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.dies("pg1");
    let now = story.moment();
    story.journal.keep(|name| **name == *"a", now);
    assert_eq!(story.the_incident().closed, None);
    story.journal.keep(|_| false, now);
    let incident = story.the_incident();
    assert!(incident.closed.is_some());
    assert_eq!(incident.steps.last().unwrap().cause, Some(Cause::Reload));
}

#[test]
fn the_journal_is_bounded_and_forgets_small_incidents_first() {
    let mut story = Story::new(true, &["pg1", "pg2", "pg3"]);
    story.dies("pg1").later(100);
    story.health("pg1", Health::Up, Cause::CheckPassed);
    story.leads("pg1", 1);
    story.now += ANSWER_PATIENCE;
    story.look();
    for _ in 0..MAX_INCIDENTS + 10 {
        story.dies("pg2");
        story.health("pg2", Health::Up, Cause::CheckPassed);
        story.settle();
        story.now += ANSWER_PATIENCE;
        story.look();
        story.now += AGAIN;
    }
    let all = story.journal.latest(usize::MAX);
    assert_eq!(all.len(), MAX_INCIDENTS);
    assert_eq!(all.last().unwrap().kind, Kind::Outage);
}

#[test]
fn steps_are_bounded_and_what_matters_is_told_all_the_same() {
    let mut story = Story::new(true, &["pg1", "pg2", "pg3"]);
    story.dies("pg1");
    for _ in 0..100 {
        story.health("pg2", Health::Down, Cause::CheckTimeout);
        story.settle().later(10);
        story.health("pg2", Health::Up, Cause::CheckPassed);
        story.settle().later(10);
    }
    story.leads("pg3", 2);
    let incident = story.the_incident();
    assert!(incident.steps.len() <= MAX_STEPS + 5);
    assert!(incident.omitted > 100, "{}", incident.omitted);
    assert!(incident.at(Phase::Released).is_some());
}
