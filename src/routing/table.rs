//! The immutable value that the data plane reads.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::cluster::AdminState;
use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Name;
use crate::config::BackendConfig;
use crate::config::ClusterConfig;
use crate::config::ListenerConfig;
use crate::config::Policy;
use crate::routing::group;
use crate::routing::group::Place;
use crate::routing::group::Tier;
use crate::routing::handle::BackendHandle;
use crate::routing::handle::ClusterHandle;
use crate::routing::handle::ConnectionGuard;
use crate::routing::handle::ListenerHandle;
use crate::routing::key::KeySource;
use crate::routing::key::hash_key;
use crate::tls::TlsAcceptor;
use crate::tls::TlsConnector;

/// Everything that a routing decision reads, at one moment.
#[derive(Debug, Default)]
pub struct RoutingTable {
    /// Number of tables published before this one in this process.
    pub generation: u64,
    pub clusters: HashMap<Name, Arc<ClusterTable>>,
    pub listeners: HashMap<Name, Arc<ListenerEntry>>,
    /// Client connections of the whole process.
    pub max_connections: usize,
}

/// One listener's settings, with everything it needs ready to use.
#[derive(Debug)]
pub struct ListenerEntry {
    pub config: ListenerConfig,
    pub handle: Arc<ListenerHandle>,
    pub tls: Option<TlsAcceptor>,
}

/// One backend at one moment.
#[derive(Debug, Clone)]
pub struct BackendEntry {
    pub config: BackendConfig,
    pub handle: Arc<BackendHandle>,
    /// `None` while its name is unresolved.
    pub address: Option<SocketAddr>,
    pub health: Health,
    pub admin: AdminState,
    /// Why `health` is what it is; of a backend that is down, why checks fail lately.
    pub cause: Cause,
    /// When health or admin state changed last (monotonic, for slow start) …
    pub since: Instant,
    /// … and the same as a wall clock for people, in seconds since the epoch.
    pub since_epoch: f64,
    /// When it came back from Down; drives slow start. `None` = at full weight.
    pub warming_since: Option<Instant>,
}

/// One cluster at one moment, with its balancers built.
#[derive(Debug)]
pub struct ClusterTable {
    pub config: Arc<ClusterConfig>,
    pub handle: Arc<ClusterHandle>,
    pub backends: Vec<BackendEntry>,
    pub tls: Option<TlsConnector>,
    /// Ascending; tiers without an eligible backend are left out.
    tiers: Vec<Tier>,
}

/// What a session asks of a cluster.
#[derive(Debug)]
pub struct PickRequest<'a> {
    pub source: KeySource<'a>,
    /// Backends this session has tried already.
    pub tried: &'a [BackendId],
    pub now: Instant,
}

/// Why there is no pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PickError {
    /// Nobody may be routed to: hold.
    NoneEligible,
    /// Every eligible backend has `max_connections` sessions: queue.
    AllFull,
    /// Every eligible backend was tried by this session: refuse.
    AllTried,
}

impl ClusterTable {
    /// Groups the backends (tier, then own zone) and builds a balancer for each group.
    pub fn new(
        config: Arc<ClusterConfig>,
        handle: Arc<ClusterHandle>,
        backends: Vec<BackendEntry>,
        own_zone: Option<&Name>,
        tls: Option<TlsConnector>,
    ) -> Self {
        let tiers = group::tiers(&config, &backends, own_zone);
        Self {
            config,
            handle,
            backends,
            tls,
            tiers,
        }
    }

    /// Picks a backend and takes a place on it.
    ///
    /// The lowest tier with an eligible backend that this session has not tried decides:
    /// higher tiers are spares for dead backends, not for full ones. Within the
    /// tier, other zones help out when the own zone is full.
    ///
    /// # Errors
    /// Says what to wait for, or that waiting is useless.
    pub fn pick(
        &self,
        request: &PickRequest<'_>,
        random: &mut fastrand::Rng,
    ) -> Result<(&BackendEntry, ConnectionGuard), PickError> {
        let Some(tier) = self.tiers.iter().find(|tier| tier.has_untried(request)) else {
            return Err(if self.tiers.is_empty() {
                PickError::NoneEligible
            } else {
                PickError::AllTried
            });
        };
        let key = match self.config.balance.policy {
            Policy::ConsistentHash(hash) => hash_key(hash.key, request.source),
            _ => 0,
        };
        let slow_start = self.config.failover.slow_start;
        tier.groups
            .iter()
            .find_map(|group| group.pick(key, &self.handle.cursor, random, request, slow_start))
            .map(|(backend, guard)| (&self.backends[backend], guard))
            .ok_or(PickError::AllFull)
    }

    /// Backends that take new sessions now (with `panic: try_all` and nobody up: all ready ones).
    pub fn eligible(&self) -> usize {
        self.places().count()
    }

    /// How many eligible backends may fail before the rest are full; everyone but one when
    /// no `max_connections` is set.
    ///
    /// The largest fail first, and the sessions of the failed come back to the rest.
    pub fn headroom(&self) -> usize {
        let sessions: u64 = self
            .places()
            .map(|place| u64::from(place.handle.active()))
            .sum();
        let mut capacities: Vec<u64> = self
            .places()
            .map(|place| {
                place
                    .max_connections
                    .map_or(u64::from(u32::MAX), |max| max.get().into())
            })
            .collect();
        capacities.sort_unstable();
        let mut capacity = 0;
        let needed = capacities
            .iter()
            .position(|one| {
                capacity += one;
                capacity > sessions
            })
            .map_or(capacities.len(), |last| last + 1);
        capacities.len() - needed
    }

    /// Whether a backend that new sessions go to now has a free place.
    pub fn has_free_place(&self) -> bool {
        let is_free = |place: &Place| {
            let max = place.max_connections;
            max.is_none_or(|max| place.handle.active() < max.get())
        };
        // Higher tiers are spares, not overflow.
        let groups = self.tiers.first().map_or(&[][..], |tier| &tier.groups);
        groups.iter().flat_map(|group| &group.places).any(is_free)
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.tiers
            .iter()
            .flat_map(|tier| &tier.groups)
            .flat_map(|group| &group.places)
    }
}

/// The one place where the planes meet on the way down.
#[derive(Debug, Clone)]
pub struct SharedTable {
    table: Arc<ArcSwap<RoutingTable>>,
    published: Arc<watch::Sender<u64>>,
}

impl Default for SharedTable {
    fn default() -> Self {
        Self {
            table: Arc::new(ArcSwap::from_pointee(RoutingTable::default())),
            published: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl SharedTable {
    pub fn load(&self) -> arc_swap::Guard<Arc<RoutingTable>> {
        self.table.load()
    }

    pub fn load_full(&self) -> Arc<RoutingTable> {
        self.table.load_full()
    }

    /// Control plane only. Numbers the table and wakes everyone who follows it.
    pub fn publish(&self, mut table: RoutingTable) {
        table.generation = self.table.load().generation + 1;
        let generation = table.generation;
        self.table.store(Arc::new(table));
        self.published.send_replace(generation);
    }

    /// Resolves on every published table (several may be seen as one).
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }
}

#[cfg(test)]
mod tests;
