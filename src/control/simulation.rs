//! A seeded random world around the whole control core: the core, what it publishes, the
//! waiting rooms and sessions, over a database cluster that is true whatever is seen of it.
//!
//! `make simulate SEEDS=1000000` runs more of them, `EVERGATE_SEED=17` one of them. A
//! seed that fails prints itself and everything that happened.

mod checks;
mod client;
mod setup;
mod world;

use std::time::Duration;
use std::time::Instant;

use self::setup::Member;
use self::world::World;
use crate::cluster::AdminState;
use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Role;
use crate::config::Intent;
use crate::control::failover::simulation::truth::Fault;
use crate::control::seeds;

const SEEDS: u64 = 10_000;
const EVENTS: usize = 70;
/// Time between two events, at most: about that between two probes.
const MAX_GAP: Duration = Duration::from_millis(90);
/// Once faults have stopped: until the table is right, and all clients are served.
const MAX_RECOVERY: Duration = Duration::from_secs(5);

#[test]
fn a_random_world_is_never_written_to_wrongly() {
    let Some((seeds, tally)) = seeds::run(SEEDS, simulate, Tally::add) else {
        return;
    };
    println!("{tally:?}");
    // A world in which nothing happens proves nothing.
    let happened = [
        tally.failovers,
        tally.splits,
        tally.fences,
        tally.refused,
        tally.released,
        tally.proofs,
        tally.writes,
    ];
    assert!(
        happened.iter().all(|count| *count > seeds / 10),
        "{tally:?}"
    );
}

/// How often what happened.
#[derive(Debug, Default)]
pub struct Tally {
    tables: u64,
    failovers: u64,
    splits: u64,
    fences: u64,
    connections: u64,
    released: u64,
    refused: u64,
    proofs: u64,
    writes: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.tables += other.tables;
        self.failovers += other.failovers;
        self.splits += other.splits;
        self.fences += other.fences;
        self.connections += other.connections;
        self.released += other.released;
        self.refused += other.refused;
        self.proofs += other.proofs;
        self.writes += other.writes;
    }
}

/// Everything that is put into the world, and what is printed of what comes out.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "some is only printed")]
pub enum Event {
    Fault(Fault),
    Arrive(Intent),
    /// The client goes.
    Leave(usize),
    Write(usize),
    /// A transaction begins or ends.
    Transaction(usize),
    /// Traffic says of the backend what is not so.
    Lie(usize, Cause),
    Admin(usize, AdminState),
    Remove(usize),
    Add(Member),
    Fall(u32),
    Restart,
    EpochJump(f64),
    Delivered(usize, Option<Cause>),
    Target(Option<usize>),
    Calm(usize),
}

fn simulate(seed: u64) -> Tally {
    let mut world = World::new(seed, Instant::now());
    for _ in 0..EVENTS {
        let gap = MAX_GAP.mul_f64(world.random.f64());
        let until = world.now + gap;
        world.run_until(until);
        let event = any_event(&mut world);
        world.happens(event);
    }
    let primary = calm_down(&mut world);
    recover(&mut world, primary);
    std::mem::take(&mut world.tally)
}

fn any_event(world: &mut World) -> Event {
    let node = world.random.usize(..world.truth.size());
    let sessions = world.crowd.sessions.len();
    match world.random.u32(..100) {
        0 => Event::Restart,
        1 => Event::EpochJump(world.random.f64() * 1e6 - 5e5),
        2 if world.members.len() > 1 => Event::Remove(node),
        3 | 4 => Event::Add(Member {
            node,
            renamed: world.random.u32(..8) / 7,
        }),
        5 => Event::Fall(world.random.u32(1..=3)),
        6..10 => Event::Admin(node, AdminState::ALL[world.random.usize(..3)]),
        10..13 => Event::Fault(Fault::Lag(node)),
        13..16 => Event::Fault(Fault::CatchUp(node)),
        16..46 => Event::Fault(world.truth.random_fault(&mut world.random)),
        46..58 if sessions < 8 => Event::Arrive(world.any_intent()),
        _ if sessions == 0 => Event::Arrive(world.any_intent()),
        58..62 => Event::Leave(world.random.usize(..sessions)),
        62..66 => Event::Transaction(world.random.usize(..sessions)),
        66 => {
            let causes = [Cause::ReadOnly, Cause::ShuttingDown, Cause::ConnectRefused];
            let cause = causes[world.random.usize(..causes.len())];
            Event::Lie(world.random.usize(..sessions), cause)
        }
        _ => Event::Write(world.random.usize(..sessions)),
    }
}

/// Everything works again, and everybody is configured; returns who is primary.
fn calm_down(world: &mut World) -> usize {
    let primary = world.truth.calm_down(&mut world.random);
    world.calm = true;
    world.note(Event::Calm(primary));
    // Without positions on one scale, only who was written to last can tell that it has
    // followed since: it is configured again, by the name that is remembered.
    let established = established(world);
    for node in 0..world.truth.size() {
        let known = world.members.iter().find(|member| member.node == node);
        let established = established.filter(|member| member.node == node);
        if known.is_none() || established.is_some() {
            let member = established.unwrap_or(Member { node, renamed: 0 });
            world.happens(Event::Add(member));
        }
        world.happens(Event::Admin(node, AdminState::Ready));
    }
    primary
}

fn established(world: &World) -> Option<Member> {
    let cluster = world.core.clusters().next()?;
    Member::named(cluster.roles.memory().established()?)
}

/// The end state is right, soon, and nobody is left waiting.
fn recover(world: &mut World, primary: usize) {
    let deadline = world.now + MAX_RECOVERY;
    // Probes that were under way may still fail.
    let until = world.now + world.setup.timeout;
    world.run_until(until);
    while !is_right(world, primary) {
        assert!(world.now < deadline, "the table is not right in the end");
        let until = world.now + Duration::from_millis(100);
        world.run_until(until);
    }
    let intent = world.any_intent();
    world.happens(Event::Arrive(intent));
    let until = world.now + Duration::from_millis(300);
    world.run_until(until);
    assert_eq!(world.crowd.held(), 0, "somebody is left waiting");
}

fn is_right(world: &World, primary: usize) -> bool {
    let mut states = world.core.clusters().flat_map(|it| it.entries());
    let is_right = states.all(|entry| {
        let node = setup::node_at(entry.address.unwrap());
        let role = match node == primary {
            true => Role::Primary,
            false => Role::Replica,
        };
        (entry.role, entry.health) == (role, Health::Up) && entry.over.is_empty()
    });
    is_right && world.checks.target() == Some(primary) && !world.core.has_changed()
}
