//! A database cluster as it really is, whatever anybody has seen of it.
//!
//! One model for all protocols: nodes have histories that fork when two are
//! primary, are cut off, hang, crash, and come back as what they were.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::Cause;
use crate::control::evidence::Evidence;
use crate::control::evidence::MySqlDialect;
use crate::control::evidence::MySqlEvidence;
use crate::control::evidence::PostgresEvidence;
use crate::control::evidence::RedisEvidence;

/// Which database the nodes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Postgres,
    MySql,
    Redis,
}

impl Family {
    pub const ALL: [Self; 3] = [Self::Postgres, Self::MySql, Self::Redis];
}

/// Something that happens to the cluster. One that makes no sense at the time does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Primaries take a write each; their replicas get it.
    Write,
    Crash(usize),
    /// It comes back as what it was.
    Restart(usize),
    Hang(usize),
    Thaw(usize),
    /// We cannot reach it; the others can.
    Cut(usize),
    Heal(usize),
    Promote(usize),
    /// It follows nobody and takes no writes.
    Demote(usize),
    /// The first becomes a copy of the second and follows it.
    Rejoin(usize, usize),
    /// Replication to it stands still.
    Lag(usize),
    CatchUp(usize),
    /// Its sessions leave no connection to a health check.
    Fill(usize),
    Drain(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Running,
    Hung,
    Crashed,
}

/// What a node has on disk.
#[derive(Debug, Clone)]
struct History {
    /// Of promotions and restarts into a new history: names of branches, oldest first.
    branches: Vec<u32>,
    timeline: u32,
    lsn: u64,
    /// Writes by the node that took them.
    writes: BTreeMap<usize, u64>,
}

#[derive(Debug, Clone)]
struct Node {
    process: Process,
    is_cut: bool,
    is_primary: bool,
    lags: bool,
    is_full: bool,
    follows: Option<usize>,
    history: History,
}

#[derive(Debug, Clone)]
pub struct TrueCluster {
    family: Family,
    nodes: Vec<Node>,
    branches: u32,
    highest_timeline: u32,
}

impl TrueCluster {
    /// The first node is primary, the others follow it.
    pub fn new(family: Family, size: usize) -> Self {
        let history = History {
            branches: vec![0],
            timeline: 1,
            lsn: 1000,
            writes: [(0, 5)].into(),
        };
        let node = |index| Node {
            process: Process::Running,
            is_cut: false,
            is_primary: index == 0,
            lags: false,
            is_full: false,
            follows: (index != 0).then_some(0),
            history: history.clone(),
        };
        Self {
            family,
            nodes: (0..size).map(node).collect(),
            branches: 0,
            highest_timeline: 1,
        }
    }

    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// Any fault, rather likely to make sense.
    pub fn random_fault(&self, random: &mut fastrand::Rng) -> Fault {
        let node = random.usize(..self.nodes.len());
        let other = random.usize(..self.nodes.len());
        match random.u32(..22) {
            0..7 => Fault::Write,
            7..9 => Fault::Crash(node),
            9..12 => Fault::Restart(node),
            12 => Fault::Hang(node),
            13 => Fault::Thaw(node),
            14 => Fault::Cut(node),
            15 => Fault::Heal(node),
            16..18 => Fault::Promote(node),
            18 => Fault::Demote(node),
            19 => Fault::Fill(node),
            20 => Fault::Drain(node),
            _ => Fault::Rejoin(node, other),
        }
    }

    pub fn befall(&mut self, fault: Fault) {
        match fault {
            Fault::Write => self.write(),
            Fault::Crash(node) => self.nodes[node].process = Process::Crashed,
            Fault::Restart(node) => self.restart(node),
            Fault::Hang(node) if self.is_running(node) => self.nodes[node].process = Process::Hung,
            Fault::Thaw(node) if self.nodes[node].process == Process::Hung => {
                self.nodes[node].process = Process::Running;
            }
            Fault::Cut(node) => self.nodes[node].is_cut = true,
            Fault::Heal(node) => self.nodes[node].is_cut = false,
            Fault::Promote(node) => self.promote(node),
            Fault::Demote(node) if self.is_running(node) && self.nodes[node].is_primary => {
                self.nodes[node].is_primary = false;
            }
            Fault::Rejoin(node, primary) => self.rejoin(node, primary),
            Fault::Lag(node) => self.nodes[node].lags = true,
            Fault::CatchUp(node) => self.nodes[node].lags = false,
            Fault::Fill(node) => self.nodes[node].is_full = true,
            Fault::Drain(node) => self.nodes[node].is_full = false,
            Fault::Hang(_) | Fault::Thaw(_) | Fault::Demote(_) => {}
        }
    }

    /// Faults stop: everybody runs and is reached, one of those on the highest timeline
    /// is primary, and all others follow it. Returns that one.
    pub fn calm_down(&mut self, random: &mut fastrand::Rng) -> usize {
        for node in 0..self.nodes.len() {
            self.befall(Fault::Heal(node));
            self.befall(Fault::Thaw(node));
            self.befall(Fault::Restart(node));
            self.befall(Fault::CatchUp(node));
            self.befall(Fault::Drain(node));
        }
        let timeline = |node: &Node| node.history.timeline;
        let highest = self.nodes.iter().map(timeline).max().unwrap_or_default();
        let nodes = 0..self.nodes.len();
        let best: Vec<usize> = nodes
            .filter(|node| timeline(&self.nodes[*node]) == highest)
            .collect();
        let chosen = best[random.usize(..best.len())];
        // Whoever was on the highest timeline may have been overwritten since.
        while !self.nodes[chosen].is_primary
            || timeline(&self.nodes[chosen]) < self.highest_timeline
        {
            self.nodes[chosen].is_primary = false;
            self.promote(chosen);
        }
        for node in 0..self.nodes.len() {
            self.rejoin(node, chosen);
        }
        self.write();
        chosen
    }

    /// What a probe of it finds at this moment.
    pub fn answer(&self, node: usize) -> Result<Evidence, Cause> {
        let seen = &self.nodes[node];
        match (seen.is_cut, seen.process) {
            (true, _) | (_, Process::Hung) => Err(Cause::CheckTimeout),
            (_, Process::Crashed) => Err(Cause::ConnectRefused),
            (_, Process::Running) if seen.is_full => Err(Cause::TooManyConnections),
            (_, Process::Running) => Ok(match self.family {
                Family::Postgres => Evidence::Postgres(postgres(seen)),
                Family::MySql => Evidence::MySql(mysql(seen)),
                Family::Redis => Evidence::Redis(self.redis(seen)),
            }),
        }
    }

    /// What a new connection of ours meets; `None`: no answer.
    pub fn dial(&self, node: usize) -> Option<Result<(), Cause>> {
        let node = &self.nodes[node];
        match (node.is_cut, node.process) {
            (true, _) | (_, Process::Hung) => None,
            (_, Process::Crashed) => Some(Err(Cause::ConnectRefused)),
            (_, Process::Running) => Some(Ok(())),
        }
    }

    /// A client writes over a connection of ours; `None`: no answer.
    pub fn take_write(&mut self, node: usize) -> Option<Result<(), Cause>> {
        match self.dial(node)? {
            Err(_) => Some(Err(Cause::Reset)),
            Ok(()) if !self.nodes[node].is_primary => Some(Err(Cause::ReadOnly)),
            Ok(()) => {
                self.write_at(node);
                self.replicate();
                Some(Ok(()))
            }
        }
    }

    pub fn timeline(&self, node: usize) -> u32 {
        self.nodes[node].history.timeline
    }

    fn is_running(&self, node: usize) -> bool {
        self.nodes[node].process == Process::Running
    }

    fn write(&mut self) {
        for node in 0..self.nodes.len() {
            if self.is_running(node) && self.nodes[node].is_primary {
                self.write_at(node);
            }
        }
        self.replicate();
    }

    fn write_at(&mut self, node: usize) {
        let history = &mut self.nodes[node].history;
        history.lsn += 10;
        *history.writes.entry(node).or_default() += 1;
    }

    fn replicate(&mut self) {
        for node in 0..self.nodes.len() {
            let Some(primary) = self.upstream(node) else {
                continue;
            };
            self.nodes[node].history = self.nodes[primary].history.clone();
        }
    }

    /// Whom it really gets its writes from.
    fn upstream(&self, node: usize) -> Option<usize> {
        let primary = self.nodes[node].follows?;
        let (own, theirs) = (&self.nodes[node].history, &self.nodes[primary].history);
        let has_not_parted = own
            .writes
            .iter()
            .all(|(author, count)| theirs.writes.get(author) >= Some(count));
        let works = self.is_running(node)
            && !self.nodes[node].lags
            && self.is_running(primary)
            && self.nodes[primary].is_primary
            && has_not_parted
            && theirs.branches.starts_with(&own.branches);
        works.then_some(primary)
    }

    fn restart(&mut self, node: usize) {
        if self.nodes[node].process != Process::Crashed {
            return;
        }
        self.nodes[node].process = Process::Running;
        // Redis: nobody else can continue from where it was.
        if self.family == Family::Redis && self.nodes[node].is_primary {
            self.branches += 1;
            self.nodes[node].history.branches = vec![self.branches];
        }
    }

    fn promote(&mut self, node: usize) {
        if !self.is_running(node) || self.nodes[node].is_primary {
            return;
        }
        self.branches += 1;
        let promoted = &mut self.nodes[node];
        promoted.is_primary = true;
        promoted.follows = None;
        promoted.history.branches.push(self.branches);
        promoted.history.timeline += 1;
        self.highest_timeline = self.highest_timeline.max(promoted.history.timeline);
    }

    fn rejoin(&mut self, node: usize, primary: usize) {
        let works = node != primary && self.is_running(node) && self.is_running(primary);
        if !works || !self.nodes[primary].is_primary {
            return;
        }
        let history = self.nodes[primary].history.clone();
        let joined = &mut self.nodes[node];
        joined.history = history;
        joined.is_primary = false;
        joined.follows = Some(primary);
    }

    fn redis(&self, node: &Node) -> RedisEvidence {
        let mut branches = node.history.branches.iter().rev().map(u32::to_string);
        let is_linked = |primary: usize| {
            let primary = &self.nodes[primary];
            primary.process == Process::Running
                && primary.is_primary
                && primary.history.branches == node.history.branches
        };
        RedisEvidence {
            is_primary: node.is_primary,
            is_linked: node.is_primary || node.follows.is_some_and(is_linked),
            replication_id: branches.next().unwrap_or_default(),
            previous_id: branches.next(),
            offset: node.history.lsn,
            connections_used: 1,
            connections_allowed: 10_000,
        }
    }
}

fn postgres(node: &Node) -> PostgresEvidence {
    PostgresEvidence {
        is_in_recovery: !node.is_primary,
        is_writable: node.is_primary,
        system_identifier: 7,
        timeline: node.history.timeline,
        received_lsn: node.history.lsn,
        replayed_lsn: node.history.lsn,
        connections_used: 1,
        connections_allowed: 97,
    }
}

fn mysql(node: &Node) -> MySqlEvidence {
    let sources = node.history.writes.iter();
    let sources = sources.map(|(author, last)| format!("{author:032x}:1-{last}"));
    MySqlEvidence {
        is_read_only: !node.is_primary,
        is_replica: node.follows.is_some(),
        gtid_set: sources.collect::<Vec<_>>().join(","),
        dialect: MySqlDialect::MySql,
        lag: node.follows.map(|_| match node.lags {
            true => Duration::from_secs(60),
            false => Duration::ZERO,
        }),
        connections_used: 1,
        connections_allowed: 151,
    }
}
