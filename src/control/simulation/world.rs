//! The simulated process: the real core, publisher, table and rooms; a clock that moves
//! only when told to; probes that are lost, late, doubled and out of date.

mod probes;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::AdminState;
use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::config::Intent;
use crate::control::backend::Moment;
use crate::control::core::Core;
use crate::control::evidence::Evidence;
use crate::control::failover::Memory;
use crate::control::failover::simulation::truth::Fault;
use crate::control::failover::simulation::truth::TrueCluster;
use crate::control::publish::Publisher;
use crate::control::simulation::Event;
use crate::control::simulation::Tally;
use crate::control::simulation::checks::Checks;
use crate::control::simulation::client::Crowd;
use crate::control::simulation::client::News;
use crate::control::simulation::client::Surroundings;
use crate::control::simulation::client::is_write;
use crate::control::simulation::setup::CLUSTER;
use crate::control::simulation::setup::Member;
use crate::control::simulation::setup::Setup;
use crate::control::simulation::setup::node_at;
use crate::routing::SharedTable;

/// What has changed is published at the latest after this.
pub const MAX_PUBLISH_DELAY: Duration = Duration::from_millis(20);
/// Sessions see a table, and deadlines, at the latest after this.
pub const SWEEP: Duration = Duration::from_millis(60);

/// A probe under way.
#[derive(Debug)]
struct Flight {
    id: BackendId,
    number: u64,
    node: usize,
    started: Instant,
    /// When the backend answers it, and when we see that.
    sampled: Instant,
    delivered: Instant,
    answer: Option<Result<Evidence, Cause>>,
}

impl Flight {
    fn due(&self) -> Instant {
        match self.answer {
            None => self.sampled,
            Some(_) => self.delivered,
        }
    }
}

pub struct World {
    pub seed: u64,
    pub random: fastrand::Rng,
    pub setup: Setup,
    pub truth: TrueCluster,
    pub members: Vec<Member>,
    fall: u32,
    pub core: Core,
    publisher: Publisher,
    pub table: SharedTable,
    pub now: Instant,
    start: Instant,
    epoch_seconds: f64,
    /// What is on disk.
    saved: HashMap<Name, String>,
    flights: Vec<Flight>,
    publish_at: Option<Instant>,
    sweep_at: Instant,
    pub crowd: Crowd,
    pub checks: Checks,
    /// Acknowledged writes by node and timeline.
    pub acknowledged: BTreeMap<(usize, u32), u64>,
    pub calm: bool,
    pub log: Vec<(Duration, Event)>,
    pub tally: Tally,
}

impl World {
    pub fn new(seed: u64, start: Instant) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let setup = Setup::random(&mut random);
        let size = random.usize(2..=5);
        let table = SharedTable::default();
        let mut world = Self {
            seed,
            truth: TrueCluster::new(setup.family, size),
            members: (0..size).map(|node| Member { node, renamed: 0 }).collect(),
            fall: random.u32(1..=3),
            core: Core::seeded(seed),
            publisher: Publisher::new(table.clone()),
            table,
            now: start,
            start,
            epoch_seconds: 1.6e9,
            saved: HashMap::new(),
            flights: Vec::new(),
            publish_at: None,
            sweep_at: start,
            crowd: Crowd::default(),
            checks: Checks::default(),
            acknowledged: BTreeMap::new(),
            calm: false,
            log: Vec::new(),
            tally: Tally::default(),
            setup,
            random,
        };
        world.apply();
        world
    }

    fn moment(&self) -> Moment {
        Moment {
            instant: self.now,
            epoch_seconds: self.epoch_seconds,
        }
    }

    pub fn note(&mut self, event: Event) {
        self.log.push((self.now - self.start, event));
    }

    pub fn happens(&mut self, event: Event) {
        self.note(event);
        match event {
            Event::Fault(fault) => self.befall(fault),
            Event::Arrive(intent) => {
                self.crowd.arrive(intent, self.now);
                self.sessions_proceed();
            }
            Event::Leave(index) => {
                self.crowd.end(index);
                self.sessions_proceed();
            }
            Event::Write(index) => self.write(index),
            Event::Transaction(index) => {
                let session = &mut self.crowd.sessions[index];
                session.is_in_transaction = !session.is_in_transaction;
            }
            Event::Lie(index, cause) => self.lie(index, cause),
            Event::Admin(node, state) => self.set_admin(node, state),
            Event::Remove(node) => {
                self.members.retain(|member| member.node != node);
                self.apply();
            }
            Event::Add(member) => {
                self.members.retain(|known| known.node != member.node);
                self.members.push(member);
                self.apply();
            }
            Event::Fall(fall) => {
                self.fall = fall;
                self.apply();
            }
            Event::Restart => self.restart(),
            Event::EpochJump(seconds) => self.epoch_seconds += seconds,
            Event::Delivered(..) | Event::Target(_) | Event::Calm(_) => {}
        }
        self.after_event();
    }

    fn befall(&mut self, fault: Fault) {
        self.truth.befall(fault);
        let Fault::Crash(node) = fault else {
            return;
        };
        // Its sockets close.
        while let Some((index, id)) = self.session_at(node) {
            self.crowd.end(index);
            if self.random.bool() {
                self.report(id, Cause::Reset);
            }
        }
        self.sessions_proceed();
    }

    fn session_at(&self, node: usize) -> Option<(usize, BackendId)> {
        let mut relaying = self.crowd.relaying();
        relaying
            .find(|(_, _, place)| place.node == node)
            .map(|(index, _, place)| (index, place.backend().id))
    }

    fn report(&mut self, id: BackendId, cause: Cause) {
        if !self.calm {
            let now = self.moment();
            self.core.report(id, cause, now);
        }
    }

    fn write(&mut self, index: usize) {
        let found = self.crowd.relaying().find(|(at, ..)| *at == index);
        let Some((_, intent, place)) = found.filter(|(_, intent, _)| is_write(*intent)) else {
            return;
        };
        let (node, id, fate) = (place.node, place.backend().id, place.backend().fate(intent));
        match self.truth.take_write(node) {
            None => {}
            Some(Ok(())) => {
                let timeline = self.truth.timeline(node);
                *self.acknowledged.entry((node, timeline)).or_default() += 1;
                self.tally.writes += 1;
                if self.setup.severs_writes() {
                    self.checks.written(node, timeline, fate, self.now);
                }
            }
            Some(Err(cause)) => {
                if self.random.u8(..4) > 0 {
                    self.report(id, cause);
                    self.tally.proofs += 1;
                }
                if cause == Cause::Reset {
                    self.crowd.end(index);
                }
            }
        }
    }

    /// A session's own transaction is read-only, or a proxy in between says what it likes.
    fn lie(&mut self, index: usize, cause: Cause) {
        let found = self.crowd.relaying().find(|(at, ..)| *at == index);
        if let Some(id) = found.map(|(_, _, place)| place.backend().id) {
            self.report(id, cause);
        }
    }

    fn set_admin(&mut self, node: usize, state: AdminState) {
        let states = self.core.clusters().flat_map(|it| &it.backends);
        let mut names = states
            .filter(|it| it.identity().is_some_and(|it| node_at(it.address) == node))
            .map(|it| Name::clone(&it.handle.name));
        if let Some(name) = names.next() {
            drop(names);
            let now = self.moment();
            let done = self.core.set_admin_state(CLUSTER, &name, state, now);
            done.unwrap();
            self.publish();
        }
    }

    /// Reads the configuration again.
    fn apply(&mut self) {
        let now = self.moment();
        let desired = self.setup.desired(&self.members, self.fall);
        let mut memories = HashMap::new();
        if !self.core.knows(&Name::from(CLUSTER)) {
            for (name, text) in &self.saved {
                let memory: Memory = serde_json::from_str(text).unwrap();
                memories.insert(Name::clone(name), memory);
            }
        }
        let connectors = &desired.tls.connectors;
        self.core.apply(&desired.config, connectors, memories, now);
        self.publisher.apply(&desired);
        self.publish();
    }

    /// Everything but the disk is lost.
    fn restart(&mut self) {
        self.crowd = Crowd::default();
        self.core = Core::seeded(self.random.u64(..));
        self.table = SharedTable::default();
        self.publisher = Publisher::new(self.table.clone());
        self.flights.clear();
        self.publish_at = None;
        self.checks.restarted();
        self.apply();
    }

    /// Lets time pass.
    pub fn run_until(&mut self, until: Instant) {
        while let Some(next) = self.next_due().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.tick();
        }
        self.now = until;
    }

    fn next_due(&mut self) -> Option<Instant> {
        let flight = self.flights.iter().map(Flight::due).min();
        let dues = [
            self.core.next_due(),
            flight,
            self.publish_at,
            self.crowd.next_due(),
            Some(self.sweep_at),
        ];
        dues.into_iter().flatten().min()
    }

    fn tick(&mut self) {
        while let Some(order) = self.core.start_due(self.now) {
            let (id, number, node) = (order.id, order.number, node_at(order.address));
            self.launch(id, number, node);
        }
        while let Some(index) = self.due_flight() {
            let flight = self.flights.swap_remove(index);
            self.fly(flight);
            self.after_event();
        }
        if self.publish_at.is_some_and(|at| at <= self.now) {
            self.publish();
        }
        if self.sweep_at <= self.now {
            self.sweep_at = self.now + SWEEP;
            self.crowd.sweep(self.now);
        }
        self.sessions_proceed();
    }

    /// What changed is published at once or a little later.
    fn after_event(&mut self) {
        self.tally.failovers += u64::from(self.checks.decided(&self.core));
        if !self.core.has_changed() {
            self.checks.nothing_is_pending(&self.core);
            return;
        }
        if self.publish_at.is_none() {
            let delay = match self.random.bool() {
                true => Duration::ZERO,
                false => MAX_PUBLISH_DELAY.mul_f64(self.random.f64()),
            };
            self.publish_at = Some(self.now + delay);
        }
    }

    fn publish(&mut self) {
        for (name, memory) in self.core.take_unsaved() {
            let text = serde_json::to_string(&memory).unwrap();
            self.saved.insert(name, text);
        }
        self.tally.failovers += u64::from(self.checks.decided(&self.core));
        self.publisher.publish(&mut self.core);
        self.publish_at = None;
        self.checks.nothing_is_pending(&self.core);
        let table = self.table.load_full();
        let seen = self.checks.table(&self.core, &table, &self.setup, self.now);
        self.tally.add(seen);
        let target = self.checks.target();
        self.note(Event::Target(target));
        // Sessions are woken, and each gets there in its own time.
        let delay = SWEEP.mul_f64(self.random.f64());
        self.sweep_at = self.sweep_at.min(self.now + delay);
        self.sessions_proceed();
    }

    fn sessions_proceed(&mut self) {
        let mut surroundings = Surroundings {
            now: self.now,
            table: &self.table,
            truth: &self.truth,
            random: &mut self.random,
            news: Vec::new(),
        };
        self.crowd.proceed(&mut surroundings);
        let news = surroundings.news;
        for news in news {
            self.hear(news);
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Connected {
                intent,
                node,
                id,
                picked,
                was_held,
            } => {
                self.tally.connections += 1;
                self.tally.released += u64::from(was_held);
                let table = self.table.load_full();
                if !self.core.has_changed() {
                    let backend = (node, id);
                    self.checks
                        .connected(&table, &self.setup, intent, backend, picked);
                }
            }
            News::Failed { id, cause } => {
                self.report(id, cause);
                self.after_event();
            }
            News::HoldTimeout(intent) => {
                self.tally.refused += 1;
                self.checks.refused(intent, self.now);
            }
        }
    }

    /// The intents of sessions, one at random.
    pub fn any_intent(&mut self) -> Intent {
        let intents = &self.setup.intents;
        match self.random.bool() {
            true => intents[0],
            false => intents[self.random.usize(..intents.len())],
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (at, event) in &self.log {
            eprintln!("  {at:>9.3?} {event:?}");
        }
        for state in self.core.clusters().flat_map(|it| &it.backends) {
            eprintln!("  {:?}", state.candidate());
        }
        eprintln!("  {:?}", self.setup);
        eprintln!("  {:?}", self.saved);
        let seed = self.seed;
        eprintln!("EVERGATE_SEED={seed} fails in control::simulation, see above");
    }
}
