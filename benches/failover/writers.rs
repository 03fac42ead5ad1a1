//! The load of writers: the same through every stack, and an oracle that goes round them all.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::figures::Run;
use crate::figures::Sample;
use crate::figures::Writes;
use crate::figures::longest_gap;
use crate::nodes::Nodes;
use crate::recorder::Noted;
use crate::stacks::Running;
use crate::stacks::Stack;
use crate::support::client::Dialect;
use crate::support::verdict::Verdict;
use crate::support::workload::OracleWriter;
use crate::support::workload::Record;
use crate::support::workload::Workload;

/// Six stacks share two cores with three servers: more writes would measure the queue for them.
const PAUSE: Duration = Duration::from_millis(10);
/// Writes of each stack that show that its load is under way.
const SOME: u64 = 100;
/// Between two checks of whoever has just been started: events fall anywhere between them.
const LONGEST_INTERVAL: Duration = Duration::from_secs(3);

pub struct Load<'stacks> {
    stacks: &'stacks [Running],
    loads: Vec<(Stack, Workload)>,
    oracle: OracleWriter,
}

/// When and to whom the primary changed.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    pub began: Instant,
    /// The new primary takes writes.
    pub taken_over: Instant,
    pub primary: SocketAddr,
}

impl<'stacks> Load<'stacks> {
    pub fn start(stacks: &'stacks [Running], nodes: &Nodes) -> Self {
        let oracle = OracleWriter::start(Dialect::Postgres, &nodes.addrs());
        let load = |running: &Running| {
            let workload = Workload::through(Dialect::Postgres, running.addr);
            let table = table_of(running.stack);
            (running.stack, workload.table(&table).pause(PAUSE).start())
        };
        let loads: Vec<_> = stacks.iter().map(load).collect();
        for (_, load) in &loads {
            load.wait_for_writes(SOME);
        }
        thread::sleep(fastrand::u32(..=100) * (LONGEST_INTERVAL / 100));
        Self {
            stacks,
            loads,
            oracle,
        }
    }

    /// Until each writer of each stack writes again; returns the stacks where one does not in 40 s.
    pub fn wait_for_every_writer(&self) -> Vec<Stack> {
        thread::scope(|scope| {
            let waiting: Vec<_> = self
                .loads
                .iter()
                .map(|(stack, load)| (*stack, scope.spawn(|| load.wait_for_every_writer())))
                .collect();
            let stuck = waiting.into_iter().filter_map(|(stack, waiting)| {
                // A wait in vain panics, and has said so.
                waiting.join().is_err().then_some(stack)
            });
            stuck.collect()
        })
    }

    /// Compares all that writers saw with what the new primary holds.
    pub fn judge(self, change: Change, stuck: &[Stack]) -> Run {
        let primary = change.primary;
        let notes: Vec<(Stack, Option<Noted>)> = self
            .stacks
            .iter()
            .map(|running| (running.stack, running.noted(change.began)))
            .collect();
        let records: Vec<(Stack, Record)> = self
            .loads
            .into_iter()
            .map(|(stack, load)| (stack, load.finish()))
            .collect();
        let oracle = self.oracle.finish();
        let silence = silence_of(&oracle);
        let baseline = oracle.verdict(primary);
        let mut samples: Vec<Sample> = records
            .iter()
            .map(|(stack, record)| {
                let verdict = record.verdict(primary);
                let succeeded = known_by(*stack, &notes);
                let mut sample = sample(stack.name(), record, &verdict, change, succeeded);
                sample.added_outage = verdict.added_outage(&baseline);
                sample.detected_after = noted_by(*stack, &notes)
                    .and_then(|noted| noted.detected)
                    .map(|at| at.saturating_duration_since(change.began));
                sample.stuck = stuck.contains(stack);
                sample
            })
            .collect();
        let name = "(the oracle's outage itself)";
        let mut oracle = sample(name, &oracle, &baseline, change, None);
        oracle.added_outage = baseline.outage_of_kept.length;
        // It knocks at every node all the time: its errors say nothing.
        oracle.errors.clear();
        (oracle.failed_connections, oracle.read_only_errors) = (None, None);
        samples.push(oracle);
        Run { samples, silence }
    }
}

fn noted_by(stack: Stack, notes: &[(Stack, Option<Noted>)]) -> Option<Noted> {
    let mut notes = notes.iter();
    notes.find(|(other, _)| *other == stack)?.1
}

/// When this stack could have known of the new primary: who has no record is held against
/// Evergate's.
fn known_by(stack: Stack, notes: &[(Stack, Option<Noted>)]) -> Option<Instant> {
    let noted = noted_by(stack, notes).or_else(|| noted_by(Stack::Evergate, notes));
    noted?.succeeded
}

/// Statements that remove what the load has written.
pub fn clean_up() -> String {
    let tables = Stack::ALL.map(table_of).join(", ");
    format!("drop table if exists oracle_writes, {tables}")
}

fn table_of(stack: Stack) -> String {
    format!("writes_{}", stack.short())
}

/// The longest time in which no attempt ended at any node, well or badly.
fn silence_of(oracle: &Record) -> Duration {
    let ends = oracle.attempts.iter().map(|attempt| attempt.ended);
    longest_gap(oracle.began, ends, oracle.ended)
}

fn sample(
    name: &'static str,
    record: &Record,
    verdict: &Verdict,
    change: Change,
    succeeded: Option<Instant>,
) -> Sample {
    let lost: HashSet<u64> = verdict.lost.iter().copied().collect();
    // Not on the primary, so somebody else has acknowledged it, when there was a primary already.
    let by_loser_since = |moment: Instant| {
        let late = record.attempts.iter().filter(|attempt| {
            attempt.result.is_ok()
                && attempt.began > moment
                && attempt.id.is_some_and(|id| lost.contains(&id))
        });
        late.count()
    };
    Sample {
        name,
        added_outage: Duration::ZERO,
        detected_after: None,
        stuck: false,
        errors: verdict.errors.clone(),
        failed_connections: Some(verdict.failed_connections),
        read_only_errors: Some(verdict.read_only_errors),
        writes: Some(Writes {
            by_loser: by_loser_since(change.taken_over),
            by_known_loser: succeeded.map(by_loser_since),
            lost: lost.len(),
            doubled: verdict.doubled.len(),
        }),
    }
}
