//! The immutable value that the data plane reads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::cluster::BackendId;
use crate::cluster::FastMap;
use crate::cluster::Name;
use crate::cluster::Role;
use crate::config::ClusterConfig;
use crate::config::Intent;
use crate::config::ListenerConfig;
use crate::config::Policy;
use crate::protocol::http::sticky::StickyTokens;
use crate::routing::entry::BackendEntry;
use crate::routing::group;
use crate::routing::group::Place;
use crate::routing::group::Tier;
use crate::routing::handle::ClusterHandle;
use crate::routing::handle::ConnectionGuard;
use crate::routing::handle::ListenerHandle;
use crate::routing::http::HttpRoutes;
use crate::routing::key::KeySource;
use crate::routing::key::hash_key;
use crate::routing::rate::RateLimiters;
use crate::tls::TlsAcceptor;
use crate::tls::TlsConnector;

/// Everything that a routing decision reads, at one moment.
#[derive(Debug, Default)]
pub struct RoutingTable {
    /// Number of tables published before this one in this process.
    pub generation: u64,
    pub clusters: FastMap<Name, Arc<ClusterTable>>,
    pub listeners: FastMap<Name, Arc<ListenerEntry>>,
    /// Client connections of the whole process.
    pub max_connections: usize,
}

/// One listener's settings, with everything it needs ready to use.
#[derive(Debug)]
pub struct ListenerEntry {
    pub config: ListenerConfig,
    pub handle: Arc<ListenerHandle>,
    pub tls: Option<TlsAcceptor>,
    /// For finding routes of requests fast; empty where there are none.
    pub http_routes: HttpRoutes,
    /// Of the HTTP routes.
    pub rates: RateLimiters,
}

impl ListenerEntry {
    pub fn new(
        config: ListenerConfig,
        handle: Arc<ListenerHandle>,
        tls: Option<TlsAcceptor>,
        rates: RateLimiters,
    ) -> Self {
        let routes = config.http.as_deref().map_or(&[][..], |http| &http.routes);
        Self {
            http_routes: HttpRoutes::new(routes),
            config,
            handle,
            tls,
            rates,
        }
    }
}

/// One cluster at one moment, with its balancers built.
#[derive(Debug)]
pub struct ClusterTable {
    pub config: Arc<ClusterConfig>,
    pub handle: Arc<ClusterHandle>,
    pub backends: Vec<BackendEntry>,
    pub tls: Option<TlsConnector>,
    /// Several backends claim to be primary, and nobody is written to.
    pub is_split_brain: bool,
    /// The cookies of its backends, by position; empty without `sticky`.
    pub sticky: StickyTokens,
    own_zone: Option<Name>,
    /// One for each intent of the listeners; never empty.
    pools: Vec<Pool>,
}

/// The backends that sessions of one intent may be routed to.
#[derive(Debug)]
struct Pool {
    intent: Intent,
    /// Ascending; tiers without an eligible backend are left out.
    tiers: Vec<Tier>,
}

/// What a session asks of a cluster.
#[derive(Debug)]
pub struct PickRequest<'a> {
    pub intent: Intent,
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
    /// For each intent, groups the backends (tier, then own zone) and builds a balancer for
    /// each group. Without an intent, that of [`Intent::ANY`].
    pub fn new(
        config: Arc<ClusterConfig>,
        handle: Arc<ClusterHandle>,
        backends: Vec<BackendEntry>,
        own_zone: Option<&Name>,
        tls: Option<TlsConnector>,
        intents: &[Intent],
    ) -> Self {
        let intents = match intents {
            [] => &[Intent::ANY],
            some => some,
        };
        let pools = intents.iter().map(|intent| Pool {
            intent: *intent,
            tiers: group::tiers(&config, &backends, own_zone, *intent),
        });
        Self {
            pools: pools.collect(),
            sticky: sticky(&config, &backends),
            config,
            handle,
            backends,
            tls,
            is_split_brain: false,
            own_zone: own_zone.cloned(),
        }
    }

    /// The backend that may be written to, whatever its health and admin state.
    pub fn primary(&self) -> Option<&BackendEntry> {
        let mut backends = self.backends.iter();
        backends.find(|backend| backend.role == Role::Primary)
    }

    /// Looks at the tiers of an intent.
    pub(super) fn with_tiers<T>(&self, intent: Intent, look: impl FnOnce(&[Tier]) -> T) -> T {
        match self.pools.iter().find(|pool| pool.intent == intent) {
            Some(pool) => look(&pool.tiers),
            // A listener of another table than this one: rare, and right all the same.
            None => {
                let zone = self.own_zone.as_ref();
                look(&group::tiers(&self.config, &self.backends, zone, intent))
            }
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
        let (backend, guard) = self.pick_place(request, random)?;
        Ok((&self.backends[backend], guard))
    }

    /// As [`Self::pick`]; returns the backend's position in `backends`.
    ///
    /// # Errors
    /// As for [`Self::pick`].
    pub fn pick_place(
        &self,
        request: &PickRequest<'_>,
        random: &mut fastrand::Rng,
    ) -> Result<(usize, ConnectionGuard), PickError> {
        self.with_tiers(request.intent, |tiers| self.pick_of(tiers, request, random))
    }

    /// Takes a place on this backend, if it may be picked and has one; returns its position.
    pub fn pick_this(
        &self,
        wanted: BackendId,
        request: &PickRequest<'_>,
    ) -> Option<(usize, ConnectionGuard)> {
        if request.tried.contains(&wanted) {
            return None;
        }
        self.with_tiers(request.intent, |tiers| {
            let groups = tiers.iter().flat_map(|tier| &tier.groups);
            let mut places = groups.flat_map(|group| &group.places);
            let place = places.find(|place| place.handle.id == wanted)?;
            let guard = place.handle.acquire(place.max_connections)?;
            Some((place.backend, guard))
        })
    }

    fn pick_of(
        &self,
        tiers: &[Tier],
        request: &PickRequest<'_>,
        random: &mut fastrand::Rng,
    ) -> Result<(usize, ConnectionGuard), PickError> {
        let Some(tier) = tiers.iter().find(|tier| tier.has_untried(request)) else {
            return Err(if tiers.is_empty() {
                PickError::NoneEligible
            } else {
                PickError::AllTried
            });
        };
        let key = match self.config.balance.policy {
            Policy::ConsistentHash(_) => hash_key(&self.config.balance.key, request.source),
            _ => 0,
        };
        let slow_start = self.config.failover.slow_start;
        tier.groups
            .iter()
            .find_map(|group| group.pick(key, &self.handle.cursor, random, request, slow_start))
            .ok_or(PickError::AllFull)
    }

    /// Backends that take new sessions of some listener now (with `panic: try_all` and nobody
    /// up: all ready ones).
    pub fn eligible(&self) -> usize {
        self.places().len()
    }

    /// Backends that take new sessions of this intent now.
    pub fn eligible_for(&self, intent: Intent) -> usize {
        self.with_tiers(intent, |tiers| tiers.iter().map(Tier::len).sum())
    }

    /// What listeners want of it; never empty.
    pub fn intents(&self) -> impl Iterator<Item = Intent> + '_ {
        self.pools.iter().map(|pool| pool.intent)
    }

    /// How many eligible backends may fail before the rest are full; everyone but one when
    /// no `max_connections` is set.
    ///
    /// The largest fail first, and the sessions of the failed come back to the rest.
    pub fn headroom(&self) -> usize {
        let places = self.places();
        let active = |place: &usize| u64::from(self.backends[*place].handle.active());
        let sessions: u64 = places.iter().map(active).sum();
        let capacity = |place: &usize| {
            let max = self.backends[*place].config.max_connections;
            max.map_or(u64::from(u32::MAX), |max| max.get().into())
        };
        let mut capacities: Vec<u64> = places.iter().map(capacity).collect();
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

    /// Whether a backend that new sessions of this intent go to now has a free place.
    pub fn has_free_place(&self, intent: Intent) -> bool {
        let is_free = |place: &Place| {
            let max = place.max_connections;
            max.is_none_or(|max| place.handle.active() < max.get())
        };
        // Higher tiers are spares, not overflow.
        self.with_tiers(intent, |tiers| {
            let groups = tiers.first().map_or(&[][..], |tier| &tier.groups);
            groups.iter().flat_map(|group| &group.places).any(is_free)
        })
    }

    /// Positions of the backends that are in some pool.
    fn places(&self) -> BTreeSet<usize> {
        self.pools
            .iter()
            .flat_map(|pool| &pool.tiers)
            .flat_map(Tier::backends)
            .collect()
    }
}

fn sticky(config: &ClusterConfig, backends: &[BackendEntry]) -> StickyTokens {
    let http = config.http.as_deref();
    let Some(sticky) = http.and_then(|http| http.sticky.as_ref()) else {
        return StickyTokens::default();
    };
    let names = backends.iter().map(|backend| &*backend.config.name);
    StickyTokens::new(sticky.secret.expose().as_bytes(), &config.name, names)
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
