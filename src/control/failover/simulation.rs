//! A seeded random world for the judgement alone: every fault in every order, seen
//! late and out of date.
//!
//! `make simulate SEEDS=1000000` runs more of them, `EVERGATE_SEED=17` one of them. A
//! seed that fails prints itself and everything that happened.

pub mod truth;

use std::thread;

use self::truth::Family;
use self::truth::Fault;
use self::truth::TrueCluster;
use super::tests::check;
use super::*;
use crate::control::seeds;

const SEEDS: u64 = 10_000;
const EVENTS: usize = 120;
/// Once faults have stopped: so many probes of everybody until the decision is right.
const MAX_ROUNDS: usize = 5;

#[test]
fn a_random_cluster_is_never_misjudged() {
    let Some((seeds, tally)) = seeds::run(SEEDS, simulate, Tally::add) else {
        return;
    };
    // A world in which nothing happens proves nothing.
    let happened = [tally.failovers, tally.splits, tally.waits, tally.fences];
    assert!(
        happened.iter().all(|count| *count > seeds / 10),
        "{tally:?}"
    );
}

/// How many decisions were what.
#[derive(Debug, Default)]
struct Tally {
    failovers: u64,
    splits: u64,
    waits: u64,
    fences: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.failovers += other.failovers;
        self.splits += other.splits;
        self.waits += other.waits;
        self.fences += other.fences;
    }
}

fn simulate(seed: u64) -> Tally {
    let mut random = fastrand::Rng::with_seed(seed);
    let family = Family::ALL[random.usize(..Family::ALL.len())];
    let mut world = World::new(seed, family, random.usize(2..=5), random.u32(1..=3));
    for _ in 0..EVENTS {
        let event = world.any_event(&mut random);
        world.happens(event);
    }
    let primary = world.truth.calm_down(&mut random);
    world.log.push(Event::Calm { primary });
    world.decides_for(primary);
    if family == Family::Postgres {
        let other = (primary + random.usize(1..world.truth.size())) % world.truth.size();
        outlive(&mut world, primary, other, random.bool());
    }
    std::mem::take(&mut world.tally)
}

/// The host of the primary crashes, and we with it; another is promoted, and all are back: the
/// timelines decide.
fn outlive(world: &mut World, old: usize, new: usize, is_seen: bool) {
    world.happens(Event::Fault(Fault::Crash(old)));
    if is_seen {
        world.probe_all();
    }
    world.happens(Event::Fault(Fault::Promote(new)));
    world.happens(Event::Restart);
    world.happens(Event::Fault(Fault::Restart(old)));
    world.decides_for(new);
    world.probe_all();
    assert_eq!(
        world.primary,
        Some(new),
        "the old primary stands in the way"
    );
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// The next step of a probe: started, answered by the backend, delivered to us.
    Probe(usize),
    Fault(Fault),
    Restart,
    #[allow(dead_code, reason = "printed")]
    Calm {
        primary: usize,
    },
}

#[derive(Debug)]
struct Flight {
    number: u64,
    answer: Option<Result<Evidence, Cause>>,
}

/// One backend as the control plane would keep it.
#[derive(Debug)]
struct Seen {
    name: Name,
    health: Health,
    health_cause: Cause,
    failures: u32,
    evidence: Evidence,
    observed: u64,
    failed: Option<Cause>,
    full: Option<u64>,
    flight: Option<Flight>,
}

impl Seen {
    fn new(name: Name) -> Self {
        Self {
            name,
            health: Health::Unknown,
            health_cause: Cause::Started,
            failures: 0,
            evidence: Evidence::Silent,
            observed: 0,
            failed: None,
            full: None,
            flight: None,
        }
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate {
            name: &self.name,
            health: self.health,
            health_cause: self.health_cause,
            evidence: &self.evidence,
            observed: self.observed,
            failed: self.failed,
            full: self.full,
            quarantine: None,
            host: &self.name,
            address: None,
            port: 5432,
        }
    }
}

struct World {
    seed: u64,
    truth: TrueCluster,
    failover: Failover,
    seen: Vec<Seen>,
    fall: u32,
    probes: u64,
    /// What was saved last.
    saved: String,
    primary: Option<usize>,
    /// The last one that was written to.
    established: Option<usize>,
    had: Had,
    /// It was written to since the start, and has not been gone since; or nothing decides.
    is_live: bool,
    /// The highest timeline that was ever delivered.
    highest_seen: u32,
    log: Vec<Event>,
    tally: Tally,
}

impl World {
    fn new(seed: u64, family: Family, size: usize, fall: u32) -> Self {
        let names = (0..size).map(|node| Name::from(node.to_string()));
        Self {
            seed,
            truth: TrueCluster::new(family, size),
            failover: Failover::new(Memory::default()),
            seen: names.map(Seen::new).collect(),
            fall,
            probes: 0,
            saved: serde_json::to_string(&Memory::default()).unwrap(),
            primary: None,
            established: None,
            had: Had::default(),
            is_live: false,
            highest_seen: 0,
            log: Vec::new(),
            tally: Tally::default(),
        }
    }

    fn any_event(&self, random: &mut fastrand::Rng) -> Event {
        match random.u32(..100) {
            0 => Event::Restart,
            1..30 => Event::Fault(self.truth.random_fault(random)),
            _ => Event::Probe(random.usize(..self.seen.len())),
        }
    }

    fn probe_all(&mut self) {
        for node in 0..self.truth.size() {
            for _ in 0..3 {
                self.happens(Event::Probe(node));
            }
        }
    }

    /// Soon, and without more than probes.
    fn decides_for(&mut self, primary: usize) {
        let mut rounds = 0;
        while self.primary != Some(primary) {
            assert!(rounds < MAX_ROUNDS, "the decision is not {primary}");
            rounds += 1;
            self.probe_all();
        }
    }

    fn happens(&mut self, event: Event) {
        self.log.push(event);
        match event {
            Event::Probe(node) => self.probe(node),
            Event::Fault(fault) => self.truth.befall(fault),
            Event::Restart => self.restart(),
            Event::Calm { .. } => {}
        }
    }

    fn restart(&mut self) {
        let memory: Memory = serde_json::from_str(&self.saved).unwrap();
        self.is_live = memory.is_contested;
        self.failover = Failover::new(memory);
        for seen in &mut self.seen {
            *seen = Seen::new(Name::clone(&seen.name));
        }
        self.probes = 0;
        self.primary = None;
    }

    fn probe(&mut self, node: usize) {
        match self.seen[node].flight.take() {
            None => {
                self.probes += 1;
                self.seen[node].flight = Some(Flight {
                    number: self.probes,
                    answer: None,
                });
            }
            Some(Flight {
                number,
                answer: None,
            }) => {
                let answer = Some(self.truth.answer(node));
                self.seen[node].flight = Some(Flight { number, answer });
            }
            Some(Flight {
                number,
                answer: Some(answer),
            }) => {
                self.deliver(node, number, answer);
                self.decide();
            }
        }
    }

    fn deliver(&mut self, node: usize, number: u64, answer: Result<Evidence, Cause>) {
        let fall = self.fall;
        let seen = &mut self.seen[node];
        match answer {
            Ok(evidence) => {
                if let Evidence::Postgres(evidence) = &evidence {
                    self.highest_seen = self.highest_seen.max(evidence.timeline);
                }
                seen.evidence = evidence;
                seen.observed = number;
                seen.failed = None;
                seen.full = None;
                seen.failures = 0;
                seen.health = Health::Up;
                seen.health_cause = Cause::CheckPassed;
            }
            Err(cause) => {
                seen.failed = Some(cause);
                seen.full = (cause == Cause::TooManyConnections).then_some(number);
                if seen.full.is_some() && seen.health == Health::Up {
                    seen.failures = 0;
                    return;
                }
                seen.failures += 1;
                if seen.health == Health::Unknown || seen.failures >= fall {
                    seen.health = Health::Down;
                    seen.health_cause = cause;
                }
            }
        }
    }

    fn decide(&mut self) {
        let candidates: Vec<Candidate> = self.seen.iter().map(Seen::candidate).collect();
        let highest = self.failover.memory().highest_timeline();
        let decision = self.failover.decide(&candidates, None, self.probes);
        check(&self.failover, &candidates, &decision);
        assert!(self.failover.memory().highest_timeline() >= highest);
        for (candidate, (role, cause)) in candidates.iter().zip(&decision.roles) {
            assert!(is_sound(candidate, *role, *cause), "{role:?} {cause:?}");
        }
        for wanted in &decision.wants_fresh {
            assert!(decision.primary.is_none() && *wanted < candidates.len());
        }
        let established = self.established.map(|before| &candidates[before]);
        self.is_live &= !established.is_none_or(has_yielded);
        if let Some(primary) = decision.primary {
            if let Evidence::Postgres(evidence) = candidates[primary].evidence {
                assert!(evidence.timeline >= self.highest_seen, "a stale timeline");
            }
            let before = self.established.filter(|before| *before != primary);
            if let Some(before) = before {
                let before = &candidates[before];
                let is_outlived = !self.is_live && is_below(before, self.highest_seen);
                let may_go_on =
                    has_yielded(before) || is_outlived || self.had.is_missing_in(before);
                assert!(may_go_on, "{} still writes", before.name);
                self.tally.failovers += 1;
            }
            let is_same = self.established.replace(primary) == Some(primary);
            self.had.note(is_same, candidates[primary].evidence);
            self.is_live = true;
        }
        let roles = decision.roles.iter();
        let fenced = roles.filter(|(role, _)| *role == Role::Fenced);
        self.tally.fences += fenced.count() as u64;
        self.tally.splits += u64::from(decision.is_split_brain);
        self.tally.waits += u64::from(!decision.wants_fresh.is_empty());
        self.primary = decision.primary;
        if decision.memory_changed {
            self.saved = serde_json::to_string(self.failover.memory()).unwrap();
        }
    }
}

/// Nothing that was seen of it last says that it takes writes.
pub fn has_yielded(candidate: &Candidate) -> bool {
    let takes_writes = match candidate.evidence {
        Evidence::Silent | Evidence::Told(_) => false,
        Evidence::Postgres(evidence) => !evidence.is_in_recovery,
        Evidence::MySql(evidence) => !evidence.is_read_only && !evidence.is_replica,
        Evidence::Redis(evidence) => evidence.is_primary,
    };
    let is_up = candidate.health == Health::Up && candidate.failed != Some(Cause::ConnectRefused);
    let insists = is_up && takes_writes && candidate.quarantine.is_none();
    candidate.health != Health::Unknown && !insists
}

/// It is on a lower timeline than this.
pub fn is_below(candidate: &Candidate, timeline: u32) -> bool {
    matches!(candidate.evidence, Evidence::Postgres(it) if it.timeline < timeline)
}

/// What the one that is written to had when that began, and with its first write since.
#[derive(Debug, Clone, Default)]
pub struct Had {
    evidence: Evidence,
    has_own_write: bool,
}

impl Had {
    pub fn note(&mut self, is_same: bool, evidence: &Evidence) {
        let (Evidence::MySql(now), Evidence::MySql(had)) = (evidence, &self.evidence) else {
            self.evidence = evidence.clone();
            return;
        };
        let goes_on = is_same && mysql::covers(now, had);
        let has_written = goes_on && now.gtid_set != had.gtid_set;
        if !goes_on || has_written && !self.has_own_write {
            self.evidence = evidence.clone();
            self.has_own_write = has_written;
        }
    }

    /// It was made anew from another history, and is another database under the same name.
    pub fn is_missing_in(&self, candidate: &Candidate) -> bool {
        match (candidate.evidence, &self.evidence) {
            (Evidence::MySql(now), Evidence::MySql(had)) => {
                !had.gtid_set.is_empty() && !mysql::covers(now, had)
            }
            _ => false,
        }
    }
}

/// The cause explains the role.
fn is_sound(candidate: &Candidate, role: Role, cause: Cause) -> bool {
    match role {
        Role::Primary => cause == Cause::ClaimsPrimary,
        Role::Replica => matches!(cause, Cause::ClaimsReplica | Cause::LostPrimary),
        Role::Unknown => match candidate.health {
            Health::Up => matches!(cause, Cause::Started | Cause::AwaitingYield),
            Health::Unknown | Health::Down => cause == candidate.health_cause,
        },
        Role::Fenced => matches!(
            cause,
            Cause::StaleTimeline
                | Cause::Diverged
                | Cause::AwaitingYield
                | Cause::SplitBrain
                | Cause::ReadOnly
        ),
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for event in &self.log {
            eprintln!("  {event:?}");
        }
        for seen in &self.seen {
            eprintln!("  {seen:?}");
        }
        eprintln!("  {:?}", self.failover.memory());
        eprintln!("EVERGATE_SEED={} fails, see above", self.seed);
    }
}
