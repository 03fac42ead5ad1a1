//! Who belongs to which cluster: what a configuration and the names in it make of
//! the backends that are known.

use std::collections::HashMap;
use std::mem::discriminant;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::config::ClusterConfig;
use crate::config::Config;
use crate::config::Host;
use crate::config::Intent;
use crate::control::backend::BackendState;
use crate::control::backend::Identity;
use crate::control::backend::Moment;
use crate::control::cluster_state::ClusterState;
use crate::control::cluster_state::spacing;
use crate::control::core::Core;
use crate::control::core::pace::hurry;
use crate::control::failover::Memory;
use crate::control::health::Rules;
use crate::control::probe::Target;
use crate::routing::BackendHandle;
use crate::tls::TlsConnector;

/// Up to this many new backends are probed at once; more are spread out.
const MAX_FIRST_PROBES_AT_ONCE: usize = 64;

impl Core {
    /// Replaces what is configured. Backends that stay the same keep their
    /// handle, id, health and admin state.
    pub fn apply(
        &mut self,
        config: &Config,
        connectors: &HashMap<Name, TlsConnector>,
        mut memories: HashMap<Name, Memory>,
        now: Moment,
    ) {
        let mut old = std::mem::take(&mut self.clusters);
        self.retired.retain(|_, handle| handle.active() > 0);
        for cluster in &config.clusters {
            let tls = connectors.get(&cluster.name).cloned();
            let memory = memories.remove(&cluster.name).unwrap_or_default();
            let old = old.remove(&cluster.name);
            let old = old.unwrap_or_else(|| ClusterState::new(Arc::new(cluster.clone()), memory));
            let mut state = self.apply_cluster(cluster, tls, old, now);
            state.set_intents(intents_of(config, &cluster.name), now);
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

    fn apply_cluster(
        &mut self,
        config: &ClusterConfig,
        tls: Option<TlsConnector>,
        mut cluster: ClusterState,
        now: Moment,
    ) -> ClusterState {
        let config = Arc::new(config.clone());
        let check_changed = cluster.config.health_check != config.health_check;
        // Certificates may have changed behind the same paths.
        cluster.changed |= *cluster.config != *config || tls.is_some();
        let states = std::mem::take(&mut cluster.backends).into_iter();
        let mut known: HashMap<Name, _> = states
            .map(|state| (Arc::clone(&state.handle.name), state))
            .collect();
        for backend in &config.backends {
            let target = Arc::new(Target {
                cluster: Arc::clone(&config),
                backend: backend.clone(),
                tls: tls.clone(),
            });
            let known = known.remove(&backend.name);
            let state = self.apply_backend(target, known, check_changed, now);
            let place = (Arc::clone(&config.name), cluster.backends.len());
            self.places.insert(state.handle.id, place);
            cluster.backends.push(state);
        }
        for mut state in known.into_values() {
            self.retire(&mut state, now);
        }
        cluster.config = config;
        cluster.tls = tls;
        cluster.decide(self.next_probe, now);
        cluster.judge_outliers(now);
        cluster
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
        let before = std::mem::replace(&mut state.target, target);
        if check_changed {
            let (before, after) = (&before.cluster, &state.target.cluster);
            if discriminant(&before.health_check.kind) != discriminant(&after.health_check.kind) {
                state.unhear();
            }
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
                None => {
                    self.judge(id, Err(Cause::Unresolved), now);
                    self.decide(id, now);
                }
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
        cluster.judge_outliers(now);
        self.places.insert(id, place);
        self.schedule.remove(&old.id);
        self.remember(before, old);
        if checked {
            self.schedule.pull(id, now.instant);
        }
        self.decide(id, now);
        self.hurry_when_unserved(id, now.instant);
    }
}

/// What the listeners want of a cluster; each intent once.
fn intents_of(config: &Config, cluster: &Name) -> Vec<Intent> {
    let mut intents = Vec::new();
    for listener in &config.listeners {
        let mut clusters = listener.routes.iter().map(|route| &route.cluster);
        let uses =
            listener.cluster.as_ref() == Some(cluster) || clusters.any(|routed| routed == cluster);
        if uses && !intents.contains(&listener.intent) {
            intents.push(listener.intent);
        }
    }
    intents
}
