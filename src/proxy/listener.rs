//! Listening sockets: bind before anything changes, accept without ever ending.

use std::io;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener as StdTcpListener;
use std::net::TcpStream as StdTcpStream;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::time::Duration;
use std::time::Instant;

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::cluster::Cause;
use crate::cluster::Name;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::config::KeepaliveConfig;
use crate::config::ListenerConfig;
use crate::config::Protocol;
use crate::net;
use crate::net::Keepalive;
use crate::proxy::Shared;
use crate::proxy::access::may_connect;
use crate::proxy::mysql;
use crate::proxy::redis;
use crate::proxy::session;
use crate::proxy::worker::Worker;
use crate::routing::ListenerEntry;
use crate::routing::RoutingTable;

/// Without descriptors or memory, accept() would fail again at once and spin.
const RESOURCE_PAUSE: Duration = Duration::from_millis(100);
/// A client whose handshake is under way when its listener closes may finish it: one round
/// trip between regions, and short enough for a reload that wants the address back.
const HANDSHAKE_GRACE: Duration = Duration::from_millis(50);
/// How long an accept queue stays empty until it counts as served.
const QUEUE_LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// A closing listener without descriptors for its queue gives up after this: whoever waits
/// for its address, or for the end of the process, must not wait forever.
const MAX_CLOSING: Duration = Duration::from_secs(1);
/// What the kernel holds of answers for one client of HTTP beyond what the network takes. More
/// than is sent until a busy worker looks again, and little when a thousand clients stop reading.
const MAX_UNSENT_BYTES: u32 = 512 << 10;

/// A bound socket that does not accept yet.
#[derive(Debug)]
pub struct BoundListener {
    pub name: Name,
    pub bind: SocketAddr,
    pub socket: StdTcpListener,
}

/// A listener that accepts until it is closed or dropped.
#[derive(Debug)]
pub struct RunningListener {
    pub bind: SocketAddr,
    /// The address in fact: `bind` may say port 0.
    pub local: SocketAddr,
    socket: StdTcpListener,
    last_entry: LastEntry,
    close: oneshot::Sender<Successor>,
    task: JoinHandle<()>,
}

/// A listener that serves its accept queue and then frees its address.
#[derive(Debug)]
pub struct ClosingListener {
    pub bind: SocketAddr,
    task: JoinHandle<()>,
}

/// Who takes new clients of an address while its listener closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Successor {
    Nobody,
    /// Another listener's place contains this one, or is part of it.
    Overlapping,
}

/// The entry of the newest table that has this listener: those who still wait in the accept
/// queue of a removed listener are served by its rules.
type LastEntry = Arc<RwLock<Arc<ListenerEntry>>>;

/// What an accepting task works for.
struct Door {
    name: Name,
    bind: SocketAddr,
    last_entry: LastEntry,
    shared: Arc<Shared>,
    home: Arc<Worker>,
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
    /// Descriptors ran out, or the table does not have this listener.
    pub fn start(
        bound: BoundListener,
        shared: Arc<Shared>,
        home: &Arc<Worker>,
    ) -> io::Result<Self> {
        let BoundListener { name, bind, socket } = bound;
        let entry = owner(&shared.table.load(), &name, bind).cloned();
        let entry = entry.ok_or(io::ErrorKind::NotFound)?;
        let last_entry: LastEntry = Arc::new(RwLock::new(entry));
        let (local, kept) = (socket.local_addr()?, socket.try_clone()?);
        let (close, closing) = oneshot::channel();
        let door = Door {
            name,
            bind,
            last_entry: Arc::clone(&last_entry),
            shared,
            home: Arc::clone(home),
        };
        Ok(Self {
            bind,
            local,
            socket: kept,
            last_entry,
            close,
            task: home.handle.spawn(serve(door, socket, closing)),
        })
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
    pub fn configure(&self, entry: &Arc<ListenerEntry>) -> io::Result<()> {
        let last = self.last_entry.write();
        *last.unwrap_or_else(PoisonError::into_inner) = Arc::clone(entry);
        let config = &entry.config;
        net::set_keepalive(&self.socket, keepalive(&config.keepalive))?;
        let max_unsent = config.http.is_some().then_some(MAX_UNSENT_BYTES);
        net::set_max_unsent(&self.socket, max_unsent)?;
        let backlog = i32::try_from(config.backlog).unwrap_or(i32::MAX);
        SockRef::from(&self.socket).listen(backlog)
    }

    /// Takes no new handshakes, serves who is through with its own, then frees the address.
    pub fn close(self, successor: Successor) -> ClosingListener {
        // A task that is gone has closed already.
        let _ = self.close.send(successor);
        ClosingListener {
            bind: self.bind,
            task: self.task,
        }
    }
}

impl ClosingListener {
    /// Until the address is free; at most a little longer than [`MAX_CLOSING`].
    pub async fn closed(self) {
        // A task that panicked or was dropped with its worker has closed, too.
        let _ = self.task.await;
    }

    pub fn is_closed(&self) -> bool {
        self.task.is_finished()
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

/// Accepts until the listener is closed, then what is queued; ends at once when it is dropped.
async fn serve(door: Door, socket: StdTcpListener, closing: oneshot::Receiver<Successor>) {
    let accepting = async {
        let listener = door.register(&socket).await;
        loop {
            let accepted = listener.accept().await;
            door.let_in(accepted).await;
        }
    };
    let successor = tokio::select! {
        biased;
        successor = closing => successor,
        () = accepting => return,
    };
    if let Ok(successor) = successor {
        let patience = tokio::time::Instant::now() + MAX_CLOSING;
        // Nothing is left to do for those whom we have no descriptors for.
        let _ = tokio::time::timeout_at(patience, door.empty(&socket, successor)).await;
        // The socket listens, so the only error is that it does not any more.
        let _ = SockRef::from(&socket).shutdown(Shutdown::Both);
    }
}

impl Door {
    async fn register(&self, socket: &StdTcpListener) -> TcpListener {
        loop {
            match socket.try_clone().and_then(TcpListener::from_std) {
                Ok(listener) => return listener,
                Err(error) => pause(&self.name, &self.shared, &error).await,
            }
        }
    }

    /// Admits one client, or waits out what keeps it from being accepted.
    async fn let_in(&self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        match accepted {
            Ok((client, peer)) => admit(self, client, peer),
            Err(error) if net::is_out_of_resources(&error) => {
                pause(&self.name, &self.shared, &error).await;
            }
            // The client went away between SYN and accept: its problem, not the listener's.
            Err(error) => {
                tracing::debug!(listener = %self.name, %error, "accept failed for one client");
                tokio::task::yield_now().await;
            }
        }
    }

    /// Serves everyone whose handshake is complete or under way. The kernel resets those
    /// who are in the queue when the socket closes, although their connect succeeded.
    async fn empty(&self, socket: &StdTcpListener, successor: Successor) {
        let listener = self.register(socket).await;
        let mut handshakes_end = tokio::time::Instant::now();
        // With a successor, whoever is ignored here would be kept from it.
        if successor == Successor::Nobody {
            match net::ignore_new_handshakes(&listener) {
                Ok(()) => handshakes_end += HANDSHAKE_GRACE,
                Err(error) => {
                    tracing::debug!(listener = %self.name, %error, "new handshakes go on");
                }
            }
        }
        loop {
            match tokio::time::timeout(QUEUE_LOOK_INTERVAL, listener.accept()).await {
                Ok(accepted) => self.let_in(accepted).await,
                Err(_) if tokio::time::Instant::now() >= handshakes_end => return,
                Err(_) => {}
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
fn admit(door: &Door, client: TcpStream, peer: SocketAddr) {
    let Door {
        name, shared, home, ..
    } = door;
    // An IPv4 client of a dual-stack socket is shown, matched and hashed as what it is.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let table = shared.table.load();
    let entry = match owner(&table, name, door.bind) {
        Some(entry) => Arc::clone(entry),
        None => {
            let last = door.last_entry.read();
            Arc::clone(&last.unwrap_or_else(PoisonError::into_inner))
        }
    };
    if let Some(cause) = refusal(shared, &entry, table.max_connections, peer) {
        entry.handle.count_rejected(cause);
        let end = SessionEnd {
            side: Side::Proxy,
            phase: Phase::Accept,
            cause,
        };
        shared.metrics.count_session_end(end);
        if let Some(admitted) = shared.refusal_warnings.admit(cause, Instant::now()) {
            tracing::warn!(listener = %name, client = %peer, %cause, suppressed = admitted.suppressed, "connection refused");
        }
        match entry.config.protocol {
            Protocol::Postgres => {
                let shared = Arc::clone(shared);
                let refusals = Arc::clone(&shared.door_refusals);
                refusals.tell(client, peer, end, entry, shared);
            }
            Protocol::MySql => {
                if let Some(words) = mysql::refusal(end, entry.config.intent.role) {
                    shared.door_refusals.say(client, words);
                }
            }
            // Words in the clear are noise to a client that waits for TLS.
            Protocol::Redis if entry.tls.is_none() => {
                if let Some(words) = redis::refusal(end, entry.config.intent.role) {
                    shared.door_refusals.say(client, words);
                }
            }
            Protocol::Tcp | Protocol::Redis | Protocol::Http => {}
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
        entry,
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
