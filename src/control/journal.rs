//! The flight recorder: happenings in, one record per incident out.
//!
//! Pure and bounded. It lives as long as the process: reloads do not touch it, a restart
//! begins a new one.

mod incident;
mod note;
mod open;

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::Name;
use crate::control::backend::Moment;
use crate::control::journal::open::Open;
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

impl Journal {
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

#[cfg(test)]
mod tests;
