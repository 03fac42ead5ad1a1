//! Stories: what happened, and how the record tells it.

mod backends;
mod bounds;
mod clusters;

use super::*;
use crate::cluster::AdminState;
use crate::cluster::Health;
use crate::cluster::Role;
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

    /// Is the primary from now on.
    fn leads(&mut self, name: &str, timeline: u32) -> &mut Self {
        let proof = Cause::ClaimsPrimary;
        self.role(name, Role::Primary, proof, Some(timeline));
        self.settle()
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
