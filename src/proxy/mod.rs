//! The data plane: moves bytes; decides nothing that outlives a session.

mod access;
mod connect;
mod dial;
mod dialect;
mod flow;
mod handshake;
mod hold;
mod http;
mod in_force;
mod listener;
mod memory;
mod mysql;
mod pipe;
mod place;
mod postgres;
mod redis;
mod registry;
mod relay;
mod route;
mod seek;
mod session;
mod shared;
mod transport;
mod witness;
mod worker;

use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::Name;
use crate::config::Config;
use crate::config::ListenerConfig;
use crate::metrics::Metrics;
use crate::net;
use crate::proxy::in_force::InForce;
use crate::proxy::in_force::SharedInForce;
use crate::proxy::listener::BoundListener;
use crate::proxy::listener::ClosingListener;
use crate::proxy::listener::RunningListener;
use crate::proxy::listener::Successor;
use crate::proxy::worker::WorkerThread;
use crate::report::Reporter;
use crate::report::SessionView;
use crate::routing::SharedTable;
use crate::throttle::CauseLimits;

pub use crate::proxy::http::AccessLogs;
pub use crate::proxy::shared::Shared;

/// How long the end of the process waits for the last lines of each access log.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a drain looks whether the last session is gone.
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The running data plane. Dropping it ends every session.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    listeners: HashMap<Name, RunningListener>,
    /// Those whose address may not be free yet.
    closing: Vec<ClosingListener>,
    /// Last: sessions end before the threads that run them.
    threads: Vec<WorkerThread>,
}

/// Sockets for a new configuration, bound but not accepting: nothing has changed yet.
#[derive(Debug)]
pub struct Bound {
    fresh: Vec<BoundListener>,
}

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener} cannot bind {address}: {error}")]
pub struct BindError {
    pub listener: Name,
    pub address: SocketAddr,
    pub error: io::Error,
}

impl Proxy {
    /// Starts the workers; nothing listens yet.
    ///
    /// # Errors
    /// Threads or descriptors ran out.
    pub fn start(
        workers: NonZeroUsize,
        table: SharedTable,
        reporter: Reporter,
        metrics: Arc<Metrics>,
        access_logs: Arc<AccessLogs>,
    ) -> io::Result<Self> {
        let mut running = Vec::new();
        let mut threads = Vec::new();
        for index in 0..workers.get() {
            let (worker, thread) = worker::start(index, table.clone())?;
            running.push(worker);
            threads.push(thread);
        }
        let shared = Shared {
            table,
            reporter,
            metrics,
            access_logs,
            accept_warnings: CauseLimits::default(),
            refusal_warnings: CauseLimits::default(),
            dial_warnings: CauseLimits::default(),
            listeners_in_force: SharedInForce::default(),
            cancel_keys: Arc::default(),
            door_refusals: Arc::default(),
            workers: running,
            started: Instant::now(),
            active: AtomicUsize::new(0),
            last_session_id: AtomicU64::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
            listeners: HashMap::new(),
            closing: Vec::new(),
            threads,
        })
    }

    /// Waits for the listeners that are closing where the configuration wants to listen.
    pub async fn make_way(&mut self, config: &Config) {
        let wanted: HashSet<_> = config.listeners.iter().map(|it| it.bind.port()).collect();
        self.closing.retain(|closing| !closing.is_closed());
        let in_the_way = |closing: &mut ClosingListener| wanted.contains(&closing.bind.port());
        for closing in self.closing.extract_if(.., in_the_way) {
            closing.closed().await;
        }
    }

    /// Binds what a new configuration needs and this one does not have. Changes nothing.
    ///
    /// # Errors
    /// Every listener that cannot be bound.
    pub fn bind(&self, config: &Config) -> Result<Bound, Vec<BindError>> {
        let mut fresh = Vec::new();
        let mut errors = Vec::new();
        for listener in &config.listeners {
            if self.is_unchanged(listener) {
                continue;
            }
            match self.socket_for(listener, config) {
                Ok(bound) => fresh.push(bound),
                Err(error) => errors.push(BindError {
                    listener: listener.name.clone(),
                    address: listener.bind,
                    error,
                }),
            }
        }
        if errors.is_empty() {
            Ok(Bound { fresh })
        } else {
            Err(errors)
        }
    }

    fn is_unchanged(&self, listener: &ListenerConfig) -> bool {
        let running = self.listeners.get(&listener.name);
        running.is_some_and(|running| running.bind == listener.bind)
    }

    /// A socket that another listener has now is taken over, so that addresses can change
    /// owners in one reload. So can `127.0.0.1` become `0.0.0.0` on the same port.
    fn socket_for(&self, listener: &ListenerConfig, config: &Config) -> io::Result<BoundListener> {
        let mut running = self.listeners.values();
        // Port 0 is a new port each time, not one to share.
        let owner =
            running.find(|running| running.bind == listener.bind && listener.bind.port() != 0);
        let socket = match owner {
            Some(owner) => owner.duplicate()?,
            None => match net::listen(listener.bind, listener.backlog) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    let leaving = self.leaving(listener.bind, config).ok_or(error)?;
                    leaving.make_room(listener)?
                }
                listened => listened?,
            },
        };
        Ok(BoundListener {
            name: listener.name.clone(),
            bind: listener.bind,
            socket,
        })
    }

    /// The listener in the way of an address that the configuration does not want any more.
    fn leaving(&self, bind: SocketAddr, config: &Config) -> Option<&RunningListener> {
        let wanted = |running: &RunningListener| {
            let mut listeners = config.listeners.iter();
            listeners.any(|listener| listener.bind == running.bind)
        };
        let mut running = self.listeners.values();
        running.find(|running| running.bind.port() == bind.port() && !wanted(running))
    }

    /// Stops removed listeners and starts new ones; the table that names them is published.
    pub fn commit(&mut self, bound: Bound, config: &Config) {
        // First, so that new listeners are known before their first session.
        let deadline = Instant::now() + config.drain_timeout;
        let in_force = InForce::new(&config.listeners, deadline);
        let registries = self.shared.workers.iter().map(|worker| &worker.registry);
        self.shared.listeners_in_force.publish(in_force, registries);
        let taken_over: Vec<_> = bound.fresh.iter().map(|fresh| fresh.bind).collect();
        let wanted: HashMap<_, _> = config
            .listeners
            .iter()
            .map(|listener| (&listener.name, listener))
            .collect();
        let (kept, stopped): (HashMap<_, _>, HashMap<_, _>) = std::mem::take(&mut self.listeners)
            .into_iter()
            .partition(|(name, running): &(Name, RunningListener)| {
                wanted
                    .get(name)
                    .is_some_and(|listener| listener.bind == running.bind)
            });
        self.listeners = kept;
        for (name, running) in stopped {
            tracing::info!(listener = %name, bind = %running.bind, "listener stopped");
            if taken_over.contains(&running.bind) {
                continue;
            }
            let same_port = |other: &SocketAddr| other.port() == running.bind.port();
            let successor = match taken_over.iter().any(same_port) {
                true => Successor::Overlapping,
                false => Successor::Nobody,
            };
            self.closing.push(running.close(successor));
        }
        for fresh in bound.fresh {
            self.listen(fresh);
        }
        let table = self.shared.table.load();
        for (name, running) in &self.listeners {
            if let Some(entry) = table.listeners.get(name)
                && let Err(error) = running.configure(entry)
            {
                tracing::warn!(listener = %name, %error, "socket options could not be set");
            }
        }
    }

    fn listen(&mut self, fresh: BoundListener) {
        let home = &self.shared.workers[self.listeners.len() % self.shared.workers.len()];
        let name = fresh.name.clone();
        match RunningListener::start(fresh, Arc::clone(&self.shared), home) {
            Ok(running) => {
                tracing::info!(listener = %name, bind = %running.local, "listening");
                self.listeners.insert(name, running);
            }
            Err(error) => tracing::error!(listener = %name, %error, "listener could not start"),
        }
    }

    /// The addresses in fact bound, by listener.
    pub fn local_addresses(&self) -> HashMap<Name, SocketAddr> {
        let listeners = self.listeners.iter();
        listeners
            .map(|(name, running)| (name.clone(), running.local))
            .collect()
    }

    /// Where HTTP requests are told.
    pub fn access_logs(&self) -> &AccessLogs {
        &self.shared.access_logs
    }

    /// A closure that lists all live sessions, from any thread.
    pub fn session_views(&self) -> impl Fn() -> Vec<SessionView> + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || {
            let now = Instant::now();
            let workers = shared.workers.iter();
            workers
                .flat_map(|worker| worker.registry.views(now))
                .collect()
        }
    }

    /// Client connections now.
    pub fn active(&self) -> usize {
        self.shared.active()
    }

    /// Stops accepting, serves who is connected by then, and lets sessions finish for `timeout`; severs the rest and
    /// returns how many that were.
    pub async fn drain(&mut self, timeout: Duration) -> usize {
        let closing = self.listeners.drain();
        let closing = closing.map(|(_, running)| running.close(Successor::Nobody));
        self.closing.extend(closing);
        for closing in self.closing.drain(..) {
            closing.closed().await;
        }
        let deadline = Instant::now() + timeout;
        for worker in &self.shared.workers {
            worker
                .registry
                .for_each(|cell| cell.finish(Cause::Shutdown));
            // Those in no transaction now, the others when theirs ends.
            worker.registry.sweep(Instant::now());
        }
        // Severed below and not by the workers' sweeps, so that they can be counted.
        while self.active() > 0 && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK_INTERVAL).await;
        }
        self.sever_all().await
    }

    async fn sever_all(&self) -> usize {
        let severed = self.active();
        for worker in &self.shared.workers {
            worker.registry.for_each(|cell| cell.sever(Cause::Shutdown));
        }
        let patience = Instant::now() + Duration::from_secs(1);
        while self.active() > 0 && Instant::now() < patience {
            tokio::time::sleep(DRAIN_LOOK_INTERVAL).await;
        }
        severed
    }

    /// Ends every session, waits for the workers and for what is told of their requests.
    pub fn stop(self) {
        for thread in self.threads {
            thread.join();
        }
        self.shared.access_logs.flush(FLUSH_TIMEOUT);
    }
}
