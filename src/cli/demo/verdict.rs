//! What the demo measured, and which of its promises were broken.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::cli::demo::ledger::Doing;
use crate::cli::demo::ledger::Failure;
use crate::cli::demo::ledger::Phase;
use crate::cli::demo::ledger::Purpose;
use crate::cli::demo::ledger::Records;

/// What Evergate may add to an outage whose end the promotion is: some fast checks, and clients
/// that come back at a pace; most of it is for machines that have much else to do.
const MAX_ADDED_OUTAGE: Duration = Duration::from_secs(5);
/// Processes of a server that was killed end a little later than it does.
const DYING_TIME: Duration = Duration::from_millis(500);

/// A primary's end and its successor's beginning. All times are since the demo's start.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    pub phase: Phase,
    /// The last primary was about to end …
    pub began: Duration,
    /// … and nothing of it was left.
    pub done: Duration,
    /// The routing table knew that it was gone.
    pub detected: Option<Duration>,
    /// Its successor could be written to.
    pub promoted: Duration,
    /// The routing table had the successor as primary.
    pub seen: Option<Duration>,
    /// A client's write was acknowledged by it.
    pub first_write: Option<Duration>,
}

/// The old primary's return as a second primary.
#[derive(Debug, Clone)]
pub struct Return {
    pub fenced: Option<Duration>,
    /// What it had when it came back, and before it became a replica.
    pub rows: BTreeSet<u64>,
    pub rows_written: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct Drain {
    pub port: u16,
    /// The command was answered.
    pub in_force: Duration,
    pub over: Duration,
}

#[derive(Debug, Clone, Copy)]
pub struct Reload {
    pub is_in_force: bool,
    /// The bad file changed nothing and was told of.
    pub is_bad_refused: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct End {
    pub severed: usize,
    pub load_finished: bool,
}

/// The whole run. A step that was not reached is `None`.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    pub records: Records,
    pub outages: Vec<Outage>,
    pub back: Option<Return>,
    pub drain: Option<Drain>,
    pub reload: Option<Reload>,
    pub end: Option<End>,
    /// In the end: each identifier, and how often.
    pub rows: BTreeMap<u64, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    Writes,
    ReadOnly,
    Connections,
    Sessions,
    Fence,
    Time,
    Drain,
    Reload,
    End,
    Tested,
}

/// A promise that was not kept, and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub promise: Promise,
    pub found: String,
}

/// What became of acknowledged writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fate {
    pub acknowledged: usize,
    /// Only the primary that was killed had them.
    pub unreplicated: usize,
    pub lost: usize,
    /// Of all writes, acknowledged or not.
    pub doubled: usize,
}

impl Promise {
    pub const ALL: [Self; 10] = [
        Self::Writes,
        Self::ReadOnly,
        Self::Connections,
        Self::Sessions,
        Self::Fence,
        Self::Time,
        Self::Drain,
        Self::Reload,
        Self::End,
        Self::Tested,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Writes => "every acknowledged write that was replicated is there, exactly once",
            Self::ReadOnly => "no client was told that it writes to a read-only server",
            Self::Connections => {
                "every new connection reached a server, or was held until one was there"
            }
            Self::Sessions => "no session was cut but those of a primary that ended",
            Self::Fence => {
                "the old primary came back as primary, was fenced and was never written to"
            }
            Self::Time => "writes went on soon after each promotion",
            Self::Drain => "a drained replica got no new session",
            Self::Reload => "a good file was taken and a bad one refused",
            Self::End => "the end severed nobody",
            Self::Tested => "every step was taken under load",
        }
    }
}

impl Outage {
    /// Writes nobody took although the successor could be written to.
    pub fn added(&self) -> Option<Duration> {
        self.first_write.map(|at| at.saturating_sub(self.promoted))
    }

    fn explains(&self, failure: &Failure) -> bool {
        let slack = match failure.doing {
            Doing::Connecting => Duration::ZERO,
            Doing::Asking | Doing::Idling => DYING_TIME,
        };
        failure.purpose == Purpose::Write
            && !failure.trouble.is_read_only()
            && failure.begun <= self.done + slack
            && failure.at >= self.began
    }
}

impl Measured {
    /// Whether a failure is the doing of a primary that ended.
    pub fn is_explained(&self, failure: &Failure) -> bool {
        self.outages.iter().any(|outage| outage.explains(failure))
    }

    pub fn fate(&self) -> Fate {
        let mut fate = Fate {
            acknowledged: self.records.writes.len(),
            doubled: self.rows.values().filter(|times| **times > 1).count(),
            ..Fate::default()
        };
        let kill = self.outages.first().map(|outage| outage.done);
        for write in &self.records.writes {
            if self.rows.contains_key(&write.id) {
                continue;
            }
            let had = self
                .back
                .as_ref()
                .is_some_and(|back| back.rows.contains(&write.id));
            let is_older = kill.is_some_and(|kill| write.at <= kill + DYING_TIME);
            if had && is_older {
                fate.unreplicated += 1;
            } else {
                fate.lost += 1;
            }
        }
        fate
    }
}

/// Everything that was not as promised.
pub fn broken(measured: &Measured) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut find = |promise, is_kept: bool, found: String| {
        if !is_kept {
            broken.push(Broken { promise, found });
        }
    };
    let fate = measured.fate();
    let found = format!("{} lost, {} doubled", fate.lost, fate.doubled);
    find(Promise::Writes, fate.lost + fate.doubled == 0, found);
    for failure in &measured.records.failures {
        let promise = match failure.doing {
            _ if failure.trouble.is_read_only() => Promise::ReadOnly,
            Doing::Connecting => Promise::Connections,
            Doing::Asking | Doing::Idling => Promise::Sessions,
        };
        let (at, phase) = (failure.at.as_secs_f64(), failure.phase.as_str());
        let found = format!(
            "{:?} while {:?} at {at:.3} s, in step {phase}: {}",
            failure.purpose, failure.doing, failure.trouble
        );
        find(promise, measured.is_explained(failure), found);
    }
    for outage in &measured.outages {
        let is_soon = outage
            .added()
            .is_some_and(|added| added <= MAX_ADDED_OUTAGE);
        let phase = outage.phase.as_str();
        let added = outage.added();
        find(
            Promise::Time,
            is_soon,
            format!("step {phase}: added {added:?}"),
        );
    }
    if let Some(back) = &measured.back {
        let (before, after) = (back.rows.len(), back.rows_written);
        let is_fenced = back.fenced.is_some() && before == after;
        let found = format!("fenced: {:?}, {before} rows became {after}", back.fenced);
        find(Promise::Fence, is_fenced, found);
    }
    if let Some(drain) = &measured.drain {
        let late = drain.late_sessions(&measured.records);
        find(Promise::Drain, late == 0, format!("{late} new sessions"));
    }
    if let Some(reload) = measured.reload {
        let is_kept = reload.is_in_force && reload.is_bad_refused;
        find(Promise::Reload, is_kept, format!("{reload:?}"));
    }
    if let Some(end) = measured.end {
        let is_kept = end.severed == 0 && end.load_finished;
        find(Promise::End, is_kept, format!("{end:?}"));
    }
    let untested = untested(measured);
    find(Promise::Tested, untested.is_empty(), untested.join(", "));
    broken
}

fn untested(measured: &Measured) -> Vec<&'static str> {
    let Measured {
        records,
        outages,
        back,
        drain,
        reload,
        end,
        ..
    } = measured;
    let steps = [
        ("no failover and switchover", outages.len() == 2),
        ("no return", back.is_some()),
        ("no drain", drain.is_some()),
        ("no reload", reload.is_some()),
        ("no end", end.is_some()),
    ];
    let skipped = steps.into_iter().filter(|(_, taken)| !taken);
    let mut untested: Vec<_> = skipped.map(|(words, _)| words).collect();
    for phase in Phase::ALL {
        let counts = records.counts[phase as usize];
        if phase != Phase::End && (counts.writes == 0 || counts.reads == 0) {
            untested.push(phase.as_str());
        }
    }
    untested
}

impl Drain {
    /// Sessions that it got although they began when the drain was in force.
    pub fn late_sessions(&self, records: &Records) -> usize {
        let openings = records.openings.iter();
        openings
            .filter(|opening| opening.port == self.port && opening.purpose == Purpose::Read)
            .filter(|opening| opening.begun >= self.in_force && opening.greeted <= self.over)
            .count()
    }
}

#[cfg(test)]
mod tests;
