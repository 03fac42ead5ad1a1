//! What a run has cost: lost and doubled writes, errors by class, outages.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use super::PATIENCE;
use super::client::Dialect;
use super::client::Failure;
use super::client::Session;
use super::client::USER;
use super::client::by_class;
use super::wait_for;
use super::workload::Attempt;
use super::workload::Record;

/// A time without acknowledged writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    pub began: Instant,
    pub length: Duration,
}

/// A record compared with what the primary of the end holds.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub acknowledged: usize,
    /// Acknowledged, and not there.
    pub lost: Vec<u64>,
    /// There more than once, acknowledged or not.
    pub doubled: Vec<u64>,
    /// There although the client got an error: its outcome was unknown, and it was done.
    pub done_despite_error: usize,
    /// Ids on the primary that this record never wrote.
    pub foreign: usize,
    /// Everything that failed, statements and connections.
    pub errors: BTreeMap<String, usize>,
    pub failed_statements: usize,
    pub failed_connections: usize,
    /// Statements that reached a node that may not write (25006, 1290, READONLY).
    pub read_only_errors: usize,
    /// The longest time between two acknowledged writes.
    pub outage: Outage,
    /// The same without those that were lost: a loser's acknowledgements end no outage.
    pub outage_of_kept: Outage,
}

impl Record {
    /// Reads the table directly from the node that is primary in the end.
    #[track_caller]
    pub fn verdict(&self, primary: SocketAddr) -> Verdict {
        self.judge(&self.read(primary))
    }

    /// Acknowledged ids on this node, e.g. on one that lost: writes that it accepted.
    #[track_caller]
    pub fn acknowledged_on(&self, node: SocketAddr) -> usize {
        let there = count(&self.read(node));
        let ids = self.acknowledged().filter_map(|attempt| attempt.id);
        ids.filter(|id| there.contains_key(id)).count()
    }

    /// Ids on this node of writes that began after a moment, acknowledged or not.
    #[track_caller]
    pub fn begun_after(&self, moment: Instant, node: SocketAddr) -> usize {
        let there = count(&self.read(node));
        let late = self.attempts.iter().filter(|it| it.began > moment);
        let ids = late.filter_map(|it| it.id);
        ids.filter(|id| there.contains_key(id)).count()
    }

    /// Acknowledged writes that began after a moment and are lost.
    pub fn lost_after(&self, verdict: &Verdict, moment: Instant) -> Vec<u64> {
        let late = self.acknowledged().filter(|it| it.began > moment);
        let ids = late.filter_map(|it| it.id);
        ids.filter(|id| verdict.lost.contains(id)).collect()
    }

    /// What asynchronous replication lost is of the past: of the writes that were acknowledged
    /// and began after a new primary was known, and there were some, each is there.
    #[track_caller]
    pub fn expect_none_lost_after(&self, verdict: &Verdict, known: Instant) {
        let late = self.acknowledged().filter(|it| it.began > known);
        assert!(
            late.count() > 0,
            "nothing was acknowledged since\n{verdict}"
        );
        let lost = self.lost_after(verdict, known).len();
        assert_eq!(lost, 0, "acknowledged since and lost\n{verdict}");
    }

    /// The longest time without an acknowledged write that overlaps `[from, until]`.
    pub fn outage_within(&self, from: Instant, until: Instant) -> Outage {
        let ends = self.acknowledged().map(|attempt| attempt.ended);
        longest_gap(ends, self.began, self.ended, from, until)
    }

    pub fn errors(&self) -> impl Iterator<Item = &Failure> {
        self.attempts
            .iter()
            .filter_map(|attempt| attempt.result.as_ref().err())
    }

    fn acknowledged(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts
            .iter()
            .filter(|attempt| attempt.result.is_ok())
    }

    #[track_caller]
    fn read(&self, node: SocketAddr) -> Vec<u64> {
        let table = &self.table;
        let statement = match self.dialect {
            Dialect::Postgres | Dialect::MariaDb => format!("select id from {table}"),
            Dialect::Redis => format!("LRANGE {table} 0 -1"),
        };
        // MariaDB may still be shutting the table's last writers off.
        let rows = wait_for(PATIENCE, &format!("{table} is read from {node}"), || {
            let mut session = Session::open(self.dialect, node, USER, PATIENCE).ok()?;
            session.query(&statement).ok()
        });
        rows.iter().map(|row| row[0].parse().unwrap()).collect()
    }

    fn judge(&self, found: &[u64]) -> Verdict {
        let there = count(found);
        let mut lost = Vec::new();
        let mut done_despite_error = 0;
        let mut known = 0;
        let mut acknowledged = Vec::new();
        let mut kept = Vec::new();
        for attempt in &self.attempts {
            let Some(id) = attempt.id else { continue };
            let is_there = there.contains_key(&id);
            known += usize::from(is_there);
            if attempt.result.is_err() {
                done_despite_error += usize::from(is_there);
                continue;
            }
            acknowledged.push(attempt.ended);
            if is_there {
                kept.push(attempt.ended);
            } else {
                lost.push(id);
            }
        }
        let mut doubled: Vec<u64> = there
            .iter()
            .filter(|(_, n)| **n > 1)
            .map(|(id, _)| *id)
            .collect();
        doubled.sort_unstable();
        let gap = |ends: &[Instant]| {
            let ends = ends.iter().copied();
            longest_gap(ends, self.began, self.ended, self.began, self.ended)
        };
        let failed = |is: fn(&Failure) -> bool| self.errors().filter(|failure| is(failure)).count();
        Verdict {
            acknowledged: acknowledged.len(),
            lost,
            doubled,
            done_despite_error,
            foreign: there.len() - known,
            errors: by_class(self.errors()),
            failed_statements: failed(|failure| !failure.is_connect()),
            failed_connections: failed(Failure::is_connect),
            read_only_errors: failed(Failure::is_read_only),
            outage: gap(&acknowledged),
            outage_of_kept: gap(&kept),
        }
    }
}

impl Verdict {
    /// Every acknowledged write is there exactly once, and there were some.
    #[track_caller]
    pub fn expect_intact(&self) {
        assert!(self.acknowledged > 0, "nothing was acknowledged");
        assert!(self.lost.is_empty(), "lost {:?}\n{self}", self.lost);
        self.expect_none_doubled();
    }

    /// Asynchronous replication may lose; nothing may write twice, or what nobody asked for.
    #[track_caller]
    pub fn expect_none_doubled(&self) {
        assert!(
            self.doubled.is_empty(),
            "doubled {:?}\n{self}",
            self.doubled
        );
        assert_eq!(self.foreign, 0, "ids that nobody wrote\n{self}");
    }

    /// What the proxy cost beyond what no proxy could avoid.
    pub fn added_outage(&self, oracle: &Self) -> Duration {
        let (ours, baseline) = (self.outage.length, oracle.outage_of_kept.length);
        ours.saturating_sub(baseline)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged, {} lost, {} doubled, {} done despite an error; {} statements and {} \
             connections failed {:?}; outage {:?} ({:?} of kept writes)",
            self.acknowledged,
            self.lost.len(),
            self.doubled.len(),
            self.done_despite_error,
            self.failed_statements,
            self.failed_connections,
            self.errors,
            self.outage.length,
            self.outage_of_kept.length,
        )
    }
}

fn count(ids: &[u64]) -> HashMap<u64, usize> {
    let mut times = HashMap::new();
    for id in ids {
        *times.entry(*id).or_insert(0) += 1;
    }
    times
}

/// `ends` in order; the run's own ends count, too: writes that never resume are an outage.
fn longest_gap(
    ends: impl Iterator<Item = Instant>,
    first: Instant,
    last: Instant,
    from: Instant,
    until: Instant,
) -> Outage {
    let mut longest = Outage {
        began: first,
        length: Duration::ZERO,
    };
    let mut previous = first;
    for end in ends.chain([last]) {
        let length = end.saturating_duration_since(previous);
        if length > longest.length && end >= from && previous <= until {
            longest = Outage {
                began: previous,
                length,
            };
        }
        previous = previous.max(end);
    }
    longest
}
