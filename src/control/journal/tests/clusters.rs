//! What concerns a whole cluster: failovers, switchovers, outages, split brains.

use super::*;

#[test]
fn a_failover_is_told_with_all_its_phases_and_counts() {
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.facts.counts.severed = 100;
    story.passed("pg1");
    story.later(400).dies("pg1");
    story.later(20);
    story.facts.first_held = Some(story.now);
    story.facts.counts = Counts {
        severed: 107,
        lost: 3,
        held: 2,
        refused: 1,
    };
    story.later(280);
    story.role("pg2", Role::Primary, Cause::ClaimsPrimary, Some(2));
    story.record().later(1).settle();
    assert_eq!(story.the_incident().closed, None);
    story.later(9);
    story.facts.first_answer = Some(story.now);
    story.later(50).look();

    let incident = story.the_incident();
    assert_eq!(incident.kind, Kind::Failover);
    assert_eq!(incident.lost.as_deref(), Some("pg1"));
    assert_eq!(incident.found.as_deref(), Some("pg2"));
    assert_eq!(incident.timeline, Some(2));
    let told = [
        "last_good_answer",
        "first_error",
        "detected",
        "backend_down",
        "fenced",
        "holding",
        "new_primary_seen",
        "released",
        "first_good_answer",
        "closed",
    ];
    assert_eq!(phases(&incident), told);
    assert_eq!(seconds_of(&incident, Phase::LastGoodAnswer), -0.4);
    assert_eq!(seconds_of(&incident, Phase::FirstError), 0.0);
    assert_eq!(seconds_of(&incident, Phase::Detected), 0.1);
    assert_eq!(seconds_of(&incident, Phase::Holding), 0.12);
    assert_eq!(seconds_of(&incident, Phase::NewPrimarySeen), 0.4);
    assert_eq!(seconds_of(&incident, Phase::Released), 0.401);
    assert_eq!(seconds_of(&incident, Phase::FirstGoodAnswer), 0.41);
    assert_eq!(incident.duration(), Some(Duration::from_millis(410)));
    let counts = Counts {
        severed: 7,
        lost: 3,
        held: 2,
        refused: 1,
    };
    assert_eq!(incident.counts, counts);
    let causes: Vec<_> = incident.steps.iter().filter_map(|it| it.cause).collect();
    assert_eq!(causes[..2], [Cause::ConnectRefused; 2]);
    assert_eq!(story.journal.take_closed(), [incident]);
    assert_eq!(story.journal.take_closed(), []);
    assert_eq!(story.journal.next_look(), None);
}

#[test]
fn a_primary_that_steps_down_first_makes_a_switchover() {
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.role("pg1", Role::Replica, Cause::ClaimsReplica, Some(1));
    story.settle().later(100);
    story.leads("pg2", 2);
    assert_eq!(story.the_incident().kind, Kind::Switchover);
    // It refuses writes, as sessions have proved.
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.role("pg1", Role::Fenced, Cause::ReadOnly, Some(1));
    story.settle().later(100);
    story.leads("pg2", 2);
    assert_eq!(story.the_incident().kind, Kind::Switchover);
    // Shut down in the orderly way, as sessions were told, and gone since.
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.failed("pg1", Cause::ShuttingDown);
    story.dies("pg1").later(100);
    story.leads("pg2", 2);
    assert_eq!(story.the_incident().kind, Kind::Switchover);
}

/// Went wrong once: the processes of a killed PostgreSQL say 57P01, as when it is shut down.
#[test]
fn a_primary_that_has_died_makes_a_failover_whatever_its_processes_say() {
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.failed("pg1", Cause::Crashed);
    story.role("pg1", Role::Fenced, Cause::Crashed, Some(1));
    story.settle();
    story.dies("pg1").later(100);
    story.leads("pg2", 2);
    assert_eq!(story.the_incident().kind, Kind::Failover);
    // Also when it is started as a replica before the other is promoted.
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.dies("pg1").later(100);
    story.health("pg1", Health::Up, Cause::CheckPassed);
    story.role("pg1", Role::Replica, Cause::ClaimsReplica, Some(1));
    story.settle().later(100);
    story.leads("pg2", 2);
    assert_eq!(story.the_incident().kind, Kind::Failover);
}

#[test]
fn one_decision_that_replaces_the_primary_is_an_incident_too() {
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.role("pg1", Role::Fenced, Cause::StaleTimeline, Some(1));
    story.leads("pg2", 2);
    let incident = story.the_incident();
    assert_eq!(incident.kind, Kind::Failover);
    let told = [
        "last_good_answer",
        "detected",
        "role_changed",
        "fenced",
        "new_primary_seen",
        "released",
    ];
    assert_eq!(phases(&incident), told);
}

#[test]
fn the_same_primary_that_returns_makes_an_outage() {
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.dies("pg1").later(1000);
    story.health("pg1", Health::Up, Cause::CheckPassed);
    story.leads("pg1", 1);
    let incident = story.the_incident();
    assert_eq!(incident.kind, Kind::Outage);
    assert_eq!(incident.lost, incident.found);
}

#[test]
fn a_new_primary_that_is_lost_at_once_belongs_to_the_same_incident() {
    let mut story = Story::new(true, &["pg1", "pg2", "pg3"]);
    story.dies("pg1").later(100);
    story.role("pg2", Role::Primary, Cause::ClaimsPrimary, Some(2));
    story.record().later(1);
    story.role("pg2", Role::Unknown, Cause::ConnectRefused, Some(2));
    story.settle().later(100);
    assert_eq!(story.the_incident().at(Phase::Released), None);
    story.leads("pg3", 3);
    let incident = story.the_incident();
    assert_eq!(incident.found.as_deref(), Some("pg3"));
    assert_eq!(incident.lost.as_deref(), Some("pg1"));
}

#[test]
fn a_second_failover_is_a_second_incident() {
    let mut story = Story::new(true, &["pg1", "pg2", "pg3"]);
    story.dies("pg1").later(100);
    story.leads("pg2", 2).later(100);
    story.dies("pg2").later(100);
    let all = story.journal.latest(10);
    assert_eq!(all.len(), 2);
    assert!(all[1].closed.is_some(), "{all:#?}");
    assert_eq!(all[0].lost.as_deref(), Some("pg2"));
    assert_eq!(story.journal.latest(1), all[..1]);
}

#[test]
fn a_split_brain_is_told_until_it_is_resolved() {
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.is_split_brain = true;
    story.role("pg1", Role::Fenced, Cause::SplitBrain, Some(2));
    story.role("pg2", Role::Fenced, Cause::SplitBrain, Some(2));
    story.settle().later(500);
    let incident = story.the_incident();
    assert_eq!(incident.kind, Kind::SplitBrain);
    assert_eq!(incident.lost.as_deref(), Some("pg1"));
    assert!(incident.at(Phase::Fenced).is_some());
    story.is_split_brain = false;
    story.leads("pg2", 2);
    let incident = story.the_incident();
    assert_eq!(incident.kind, Kind::SplitBrain);
    assert!(incident.at(Phase::SplitBrainOver).is_some());
    assert!(incident.at(Phase::Released).is_some());
}

#[test]
fn the_first_primary_is_no_incident() {
    let story = Story::new(true, &["pg1", "pg2"]);
    assert_eq!(story.journal.latest(10), []);
}

#[test]
fn the_only_backend_without_roles_makes_one_outage() {
    let mut story = Story::new(false, &["db1"]);
    story.later(200).dies("db1").later(300);
    story.health("db1", Health::Up, Cause::CheckPassed);
    story.settle().later(10);
    story.facts.first_answer = Some(story.now);
    story.look();
    let incident = story.the_incident();
    assert_eq!(incident.kind, Kind::Outage);
    let told = [
        "last_good_answer",
        "first_error",
        "detected",
        "backend_down",
        "fenced",
        "backend_up",
        "served_again",
        "released",
        "first_good_answer",
        "closed",
    ];
    assert_eq!(phases(&incident), told);
}
