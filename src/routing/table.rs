//! The immutable value that the data plane reads.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::cluster::AdminState;
use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Name;
use crate::cluster::takes_new_sessions;
use crate::config::BackendConfig;
use crate::config::ClusterConfig;
use crate::config::ListenerConfig;
use crate::config::Panic;
use crate::config::Policy;
use crate::routing::balance::Balancer;
use crate::routing::balance::Member;
use crate::routing::balance::Scale;
use crate::routing::balance::View;
use crate::routing::handle::BackendHandle;
use crate::routing::handle::ClusterHandle;
use crate::routing::handle::ConnectionGuard;
use crate::routing::handle::ListenerHandle;
use crate::routing::key::KeySource;
use crate::routing::key::hash_key;
use crate::tls::TlsAcceptor;
use crate::tls::TlsConnector;

/// Picks that may lose their place to another worker before the session queues.
/// Each loss means that another session was served, so more of them only burn time.
const MAX_RACES: usize = 8;

/// The share of its weight that a returning backend has at once: with less, a cluster
/// of few sessions would hardly find out that it is well.
const MIN_WARMTH: f64 = 0.1;

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
    /// Why `health` is what it is.
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
        let eligible = eligible(&config, &backends);
        let tiers = tiers(&config, &backends, &eligible, own_zone);
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
        tier.groups
            .iter()
            .find_map(|group| self.pick_in(group, key, request, random))
            .ok_or(PickError::AllFull)
    }

    fn pick_in(
        &self,
        group: &Group,
        key: u64,
        request: &PickRequest<'_>,
        random: &mut fastrand::Rng,
    ) -> Option<(&BackendEntry, ConnectionGuard)> {
        let view = GroupView {
            places: &group.places,
            request,
            slow_start: self.config.failover.slow_start,
        };
        for _ in 0..MAX_RACES {
            let member = group
                .balancer
                .pick(key, &self.handle.cursor, random, &view)?;
            let place = &group.places[member];
            // Lost against another worker: the backend is full now, and the next pick sees it.
            if let Some(guard) = place.handle.acquire(place.max_connections) {
                return Some((&self.backends[place.backend], guard));
            }
        }
        None
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

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.tiers
            .iter()
            .flat_map(|tier| &tier.groups)
            .flat_map(|group| &group.places)
    }
}

/// Backends of one tier that may be picked. Never empty.
#[derive(Debug)]
struct Tier {
    /// The own zone first; never empty.
    groups: Vec<Group>,
}

/// Backends among which one balancer picks.
#[derive(Debug)]
struct Group {
    balancer: Balancer,
    /// In the order of the balancer's members.
    places: Vec<Place>,
}

/// What a pick reads of one backend, close together: a pick may look at thousands.
#[derive(Debug)]
struct Place {
    handle: Arc<BackendHandle>,
    max_connections: Option<NonZeroU32>,
    warming_since: Option<Instant>,
    /// Position in [`ClusterTable::backends`].
    backend: usize,
}

impl Tier {
    fn has_untried(&self, request: &PickRequest<'_>) -> bool {
        self.groups
            .iter()
            .flat_map(|group| &group.places)
            .any(|place| !place.was_tried(request))
    }
}

impl Place {
    fn was_tried(&self, request: &PickRequest<'_>) -> bool {
        // Nearly always empty: then the handle is not touched.
        !request.tried.is_empty() && request.tried.contains(&self.handle.id)
    }
}

/// A group as one request sees it.
struct GroupView<'a> {
    places: &'a [Place],
    request: &'a PickRequest<'a>,
    slow_start: Duration,
}

impl View for GroupView<'_> {
    fn active(&self, member: usize) -> u32 {
        self.places[member].handle.active()
    }

    fn latency(&self, member: usize) -> Duration {
        self.places[member].handle.latency(self.request.now)
    }

    fn open(&self, member: usize) -> bool {
        let place = &self.places[member];
        let has_room = match place.max_connections {
            Some(max) => place.handle.active() < max.get(),
            None => true,
        };
        has_room && !place.was_tried(self.request)
    }

    fn warmth(&self, member: usize) -> f64 {
        let Some(since) = self.places[member].warming_since else {
            return 1.0;
        };
        if self.slow_start.is_zero() {
            return 1.0;
        }
        let elapsed = self.request.now.saturating_duration_since(since);
        let warmth = elapsed.as_secs_f64() / self.slow_start.as_secs_f64();
        warmth.clamp(MIN_WARMTH, 1.0)
    }
}

/// Positions of the backends that may be picked.
fn eligible(config: &ClusterConfig, backends: &[BackendEntry]) -> Vec<usize> {
    let all = |takes: &dyn Fn(&BackendEntry) -> bool| -> Vec<usize> {
        let routable = |entry: &BackendEntry| entry.config.weight > 0 && entry.address.is_some();
        (0..backends.len())
            .filter(|position| routable(&backends[*position]) && takes(&backends[*position]))
            .collect()
    };
    let healthy = all(&|entry| takes_new_sessions(entry.health, entry.admin));
    if healthy.is_empty() && config.failover.panic == Panic::TryAll {
        return all(&|entry| entry.admin == AdminState::Ready);
    }
    healthy
}

/// Where a backend belongs; sorts by preference.
fn rank(entry: &BackendEntry, own_zone: Option<&Name>) -> (u32, bool) {
    let is_remote = own_zone.is_some() && entry.config.zone.as_ref() != own_zone;
    (entry.config.tier, is_remote)
}

fn tiers(
    config: &ClusterConfig,
    backends: &[BackendEntry],
    eligible: &[usize],
    own_zone: Option<&Name>,
) -> Vec<Tier> {
    let mut ranked: BTreeMap<(u32, bool), Vec<usize>> = BTreeMap::new();
    for position in eligible {
        let rank = rank(&backends[*position], own_zone);
        ranked.entry(rank).or_default().push(*position);
    }
    let mut tiers: BTreeMap<u32, Tier> = BTreeMap::new();
    for (rank, positions) in ranked {
        let configured = backends
            .iter()
            .filter(|entry| self::rank(entry, own_zone) == rank);
        let members: Vec<Member> = configured.filter_map(member).collect();
        let group = group(config, backends, positions, Scale::of(&members));
        let tier = tiers.entry(rank.0).or_insert(Tier { groups: Vec::new() });
        tier.groups.push(group);
    }
    tiers.into_values().collect()
}

fn group(
    config: &ClusterConfig,
    backends: &[BackendEntry],
    positions: Vec<usize>,
    scale: Scale,
) -> Group {
    let members = positions
        .iter()
        .filter_map(|position| member(&backends[*position]));
    let balancer = Balancer::new(config.balance.policy, members.collect(), scale);
    let places = positions.into_iter().map(|backend| {
        let entry = &backends[backend];
        Place {
            handle: Arc::clone(&entry.handle),
            max_connections: entry.config.max_connections,
            warming_since: entry.warming_since,
            backend,
        }
    });
    Group {
        balancer,
        places: places.collect(),
    }
}

/// `None` when its weight is zero.
fn member(entry: &BackendEntry) -> Option<Member> {
    (entry.config.weight > 0).then(|| Member {
        name: Name::clone(&entry.config.name),
        weight: entry.config.weight,
    })
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
