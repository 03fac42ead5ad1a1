//! The data plane: moves bytes; decides nothing that outlives a session.

mod access;
mod connect;
mod dial;
mod handshake;
mod hold;
mod listener;
mod pipe;
mod place;
mod registry;
mod relay;
mod session;
mod transport;
mod worker;

use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::Name;
use crate::config::Config;
use crate::config::ListenerConfig;
use crate::metrics::Metrics;
use crate::net;
use crate::proxy::listener::BoundListener;
use crate::proxy::listener::RunningListener;
use crate::proxy::worker::Worker;
use crate::proxy::worker::WorkerThread;
use crate::report::Reporter;
use crate::report::SessionView;
use crate::routing::SharedTable;
use crate::throttle::CauseLimits;

/// A worker keeps its own connection unless another has this share less: at
/// few sessions the spread is exact, at many a handover is not worth its cost.
const IMBALANCE_SHARE: usize = 16;
/// How often a drain looks whether the last session is gone.
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What every session and listener needs.
#[derive(Debug)]
pub struct Shared {
    pub table: SharedTable,
    pub reporter: Reporter,
    pub metrics: Arc<Metrics>,
    pub accept_warnings: CauseLimits,
    pub refusal_warnings: CauseLimits,
    pub dial_warnings: CauseLimits,
    workers: Vec<Arc<Worker>>,
    active: AtomicUsize,
    last_session_id: AtomicU64,
}

/// The running data plane. Dropping it ends every session.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    listeners: HashMap<Name, RunningListener>,
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

impl Shared {
    /// Client connections of the whole process.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    fn open(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    fn close(&self) {
        self.active.fetch_sub(1, Ordering::AcqRel);
    }

    fn next_session_id(&self) -> u64 {
        self.last_session_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The worker for a new connection: the one with the fewest sessions, or `home`
    /// when it has hardly more than that.
    fn least_loaded(&self, home: &Arc<Worker>) -> Arc<Worker> {
        let fewest = self.workers.iter().min_by_key(|worker| worker.sessions());
        match fewest {
            Some(fewest) if !is_near(home.sessions(), fewest.sessions()) => Arc::clone(fewest),
            _ => Arc::clone(home),
        }
    }
}

fn is_near(own: usize, fewest: usize) -> bool {
    own <= fewest + fewest / IMBALANCE_SHARE
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
            accept_warnings: CauseLimits::default(),
            refusal_warnings: CauseLimits::default(),
            dial_warnings: CauseLimits::default(),
            workers: running,
            active: AtomicUsize::new(0),
            last_session_id: AtomicU64::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
            listeners: HashMap::new(),
            threads,
        })
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
            if !taken_over.contains(&running.bind) {
                running.close();
            }
        }
        for fresh in bound.fresh {
            self.listen(fresh);
        }
        for (name, running) in &self.listeners {
            if let Some(listener) = wanted.get(name)
                && let Err(error) = running.configure(listener)
            {
                tracing::warn!(listener = %name, %error, "socket options could not be set");
            }
        }
        self.follow_listeners(&wanted, config.drain_timeout);
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

    /// Sessions of a listener that is gone may go on for `drain_timeout`. It is not gone while
    /// its name or its address is in the file: it was rebound or renamed.
    fn follow_listeners(&self, wanted: &HashMap<&Name, &ListenerConfig>, drain_timeout: Duration) {
        let deadline = Instant::now() + drain_timeout;
        let addresses: HashSet<_> = wanted.values().map(|listener| listener.bind).collect();
        for worker in &self.shared.workers {
            worker.registry.for_each(|cell| {
                let renamed = addresses.contains(&cell.bind);
                if renamed || wanted.contains_key(&cell.listener.name) {
                    cell.clear_deadline(Cause::ListenerRemoved);
                } else {
                    cell.set_deadline(deadline, Cause::ListenerRemoved);
                }
            });
        }
    }

    /// The addresses in fact bound, by listener.
    pub fn local_addresses(&self) -> HashMap<Name, SocketAddr> {
        let listeners = self.listeners.iter();
        listeners
            .map(|(name, running)| (name.clone(), running.local))
            .collect()
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

    /// Stops accepting and lets sessions finish for `timeout`; severs the rest and
    /// returns how many that were.
    pub async fn drain(&mut self, timeout: Duration) -> usize {
        for (_, running) in self.listeners.drain() {
            running.close();
        }
        let deadline = Instant::now() + timeout;
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

    /// Ends every session and waits for the workers.
    pub fn stop(self) {
        for thread in self.threads {
            thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_sessions_are_spread_exactly_and_many_nearly() {
        assert!(is_near(0, 0));
        assert!(!is_near(1, 0));
        assert!(!is_near(6, 5));
        assert!(is_near(1050, 1000));
        assert!(!is_near(1100, 1000));
    }
}
