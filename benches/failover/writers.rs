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

pub struct Load {
    loads: Vec<(Stack, Workload)>,
    oracle: OracleWriter,
}

impl Load {
    pub fn start(stacks: &[Running], nodes: &Nodes) -> Self {
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
        Self { loads, oracle }
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

    /// Compares all that writers saw with what `primary` holds, which took over at `taken_over`.
    pub fn judge(self, primary: SocketAddr, taken_over: Instant, stuck: &[Stack]) -> Run {
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
                let mut sample = sample(stack.name(), record, &verdict, taken_over);
                sample.added_outage = verdict.added_outage(&baseline);
                sample.stuck = stuck.contains(stack);
                sample
            })
            .collect();
        let mut oracle = sample(
            "(the oracle's outage itself)",
            &oracle,
            &baseline,
            taken_over,
        );
        oracle.added_outage = baseline.outage_of_kept.length;
        // It knocks at every node all the time: its errors say nothing.
        oracle.errors.clear();
        (oracle.failed_connections, oracle.read_only_errors) = (None, None);
        samples.push(oracle);
        Run { samples, silence }
    }
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

fn sample(name: &'static str, record: &Record, verdict: &Verdict, taken_over: Instant) -> Sample {
    let lost: HashSet<u64> = verdict.lost.iter().copied().collect();
    // Not on the primary, so somebody else has acknowledged it, when there was a primary already.
    let by_loser = record.attempts.iter().filter(|attempt| {
        attempt.result.is_ok()
            && attempt.began > taken_over
            && attempt.id.is_some_and(|id| lost.contains(&id))
    });
    Sample {
        name,
        added_outage: Duration::ZERO,
        stuck: false,
        errors: verdict.errors.clone(),
        failed_connections: Some(verdict.failed_connections),
        read_only_errors: Some(verdict.read_only_errors),
        writes: Some(Writes {
            by_loser: by_loser.count(),
            lost: lost.len(),
            doubled: verdict.doubled.len(),
        }),
    }
}
