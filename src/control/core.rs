//! The deciding half of the control plane: facts in, states and due probes out.
//!
//! Sees no socket and no clock, so that a seeded simulation can run all of it.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tracing::debug;
use tracing::info;

use crate::cluster::AdminState;
use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::config::ClusterConfig;
use crate::config::Config;
use crate::config::Host;
use crate::control::CommandError;
use crate::control::backend::BackendState;
use crate::control::backend::Flight;
use crate::control::backend::Identity;
use crate::control::backend::Moment;
use crate::control::cluster_state::ClusterState;
use crate::control::cluster_state::spacing;
use crate::control::health::Damping;
use crate::control::health::Rules;
use crate::control::health::is_hard;
use crate::control::probe::Observation;
use crate::control::probe::Target;
use crate::control::schedule::Schedule;
use crate::routing::BackendHandle;
use crate::routing::ClusterHandle;
use crate::tls::TlsConnector;

/// Up to this many new backends are probed at once; more are spread out.
const MAX_FIRST_PROBES_AT_ONCE: usize = 64;
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

    /// Replaces what is configured. Backends that stay the same keep their
    /// handle, id, health and admin state.
    pub fn apply(
        &mut self,
        config: &Config,
        connectors: &HashMap<Name, TlsConnector>,
        now: Moment,
    ) {
        let mut old = std::mem::take(&mut self.clusters);
        self.retired.retain(|_, handle| handle.active() > 0);
        for cluster in &config.clusters {
            let tls = connectors.get(&cluster.name).cloned();
            let state = self.apply_cluster(cluster, tls, old.remove(&cluster.name), now);
            self.clusters.insert(Arc::clone(&cluster.name), state);
        }
        for cluster in old.into_values() {
            for mut backend in cluster.backends {
                self.retire(&mut backend, now);
            }
        }
        for cluster in self.clusters.values_mut() {
            hurry(cluster, &mut self.schedule, &mut self.random, now.instant);
        }
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

    fn apply_cluster(
        &mut self,
        config: &ClusterConfig,
        tls: Option<TlsConnector>,
        old: Option<ClusterState>,
        now: Moment,
    ) -> ClusterState {
        // Certificates may have changed behind the same paths.
        let unchanged = |old: &ClusterState| *old.config == *config && tls.is_none();
        let (mut known, handle, changed, served, check_changed) = match old {
            None => {
                let handle = Arc::new(ClusterHandle::new(Arc::clone(&config.name)));
                (HashMap::<Name, _>::new(), handle, true, true, false)
            }
            Some(old) => {
                let changed = old.changed || !unchanged(&old);
                let check_changed = old.config.health_check != config.health_check;
                let states = old.backends.into_iter();
                let known = states
                    .map(|state| (Arc::clone(&state.handle.name), state))
                    .collect();
                (known, old.handle, changed, old.served, check_changed)
            }
        };

        let config = Arc::new(config.clone());
        let mut backends = Vec::with_capacity(config.backends.len());
        for backend in &config.backends {
            let target = Arc::new(Target {
                cluster: Arc::clone(&config),
                backend: backend.clone(),
                tls: tls.clone(),
            });
            let known = known.remove(&backend.name);
            let state = self.apply_backend(target, known, check_changed, now);
            let place = (Arc::clone(&config.name), backends.len());
            self.places.insert(state.handle.id, place);
            backends.push(state);
        }
        for mut state in known.into_values() {
            self.retire(&mut state, now);
        }
        ClusterState {
            config,
            handle,
            tls,
            backends,
            changed,
            served,
        }
    }

    fn apply_backend(
        &mut self,
        target: Arc<Target>,
        known: Option<BackendState>,
        check_changed: bool,
        now: Moment,
    ) -> BackendState {
        let mut state = match known {
            None => return self.new_backend(target, None, now),
            Some(mut known) if !known.is_at_home(&target.backend) => {
                self.retire(&mut known, now);
                return self.new_backend(target, Some(&known), now);
            }
            Some(known) => known,
        };
        state.target = target;
        if check_changed {
            let check = &state.target.cluster.health_check;
            state.tracker.set_rules(Rules::from(check));
            // The answer to the old question is of no interest.
            state.flight = None;
            self.probe_soon(&state, now.instant);
        }
        state
    }

    /// `predecessor`: the backend of the same name at another address.
    fn new_backend(
        &mut self,
        target: Arc<Target>,
        predecessor: Option<&BackendState>,
        now: Moment,
    ) -> BackendState {
        let id = self.new_id();
        let handle = match predecessor {
            Some(state) => state.handle.successor(id),
            None => BackendHandle::new(
                id,
                Arc::clone(&target.cluster.name),
                Arc::clone(&target.backend.name),
            ),
        };
        let mut state = BackendState::new(target, Arc::new(handle), now);
        if let Some(predecessor) = predecessor {
            state.inherit_admin(predecessor);
        }
        let identity = state.identity();
        if let Some(handle) = identity.and_then(|identity| self.retired.remove(&identity)) {
            state.handle = handle;
        }
        self.probe_soon(&state, now.instant);
        state
    }

    fn new_id(&mut self) -> BackendId {
        self.next_id += 1;
        BackendId(self.next_id)
    }

    fn retire(&mut self, state: &mut BackendState, now: Moment) {
        state.leave(now);
        self.schedule.remove(&state.handle.id);
        self.places.remove(&state.handle.id);
        self.remember(state.identity(), Arc::clone(&state.handle));
    }

    /// Whoever returns to this address while sessions are there is the same one.
    fn remember(&mut self, identity: Option<Identity>, handle: Arc<BackendHandle>) {
        if let Some(identity) = identity
            && handle.active() > 0
        {
            self.retired.insert(identity, handle);
        }
    }

    /// The first probe: at once for a few backends, spread out for many.
    fn probe_soon(&mut self, state: &BackendState, now: Instant) {
        if !state.is_checked() {
            return;
        }
        let check = &state.target.cluster.health_check;
        let siblings = state.target.cluster.backends.len();
        let mut delay = Duration::ZERO;
        if siblings > MAX_FIRST_PROBES_AT_ONCE {
            delay = check
                .interval
                .min(spacing(siblings))
                .mul_f64(self.random.f64());
        }
        self.schedule.pull(state.handle.id, now + delay);
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
        if observation.result != Err(Cause::OutOfResources) {
            state.handle.count_check(observation.result.is_ok());
        }
        let reported = state.reported.take();
        self.judge(id, observation.result, now);
        if let Some(cause) = reported {
            self.suspect(id, cause);
        }
        self.schedule_next(id, flight.started, reported.is_some(), now.instant);
        true
    }

    /// Turns a result into health.
    fn judge(&mut self, id: BackendId, result: Result<(), Cause>, now: Moment) {
        let Some((cluster, position)) = locate(&self.places, &mut self.clusters, id) else {
            return;
        };
        let damping = if cluster.is_served() {
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
            self.hurry_when_unserved(id, now.instant);
        } else if state.tracker.cause() != cause {
            // People who look for the reason see the present one.
            cluster.changed = true;
        }
    }

    fn suspect(&mut self, id: BackendId, cause: Cause) {
        if let Some(state) = self.find(id) {
            state.tracker.suspect(cause);
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
        let interval = cluster.config.health_check.interval;
        let state = &mut cluster.backends[position];
        let pause = if unserved || at_once || state.tracker.is_suspected() {
            fast
        } else {
            interval
        };
        let due = started + pause.mul_f64(jitter);
        self.schedule.set(id, due.max(now));
    }

    fn hurry_when_unserved(&mut self, id: BackendId, now: Instant) {
        if let Some((cluster, _)) = locate(&self.places, &mut self.clusters, id) {
            hurry(cluster, &mut self.schedule, &mut self.random, now);
        }
    }

    /// Evidence from a session: asks for a probe at once, at most one per fast interval.
    pub fn report(&mut self, id: BackendId, cause: Cause, now: Instant) {
        let Some((cluster, position)) = locate(&self.places, &mut self.clusters, id) else {
            return;
        };
        let fast = cluster.fast_interval();
        let state = &mut cluster.backends[position];
        if !state.is_checked() {
            return;
        }
        state.tracker.suspect(cause);
        if state.flight.is_some() {
            // Hard evidence is not overwritten by soft.
            if !state.reported.is_some_and(is_hard) {
                state.reported = Some(cause);
            }
            return;
        }
        let due = state.last_started.map_or(now, |started| started + fast);
        self.schedule.pull(id, due.max(now));
    }

    /// What a name resolves to; `None` when it cannot be resolved. The last good address stays.
    pub fn resolved(&mut self, host: &Name, address: Option<IpAddr>, now: Moment) {
        let states = self.clusters.values().flat_map(|cluster| &cluster.backends);
        let named = states
            .filter(|state| matches!(&state.target.backend.host, Host::Name(name) if name == host));
        let affected = named.filter(|state| match address {
            Some(_) => state.address != address,
            None => state.address.is_none(),
        });
        for id in affected.map(|state| state.handle.id).collect::<Vec<_>>() {
            match address {
                Some(address) => self.relocate(id, address, now),
                None => self.judge(id, Err(Cause::Unresolved), now),
            }
        }
    }

    /// A backend has an address, its first or another one. Sessions at the one
    /// before must not follow the health of this one: it gets a handle of its own.
    fn relocate(&mut self, id: BackendId, address: IpAddr, now: Moment) {
        let next_id = self.new_id();
        let Some(place) = self.places.remove(&id) else {
            return;
        };
        let Some(cluster) = self.clusters.get_mut(&place.0) else {
            return;
        };
        // What is pending for the sessions was decided about the address that they use.
        cluster.settle_fates();
        cluster.changed = true;
        let state = &mut cluster.backends[place.1];
        let (before, old) = (state.identity(), Arc::clone(&state.handle));
        let identity = Identity {
            cluster: Arc::clone(&old.cluster),
            backend: Arc::clone(&old.name),
            address: SocketAddr::new(address, state.target.backend.port.get()),
        };
        let handle = match self.retired.remove(&identity) {
            Some(returned) => returned,
            // Without an address it had no session.
            None if before.is_none() => Arc::clone(&old),
            None => Arc::new(old.successor(next_id)),
        };
        state.relocate(address, handle, now);
        let id = state.handle.id;
        let checked = state.is_checked();
        self.places.insert(id, place);
        self.schedule.remove(&old.id);
        self.remember(before, old);
        if checked {
            self.schedule.pull(id, now.instant);
        }
        self.hurry_when_unserved(id, now.instant);
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
        state.changed = true;
        if was == AdminState::Maintenance {
            // It was left alone: what was known of it may be long out of date.
            found.flight = None;
            found.reported = None;
            let transition = found.tracker.reset(Cause::AdminCommand, now.instant);
            if let Some(transition) = transition {
                found.changed(transition, now);
            }
            self.schedule.pull(id, now.instant);
        }
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

/// The last eligible backend is gone: ask all of them, fast.
fn hurry(
    cluster: &mut ClusterState,
    schedule: &mut Schedule<BackendId>,
    random: &mut fastrand::Rng,
    now: Instant,
) {
    let served = cluster.is_served();
    let lost = std::mem::replace(&mut cluster.served, served) && !served;
    if !lost {
        return;
    }
    let fast = cluster.fast_interval();
    for state in &cluster.backends {
        // Before its first verdict the first probe is on its way.
        let (Some(started), None, true) = (state.last_started, state.flight, state.is_checked())
        else {
            continue;
        };
        let due = started + fast.mul_f64(0.9 + 0.2 * random.f64());
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
