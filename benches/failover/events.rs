//! What happens to the cluster, and its repair for the next run.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::figures::Run;
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
use crate::writers::Change;
use crate::writers::Load;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Switchover,
    Kill,
    Hang,
    ReplicaKilled,
    SplitBrain,
}

/// What serves all runs of an event: a cluster, and for most events all stacks in front of it.
pub struct Stage {
    event: Event,
    /// Stopped before the cluster: their logs stay free of its end. Empty: each run starts its own.
    stacks: Vec<Running>,
    /// `None`: each run makes its own.
    cluster: Option<PatroniCluster>,
}

/// Late consequences of an event, e.g. sessions that are closed by a check, come in this time.
const AFTERMATH: Duration = Duration::from_secs(1);
/// HAProxy's template takes 3 × 3 s to find a dead replica.
const LONGEST_CHECK: Duration = Duration::from_secs(10);
/// Until all stacks use a replica. They have just been started, so that nothing keeps them from it.
const LONGEST_WAIT_FOR_USE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(10);

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
        let stacks = match event {
            Event::ReplicaKilled => Vec::new(),
            _ => Stack::start_all(&nodes, event.intent()),
        };
        Self {
            event,
            stacks,
            cluster: Some(cluster),
        }
    }

    /// One run: load, event, judgement, repair.
    pub fn run(&mut self) -> Run {
        let Some(cluster) = &self.cluster else {
            return split::run();
        };
        for stack in &self.stacks {
            stack.wait_until_it_serves(self.event.intent());
        }
        match self.event {
            Event::ReplicaKilled => kill_a_replica(cluster),
            _ => self.change_the_primary(cluster),
        }
    }

    fn change_the_primary(&self, cluster: &PatroniCluster) -> Run {
        let load = Load::start(&self.stacks, &Nodes::of(cluster));
        let old = cluster.leader();
        let began = Instant::now();
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
        let change = Change {
            began,
            taken_over,
            primary: new.addr(),
        };
        let run = load.judge(change, &stuck);

        if self.event == Event::Kill {
            old.start();
        }
        cluster.wait_until_complete();
        new.sql(&writers::clean_up());
        run
    }
}

/// Stacks that have lived through other runs avoid a replica that dies again and again, rightly:
/// two checks have to pass, Evergate's damping lets it wait for up to a minute, and PgBouncer has
/// its connections elsewhere. Their clients would lose nothing, so each run has fresh stacks.
fn kill_a_replica(cluster: &PatroniCluster) -> Run {
    let (victim, survivor) = (cluster.replica(0), cluster.replica(1));
    let stacks = Stack::start_all(&Nodes::of(cluster), Intent::Read);
    let oracle = Readers::start("(a reader of the other replica)", survivor.addr());
    let readers: Vec<Readers> = stacks
        .iter()
        .map(|running| Readers::start(running.stack.name(), running.addr))
        .collect();
    wait_until_all_use(victim, &readers);
    let began = Instant::now();
    victim.kill_9();
    thread::sleep(LONGEST_CHECK);
    for readers in &readers {
        readers.wait_for_answers(1);
    }
    let mut samples: Vec<Sample> = readers.into_iter().map(|it| it.finish(began)).collect();
    let baseline = oracle.finish(began);
    let silence = baseline.added_outage;
    for sample in &mut samples {
        sample.added_outage = sample.added_outage.saturating_sub(silence);
    }
    samples.push(baseline);
    drop(stacks);

    victim.start();
    cluster.wait_until_complete();
    Run { samples, silence }
}

/// All at the same time: a stack that has no client there when it dies has nothing to lose.
fn wait_until_all_use(victim: &PatroniNode, readers: &[Readers]) {
    let started = Instant::now();
    while let Some(spared) = readers.iter().find(|it| !it.use_server(victim.addr())) {
        assert!(
            started.elapsed() < LONGEST_WAIT_FOR_USE,
            "waited {LONGEST_WAIT_FOR_USE:?} in vain: {} uses {}, which is to be killed",
            spared.name(),
            victim.name()
        );
        thread::sleep(LOOK_EVERY);
    }
}

fn switch_over(cluster: &PatroniCluster) -> &PatroniNode {
    let candidate = cluster.replica(0);
    cluster.switch_over_to(candidate);
    candidate
}
