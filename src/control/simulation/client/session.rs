//! One client: it looks for a backend, waits, dials and is relayed.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;
use crate::config::WaitLimit;
use crate::control::simulation::client::MAX_TURNS_AT_ONCE;
use crate::control::simulation::client::News;
use crate::control::simulation::client::Place;
use crate::control::simulation::client::Session;
use crate::control::simulation::client::Stage;
use crate::control::simulation::client::Surroundings;
use crate::control::simulation::client::Wait;
use crate::control::simulation::client::Waits;
use crate::control::simulation::setup::CLUSTER;
use crate::control::simulation::setup::node_at;
use crate::routing::Admission;
use crate::routing::ClusterTable;
use crate::routing::Fate;
use crate::routing::KeySource;
use crate::routing::LoginKeys;
use crate::routing::PickError;
use crate::routing::PickRequest;

impl Session {
    pub(super) fn wait(&mut self, waits: Waits) -> &mut Option<Wait> {
        match waits {
            Waits::Hold => &mut self.hold,
            Waits::Queue => &mut self.queue,
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Pausing(until) | Stage::Dialing { until, .. } => Some(*until),
            Stage::Waiting(Waits::Hold) => self.hold.as_ref().map(|wait| wait.deadline),
            Stage::Waiting(Waits::Queue) => self.queue.as_ref().map(|wait| wait.deadline),
            Stage::Looking | Stage::Relaying(_) | Stage::Over => None,
        }
    }

    pub(super) fn look(&mut self, world: &mut Surroundings) {
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

    pub(super) fn dialed(&mut self, world: &mut Surroundings) {
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

    pub(super) fn enter(&mut self, waits: Waits, entered: u64, world: &Surroundings) {
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

    pub(super) fn time_out(&mut self, waits: Waits, world: &mut Surroundings) {
        if (waits, self.why) == (Waits::Hold, PickError::NoneEligible) {
            world.news.push(News::HoldTimeout(self.intent));
        }
        self.stage = Stage::Over;
    }

    pub(super) fn count_turn(&mut self, now: Instant) {
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
    pub(super) fn check_patience(&self, world: &Surroundings) {
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
