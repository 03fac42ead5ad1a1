//! Stories: what happened, and how the record tells it.

use super::*;
use crate::cluster::AdminState;
use crate::control::happening::Scene;
use crate::control::happening::Sight;
use crate::control::happening::Watch;

/// One cluster, a clock, and both ends of the recorder.
struct Story {
    start: Instant,
    now: Instant,
    tells_roles: bool,
    is_split_brain: bool,
    /// Name, health, its cause, role, its cause, timeline.
    backends: Vec<(Name, Health, Cause, Role, Cause, Option<u32>)>,
    /// Who is ejected and why.
    ejected: Option<(&'static str, Cause)>,
    watch: Watch,
    journal: Journal,
    facts: Facts,
}

impl Story {
    /// The first backend is the primary, if there are roles; all is well.
    fn new(tells_roles: bool, names: &[&str]) -> Self {
        let start = Moment::now().instant;
        let role = |first| match (tells_roles, first) {
            (false, _) => (Role::Unknown, Cause::Started, None),
            (true, true) => (Role::Primary, Cause::ClaimsPrimary, Some(1)),
            (true, false) => (Role::Replica, Cause::ClaimsReplica, Some(1)),
        };
        let backends = names.iter().enumerate().map(|(index, name)| {
            let (role, cause, timeline) = role(index == 0);
            let (health, passed) = (Health::Up, Cause::CheckPassed);
            (Name::from(*name), health, passed, role, cause, timeline)
        });
        let mut story = Self {
            start,
            now: start,
            tells_roles,
            is_split_brain: false,
            backends: backends.collect(),
            ejected: None,
            watch: Watch::default(),
            journal: Journal::default(),
            facts: Facts::default(),
        };
        story.settle();
        for name in names {
            story.passed(name);
        }
        story
    }

    fn moment(&self) -> Moment {
        Moment {
            instant: self.now,
            epoch_seconds: (self.now - self.start).as_secs_f64(),
        }
    }

    fn later(&mut self, milliseconds: u64) -> &mut Self {
        self.now += Duration::from_millis(milliseconds);
        self
    }

    fn passed(&mut self, name: &str) {
        let now = self.moment();
        self.watch.passed(&name.into(), self.facts.counts, now);
    }

    fn failed(&mut self, name: &str, cause: Cause) {
        let now = self.moment();
        self.watch.failed(&"a".into(), &name.into(), cause, now);
    }

    fn health(&mut self, name: &str, health: Health, cause: Cause) -> &mut Self {
        let backend = self.backends.iter_mut().find(|it| *it.0 == *name).unwrap();
        (backend.1, backend.2) = (health, cause);
        self
    }

    fn role(&mut self, name: &str, role: Role, cause: Cause, timeline: Option<u32>) -> &mut Self {
        let backend = self.backends.iter_mut().find(|it| *it.0 == *name).unwrap();
        (backend.3, backend.4, backend.5) = (role, cause, timeline);
        self
    }

    /// Compares and notes, as after a batch of events; nothing is published yet.
    fn record(&mut self) -> &mut Self {
        let sights: Vec<Sight> = self
            .backends
            .iter()
            .map(|(name, health, cause, role, role_cause, timeline)| Sight {
                name,
                health: *health,
                health_cause: *cause,
                admin: AdminState::Ready,
                role: *role,
                role_cause: *role_cause,
                timeline: *timeline,
                is_eligible: *health == Health::Up,
                ejected: self.ejected.filter(|it| it.0 == &**name).map(|it| it.1),
            })
            .collect();
        let scene = Scene {
            cluster: &"a".into(),
            backends: &sights,
            tells_roles: self.tells_roles,
            is_split_brain: self.is_split_brain,
        };
        self.watch.look(scene, self.moment());
        for happening in self.watch.take() {
            self.journal.note(&happening, self.facts.counts);
        }
        self
    }

    /// As after a batch, with the table that follows.
    fn settle(&mut self) -> &mut Self {
        self.record();
        let now = self.moment();
        self.journal.published(now, now);
        self.look()
    }

    fn look(&mut self) -> &mut Self {
        let (facts, now) = (self.facts, self.moment());
        self.journal.look(|_| facts, now);
        self
    }

    fn the_incident(&self) -> Incident {
        let all = self.journal.latest(10);
        assert_eq!(all.len(), 1, "{all:#?}");
        all[0].clone()
    }

    fn dies(&mut self, name: &str) -> &mut Self {
        self.failed(name, Cause::ConnectRefused);
        self.later(100);
        self.health(name, Health::Down, Cause::ConnectRefused);
        if self.tells_roles {
            self.role(name, Role::Unknown, Cause::ConnectRefused, Some(1));
        }
        self.settle()
    }
}

fn phases(incident: &Incident) -> Vec<&'static str> {
    incident.steps.iter().map(|it| it.phase.as_str()).collect()
}

fn seconds_of(incident: &Incident, phase: Phase) -> f64 {
    let seconds = incident.seconds_to(phase).unwrap();
    (seconds * 1000.0).round() / 1000.0
}

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
    story.role("pg2", Role::Primary, Cause::ClaimsPrimary, Some(2));
    story.settle();
    assert_eq!(story.the_incident().kind, Kind::Switchover);
    // It refuses writes, as sessions have proved.
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.role("pg1", Role::Fenced, Cause::ReadOnly, Some(1));
    story.settle().later(100);
    story.role("pg2", Role::Primary, Cause::ClaimsPrimary, Some(2));
    story.settle();
    assert_eq!(story.the_incident().kind, Kind::Switchover);
    // Shut down in the orderly way, as sessions were told, and gone since.
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.failed("pg1", Cause::ShuttingDown);
    story.dies("pg1").later(100);
    story.role("pg2", Role::Primary, Cause::ClaimsPrimary, Some(2));
    story.settle();
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
    story.role("pg2", Role::Primary, Cause::ClaimsPrimary, Some(2));
    story.settle();
    assert_eq!(story.the_incident().kind, Kind::Failover);
    // Also when it is started as a replica before the other is promoted.
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.dies("pg1").later(100);
    story.health("pg1", Health::Up, Cause::CheckPassed);
    story.role("pg1", Role::Replica, Cause::ClaimsReplica, Some(1));
    story.settle().later(100);
    story.role("pg2", Role::Primary, Cause::ClaimsPrimary, Some(2));
    story.settle();
    assert_eq!(story.the_incident().kind, Kind::Failover);
}

#[test]
fn one_decision_that_replaces_the_primary_is_an_incident_too() {
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.role("pg1", Role::Fenced, Cause::StaleTimeline, Some(1));
    story.role("pg2", Role::Primary, Cause::ClaimsPrimary, Some(2));
    story.settle();
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
    story.role("pg1", Role::Primary, Cause::ClaimsPrimary, Some(1));
    story.settle();
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
    story.role("pg3", Role::Primary, Cause::ClaimsPrimary, Some(3));
    story.settle();
    let incident = story.the_incident();
    assert_eq!(incident.found.as_deref(), Some("pg3"));
    assert_eq!(incident.lost.as_deref(), Some("pg1"));
}

#[test]
fn a_second_failover_is_a_second_incident() {
    let mut story = Story::new(true, &["pg1", "pg2", "pg3"]);
    story.dies("pg1").later(100);
    story.role("pg2", Role::Primary, Cause::ClaimsPrimary, Some(2));
    story.settle().later(100);
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
    story.role("pg2", Role::Primary, Cause::ClaimsPrimary, Some(2));
    story.settle();
    let incident = story.the_incident();
    assert_eq!(incident.kind, Kind::SplitBrain);
    assert!(incident.at(Phase::SplitBrainOver).is_some());
    assert!(incident.at(Phase::Released).is_some());
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
fn an_incident_after_which_nobody_comes_is_closed_all_the_same() {
    let mut story = Story::new(true, &["pg1", "pg2"]);
    story.dies("pg1").later(100);
    story.role("pg2", Role::Primary, Cause::ClaimsPrimary, Some(2));
    story.settle();
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
fn the_first_primary_is_no_incident() {
    let story = Story::new(true, &["pg1", "pg2"]);
    assert_eq!(story.journal.latest(10), []);
}

#[test]
fn the_journal_is_bounded_and_forgets_small_incidents_first() {
    let mut story = Story::new(true, &["pg1", "pg2", "pg3"]);
    story.dies("pg1").later(100);
    story.health("pg1", Health::Up, Cause::CheckPassed);
    story.role("pg1", Role::Primary, Cause::ClaimsPrimary, Some(1));
    story.settle();
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
    story.role("pg3", Role::Primary, Cause::ClaimsPrimary, Some(2));
    story.settle();
    let incident = story.the_incident();
    assert!(incident.steps.len() <= MAX_STEPS + 5);
    assert!(incident.omitted > 100, "{}", incident.omitted);
    assert!(incident.at(Phase::Released).is_some());
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
