//! One incident: the record that log, metrics, API and command line show.

use std::time::Duration;

use crate::cluster::Cause;
use crate::cluster::Name;
use crate::cluster::Role;
use crate::control::backend::Moment;
use crate::control::journal::MAX_STEPS;
use crate::routing::Counts;

/// What it was, as far as is known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Another backend became primary after the old one had failed.
    Failover,
    /// Another backend became primary after the old one had stepped down or was shut down.
    Switchover,
    /// Nobody was there to serve; the same backends returned, or nobody has yet.
    Outage,
    /// Several backends claimed to be primary.
    SplitBrain,
    /// One backend of several was down.
    BackendDown,
    /// One backend of several got no new requests because of its answers.
    Ejection,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Failover,
        Self::Switchover,
        Self::Outage,
        Self::SplitBrain,
        Self::BackendDown,
        Self::Ejection,
    ];

    /// It is about the whole cluster, not about one backend among others.
    pub fn is_of_cluster(self) -> bool {
        !matches!(self, Self::BackendDown | Self::Ejection)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Switchover => "switchover",
            Self::Outage => "outage",
            Self::SplitBrain => "split_brain",
            Self::BackendDown => "backend_down",
            Self::Ejection => "ejection",
        }
    }
}

/// One phase of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The last health check that passed.
    LastGoodAnswer,
    /// The first failed check, or report of a session.
    FirstError,
    /// It was judged: down, or primary no longer.
    Detected,
    /// The table without it was published.
    Fenced,
    /// The first session was held.
    Holding,
    SplitBrain,
    SplitBrainOver,
    BackendDown,
    BackendUp,
    BackendEjected,
    BackendReturns,
    /// To replica or fenced.
    RoleChanged(Role),
    NewPrimarySeen,
    /// A cluster without roles has a backend again.
    ServedAgain,
    /// The table with somebody to serve was published.
    Released,
    /// The first answer that a session got after that.
    FirstGoodAnswer,
    Closed,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LastGoodAnswer => "last_good_answer",
            Self::FirstError => "first_error",
            Self::Detected => "detected",
            Self::Fenced => "fenced",
            Self::Holding => "holding",
            Self::SplitBrain => "split_brain",
            Self::SplitBrainOver => "split_brain_over",
            Self::BackendDown => "backend_down",
            Self::BackendUp => "backend_up",
            Self::BackendEjected => "backend_ejected",
            Self::BackendReturns => "backend_returns",
            Self::RoleChanged(_) => "role_changed",
            Self::NewPrimarySeen => "new_primary_seen",
            Self::ServedAgain => "served_again",
            Self::Released => "released",
            Self::FirstGoodAnswer => "first_good_answer",
            Self::Closed => "closed",
        }
    }
}

/// One step, with its cause where it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub phase: Phase,
    pub at: Moment,
    pub backend: Option<Name>,
    pub cause: Option<Cause>,
    pub timeline: Option<u32>,
}

/// One incident of one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// Ascending; unique while the process lives.
    pub id: u64,
    pub cluster: Name,
    pub kind: Kind,
    /// Who was lost.
    pub lost: Option<Name>,
    /// Who serves now.
    pub found: Option<Name>,
    /// Of the new primary.
    pub timeline: Option<u32>,
    /// How often it happened before it was over.
    pub times: u32,
    /// What it has cost the cluster's sessions.
    pub counts: Counts,
    pub closed: Option<Moment>,
    /// In the order of time.
    pub steps: Vec<Step>,
    /// Steps that there was no room for.
    pub omitted: u32,
}

impl Incident {
    pub(super) fn new(id: u64, cluster: Name, kind: Kind, lost: Option<Name>) -> Self {
        Self {
            id,
            cluster,
            kind,
            lost,
            found: None,
            timeline: None,
            times: 1,
            counts: Counts::default(),
            closed: None,
            steps: Vec::new(),
            omitted: 0,
        }
    }

    /// Where its times are counted from: the first error, else the detection.
    pub fn origin(&self) -> Option<Moment> {
        let first = self.at(Phase::FirstError).or(self.at(Phase::Detected));
        first.or(self.steps.first().map(|step| step.at))
    }

    /// The first step of a phase.
    pub fn at(&self, phase: Phase) -> Option<Moment> {
        self.steps
            .iter()
            .find(|step| step.phase == phase)
            .map(|step| step.at)
    }

    /// From the origin to the first step of a phase, in seconds; negative before it.
    pub fn seconds_to(&self, phase: Phase) -> Option<f64> {
        Some(seconds(self.origin()?, self.at(phase)?))
    }

    /// From the origin to the first answer after it, else to the release; `None` while
    /// nobody serves.
    pub fn duration(&self) -> Option<Duration> {
        let last = |phase| self.steps.iter().rfind(|step| step.phase == phase);
        let end = last(Phase::FirstGoodAnswer).or(last(Phase::Released))?;
        let origin = self.origin()?.instant;
        Some(end.at.instant.saturating_duration_since(origin))
    }

    pub(super) fn step(
        &mut self,
        phase: Phase,
        at: Moment,
        backend: Option<&Name>,
        cause: Option<Cause>,
    ) {
        // Each phase is told once, however full it is.
        if self.steps.len() >= MAX_STEPS && self.at(phase).is_some() {
            self.omitted += 1;
            return;
        }
        let later = |step: &Step| step.at.instant > at.instant;
        let position = self.steps.iter().position(later);
        let step = Step {
            phase,
            at,
            backend: backend.cloned(),
            cause,
            timeline: None,
        };
        self.steps
            .insert(position.unwrap_or(self.steps.len()), step);
    }
}

/// From one moment to another, in seconds; negative when it was before.
pub fn seconds(from: Moment, to: Moment) -> f64 {
    let ahead = to.instant.saturating_duration_since(from.instant);
    let behind = from.instant.saturating_duration_since(to.instant);
    ahead.as_secs_f64() - behind.as_secs_f64()
}
