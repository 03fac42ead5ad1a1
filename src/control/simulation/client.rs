//! Clients of the simulated proxy. They do what a session of the data plane does, with
//! the real table and the real waiting rooms, and no help but those: a session that the
//! room forgets stays forgotten.

use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::config::Intent;
use crate::config::WaitLimit;
use crate::control::failover::simulation::truth::TrueCluster;
use crate::control::simulation::setup::CLUSTER;
use crate::control::simulation::setup::WRITES;
use crate::control::simulation::setup::node_at;
use crate::routing::Admission;
use crate::routing::BackendHandle;
use crate::routing::ClusterHandle;
use crate::routing::ClusterTable;
use crate::routing::ConnectionGuard;
use crate::routing::Fate;
use crate::routing::KeySource;
use crate::routing::LoginKeys;
use crate::routing::PickError;
use crate::routing::PickRequest;
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

impl Session {
    fn wait(&mut self, waits: Waits) -> &mut Option<Wait> {
        match waits {
            Waits::Hold => &mut self.hold,
            Waits::Queue => &mut self.queue,
        }
    }

    fn due(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Pausing(until) | Stage::Dialing { until, .. } => Some(*until),
            Stage::Waiting(Waits::Hold) => self.hold.as_ref().map(|wait| wait.deadline),
            Stage::Waiting(Waits::Queue) => self.queue.as_ref().map(|wait| wait.deadline),
            Stage::Looking | Stage::Relaying(_) | Stage::Over => None,
        }
    }

    fn look(&mut self, world: &mut Surroundings) {
        let table = world.table.load_full();
        let Some(cluster) = table.clusters.get(CLUSTER) else {
            self.stage = Stage::Over;
            return;
        };
        let came_first = self.last_wait == Some(Waits::Queue);
        let queue = cluster.handle.queue(self.intent.role);
        let picked = if self.attempts >= cluster.config.connect.attempts.get() {
            Err(PickError::AllTried)
        } else if !came_first && !queue.is_empty() {
            Err(PickError::AllFull)
        } else {
            self.pick(cluster, world)
        };
        let (place, until) = match picked {
            Ok(picked) => picked,
            Err(why) => {
                self.why = why;
                self.stage = match why {
                    PickError::NoneEligible => Stage::Waiting(Waits::Hold),
                    PickError::AllFull => Stage::Waiting(Waits::Queue),
                    PickError::AllTried => {
                        Stage::Pausing(world.now + cluster.config.health_check.fast_interval)
                    }
                };
                return;
            }
        };
        self.stage = Stage::Dialing {
            place,
            picked: world.now,
            until,
        };
    }

    fn pick(
        &self,
        cluster: &Arc<ClusterTable>,
        world: &mut Surroundings,
    ) -> Result<(Place, Instant), PickError> {
        let request = PickRequest {
            intent: self.intent,
            source: KeySource {
                client: ([192, 0, 2, 1], 1).into(),
                sni: None,
                login: LoginKeys::default(),
            },
            tried: &self.tried,
            now: world.now,
        };
        let (entry, guard) = cluster.pick(&request, world.random)?;
        let node = node_at(entry.address.expect("all have addresses"));
        let takes = match world.truth.dial(node) {
            Some(_) => Duration::from_millis(world.random.u64(1..30)),
            None => cluster.config.connect.timeout,
        };
        let place = Place {
            guard: Some(guard),
            node,
            cluster: Arc::clone(&cluster.handle),
            is_limited: entry.config.max_connections.is_some(),
        };
        Ok((place, world.now + takes))
    }

    fn dialed(&mut self, world: &mut Surroundings) {
        let stage = std::mem::replace(&mut self.stage, Stage::Looking);
        let Stage::Dialing { place, picked, .. } = stage else {
            return;
        };
        let backend = Arc::clone(place.backend());
        let id = backend.id;
        let answer = world.truth.dial(place.node);
        self.tried.push(id);
        if let Err(cause) = answer.unwrap_or(Err(Cause::ConnectTimeout)) {
            self.attempts += 1;
            world.news.push(News::Failed { id, cause });
            return;
        }
        if let Fate::Sever { .. } = backend.fate(self.intent) {
            self.attempts += 1;
            return;
        }
        world.news.push(News::Connected {
            intent: self.intent,
            node: place.node,
            id,
            picked,
            was_held: self.hold.is_some(),
        });
        self.turn = None;
        self.hold = None;
        if let Some(wait) = self.queue.take() {
            let room = Arc::clone(&wait.room);
            drop(wait);
            let table = world.table.load();
            let cluster = table.clusters.get(CLUSTER);
            if cluster.is_some_and(|cluster| cluster.has_free_place(self.intent)) {
                room.release_one();
            }
        }
        self.stage = Stage::Relaying(place);
    }

    fn enter(&mut self, waits: Waits, entered: u64, world: &Surroundings) {
        let table = world.table.load();
        let Some(cluster) = table.clusters.get(CLUSTER) else {
            self.stage = Stage::Over;
            return;
        };
        let handle = &cluster.handle;
        let (room, limit): (_, WaitLimit) = match waits {
            Waits::Hold => (handle.hold(self.intent), cluster.config.failover.hold),
            Waits::Queue => {
                let room = Arc::clone(handle.queue(self.intent.role));
                (room, cluster.config.failover.queue)
            }
        };
        if waits == Waits::Hold {
            self.leave_queue();
        }
        match self.wait(waits) {
            Some(wait) if world.now >= wait.deadline => self.stage = Stage::Over,
            Some(wait) => {
                if std::mem::take(&mut wait.is_used) {
                    wait.ticket.again();
                }
            }
            slot @ None => match room.enter(limit.max_sessions) {
                Admission::Full => self.stage = Stage::Over,
                Admission::Waiting(ticket) => {
                    *slot = Some(Wait {
                        room: Arc::clone(&room),
                        ticket,
                        entered,
                        deadline: world.now + limit.max_wait,
                        turns: 0,
                        is_used: false,
                        ready: None,
                    });
                }
            },
        }
    }

    fn leave_queue(&mut self) {
        if let Some(wait) = self.queue.take() {
            let room = Arc::clone(&wait.room);
            drop(wait);
            room.release_one();
        }
    }

    fn time_out(&mut self, waits: Waits, world: &mut Surroundings) {
        if (waits, self.why) == (Waits::Hold, PickError::NoneEligible) {
            world.news.push(News::HoldTimeout(self.intent));
        }
        self.stage = Stage::Over;
    }

    fn count_turn(&mut self, now: Instant) {
        if self.turns_at.0 != now {
            self.turns_at = (now, 0);
        }
        self.turns_at.1 += 1;
        let count = self.turns_at.1;
        assert!(
            count < MAX_TURNS_AT_ONCE,
            "turn after turn comes to nothing"
        );
    }

    /// Whoever is not connected yet is not kept waiting for longer than was promised.
    fn check_patience(&self, world: &Surroundings) {
        let (Stage::Relaying(_) | Stage::Over) = &self.stage else {
            let table = world.table.load();
            let Some(cluster) = table.clusters.get(CLUSTER) else {
                return;
            };
            let (failover, connect) = (&cluster.config.failover, &cluster.config.connect);
            let waits = failover.hold.max_wait + failover.queue.max_wait * 3;
            let dials = connect.timeout * connect.attempts.get() * 2;
            let bound = waits + dials + cluster.config.health_check.fast_interval;
            let age = world.now - self.began;
            assert!(age <= bound, "kept waiting for {age:?}: {self:?}");
            return;
        };
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // As the data plane does: the leaver may have had a turn that it did not use.
        self.turn = None;
        self.leave_queue();
    }
}

/// Whether this session needs the primary.
pub fn is_write(intent: Intent) -> bool {
    intent == WRITES
}
