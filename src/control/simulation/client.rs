//! Clients of the simulated proxy. They do what a session of the data plane does, with
//! the real table and the real waiting rooms, and no help but those: a session that the
//! room forgets stays forgotten.

mod session;

use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Instant;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::config::Intent;
use crate::control::failover::simulation::truth::TrueCluster;
use crate::control::simulation::setup::WRITES;
use crate::routing::BackendHandle;
use crate::routing::ClusterHandle;
use crate::routing::ConnectionGuard;
use crate::routing::Fate;
use crate::routing::PickError;
use crate::routing::Release;
use crate::routing::SharedTable;
use crate::routing::Ticket;
use crate::routing::WaitingRoom;

/// Turns that one session may have in one moment: more is a loop that burns a processor.
const MAX_TURNS_AT_ONCE: u32 = 20;

/// What a session sees of the world.
pub struct Surroundings<'a> {
    pub now: Instant,
    pub table: &'a SharedTable,
    pub truth: &'a TrueCluster,
    pub random: &'a mut fastrand::Rng,
    /// What happened, for the world to judge.
    pub news: Vec<News>,
}

#[derive(Debug)]
pub enum News {
    Connected {
        intent: Intent,
        node: usize,
        id: BackendId,
        picked: Instant,
        was_held: bool,
    },
    Failed {
        id: BackendId,
        cause: Cause,
    },
    /// It waited in vain for an eligible backend.
    HoldTimeout(Intent),
}

/// Which room a session waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Hold,
    Queue,
}

#[derive(Debug)]
enum Stage {
    Looking,
    Waiting(Waits),
    Pausing(Instant),
    Dialing {
        place: Place,
        picked: Instant,
        until: Instant,
    },
    Relaying(Place),
    Over,
}

/// A taken place; given up, it goes to who queues for one.
#[derive(Debug)]
pub struct Place {
    pub guard: Option<ConnectionGuard>,
    pub node: usize,
    cluster: Arc<ClusterHandle>,
    is_limited: bool,
}

impl Place {
    pub fn backend(&self) -> &Arc<BackendHandle> {
        self.guard.as_ref().expect("until it is dropped").backend()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guard = None;
        if self.is_limited {
            self.cluster.release_queued();
        }
    }
}

#[derive(Debug)]
struct Wait {
    room: Arc<WaitingRoom>,
    ticket: Ticket,
    /// Ascending over all rooms.
    entered: u64,
    deadline: Instant,
    turns: u32,
    is_used: bool,
    ready: Option<Release>,
}

impl Wait {
    fn poll(&mut self) -> bool {
        if self.ready.is_none() && !self.is_used {
            let turn = pin!(self.ticket.turn());
            if let Poll::Ready(release) = turn.poll(&mut Context::from_waker(Waker::noop())) {
                self.ready = Some(release);
            }
        }
        self.ready.is_some()
    }
}

#[derive(Debug)]
pub struct Session {
    pub intent: Intent,
    began: Instant,
    stage: Stage,
    hold: Option<Wait>,
    queue: Option<Wait>,
    last_wait: Option<Waits>,
    why: PickError,
    turn: Option<Release>,
    tried: Vec<BackendId>,
    attempts: u32,
    turns_at: (Instant, u32),
    pub is_in_transaction: bool,
}

/// All sessions, oldest first.
#[derive(Debug, Default)]
pub struct Crowd {
    pub sessions: Vec<Session>,
    entered: u64,
}

impl Crowd {
    pub fn arrive(&mut self, intent: Intent, now: Instant) {
        self.sessions.push(Session {
            intent,
            began: now,
            stage: Stage::Looking,
            hold: None,
            queue: None,
            last_wait: None,
            why: PickError::NoneEligible,
            turn: None,
            tried: Vec::new(),
            attempts: 0,
            turns_at: (now, 0),
            is_in_transaction: false,
        });
    }

    /// Everybody goes on as far as possible without time passing.
    pub fn proceed(&mut self, world: &mut Surroundings) {
        for index in 0..self.sessions.len() {
            while self.step(index, world) {}
            let session = &self.sessions[index];
            session.check_patience(world);
        }
        self.sessions
            .retain(|session| !matches!(session.stage, Stage::Over));
    }

    /// When the next of them does something by itself.
    pub fn next_due(&self) -> Option<Instant> {
        let dues = self.sessions.iter().filter_map(|session| session.due());
        dues.min()
    }

    /// Tells each what became of its backend.
    pub fn sweep(&mut self, now: Instant) {
        for session in &mut self.sessions {
            let Stage::Relaying(place) = &session.stage else {
                continue;
            };
            let ends = match place.backend().fate(session.intent) {
                Fate::Sever { .. } => true,
                Fate::Drain { deadline, .. } => deadline <= now,
                Fate::Grace { deadline, .. } => deadline <= now || !session.is_in_transaction,
                Fate::Serve => false,
            };
            if ends {
                session.stage = Stage::Over;
            }
        }
    }

    /// The sessions that are connected.
    pub fn relaying(&self) -> impl Iterator<Item = (usize, Intent, &Place)> {
        let sessions = self.sessions.iter().enumerate();
        sessions.filter_map(|(index, session)| match &session.stage {
            Stage::Relaying(place) => Some((index, session.intent, place)),
            _ => None,
        })
    }

    /// Sessions for which nobody is there, as far as they know.
    pub fn held(&self) -> usize {
        let waits = |session: &&Session| matches!(session.stage, Stage::Waiting(Waits::Hold));
        self.sessions.iter().filter(waits).count()
    }

    /// The client or its backend has gone.
    pub fn end(&mut self, index: usize) {
        drop(self.sessions.remove(index));
    }

    /// One step of a session; `false`: it waits for something.
    fn step(&mut self, index: usize, world: &mut Surroundings) -> bool {
        let session = &mut self.sessions[index];
        match &session.stage {
            Stage::Looking => {
                session.look(world);
                self.begin_waiting(index, world)
            }
            Stage::Waiting(_) => self.take_turn(index, world),
            Stage::Pausing(until) if *until <= world.now => {
                session.stage = Stage::Waiting(Waits::Hold);
                self.begin_waiting(index, world)
            }
            Stage::Dialing { until, .. } if *until <= world.now => {
                session.dialed(world);
                true
            }
            _ => false,
        }
    }

    /// Enters the room where a look sent it, if it did.
    fn begin_waiting(&mut self, index: usize, world: &Surroundings) -> bool {
        let Stage::Waiting(waits) = self.sessions[index].stage else {
            return true;
        };
        self.entered += 1;
        let entered = self.entered;
        let session = &mut self.sessions[index];
        // The turn came to nothing: it goes to the next in line.
        session.turn = None;
        session.last_wait = Some(waits);
        session.enter(waits, entered, world);
        true
    }

    fn take_turn(&mut self, index: usize, world: &mut Surroundings) -> bool {
        let Stage::Waiting(waits) = self.sessions[index].stage else {
            return false;
        };
        let now = world.now;
        let session = &mut self.sessions[index];
        let wait = session.wait(waits).as_mut().expect("it has entered");
        if !wait.poll() {
            if now < wait.deadline {
                return false;
            }
            session.time_out(waits, world);
            return true;
        }
        wait.is_used = true;
        wait.turns += 1;
        let (room, entered) = (Arc::clone(&wait.room), wait.entered);
        session.turn = wait.ready.take();
        session.tried.clear();
        session.attempts = 0;
        session.stage = Stage::Looking;
        session.count_turn(now);
        self.check_order(waits, &room, entered);
        true
    }

    /// Nobody who came earlier to this room has never had a turn.
    fn check_order(&mut self, waits: Waits, room: &Arc<WaitingRoom>, entered: u64) {
        for other in &mut self.sessions {
            let is_waiting = matches!(other.stage, Stage::Waiting(kind) if kind == waits);
            let Some(wait) = other.wait(waits).as_mut().filter(|_| is_waiting) else {
                continue;
            };
            let is_earlier = Arc::ptr_eq(&wait.room, room) && wait.entered < entered;
            if is_earlier && wait.turns == 0 {
                assert!(wait.poll(), "overtaken in {waits:?}");
            }
        }
    }
}

/// Whether this session needs the primary.
pub fn is_write(intent: Intent) -> bool {
    intent == WRITES
}
