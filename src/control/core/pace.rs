//! Who is asked when.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::control::backend::Flight;
use crate::control::cluster_state::ClusterState;
use crate::control::core::Core;
use crate::control::core::Order;
use crate::control::core::locate;
use crate::control::schedule::Schedule;

impl Core {
    /// When the next probe is due.
    pub fn next_due(&mut self) -> Option<Instant> {
        self.schedule.next()
    }

    /// Takes the next probe that is due.
    pub fn start_due(&mut self, now: Instant) -> Option<Order> {
        while let Some(id) = self.schedule.pop(now) {
            self.next_probe += 1;
            let number = self.next_probe;
            let Some(state) = self.find(id) else {
                continue;
            };
            // One prober per backend.
            let (None, true, Some(address)) = (state.flight, state.is_checked(), state.address)
            else {
                continue;
            };
            state.flight = Some(Flight {
                number,
                started: now,
            });
            state.last_started = Some(now);
            let check_port = state.target.cluster.health_check.port;
            let port = check_port.unwrap_or(state.target.backend.port);
            return Some(Order {
                id,
                number,
                target: Arc::clone(&state.target),
                address: SocketAddr::new(address, port.get()),
            });
        }
        None
    }

    pub(super) fn schedule_next(
        &mut self,
        id: BackendId,
        started: Instant,
        at_once: bool,
        now: Instant,
    ) {
        // ±10 %, so that the probes of many backends and instances drift apart.
        let jitter = 0.9 + 0.2 * self.random.f64();
        let Some((cluster, position)) = locate(&self.places, &mut self.clusters, id) else {
            return;
        };
        let fast = cluster.fast_interval();
        let unserved = cluster.wants_somebody();
        let state = &cluster.backends[position];
        // Nobody puts a password right within milliseconds, and each try fills a log.
        let refused = state.failed == Some(Cause::LoginFailed);
        let urgent = (unserved && !refused) || at_once || state.tracker.is_suspected();
        let pause = match urgent {
            true => state.urgent_pause(fast, now),
            false if refused => cluster.config.health_check.interval,
            false => cluster.calm_pause(state, now),
        };
        let due = started + pause.mul_f64(jitter);
        self.schedule.set(id, due.max(now));
    }

    pub(super) fn hurry_when_unserved(&mut self, id: BackendId, now: Instant) {
        if let Some((cluster, _)) = locate(&self.places, &mut self.clusters, id) {
            hurry(cluster, &mut self.schedule, &mut self.random, now);
        }
    }
}

/// The last eligible backend is gone: ask all of them, fast. The last of one listener: ask those
/// that serve nobody.
pub(super) fn hurry(
    cluster: &mut ClusterState,
    schedule: &mut Schedule<BackendId>,
    random: &mut fastrand::Rng,
    now: Instant,
) {
    let served = cluster.is_served();
    let lost = std::mem::replace(&mut cluster.served, served) && !served;
    let lost_to_one = cluster.note_unserved(now);
    if !lost && !lost_to_one {
        return;
    }
    let fast = cluster.fast_interval();
    let asked = cluster.backends.iter();
    for state in asked.filter(|state| lost || !state.is_eligible()) {
        // Before its first verdict the first probe is on its way.
        let (Some(started), None, true) = (state.last_started, state.flight, state.is_checked())
        else {
            continue;
        };
        let pause = state.urgent_pause(fast, now);
        let due = started + pause.mul_f64(0.9 + 0.2 * random.f64());
        schedule.pull(state.handle.id, due.max(now));
    }
}
