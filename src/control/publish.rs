//! The core's states -> the routing table.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cluster::FastMap;
use crate::cluster::Name;
use crate::cluster::WantedRole;
use crate::config::Config;
use crate::config::Intent;
use crate::config::ListenerConfig;
use crate::control::Desired;
use crate::control::cluster_state::ClusterState;
use crate::control::core::Core;
use crate::routing::ClusterTable;
use crate::routing::ListenerEntry;
use crate::routing::ListenerHandle;
use crate::routing::RateLimiters;
use crate::routing::RoutingTable;
use crate::routing::SharedTable;

/// Waiting sessions that may try one eligible backend at once: enough to fill
/// it soon, too few to stampede it.
const RELEASES_PER_BACKEND: usize = 32;

/// Builds tables and keeps what one has in common with the next.
#[derive(Debug)]
pub struct Publisher {
    table: SharedTable,
    clusters: FastMap<Name, Arc<ClusterTable>>,
    listeners: FastMap<Name, Arc<ListenerEntry>>,
    /// Removed listeners with live sessions, so that adding them again revives their counters.
    retired: HashMap<Name, Arc<ListenerHandle>>,
    max_connections: usize,
    zone: Option<Name>,
    /// The zone has changed since the last table: groups depend on it, no table can be kept.
    zone_changed: bool,
}

impl Publisher {
    pub fn new(table: SharedTable) -> Self {
        Self {
            table,
            clusters: FastMap::default(),
            listeners: FastMap::default(),
            retired: HashMap::new(),
            max_connections: 0,
            zone: None,
            zone_changed: false,
        }
    }

    /// Takes over what is not the core's: listeners, limits, our zone.
    pub fn apply(&mut self, desired: &Desired) {
        let config: &Config = &desired.config;
        self.max_connections = config.max_connections;
        if self.zone != config.zone {
            self.zone.clone_from(&config.zone);
            self.zone_changed = true;
        }
        self.retired.retain(|_, handle| handle.active() > 0);
        let mut old = std::mem::take(&mut self.listeners);
        for listener in &config.listeners {
            let name = &listener.name;
            let tls = desired.tls.acceptors.get(name).cloned();
            let entry = match old.remove(name) {
                // With TLS, certificates may have changed behind the same paths.
                Some(entry) if entry.config == *listener && tls.is_none() => entry,
                known => {
                    let rates = rates(listener, known.as_deref());
                    let handle = known
                        .map(|entry| Arc::clone(&entry.handle))
                        .or_else(|| self.retired.remove(name))
                        .unwrap_or_else(|| Arc::new(ListenerHandle::new(Arc::clone(name))));
                    Arc::new(ListenerEntry::new(listener.clone(), handle, tls, rates))
                }
            };
            self.listeners.insert(Arc::clone(name), entry);
        }
        for (name, entry) in old {
            if entry.handle.active() > 0 {
                self.retired.insert(name, Arc::clone(&entry.handle));
            }
        }
    }

    /// Publishes one table with everything that has changed since the last.
    pub fn publish(&mut self, core: &mut Core) {
        let changed = core.settle();
        let zone_changed = std::mem::take(&mut self.zone_changed);
        let mut old = std::mem::take(&mut self.clusters);
        for cluster in core.clusters() {
            let name = &cluster.config.name;
            let table = match old.remove(name) {
                Some(table) if !zone_changed && !changed.contains(name) => table,
                _ => Arc::new(self.cluster_table(cluster)),
            };
            self.clusters.insert(Arc::clone(name), table);
        }
        self.table.publish(RoutingTable {
            // `SharedTable` numbers it.
            generation: 0,
            clusters: self.clusters.clone(),
            listeners: self.listeners.clone(),
            max_connections: self.max_connections,
        });
        // Only now: who is let go reads the table that has somebody for it.
        for name in &changed {
            if let Some(cluster) = self.clusters.get(name) {
                open_or_close(cluster);
            }
        }
        for removed in old.values() {
            removed.handle.dissolve();
        }
        if !old.is_empty() {
            for listener in self.listeners.values() {
                let clusters = &self.clusters;
                let http = &listener.handle.http;
                http.retain(|cluster| clusters.contains_key(cluster));
            }
        }
    }

    fn cluster_table(&self, cluster: &ClusterState) -> ClusterTable {
        let mut table = ClusterTable::new(
            Arc::clone(&cluster.config),
            Arc::clone(&cluster.handle),
            cluster.entries(),
            self.zone.as_ref(),
            cluster.tls.clone(),
            &cluster.intents,
        );
        table.is_split_brain = cluster.roles.is_split_brain;
        let intents: Vec<Intent> = table.intents().collect();
        cluster.handle.prepare_holds(&intents);
        table
    }
}

/// The rate limiters of its routes; clients cannot empty their buckets by our reloads.
fn rates(listener: &ListenerConfig, known: Option<&ListenerEntry>) -> RateLimiters {
    let routes = |config: &ListenerConfig| config.http.clone();
    let before = known.and_then(|known| Some((routes(&known.config)?, &known.rates)));
    let before = before.as_ref().map(|(http, rates)| (&*http.routes, *rates));
    let new = routes(listener);
    RateLimiters::new(new.as_ref().map_or(&[], |http| &http.routes), before)
}

fn open_or_close(cluster: &ClusterTable) {
    for (intent, hold) in cluster.handle.holds() {
        match cluster.eligible_for(intent) {
            0 => hold.close(),
            eligible => hold.open(RELEASES_PER_BACKEND.saturating_mul(eligible)),
        }
    }
    for role in WantedRole::ALL {
        let mut intents = cluster.intents().filter(|intent| intent.role == role);
        if intents.any(|intent| cluster.eligible_for(intent) > 0) {
            // There may be new places; each session that gets one lets the next one try.
            cluster.handle.queue(role).release_one();
        }
    }
}
