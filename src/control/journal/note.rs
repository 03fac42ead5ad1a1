//! What a happening means for the incidents: which it begins, goes on with or changes.

use std::sync::Arc;

use crate::cluster::Health;
use crate::cluster::Name;
use crate::cluster::Role;
use crate::control::happening::Before;
use crate::control::happening::Happening;
use crate::control::happening::What;
use crate::control::journal::AGAIN;
use crate::control::journal::Incident;
use crate::control::journal::Journal;
use crate::control::journal::Kind;
use crate::control::journal::Phase;
use crate::control::journal::open::Open;
use crate::control::journal::open::is_orderly;
use crate::routing::Counts;

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
}
