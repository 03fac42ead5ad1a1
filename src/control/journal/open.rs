//! An incident while it lasts: what is known of it, and when it is over.

use std::time::Instant;

use crate::cluster::Cause;
use crate::control::backend::Moment;
use crate::control::happening::Happening;
use crate::control::journal::ANSWER_PATIENCE;
use crate::control::journal::Facts;
use crate::control::journal::Incident;
use crate::control::journal::Phase;
use crate::routing::Counts;

/// An incident that is not over yet.
#[derive(Debug)]
pub struct Open {
    pub incident: Incident,
    /// The cluster's counts when all was still well.
    pub base: Counts,
    /// The primary went in an orderly way, as far as is known.
    pub is_orderly: bool,
    /// A decision that the next table carries.
    pub unpublished: Option<Phase>,
    pub released: Option<Instant>,
}

impl Open {
    pub fn new(incident: Incident, base: Counts) -> Self {
        Self {
            incident,
            base,
            is_orderly: false,
            unpublished: Some(Phase::Fenced),
            released: None,
        }
    }

    /// Of the whole cluster, not of one backend among others.
    pub fn is_of_cluster(&self) -> bool {
        self.incident.kind.is_of_cluster()
    }

    /// Who was lost has been down without having said that it would be.
    pub fn has_failed(&self) -> bool {
        let lost = &self.incident.lost;
        self.incident.steps.iter().any(|step| {
            step.phase == Phase::BackendDown
                && step.backend == *lost
                && !step.cause.is_some_and(is_orderly)
        })
    }

    /// What was found, or had never gone away for this incident, is lost.
    pub fn lose(&mut self, happening: &Happening) {
        self.released = None;
        self.unpublished = Some(Phase::Fenced);
        self.incident.found = None;
        let backend = happening.backend.as_ref();
        if self.incident.lost.is_none() {
            self.incident.lost = backend.cloned();
        }
        self.incident.step(
            Phase::Detected,
            happening.at,
            backend,
            Some(happening.cause),
        );
    }

    pub fn find(&mut self, happening: &Happening, phase: Phase, timeline: Option<u32>) {
        let backend = happening.backend.as_ref();
        // Both decisions are in one table: it was published with the fence.
        if self.unpublished == Some(Phase::Fenced) {
            self.incident.step(Phase::Fenced, happening.at, None, None);
        }
        self.unpublished = Some(Phase::Released);
        self.incident.found = backend.cloned();
        self.incident.timeline = timeline.or(self.incident.timeline);
        self.incident
            .step(phase, happening.at, backend, Some(happening.cause));
        if let Some(step) = self.incident.steps.iter_mut().rfind(|it| it.phase == phase) {
            step.timeline = timeline;
        }
    }

    pub fn note_marks(&mut self, facts: Facts, now: Moment) {
        if let Some(at) = facts.first_held
            && self.incident.at(Phase::Holding).is_none()
            && self.is_of_cluster()
        {
            self.incident
                .step(Phase::Holding, now.back_at(at), None, None);
        }
        let is_new = self.incident.at(Phase::FirstGoodAnswer).is_none();
        if let (Some(_), Some(at), true) = (self.released, facts.first_answer, is_new) {
            let backend = self.incident.found.clone();
            let at = now.back_at(at);
            self.incident
                .step(Phase::FirstGoodAnswer, at, backend.as_ref(), None);
        }
    }

    pub fn is_over(&self, now: Instant) -> bool {
        let is_answered = self.incident.at(Phase::FirstGoodAnswer).is_some();
        let is_late = |at: Instant| now.saturating_duration_since(at) >= ANSWER_PATIENCE;
        self.released.is_some_and(|at| is_answered || is_late(at))
    }
}

/// It stepped down or was shut down; nobody does that by accident.
pub fn is_orderly(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::ShuttingDown | Cause::ClaimsReplica | Cause::ReadOnly | Cause::AdminCommand
    )
}
