//! What happens to the cluster, and its repair for the next run.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::figures::Sample;
use crate::nodes::Intent;
use crate::nodes::Nodes;
use crate::readers::Readers;
use crate::split;
use crate::stacks::Running;
use crate::stacks::Stack;
use crate::support::patroni::PatroniCluster;
use crate::support::patroni::PatroniNode;
use crate::writers;
use crate::writers::Load;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Switchover,
    Kill,
    Hang,
    ReplicaKilled,
    SplitBrain,
}

/// A cluster with all stacks in front of it; both serve all runs of an event.
pub struct Stage {
    event: Event,
    // Stopped before the cluster: their logs stay free of its end.
    stacks: Vec<Running>,
    /// `None`: each run makes its own.
    cluster: Option<PatroniCluster>,
}

/// Late consequences of an event, e.g. sessions that are closed by a check, come in this time.
const AFTERMATH: Duration = Duration::from_secs(1);
/// HAProxy's template takes 3 × 3 s to find a dead replica.
const LONGEST_CHECK: Duration = Duration::from_secs(10);

impl Event {
    pub const ALL: [Self; 5] = [
        Self::Switchover,
        Self::Kill,
        Self::Hang,
        Self::ReplicaKilled,
        Self::SplitBrain,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Switchover => "planned switchover (Patroni)",
            Self::Kill => "kill -9 of the primary (Patroni)",
            Self::Hang => "hang of the primary and its thaw (Patroni)",
            Self::ReplicaKilled => "kill -9 of a read replica (Patroni)",
            Self::SplitBrain => "split brain: pg_promote beside a live primary",
        }
    }

    fn intent(self) -> Intent {
        match self {
            Self::ReplicaKilled => Intent::Read,
            _ => Intent::Write,
        }
    }
}

impl Stage {
    pub fn set_for(event: Event) -> Self {
        if event == Event::SplitBrain {
            return Self {
                event,
                stacks: Vec::new(),
                cluster: None,
            };
        }
        let cluster = PatroniCluster::start();
        let nodes = Nodes::of(&cluster);
        let start = |stack: Stack| stack.start(&nodes, event.intent());
        Self {
            event,
            stacks: Stack::ALL.map(start).into(),
            cluster: Some(cluster),
        }
    }

    /// One run: load, event, judgement, repair.
    pub fn run(&mut self) -> Vec<Sample> {
        let Some(cluster) = &self.cluster else {
            return split::run();
        };
        for stack in &self.stacks {
            stack.wait_until_it_serves(self.event.intent());
        }
        match self.event {
            Event::ReplicaKilled => self.kill_a_replica(cluster),
            _ => self.change_the_primary(cluster),
        }
    }

    fn change_the_primary(&self, cluster: &PatroniCluster) -> Vec<Sample> {
        let load = Load::start(&self.stacks, &Nodes::of(cluster));
        let old = cluster.leader();
        let new = match self.event {
            Event::Switchover => switch_over(cluster),
            Event::Kill => {
                cluster.kill_leader();
                cluster.expire_the_leader();
                cluster.leader()
            }
            _ => {
                old.freeze();
                cluster.expire_the_leader();
                cluster.leader()
            }
        };
        let taken_over = Instant::now();
        let stuck = load.wait_for_every_writer();
        if self.event == Event::Hang {
            // Whoever still had a session there, or a statement on its way, meets it again.
            old.thaw();
            old.wait_for_sql("select pg_is_in_recovery()", "t");
        }
        thread::sleep(AFTERMATH);
        let samples = load.judge(new.addr(), taken_over, &stuck);

        if self.event == Event::Kill {
            old.start();
        }
        cluster.wait_until_complete();
        new.sql(&writers::clean_up());
        samples
    }

    fn kill_a_replica(&self, cluster: &PatroniCluster) -> Vec<Sample> {
        let (victim, survivor) = (cluster.replica(0), cluster.replica(1));
        let oracle = Readers::start("(a reader of the other replica)", survivor.addr());
        let readers = self.stacks.iter();
        let readers: Vec<Readers> = readers
            .map(|running| Readers::start(running.stack.name(), running.addr))
            .collect();
        let began = Instant::now();
        victim.kill_9();
        thread::sleep(LONGEST_CHECK);
        for readers in &readers {
            readers.wait_for_answers(1);
        }
        let mut samples: Vec<Sample> = readers.into_iter().map(|it| it.finish(began)).collect();
        let baseline = oracle.finish(began);
        for sample in &mut samples {
            sample.added_outage = sample.added_outage.saturating_sub(baseline.added_outage);
        }
        samples.push(baseline);

        victim.start();
        cluster.wait_until_complete();
        samples
    }
}

fn switch_over(cluster: &PatroniCluster) -> &PatroniNode {
    let candidate = cluster.replica(0);
    cluster.switch_over_to(candidate);
    candidate
}
