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
use crate::routing::handle::BackendHandle;
use crate::routing::handle::ClusterHandle;
use crate::routing::handle::ConnectionGuard;
use crate::routing::handle::ListenerHandle;
use crate::routing::key::KeySource;
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
        _config: Arc<ClusterConfig>,
        _handle: Arc<ClusterHandle>,
        _backends: Vec<BackendEntry>,
        _own_zone: Option<&Name>,
        _tls: Option<TlsConnector>,
    ) -> Self {
        todo!()
    }

    /// Picks a backend and takes a place on it.
    pub fn pick(
        &self,
        _request: &PickRequest<'_>,
        _random: &mut fastrand::Rng,
    ) -> Result<(&BackendEntry, ConnectionGuard), PickError> {
        todo!()
    }

    /// Backends that take new sessions now (with `panic: try_all` and nobody up: all ready ones).
    pub fn eligible(&self) -> usize {
        todo!()
    }

    /// How many eligible backends may fail before the rest are full; everyone but one when
    /// no `max_connections` is set.
    pub fn headroom(&self) -> usize {
        todo!()
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
