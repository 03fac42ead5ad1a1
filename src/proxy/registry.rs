//! The live sessions of one worker: what each is doing, and the hand that ends it.
//!
//! A session costs no timer. The worker sweeps its sessions a few times a
//! second and after every published table, and looks at the *current* fate of
//! each session's backend, whatever table the session started under.

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
use std::task::Context;
use std::task::Poll;
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
/// Between requests, after this nothing but the socket is kept.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// An answer that pauses longer than this is more likely to be complete.
const BUSY: Duration = Duration::from_secs(1);
/// Most short sessions are over by then; keepalive looks far later.
const SETTLE_AFTER: Duration = Duration::from_secs(1);

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

    /// Ends the session at its next poll. The first cause stays.
    pub fn sever(&self, cause: Cause) {
        let mut control = self.lock();
        self.sever_locked(&mut control, cause);
    }

    fn sever_locked(&self, control: &mut Control, cause: Cause) {
        control.sever.get_or_insert(cause);
        self.signals.fetch_or(SEVER, Ordering::AcqRel);
        if let Some(waker) = control.waker.take() {
            waker.wake();
        }
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

    /// Asks the session to end with its present transaction, if its protocol tells.
    pub fn finish(&self, cause: Cause) {
        self.lock().finish.get_or_insert(cause);
    }

    /// The same where requests follow each other: a client that rests between two of them loses
    /// nothing. A database session may hold temporary tables and the like: it keeps its time.
    pub fn finish_requests(&self, cause: Cause) {
        if self.keep_alive_ms.load(Ordering::Relaxed) > 0 {
            self.finish(cause);
        }
    }

    /// Takes [`Self::finish`] of `cause` back.
    pub fn go_on(&self, cause: Cause) {
        let mut control = self.lock();
        if control.finish == Some(cause) {
            control.finish = None;
        }
    }

    /// As [`Self::finish`], from that time on, and not between two requests that follow closely:
    /// the answer to the second can announce the end.
    pub fn finish_at(&self, at: Instant, cause: Cause) {
        let mut control = self.lock();
        let requests = control.requests.get_or_insert_default();
        requests.finish_at.get_or_insert((at, cause));
    }

    /// Gives a client that takes nothing more of its answer until then; `None`: it does.
    pub fn set_stalled_until(&self, deadline: Option<Instant>) {
        let mut control = self.lock();
        control.requests.get_or_insert_default().stalled_until = deadline;
    }

    /// Gives the session until `deadline`. The first cause stays, apart from an opening's, which
    /// is taken back when that is whole.
    pub fn set_deadline(&self, deadline: Instant, cause: Cause) {
        let mut control = self.lock();
        if matches!(control.deadline, None | Some((_, Cause::HandshakeTimeout))) {
            control.deadline = Some((deadline, cause));
        }
    }

    /// Takes the deadline of `cause` back.
    pub fn clear_deadline(&self, cause: Cause) {
        let mut control = self.lock();
        if control.deadline.is_some_and(|(_, known)| known == cause) {
            control.deadline = None;
        }
    }

    /// The client has begun to say something that is not passed on before it is whole.
    pub fn begin_opening(&self, now: Instant) {
        let timeout = Duration::from_millis(self.handshake_timeout_ms.into());
        let deadline = (now + timeout, Cause::HandshakeTimeout);
        self.lock().deadline.get_or_insert(deadline);
    }

    /// It is whole.
    pub fn end_opening(&self) {
        self.clear_deadline(Cause::HandshakeTimeout);
    }

    /// Whether there is anything to look at: [`Self::severed`] or [`Self::take_settled`].
    pub fn has_signal(&self) -> bool {
        self.signals.load(Ordering::Acquire) & (SEVER | SETTLED) != 0
    }

    /// Why the session must end with its present transaction, if it must.
    pub fn grace(&self) -> Option<Cause> {
        if self.signals.load(Ordering::Acquire) & GRACE == 0 {
            return None;
        }
        self.lock().grace
    }

    /// Whether the session has just turned out to last; true once.
    pub fn take_settled(&self) -> bool {
        self.signals.fetch_and(!SETTLED, Ordering::AcqRel) & SETTLED != 0
    }

    /// Whether it has turned out to last.
    pub fn is_settled(&self) -> bool {
        self.lock().settled
    }

    fn is_severed(&self) -> bool {
        self.signals.load(Ordering::Acquire) & SEVER != 0
    }

    /// Why the session must end, if it must; otherwise the task is woken when it must.
    pub fn severed(&self, cx: &mut Context<'_>) -> Option<Cause> {
        if !self.is_severed() {
            // A task's waker is the same at every poll of the same session, but the
            // handshake phases run under wakers of their own.
            let mut control = self.lock();
            if control.sever.is_none() {
                let known = control
                    .waker
                    .as_ref()
                    .is_some_and(|waker| waker.will_wake(cx.waker()));
                if !known {
                    control.waker = Some(cx.waker().clone());
                }
                return None;
            }
        }
        self.lock().sever
    }

    /// As [`Self::severed`], without a wake-up.
    pub fn severed_cause(&self) -> Option<Cause> {
        if !self.is_severed() {
            return None;
        }
        self.lock().sever
    }

    /// Resolves when the session must end.
    pub async fn until_severed(&self) -> Cause {
        std::future::poll_fn(|cx| match self.severed(cx) {
            Some(cause) => Poll::Ready(cause),
            None => Poll::Pending,
        })
        .await
    }

    /// Looks at deadlines, the backend's fate and idleness; counts the bytes so far.
    fn sweep(&self, now: Instant) {
        let mut control = self.lock();
        let has_moved = self.count(&mut control);
        if self.is_active(has_moved) {
            control.last_active = now;
        }
        if !control.settled && now.saturating_duration_since(self.started) >= SETTLE_AFTER {
            control.settled = true;
            self.signals.fetch_or(SETTLED, Ordering::AcqRel);
            if let Some(waker) = &control.waker {
                waker.wake_by_ref();
            }
        }
        let fate = control
            .backend
            .as_ref()
            .map(|backend| backend.fate(self.intent));
        let idle = now.saturating_duration_since(control.last_active);
        let requests = control.requests.as_deref();
        let stalled_until = requests.and_then(|requests| requests.stalled_until);
        if let Some((at, cause)) = requests.and_then(|requests| requests.finish_at)
            && at <= now
            && idle >= BUSY
        {
            control.finish.get_or_insert(cause);
        }
        self.set_grace(&mut control, fate);
        let cause = match (fate, control.deadline) {
            (Some(Fate::Sever { cause }), _) => cause,
            (Some(Fate::Drain { deadline, cause } | Fate::Grace { deadline, cause }), _)
                if deadline <= now =>
            {
                cause
            }
            _ if self.is_between_transactions() && control.grace.is_some() => {
                control.grace.unwrap_or(Cause::Shutdown)
            }
            (_, Some((deadline, cause))) if deadline <= now => cause,
            _ if stalled_until.is_some_and(|until| until <= now) => Cause::BodyTimeout,
            _ if self.is_idle_for_too_long(idle) => Cause::IdleTimeout,
            _ => {
                self.ask_to_park(&control, idle);
                return;
            }
        };
        self.sever_locked(&mut control, cause);
    }

    /// Where requests are known, bytes between them keep nothing alive: they may be the pings of
    /// an HTTP/2 connection.
    fn is_active(&self, has_moved: bool) -> bool {
        let was_used = self.signals.fetch_and(!ACTIVE, Ordering::AcqRel) & ACTIVE != 0;
        let knows_requests = self.keep_alive_ms.load(Ordering::Relaxed) != 0;
        was_used || has_moved && !(knows_requests && self.is_between_transactions())
    }

    fn is_idle_for_too_long(&self, idle: Duration) -> bool {
        if self.phase() != Phase::Relay {
            return false;
        }
        match self.keep_alive_ms.load(Ordering::Relaxed) {
            0 => !self.idle_timeout.is_zero() && idle >= self.idle_timeout,
            // A request may take as long as it takes.
            millis => {
                self.is_between_transactions() && idle >= Duration::from_millis(millis.into())
            }
        }
    }

    fn ask_to_park(&self, control: &Control, idle: Duration) {
        let may_park = self.keep_alive_ms.load(Ordering::Relaxed) != 0
            && self.is_between_transactions()
            && idle >= PARK_AFTER
            && self.signals.load(Ordering::Acquire) & (PARK | PARKED) == 0;
        if may_park {
            self.signals.fetch_or(PARK, Ordering::AcqRel);
            if let Some(waker) = &control.waker {
                waker.wake_by_ref();
            }
        }
    }

    fn set_grace(&self, control: &mut Control, fate: Option<Fate>) {
        let grace = match fate {
            Some(Fate::Grace { cause, .. }) => Some(cause),
            _ => control.finish,
        };
        if control.grace == grace {
            return;
        }
        control.grace = grace;
        match grace {
            Some(_) => self.signals.fetch_or(GRACE, Ordering::AcqRel),
            None => self.signals.fetch_and(!GRACE, Ordering::AcqRel),
        };
    }

    /// Adds new bytes to the listener's and the backend's counters; true if there were any.
    fn count(&self, control: &mut Control) -> bool {
        let received = self.received_bytes() - control.counted_received;
        let sent = self.sent_bytes() - control.counted_sent;
        if received == 0 && sent == 0 {
            return false;
        }
        control.counted_received += received;
        control.counted_sent += sent;
        self.listener.count_bytes(received, sent);
        if let Some(backend) = &control.backend {
            backend.count_bytes(sent, received);
        }
        true
    }

    /// Whether bytes moved a moment ago: an answer may be half delivered.
    pub fn is_busy(&self) -> bool {
        let control = self.lock();
        let moved = self.received_bytes() + self.sent_bytes();
        let swept = control.counted_received + control.counted_sent;
        moved != swept || control.last_active.elapsed() < BUSY
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
