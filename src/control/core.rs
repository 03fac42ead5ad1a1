//! The deciding half of the control plane: facts in, states and due probes out.
//!
//! Sees no socket and no clock, so that a seeded simulation can run all of it.

mod appoint;
mod membership;
mod notes;
mod outliers;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::debug;
use tracing::info;
use tracing::warn;

use crate::cluster::AdminState;
use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::cluster::Role;
use crate::config::Host;
use crate::control::CommandError;
use crate::control::backend::BackendState;
use crate::control::backend::Flight;
use crate::control::backend::Identity;
use crate::control::backend::Moment;
use crate::control::cluster_state::ClusterState;
use crate::control::core::outliers::is_of_answers;
use crate::control::evidence::Authority;
use crate::control::failover::Memory;
use crate::control::health::Damping;
use crate::control::health::is_hard;
use crate::control::health::is_proof;
use crate::control::probe::Observation;
use crate::control::probe::Target;
use crate::control::schedule::Schedule;
use crate::routing::BackendHandle;

/// The state of all clusters and backends.
#[derive(Debug, Default)]
pub struct Core {
    clusters: BTreeMap<Name, ClusterState>,
    /// The cluster of each backend and its position there.
    places: HashMap<BackendId, (Name, usize)>,
    /// Backends that were removed or have moved, with live sessions, so that their return revives them.
    retired: HashMap<Identity, Arc<BackendHandle>>,
    schedule: Schedule<BackendId>,
    next_id: u64,
    next_probe: u64,
    random: fastrand::Rng,
}

/// One probe to send now.
#[derive(Debug)]
pub struct Order {
    pub id: BackendId,
    pub number: u64,
    pub target: Arc<Target>,
    pub address: SocketAddr,
}

impl Core {
    /// The core with a seed of its own, for jitter.
    pub fn seeded(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            ..Self::default()
        }
    }

    pub fn clusters(&self) -> impl Iterator<Item = &ClusterState> {
        self.clusters.values()
    }

    pub fn knows(&self, cluster: &Name) -> bool {
        self.clusters.contains_key(cluster)
    }

    /// What has to be saved before the next table is published.
    pub fn take_unsaved(&mut self) -> Vec<(Name, Memory)> {
        let mut unsaved = Vec::new();
        for (name, state) in &mut self.clusters {
            if std::mem::take(&mut state.roles.unsaved) {
                unsaved.push((Arc::clone(name), state.roles.memory().clone()));
            }
        }
        unsaved
    }

    /// Names that backends still wait for.
    pub fn unresolved(&self) -> HashSet<Name> {
        let backends = self.clusters.values().flat_map(|cluster| &cluster.backends);
        let unresolved = backends.filter(|state| state.address.is_none());
        let names = unresolved.filter_map(|state| match &state.target.backend.host {
            Host::Name(name) => Some(Arc::clone(name)),
            Host::Ip(_) => None,
        });
        names.collect()
    }

    /// Whether probes are sent to it.
    pub fn is_checked(&self, id: BackendId) -> bool {
        let place = self.places.get(&id);
        let cluster = place.and_then(|(name, _)| self.clusters.get(name));
        let state = place
            .zip(cluster)
            .and_then(|((_, at), it)| it.backends.get(*at));
        state.is_some_and(BackendState::is_checked)
    }

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

    /// Folds in what a probe saw; `false` when nobody waits for it any more.
    pub fn observe(
        &mut self,
        id: BackendId,
        number: u64,
        observation: Observation,
        now: Moment,
    ) -> bool {
        let Some(state) = self.find(id) else {
            return false;
        };
        let Some(flight) = state.flight.filter(|flight| flight.number == number) else {
            return false;
        };
        state.flight = None;
        if let Err(cause) = observation.result {
            let handle = &state.handle;
            debug!(cluster = %handle.cluster, backend = %handle.name, %cause, "health check failed");
        }
        if !matches!(observation.result, Err(Cause::OutOfResources)) {
            state.handle.count_check(observation.result.is_ok());
        }
        let passed = observation.result.is_ok();
        let reported = state.reported.take();
        let mut answers_traffic = false;
        let result = match observation.result {
            Ok(evidence) => {
                answers_traffic = state.hear(evidence, number);
                Ok(())
            }
            Err(cause) => {
                state.fail(cause, number, now.instant);
                self.note_error(id, cause, now);
                Err(cause)
            }
        };
        self.judge(id, result, now);
        if reported.is_none() {
            self.note_suspicion(id, now.instant);
        }
        self.decide(id, now);
        self.measure_lag(id, now);
        if answers_traffic {
            self.answer_traffic(id, now);
        }
        if let Some(cause) = reported {
            self.suspect(id, cause, now.instant);
        }
        if passed {
            self.note_pass(id, now);
        }
        self.schedule_next(id, flight.started, reported.is_some(), now.instant);
        true
    }

    /// A probe has confirmed or refuted what traffic had said.
    fn answer_traffic(&mut self, id: BackendId, now: Moment) {
        if let Some((cluster, position)) = locate(&self.places, &mut self.clusters, id) {
            cluster.backends[position].refute(now.instant);
            // Confirmed, its role stays as it was, but spares its sessions no longer.
            cluster.changed = true;
        }
    }

    /// Turns a result into health.
    fn judge(&mut self, id: BackendId, result: Result<(), Cause>, now: Moment) {
        let Some((cluster, position)) = locate(&self.places, &mut self.clusters, id) else {
            return;
        };
        let damping = if cluster.serves_every_listener() {
            Damping::Apply
        } else {
            Damping::Skip
        };
        let state = &mut cluster.backends[position];
        // A verdict that was under way when maintenance began is not acted on.
        if state.admin == AdminState::Maintenance {
            return;
        }
        let cause = state.tracker.cause();
        if let Some(transition) = state.tracker.observe(result, damping, now.instant) {
            state.changed(transition, now);
            cluster.changed = true;
            cluster.judge_outliers(now);
            self.hurry_when_unserved(id, now.instant);
        } else if state.tracker.cause() != cause {
            // People who look for the reason see the present one.
            cluster.changed = true;
        }
    }

    /// Judges the roles in a backend's cluster anew.
    fn decide(&mut self, id: BackendId, now: Moment) {
        let Some((cluster, _)) = locate(&self.places, &mut self.clusters, id) else {
            return;
        };
        if !cluster.tells_roles() {
            return;
        }
        let fresh = cluster.decide(self.next_probe, now);
        let fast = cluster.fast_interval();
        for state in cluster
            .backends
            .iter()
            .filter(|state| fresh.contains(&state.handle.id))
        {
            if state.flight.is_none() {
                let pause = state.urgent_pause(fast, now.instant);
                let due = state.last_started.map_or(now.instant, |last| last + pause);
                self.schedule.pull(state.handle.id, due.max(now.instant));
            }
        }
        self.hurry_when_unserved(id, now.instant);
    }

    /// What a cluster's authority says from now on; `None`: it is silent.
    pub fn told(&mut self, cluster: &Name, authority: Option<&Authority>, now: Moment) {
        let Some(state) = self.clusters.get_mut(cluster) else {
            return;
        };
        state.roles.hear(authority.cloned());
        if let Some(first) = state.backends.first().map(|state| state.handle.id) {
            self.decide(first, now);
        }
    }

    /// A cluster's authority has to be asked fast.
    pub fn needs_authority(&self, cluster: &Name, now: Instant) -> bool {
        let cluster = self.clusters.get(cluster);
        cluster.is_some_and(|cluster| cluster.needs_authority(now))
    }

    fn measure_lag(&mut self, id: BackendId, now: Moment) {
        if let Some((cluster, position)) = locate(&self.places, &mut self.clusters, id)
            && cluster.tells_roles()
        {
            cluster.measure_lag(position, now);
        }
    }

    fn suspect(&mut self, id: BackendId, cause: Cause, now: Instant) {
        if let Some(state) = self.find(id) {
            state.suspect(cause, now);
        }
    }

    fn note_suspicion(&mut self, id: BackendId, now: Instant) {
        if let Some(state) = self.find(id) {
            state.note_suspicion(now);
        }
    }

    fn schedule_next(&mut self, id: BackendId, started: Instant, at_once: bool, now: Instant) {
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

    fn hurry_when_unserved(&mut self, id: BackendId, now: Instant) {
        if let Some((cluster, _)) = locate(&self.places, &mut self.clusters, id) {
            hurry(cluster, &mut self.schedule, &mut self.random, now);
        }
    }

    /// Evidence from a session: asks for a probe at once, at most one per fast interval. What
    /// answers say is judged by itself.
    pub fn report(&mut self, id: BackendId, cause: Cause, now: Moment) {
        if is_of_answers(cause) {
            self.judge_outliers_of(id, now);
            return;
        }
        let Some((cluster, position)) = locate(&self.places, &mut self.clusters, id) else {
            return;
        };
        let fast = cluster.fast_interval();
        let state = &mut cluster.backends[position];
        if !state.is_checked() {
            return;
        }
        state.suspect(cause, now.instant);
        let name = Arc::clone(&state.handle.name);
        cluster
            .watch
            .failed(&cluster.config.name, &name, cause, now);
        let state = &mut cluster.backends[position];
        if is_proof(cause) && state.quarantine(cause, now.instant) {
            self.decide(id, now);
        }
        let Some(state) = self.find(id) else {
            return;
        };
        if state.flight.is_some() {
            // Hard evidence is not overwritten by soft.
            if !state.reported.is_some_and(is_hard) {
                state.reported = Some(cause);
            }
            return;
        }
        let pause = state.urgent_pause(fast, now.instant);
        let due = state
            .last_started
            .map_or(now.instant, |started| started + pause);
        self.schedule.pull(id, due.max(now.instant));
    }

    /// Sets the admin state of one backend.
    pub fn set_admin_state(
        &mut self,
        cluster: &str,
        backend: &str,
        admin: AdminState,
        now: Moment,
    ) -> Result<(), CommandError> {
        let known = self.clusters.keys().cloned().collect::<Vec<_>>();
        let Some(state) = self.clusters.get_mut(cluster) else {
            return Err(unknown("cluster", cluster, &known));
        };
        let names = state.backends.iter().map(|state| &state.handle.name);
        let names = names.cloned().collect::<Vec<_>>();
        let Some(position) = names.iter().position(|name| **name == *backend) else {
            return Err(unknown("backend", backend, &names));
        };
        let found = &mut state.backends[position];
        let id = found.handle.id;
        let was = found.set_admin(admin, now);
        if was == admin {
            return Ok(());
        }
        info!(
            cluster, backend, from = was.as_str(), to = admin.as_str(),
            cause = %Cause::AdminCommand, "admin state changed"
        );
        if found.role == Role::Primary && admin != AdminState::Ready {
            warn!(
                cluster,
                backend, "the primary takes no new sessions: writers wait for another"
            );
        }
        state.changed = true;
        if was == AdminState::Maintenance {
            // It was left alone: what was known of it may be long out of date.
            found.flight = None;
            found.reported = None;
            let transition = found.tracker.reset(Cause::AdminCommand, now.instant);
            if let Some(transition) = transition {
                found.changed(transition, now);
            }
            found.note_suspicion(now.instant);
            self.schedule.pull(id, now.instant);
        }
        self.decide(id, now);
        self.hurry_when_unserved(id, now.instant);
        Ok(())
    }

    /// Tells the sessions of changed clusters their fate; returns those clusters' names.
    /// The caller publishes a table with them.
    pub fn settle(&mut self) -> Vec<Name> {
        self.retired.retain(|_, handle| handle.active() > 0);
        let mut changed = Vec::new();
        for (name, cluster) in &mut self.clusters {
            if std::mem::take(&mut cluster.changed) {
                cluster.settle_fates();
                cluster.settle_retired(&self.retired);
                changed.push(Arc::clone(name));
            }
        }
        changed
    }

    /// A table with everything that changed has to be published.
    pub fn has_changed(&self) -> bool {
        self.clusters.values().any(|cluster| cluster.changed)
    }

    fn find(&mut self, id: BackendId) -> Option<&mut BackendState> {
        let (cluster, position) = locate(&self.places, &mut self.clusters, id)?;
        cluster.backends.get_mut(position)
    }
}

/// The last eligible backend is gone: ask all of them, fast. The last of one listener: ask those
/// that serve nobody.
fn hurry(
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

/// A backend's cluster and its position there.
fn locate<'a>(
    places: &HashMap<BackendId, (Name, usize)>,
    clusters: &'a mut BTreeMap<Name, ClusterState>,
    id: BackendId,
) -> Option<(&'a mut ClusterState, usize)> {
    let (name, position) = places.get(&id)?;
    Some((clusters.get_mut(name)?, *position))
}

fn unknown(what: &str, name: &str, known: &[Name]) -> CommandError {
    // Half the letters may differ: a hint that is no help does less harm than none.
    let limit = name.chars().count().div_ceil(2).max(1);
    let near = known
        .iter()
        .map(|candidate| (strsim::osa_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min();
    let hint = near.map_or(String::new(), |(_, near)| {
        format!("; did you mean {near:?}?")
    });
    CommandError::Unknown(format!("no {what} {name:?}{hint}"))
}

#[cfg(test)]
mod tests;
