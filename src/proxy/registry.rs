//! The live sessions of one worker: what each is doing, and the hand that ends it.
//!
//! A session costs no timer. The worker sweeps its sessions a few times a
//! second and after every published table, and looks at the *current* fate of
//! each session's backend, whatever table the session started under.

mod orders;
mod sweep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use slab::Slab;

use crate::cluster::Cause;
use crate::cluster::Name;
use crate::cluster::Phase;
use crate::config::Intent;
use crate::report::SessionView;
use crate::routing::BackendHandle;
use crate::routing::Fate;
use crate::routing::ListenerHandle;

/// How often sessions are looked at: the resolution of idle timeouts and drain deadlines.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// One session as others see it.
#[derive(Debug)]
pub struct SessionCell {
    pub id: u64,
    pub listener: Arc<ListenerHandle>,
    /// The address in the file where the client came in; the listener's name may change.
    pub bind: SocketAddr,
    pub started: Instant,
    /// What its listener's sessions need of a backend.
    pub intent: Intent,
    /// Zero = never.
    idle_timeout: Duration,
    /// Milliseconds that a connection may be idle between requests, instead of `idle_timeout`;
    /// 0 = its protocol has no such thing.
    keep_alive_ms: AtomicU32,
    /// For a client to show that it speaks the protocol, in milliseconds.
    handshake_timeout_ms: u32,
    /// The socket's peer, or the one in a PROXY header.
    client: OnceLock<SocketAddr>,
    /// Read from the client and delivered; written by this session only.
    received: AtomicU64,
    /// Read from the backend and delivered; written by this session only.
    sent: AtomicU64,
    phase: AtomicU8,
    signals: AtomicU8,
    transaction: AtomicU8,
    control: Mutex<Control>,
}

/// What the protocol tells of a session's present transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    /// The protocol does not tell, or the login is under way.
    Unknown,
    /// None, and no statement is under way.
    Idle,
    Open,
}

/// What few sessions need; apart, because thousands of others are idle.
#[derive(Debug, Default)]
struct Requests {
    /// The client takes nothing of what it was sent; it has until then.
    stalled_until: Option<Instant>,
    /// From then on, as `finish`.
    finish_at: Option<(Instant, Cause)>,
}

/// The rarely used part, behind a lock that nobody contends for.
#[derive(Debug)]
struct Control {
    cluster: Option<Name>,
    backend: Option<Arc<BackendHandle>>,
    sever: Option<Cause>,
    grace: Option<Cause>,
    /// The process ends, whatever becomes of the backend.
    finish: Option<Cause>,
    waker: Option<Waker>,
    deadline: Option<(Instant, Cause)>,
    /// Of clients whose requests follow each other.
    requests: Option<Box<Requests>>,
    last_active: Instant,
    counted_received: u64,
    counted_sent: u64,
    settled: bool,
}

/// The session must end.
const SEVER: u8 = 1;
/// It must end when its transaction does.
const GRACE: u8 = 4;
/// The session lasts: socket options that only long sessions need are due.
const SETTLED: u8 = 2;
/// The connection is idle between requests: what serves it may be put away.
const PARK: u8 = 8;
/// It has been put away.
const PARKED: u8 = 16;
/// A request has begun, or its answer has ended, since the last sweep.
const ACTIVE: u8 = 32;

impl SessionCell {
    pub fn new(
        id: u64,
        listener: Arc<ListenerHandle>,
        bind: SocketAddr,
        intent: Intent,
        idle_timeout: Duration,
        handshake_timeout: Duration,
        now: Instant,
    ) -> Self {
        Self {
            id,
            listener,
            bind,
            started: now,
            intent,
            idle_timeout,
            keep_alive_ms: AtomicU32::new(0),
            handshake_timeout_ms: u32::try_from(handshake_timeout.as_millis()).unwrap_or(u32::MAX),
            client: OnceLock::new(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            phase: AtomicU8::new(Phase::Accept as u8),
            signals: AtomicU8::new(0),
            transaction: AtomicU8::new(Transaction::Unknown as u8),
            control: Mutex::new(Control {
                cluster: None,
                backend: None,
                sever: None,
                grace: None,
                finish: None,
                waker: None,
                deadline: None,
                requests: None,
                last_active: now,
                counted_received: 0,
                counted_sent: 0,
                settled: false,
            }),
        }
    }

    pub fn set_client(&self, client: SocketAddr) {
        // Only the first address counts; nothing sets it twice.
        let _ = self.client.set(client);
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    pub fn set_cluster(&self, cluster: Name) {
        self.lock().cluster = Some(cluster);
    }

    /// Ties the session to a backend's fate; a fate that came first is seen here.
    pub fn set_backend(&self, backend: Option<Arc<BackendHandle>>) {
        let fate = backend.as_ref().map(|backend| backend.fate(self.intent));
        let mut control = self.lock();
        control.backend = backend;
        if let Some(Fate::Sever { cause }) = fate {
            self.sever_locked(&mut control, cause);
        }
    }

    /// The backend this session is tied to.
    pub fn backend(&self) -> Option<Arc<BackendHandle>> {
        self.lock().backend.clone()
    }

    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn add_received(&self, bytes: usize) {
        add_as_only_writer(&self.received, bytes);
    }

    pub fn add_sent(&self, bytes: usize) {
        add_as_only_writer(&self.sent, bytes);
    }

    /// The first answer after the first request: the backend's latency, measured.
    pub fn first_answer(&self, first_sent: Option<Instant>) {
        let Some(backend) = self.lock().backend.clone() else {
            return;
        };
        let now = Instant::now();
        backend.first_answer().strike(now);
        let Some(sent) = first_sent else {
            return;
        };
        backend.record_latency(now.saturating_duration_since(sent), now);
    }

    /// Notes what the protocol tells; written by this session only.
    pub fn set_transaction(&self, transaction: Transaction) {
        self.transaction.store(transaction as u8, Ordering::Relaxed);
    }

    /// A request begins, or its answer ends.
    pub fn note_use(&self) {
        self.signals.fetch_or(ACTIVE, Ordering::AcqRel);
    }

    fn is_between_transactions(&self) -> bool {
        self.transaction.load(Ordering::Relaxed) == Transaction::Idle as u8
    }

    /// Between requests, this counts instead of `idle_timeout`; zero switches that off.
    pub fn set_keep_alive(&self, keep_alive: Duration) {
        let millis = u32::try_from(keep_alive.as_millis()).unwrap_or(u32::MAX);
        self.keep_alive_ms.store(millis, Ordering::Relaxed);
    }

    /// Whether the connection is to be put away; true once for each idle time.
    pub fn take_park(&self) -> bool {
        self.signals.fetch_and(!PARK, Ordering::AcqRel) & PARK != 0
    }

    /// Notes that the connection was put away, or is served again.
    pub fn set_parked(&self, parked: bool) {
        match parked {
            true => self.signals.fetch_or(PARKED, Ordering::AcqRel),
            false => self.signals.fetch_and(!PARKED, Ordering::AcqRel),
        };
    }

    /// Whether the session has just turned out to last; true once.
    pub fn take_settled(&self) -> bool {
        self.signals.fetch_and(!SETTLED, Ordering::AcqRel) & SETTLED != 0
    }

    /// Whether it has turned out to last.
    pub fn is_settled(&self) -> bool {
        self.lock().settled
    }

    fn view(&self, now: Instant) -> SessionView {
        let control = self.lock();
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        SessionView {
            id: self.id,
            listener: self.listener.name.clone(),
            cluster: control.cluster.clone(),
            backend: control.backend.as_ref().map(|backend| backend.name.clone()),
            backend_id: control.backend.as_ref().map(|backend| backend.id),
            client: *self.client.get().unwrap_or(&unspecified),
            phase: self.phase(),
            age_seconds: now.saturating_duration_since(self.started).as_secs_f64(),
            idle_seconds: now
                .saturating_duration_since(control.last_active)
                .as_secs_f64(),
            received_bytes: self.received_bytes(),
            sent_bytes: self.sent_bytes(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cheaper than `fetch_add`, and right with one writer.
fn add_as_only_writer(counter: &AtomicU64, bytes: usize) {
    let sum = counter.load(Ordering::Relaxed) + bytes as u64;
    counter.store(sum, Ordering::Relaxed);
}

/// The sessions of one worker.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: Mutex<Slab<Arc<SessionCell>>>,
}

impl Registry {
    /// Adds a session; the returned key removes it.
    pub fn insert(&self, cell: Arc<SessionCell>) -> usize {
        self.lock().insert(cell)
    }

    /// Removes a session and counts its last bytes.
    pub fn remove(&self, key: usize) {
        let cell = self.lock().try_remove(key);
        if let Some(cell) = cell {
            let mut control = cell.lock();
            cell.count(&mut control);
        }
    }

    /// Applies deadlines, fates and idle timeouts to every session.
    pub fn sweep(&self, now: Instant) {
        for (_, cell) in self.lock().iter() {
            cell.sweep(now);
        }
    }

    /// Calls `act` on every session.
    pub fn for_each(&self, mut act: impl FnMut(&SessionCell)) {
        for (_, cell) in self.lock().iter() {
            act(cell);
        }
    }

    /// A copy of what every session is doing, for the admin API.
    pub fn views(&self, now: Instant) -> Vec<SessionView> {
        self.lock().iter().map(|(_, cell)| cell.view(now)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<SessionCell>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests;
