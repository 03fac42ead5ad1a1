//! The deciding half of the control plane: facts in, states and due probes out.
//!
//! Sees no socket and no clock, so that a seeded simulation can run all of it.

mod appoint;
mod judgement;
mod membership;
mod notes;
mod outliers;
mod pace;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

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
use crate::control::backend::Identity;
use crate::control::backend::Moment;
use crate::control::cluster_state::ClusterState;
use crate::control::failover::Memory;
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

    /// A cluster's authority has to be asked fast.
    pub fn needs_authority(&self, cluster: &Name, now: Instant) -> bool {
        let cluster = self.clusters.get(cluster);
        cluster.is_some_and(|cluster| cluster.needs_authority(now))
    }

    /// Sets the admin state of one backend.
    pub fn set_admin_state(
        &mut self,
        cluster: &str,
        backend: &str,
        admin: AdminState,
        now: Moment,
    ) -> Result<(), CommandError> {
        let (state, position) = self.named(cluster, backend)?;
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

    /// A backend as people call it: its cluster, and where it is there.
    fn named(
        &mut self,
        cluster: &str,
        backend: &str,
    ) -> Result<(&mut ClusterState, usize), CommandError> {
        let known = self.clusters.keys().cloned().collect::<Vec<_>>();
        let Some(state) = self.clusters.get_mut(cluster) else {
            return Err(unknown("cluster", cluster, &known));
        };
        let names = state.backends.iter().map(|state| &state.handle.name);
        let names = names.cloned().collect::<Vec<_>>();
        let Some(position) = names.iter().position(|name| **name == *backend) else {
            return Err(unknown("backend", backend, &names));
        };
        Ok((state, position))
    }

    fn find(&mut self, id: BackendId) -> Option<&mut BackendState> {
        let (cluster, position) = locate(&self.places, &mut self.clusters, id)?;
        cluster.backends.get_mut(position)
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
