//! The flight recorder: happenings in, one record per incident out.
//!
//! Pure and bounded. It lives as long as the process: reloads do not touch it, a restart
//! begins a new one.

mod incident;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Name;
use crate::cluster::Role;
use crate::control::backend::Moment;
use crate::control::happening::Before;
use crate::control::happening::Happening;
use crate::control::happening::What;
use crate::routing::Counts;

pub use incident::Incident;
pub use incident::Kind;
pub use incident::Phase;
pub use incident::Step;
pub use incident::seconds;

/// Incidents that are remembered: a year of a busy cluster, a megabyte at most.
pub const MAX_INCIDENTS: usize = 256;
/// Steps of one incident: a failover has about ten; a flapping one must not grow for ever.
const MAX_STEPS: usize = 48;
/// Nobody may come after all is well again: then there is no first answer to wait for.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// A backend that is down again so soon is the same trouble.
const AGAIN: Duration = Duration::from_secs(60);
/// How often the data plane's marks are read while an incident is open. They carry their
/// own time: this only bounds how late an incident is closed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What the data plane knows of an open incident.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    pub counts: Counts,
    pub first_held: Option<Instant>,
    /// Of the backend that [`Incident::found`] names.
    pub first_answer: Option<Instant>,
}

/// All incidents of all clusters.
#[derive(Debug, Default)]
pub struct Journal {
    open: Vec<Open>,
    /// Oldest first.
    closed: VecDeque<Incident>,
    /// Closed since this was asked last.
    fresh: Vec<Incident>,
    last_id: u64,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    incident: Incident,
    /// The cluster's counts when all was still well.
    base: Counts,
    /// The primary went in an orderly way, as far as is known.
    is_orderly: bool,
    /// A decision that the next table carries.
    unpublished: Option<Phase>,
    released: Option<Instant>,
}

impl Journal {
    /// Notes what has happened; `counts` are the cluster's at this moment.
    pub fn note(&mut self, happening: &Happening, counts: Counts) {
        match &happening.what {
            What::Error => {}
            What::PrimaryLost { before } | What::Unserved { before } => {
                self.lost(happening, *before, counts);
            }
            What::PrimarySeen { last, timeline, .. } => {
                self.found(happening, last.as_ref(), *timeline);
            }
            What::Served => self.served(happening),
            What::SplitBrain => self.split(happening, counts),
            What::SplitBrainOver => self.add(happening, Phase::SplitBrainOver),
            What::Role { to, .. } => self.role(happening, *to),
            What::Health { from, to, before } => {
                self.health(happening, (*from, *to), *before, counts);
            }
            What::Ejected { before } => self.ejected(happening, *before, counts),
            What::Returned => self.returned(happening),
        }
    }

    /// A table with all that was noted is published. Sessions may be released by it, and
    /// have their answer, from the moment before on; the last has seen it at the moment after.
    pub fn published(&mut self, before: Moment, after: Moment) {
        for open in &mut self.open {
            let Some(phase) = open.unpublished.take() else {
                continue;
            };
            let at = match phase {
                Phase::Released => {
                    open.released = Some(before.instant);
                    before
                }
                _ => after,
            };
            open.incident.step(phase, at, None, None);
        }
    }

    /// Reads what the data plane knows; closes what is over.
    pub fn look(&mut self, facts: impl Fn(&Incident) -> Facts, now: Moment) {
        self.looked = Some(now.instant);
        for open in &mut self.open {
            let facts = facts(&open.incident);
            open.incident.counts = facts.counts.since(open.base);
            open.note_marks(facts, now);
        }
        let is_over = |open: &mut Open| open.is_over(now.instant);
        let over: Vec<Open> = self.open.extract_if(.., is_over).collect();
        for open in over {
            self.close(open, now, None);
        }
    }

    /// When to look next; `None`: when something happens.
    pub fn next_look(&self) -> Option<Instant> {
        let waits = |open: &Open| open.is_of_cluster() || open.released.is_some();
        let looked = self.looked?;
        self.open.iter().any(waits).then(|| looked + LOOK_INTERVAL)
    }

    /// Ends what concerns clusters that are configured no longer.
    pub fn keep(&mut self, is_known: impl Fn(&Name) -> bool, now: Moment) {
        let is_gone = |open: &mut Open| !is_known(&open.incident.cluster);
        let gone: Vec<Open> = self.open.extract_if(.., is_gone).collect();
        for open in gone {
            self.close(open, now, Some(Cause::Reload));
        }
    }

    /// The latest incidents, the newest first.
    pub fn latest(&self, limit: usize) -> Vec<Incident> {
        let open = self.open.iter().map(|open| &open.incident);
        let mut all: Vec<&Incident> = self.closed.iter().chain(open).collect();
        all.sort_by_key(|incident| std::cmp::Reverse(incident.id));
        all.into_iter().take(limit).cloned().collect()
    }

    /// The number of the open incident that concerns this backend or its whole cluster.
    pub fn open_id(&self, cluster: &Name, backend: Option<&Name>) -> Option<u64> {
        let concerns = |open: &&Open| {
            open.incident.cluster == *cluster
                && (open.is_of_cluster() || open.incident.lost.as_ref() == backend)
        };
        self.open
            .iter()
            .rfind(concerns)
            .map(|open| open.incident.id)
    }

    /// What was closed since this was asked last.
    pub fn take_closed(&mut self) -> Vec<Incident> {
        std::mem::take(&mut self.fresh)
    }

    fn lost(&mut self, happening: &Happening, before: Before, counts: Counts) {
        if let Some(open) = self.of_cluster(&happening.cluster)
            && open.released.is_none()
        {
            open.lose(happening);
            return;
        }
        let settled =
            |open: &mut Open| open.is_of_cluster() && open.incident.cluster == happening.cluster;
        let settled: Vec<Open> = self.open.extract_if(.., settled).collect();
        for open in settled {
            self.close(open, happening.at, None);
        }
        let mut open = self.begin(happening, Kind::Outage, before, counts);
        open.is_orderly |= is_orderly(happening.cause);
        self.open.push(open);
    }

    fn split(&mut self, happening: &Happening, counts: Counts) {
        let is_open = self.of_cluster(&happening.cluster).is_some();
        if !is_open {
            let before = Before::default();
            let open = self.begin(happening, Kind::SplitBrain, before, counts);
            self.open.push(open);
        }
        if let Some(open) = self.of_cluster(&happening.cluster) {
            open.incident.kind = Kind::SplitBrain;
            // It goes on, whoever was written to in between.
            open.released = None;
            open.unpublished = Some(Phase::Fenced);
        }
        self.add(happening, Phase::SplitBrain);
    }

    fn found(&mut self, happening: &Happening, last: Option<&Name>, timeline: Option<u32>) {
        let Some(open) = self.of_cluster(&happening.cluster) else {
            return;
        };
        let is_same = last == happening.backend.as_ref();
        open.incident.kind = match open.incident.kind {
            Kind::SplitBrain => Kind::SplitBrain,
            _ if is_same => Kind::Outage,
            _ if open.is_orderly => Kind::Switchover,
            _ => Kind::Failover,
        };
        open.find(happening, Phase::NewPrimarySeen, timeline);
    }

    fn served(&mut self, happening: &Happening) {
        if let Some(open) = self.of_cluster(&happening.cluster) {
            open.find(happening, Phase::ServedAgain, None);
        }
    }

    fn role(&mut self, happening: &Happening, to: Role) {
        if let Some(open) = self.of_cluster(&happening.cluster) {
            let steps_down = open.incident.lost == happening.backend && to == Role::Replica;
            open.is_orderly |= steps_down && open.incident.found.is_none() && !open.has_failed();
        }
        // That a dead backend has no role, and a new primary has one, is said already.
        if matches!(to, Role::Replica | Role::Fenced) {
            self.add(happening, Phase::RoleChanged(to));
        }
    }

    fn health(
        &mut self,
        happening: &Happening,
        (from, to): (Health, Health),
        before: Before,
        counts: Counts,
    ) {
        let has_wider = self.of_cluster(&happening.cluster).is_some();
        match (to, self.of_backend(happening, Kind::BackendDown)) {
            (Health::Up, Some(open)) => open.find(happening, Phase::BackendUp, None),
            (Health::Down, Some(open)) => {
                open.incident.times += 1;
                open.lose(happening);
            }
            (Health::Up, None) => self.add(happening, Phase::BackendUp),
            (Health::Down, None) if has_wider => {
                self.add(happening, Phase::BackendDown);
            }
            (Health::Down, None) if from == Health::Up => {
                self.open_of_backend(happening, Kind::BackendDown, before, counts);
            }
            (Health::Down | Health::Unknown, _) => {}
        }
    }

    fn ejected(&mut self, happening: &Happening, before: Before, counts: Counts) {
        if let Some(open) = self.of_backend(happening, Kind::Ejection) {
            open.incident.times += 1;
            open.lose(happening);
        } else if self.of_cluster(&happening.cluster).is_some() {
            self.add(happening, Phase::BackendEjected);
        } else {
            self.open_of_backend(happening, Kind::Ejection, before, counts);
        }
    }

    fn returned(&mut self, happening: &Happening) {
        match self.of_backend(happening, Kind::Ejection) {
            Some(open) => open.find(happening, Phase::BackendReturns, None),
            None => self.add(happening, Phase::BackendReturns),
        }
    }

    fn of_backend(&mut self, happening: &Happening, kind: Kind) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| {
            open.incident.kind == kind
                && open.incident.cluster == happening.cluster
                && open.incident.lost == happening.backend
        })
    }

    fn open_of_backend(
        &mut self,
        happening: &Happening,
        kind: Kind,
        before: Before,
        counts: Counts,
    ) {
        let open = match self.reopen(happening, kind, counts) {
            Some(open) => open,
            None => self.begin(happening, kind, before, counts),
        };
        self.open.push(open);
    }

    /// The same backend's last incident, if that is over for a moment only.
    fn reopen(&mut self, happening: &Happening, kind: Kind, counts: Counts) -> Option<Open> {
        let now = happening.at.instant;
        let is_recent = |incident: &Incident| {
            let closed = incident.closed.map(|it| it.instant);
            closed.is_some_and(|at| now.saturating_duration_since(at) < AGAIN)
        };
        let position = self.closed.iter().rposition(|it| {
            it.kind == kind
                && it.cluster == happening.cluster
                && it.lost == happening.backend
                && is_recent(it)
        })?;
        let mut incident = self.closed.remove(position)?;
        incident.closed = None;
        incident.times += 1;
        // What it has cost so far stays with it.
        let base = counts.since(incident.counts);
        let mut open = Open::new(incident, base);
        open.lose(happening);
        Some(open)
    }

    fn begin(&mut self, happening: &Happening, kind: Kind, before: Before, counts: Counts) -> Open {
        self.last_id += 1;
        self.looked = Some(happening.at.instant);
        let lost = happening.backend.clone();
        let cluster = Arc::clone(&happening.cluster);
        let mut incident = Incident::new(self.last_id, cluster, kind, lost);
        let backend = happening.backend.as_ref();
        if let Some(at) = before.last_good {
            incident.step(Phase::LastGoodAnswer, at, backend, None);
        }
        if let Some((at, cause)) = before.first_error {
            incident.step(Phase::FirstError, at, backend, Some(cause));
        }
        let base = before.last_good.map_or(counts, |_| before.counts);
        let mut open = Open::new(incident, base);
        open.is_orderly = before.first_error.is_some_and(|(_, it)| is_orderly(it));
        open.incident.step(
            Phase::Detected,
            happening.at,
            backend,
            Some(happening.cause),
        );
        open
    }

    /// A step of the cluster's open incident, if there is one.
    fn add(&mut self, happening: &Happening, phase: Phase) {
        if let Some(open) = self.of_cluster(&happening.cluster) {
            let backend = happening.backend.as_ref();
            open.incident
                .step(phase, happening.at, backend, Some(happening.cause));
        }
    }

    fn of_cluster(&mut self, cluster: &Name) -> Option<&mut Open> {
        let mut open = self.open.iter_mut();
        open.find(|open| open.is_of_cluster() && open.incident.cluster == *cluster)
    }

    fn close(&mut self, mut open: Open, now: Moment, cause: Option<Cause>) {
        open.incident.step(Phase::Closed, now, None, cause);
        open.incident.closed = Some(now);
        self.fresh.push(open.incident.clone());
        if self.closed.len() >= MAX_INCIDENTS {
            // One flapping backend must not push out the failovers.
            let small = |it: &Incident| !it.kind.is_of_cluster();
            let oldest = self.closed.iter().position(small).unwrap_or_default();
            self.closed.remove(oldest);
        }
        self.closed.push_back(open.incident);
    }
}

impl Open {
    fn new(incident: Incident, base: Counts) -> Self {
        Self {
            incident,
            base,
            is_orderly: false,
            unpublished: Some(Phase::Fenced),
            released: None,
        }
    }

    /// Of the whole cluster, not of one backend among others.
    fn is_of_cluster(&self) -> bool {
        self.incident.kind.is_of_cluster()
    }

    /// Who was lost has been down without having said that it would be.
    fn has_failed(&self) -> bool {
        let lost = &self.incident.lost;
        self.incident.steps.iter().any(|step| {
            step.phase == Phase::BackendDown
                && step.backend == *lost
                && !step.cause.is_some_and(is_orderly)
        })
    }

    /// What was found, or had never gone away for this incident, is lost.
    fn lose(&mut self, happening: &Happening) {
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

    fn find(&mut self, happening: &Happening, phase: Phase, timeline: Option<u32>) {
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

    fn note_marks(&mut self, facts: Facts, now: Moment) {
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

    fn is_over(&self, now: Instant) -> bool {
        let is_answered = self.incident.at(Phase::FirstGoodAnswer).is_some();
        let is_late = |at: Instant| now.saturating_duration_since(at) >= ANSWER_PATIENCE;
        self.released.is_some_and(|at| is_answered || is_late(at))
    }
}

/// It stepped down or was shut down; nobody does that by accident.
fn is_orderly(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::ShuttingDown | Cause::ClaimsReplica | Cause::ReadOnly | Cause::AdminCommand
    )
}

#[cfg(test)]
mod tests;
