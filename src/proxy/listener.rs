//! Listening sockets: bind before anything changes, accept without ever ending.

use std::io;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener as StdTcpListener;
use std::net::TcpStream as StdTcpStream;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cause;
use crate::cluster::Name;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::config::KeepaliveConfig;
use crate::config::ListenerConfig;
use crate::net;
use crate::net::Keepalive;
use crate::proxy::Shared;
use crate::proxy::access::may_connect;
use crate::proxy::session;
use crate::proxy::worker::Worker;
use crate::routing::ListenerEntry;
use crate::routing::RoutingTable;

/// Without descriptors or memory, accept() would fail again at once and spin.
const RESOURCE_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket that does not accept yet.
#[derive(Debug)]
pub struct BoundListener {
    pub name: Name,
    pub bind: SocketAddr,
    pub socket: StdTcpListener,
}

/// A listener that accepts until it is dropped.
#[derive(Debug)]
pub struct RunningListener {
    pub bind: SocketAddr,
    /// The address in fact: `bind` may say port 0.
    pub local: SocketAddr,
    socket: StdTcpListener,
    stop: CancellationToken,
}

/// One accepted connection on its way to its worker.
#[derive(Debug)]
pub struct Accepted {
    pub socket: Handed,
    pub peer: SocketAddr,
    pub entry: Arc<ListenerEntry>,
}

/// A client's socket.
#[derive(Debug)]
pub enum Handed {
    /// Stays with the worker that accepted it.
    Here(TcpStream),
    /// Goes to another worker, whose runtime has yet to register it.
    Over(StdTcpStream),
}

impl RunningListener {
    /// Starts to accept on the worker's thread.
    ///
    /// # Errors
    /// Descriptors ran out.
    pub fn start(
        bound: BoundListener,
        shared: Arc<Shared>,
        home: &Arc<Worker>,
    ) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let running = Self {
            bind: bound.bind,
            local: bound.socket.local_addr()?,
            socket: bound.socket.try_clone()?,
            stop: stop.clone(),
        };
        let worker = Arc::clone(home);
        home.handle.spawn(async move {
            let accepting = accept_all(bound, shared, worker);
            stop.run_until_cancelled(accepting).await;
        });
        Ok(running)
    }

    /// A second handle on the same socket, for a listener that takes it over.
    ///
    /// # Errors
    /// Descriptors ran out.
    pub fn duplicate(&self) -> io::Result<StdTcpListener> {
        self.socket.try_clone()
    }

    /// A socket at a place that overlaps with this one's, which is about to be left.
    ///
    /// # Errors
    /// As for [`net::listen_beside`].
    pub fn make_room(&self, config: &ListenerConfig) -> io::Result<StdTcpListener> {
        net::listen_beside(&self.socket, config.bind, config.backlog)
    }

    /// Changes what sockets accepted from now on inherit, and the accept queue.
    ///
    /// # Errors
    /// As setsockopt(2) and listen(2).
    pub fn configure(&self, config: &ListenerConfig) -> io::Result<()> {
        net::set_keepalive(&self.socket, keepalive(&config.keepalive))?;
        let backlog = i32::try_from(config.backlog).unwrap_or(i32::MAX);
        SockRef::from(&self.socket).listen(backlog)
    }

    /// Frees the address at once, so that the next reload can bind it again.
    pub fn close(self) {
        // First, or accept() fails again and again until its task is told.
        self.stop.cancel();
        // The socket listens, so the only error is that it does not any more.
        let _ = SockRef::from(&self.socket).shutdown(Shutdown::Both);
    }
}

impl Drop for RunningListener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The socket options that a configuration asks for.
pub fn keepalive(config: &KeepaliveConfig) -> Keepalive {
    Keepalive {
        idle: config.idle,
        interval: config.interval,
        probes: config.probes,
        user_timeout: config.user_timeout,
    }
}

async fn accept_all(bound: BoundListener, shared: Arc<Shared>, home: Arc<Worker>) {
    let BoundListener { name, bind, socket } = bound;
    let socket = loop {
        match socket.try_clone().and_then(TcpListener::from_std) {
            Ok(socket) => break socket,
            Err(error) => pause(&name, &shared, &error).await,
        }
    };
    loop {
        match socket.accept().await {
            Ok((client, peer)) => admit((&name, bind), &shared, &home, client, peer),
            Err(error) if net::is_out_of_resources(&error) => pause(&name, &shared, &error).await,
            // The client went away between SYN and accept: its problem, not the listener's.
            Err(error) => {
                tracing::debug!(listener = %name, %error, "accept failed for one client");
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn pause(name: &Name, shared: &Shared, error: &io::Error) {
    if let Some(entry) = shared.table.load().listeners.get(name) {
        entry.handle.count_rejected(Cause::OutOfResources);
    }
    if let Some(admitted) = shared
        .accept_warnings
        .admit(Cause::OutOfResources, Instant::now())
    {
        tracing::warn!(listener = %name, %error, suppressed = admitted.suppressed, "accepting is paused");
    }
    tokio::time::sleep(RESOURCE_PAUSE).await;
}

/// Who owns an address in this table. Between a new table and the moment when its listeners
/// start, the old ones still accept: a session belongs to whom the address belongs to by now.
fn owner<'table>(
    table: &'table RoutingTable,
    name: &Name,
    bind: SocketAddr,
) -> Option<&'table Arc<ListenerEntry>> {
    let named = table.listeners.get(name);
    if named.is_some_and(|entry| entry.config.bind == bind) {
        return named;
    }
    let mut entries = table.listeners.values();
    entries.find(|entry| entry.config.bind == bind).or(named)
}

/// Checks the limits and the access list, then hands the connection to a worker.
fn admit(
    (name, bind): (&Name, SocketAddr),
    shared: &Arc<Shared>,
    home: &Arc<Worker>,
    client: TcpStream,
    peer: SocketAddr,
) {
    // An IPv4 client of a dual-stack socket is shown, matched and hashed as what it is.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let table = shared.table.load();
    // Removed a moment ago: nobody listens here any more.
    let Some(entry) = owner(&table, name, bind) else {
        return;
    };
    if let Some(cause) = refusal(shared, entry, table.max_connections, peer) {
        entry.handle.count_rejected(cause);
        shared.metrics.count_session_end(SessionEnd {
            side: Side::Proxy,
            phase: Phase::Accept,
            cause,
        });
        if let Some(admitted) = shared.refusal_warnings.admit(cause, Instant::now()) {
            tracing::warn!(listener = %name, client = %peer, %cause, suppressed = admitted.suppressed, "connection refused");
        }
        return;
    }
    let worker = shared.least_loaded(home);
    let socket = if Arc::ptr_eq(&worker, home) {
        Handed::Here(client)
    } else {
        match client.into_std() {
            Ok(client) => Handed::Over(client),
            Err(error) => {
                tracing::debug!(listener = %name, %error, "client could not be handed over");
                return;
            }
        }
    };
    entry.handle.open();
    shared.open();
    worker.reserve();
    let accepted = Accepted {
        socket,
        peer,
        entry: Arc::clone(entry),
    };
    session::spawn(accepted, Arc::clone(shared), worker);
}

fn refusal(
    shared: &Shared,
    entry: &ListenerEntry,
    max_process: usize,
    peer: SocketAddr,
) -> Option<Cause> {
    if !may_connect(entry, peer.ip()) {
        Some(Cause::Denied)
    } else if entry.handle.active() >= entry.config.max_connections {
        Some(Cause::ListenerFull)
    } else if shared.active() >= max_process {
        Some(Cause::ProcessFull)
    } else {
        None
    }
}
