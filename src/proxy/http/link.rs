//! One client connection, as its exchanges see it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use http::Version;

use crate::cluster::Cause;
use crate::protocol::http::forwarded::Written;
use crate::protocol::http1::Violation;
use crate::protocol::http2::Flood;
use crate::proxy::Shared;
use crate::proxy::handshake::Origin;
use crate::proxy::http::upload::Upload;
use crate::proxy::registry::SessionCell;
use crate::proxy::registry::Transaction;
use crate::proxy::transport::Transport;
use crate::proxy::worker::Worker;
use crate::routing::ListenerEntry;

/// A client that means no harm has one cookie too many, and sends it with a page of requests.
const MAX_OVERSIZED: u32 = 32;

/// A greeted client of an HTTP listener.
#[derive(Debug)]
pub struct HttpClient {
    pub transport: Transport,
    /// Read ahead; served first.
    pub first_bytes: Vec<u8>,
    pub origin: Origin,
}

/// What the exchanges of one connection share.
#[derive(Debug)]
pub struct Link {
    pub shared: Arc<Shared>,
    pub worker: Arc<Worker>,
    pub cell: Arc<SessionCell>,
    pub origin: Origin,
    pub is_tls: bool,
    /// From then on an answer is the connection's last; `None` = never.
    retires: Option<Instant>,
    in_flight: AtomicU32,
    /// Heads of HTTP/2 that were refused for their size.
    oversized: AtomicU32,
    /// The client does not take what was written to it.
    is_blocked: AtomicBool,
    /// No request has begun that has not ended.
    is_between: AtomicBool,
    /// The client's last request was one of HTTP/1.0.
    is_http_1_0: AtomicBool,
    /// The time for a head runs.
    is_head_timed: AtomicBool,
    /// Nothing is read from the client any more: a body that has not ended is cut off.
    is_gone: AtomicBool,
    state: Mutex<State>,
    /// What the last request's backend was told of the client.
    forwarded: Mutex<Written>,
}

#[derive(Debug, Default)]
struct State {
    upgrade: Option<Upgrade>,
    refusal: Option<Violation>,
    /// What is wrong with the body of the request under way.
    body_refusal: Option<Violation>,
    /// Why an HTTP/2 client was turned away.
    flood: Option<Flood>,
    /// Waits for the exchanges under way.
    reader: Option<Waker>,
    /// Answers that wait until the client takes something; see [`Link::may_take`].
    takers: Vec<Waker>,
}

/// A backend that has switched protocols: its bytes are relayed from now on.
#[derive(Debug)]
pub struct Upgrade {
    pub backend: Transport,
    /// What it has said already.
    pub answer: Bytes,
    /// Keeps what is counted for as long as the bytes flow.
    pub lease: crate::proxy::place::Place,
}

/// One exchange under way; ends when it is dropped.
#[derive(Debug)]
pub struct InFlight {
    link: Arc<Link>,
    /// Of the request's body, which goes on while the answer is on its way.
    upload: Arc<Upload>,
}

impl InFlight {
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// How far the request's body has come.
    pub fn upload(&self) -> &Arc<Upload> {
        &self.upload
    }
}

impl Link {
    pub fn new(
        shared: Arc<Shared>,
        worker: Arc<Worker>,
        cell: Arc<SessionCell>,
        origin: Origin,
        is_tls: bool,
    ) -> Self {
        Self {
            shared,
            worker,
            cell,
            origin,
            is_tls,
            retires: None,
            in_flight: AtomicU32::new(0),
            oversized: AtomicU32::new(0),
            is_blocked: AtomicBool::new(false),
            is_between: AtomicBool::new(true),
            is_http_1_0: AtomicBool::new(false),
            is_head_timed: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
            state: Mutex::default(),
            forwarded: Mutex::default(),
        }
    }

    /// Sets the limits of time that hold before anything is said.
    #[must_use]
    pub fn timed(mut self) -> Self {
        let entry = self.entry();
        let http = entry.as_ref().and_then(|entry| entry.config.http.as_ref());
        if let Some(limits) = http.map(|http| &http.limits) {
            self.cell.set_keep_alive(limits.keep_alive);
            if !limits.max_age.is_zero() {
                let retires = self.cell.started + limits.max_age;
                self.cell.finish_at(retires, Cause::MaxAge);
                self.retires = Some(retires);
            }
        }
        self
    }

    /// Whether an answer that begins now is the connection's last.
    pub fn is_ending(&self) -> bool {
        // Its worker may not have looked yet.
        self.retirement().is_some() || self.entry().is_none()
    }

    /// Why the connection takes no more requests, if it does not.
    pub fn retirement(&self) -> Option<Cause> {
        let is_old = |retires: &Instant| *retires <= Instant::now();
        let of_age = || self.retires.filter(is_old).map(|_| Cause::MaxAge);
        self.cell.grace().or_else(of_age)
    }

    /// Begins an exchange.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        if self.in_flight.fetch_add(1, Ordering::AcqRel) == 0 {
            self.cell.set_transaction(Transaction::Open);
            self.cell.note_use();
        }
        // What has come of the next head is not read on before this request is answered.
        self.stop_timing_head();
        InFlight {
            link: Arc::clone(self),
            upload: Arc::default(),
        }
    }

    /// A head of HTTP/2 was refused for its size; a client that goes on sending such is ended.
    pub fn note_oversized(&self) {
        if self.oversized.fetch_add(1, Ordering::Relaxed) >= MAX_OVERSIZED {
            self.cell.sever(Cause::Flood);
        }
    }

    /// Nothing is under way, in either direction.
    pub fn is_idle(&self) -> bool {
        self.in_flight() == 0 && !self.is_blocked() && self.is_between.load(Ordering::Relaxed)
    }

    pub fn set_between(&self, is_between: bool) {
        self.is_between.store(is_between, Ordering::Relaxed);
    }

    /// The head that has begun must be whole by then.
    pub fn time_head(&self, deadline: Instant) {
        if !self.is_head_timed.swap(true, Ordering::Relaxed) {
            self.cell.note_use();
            self.cell.set_deadline(deadline, Cause::HandshakeTimeout);
        }
    }

    pub fn stop_timing_head(&self) {
        if self.is_head_timed.swap(false, Ordering::Relaxed) {
            self.cell.clear_deadline(Cause::HandshakeTimeout);
        }
    }

    /// Whether every request so far has its answer and the connection still speaks HTTP; else the
    /// reader is woken when that may be so.
    pub fn is_quiet(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.lock();
        let is_written = !self.is_blocked.load(Ordering::Relaxed);
        if self.in_flight() == 0 && is_written && state.upgrade.is_none() {
            return true;
        }
        state.reader = Some(cx.waker().clone());
        false
    }

    pub fn set_refusal(&self, violation: Violation) {
        self.lock().refusal = Some(violation);
    }

    pub fn refusal(&self) -> Option<Violation> {
        self.lock().refusal
    }

    pub fn is_refused(&self) -> bool {
        self.refusal().is_some()
    }

    pub fn set_body_refusal(&self, violation: Violation) {
        self.lock().body_refusal = Some(violation);
    }

    /// Why the body of the request under way has no end.
    pub fn cause_of_cut_body(&self) -> Cause {
        match self.lock().body_refusal {
            None => Cause::Closed,
            Some(Violation::BodyTooLarge) => Cause::BodyTooLarge,
            Some(_) => Cause::BadRequest,
        }
    }

    /// The client takes nothing more of its answers, and has until then.
    pub fn set_blocked(&self, deadline: Instant) {
        if !self.is_blocked.swap(true, Ordering::Relaxed) {
            self.cell.set_stalled_until(Some(deadline));
        }
    }

    /// It has taken something.
    pub fn set_unblocked(&self) {
        if self.is_blocked.swap(false, Ordering::Relaxed) {
            self.cell.set_stalled_until(None);
            let mut state = self.lock();
            let takers = std::mem::take(&mut state.takers);
            for waiting in takers.into_iter().chain(state.reader.take()) {
                waiting.wake();
            }
        }
    }

    /// Whether an answer may take more from its backend. Each of many streams would fill buffers of
    /// its own while their client takes nothing; otherwise the task is woken when it does.
    pub fn may_take(&self, cx: &Context<'_>) -> bool {
        if !self.is_blocked() {
            return true;
        }
        let mut state = self.lock();
        if !state.takers.iter().any(|it| it.will_wake(cx.waker())) {
            state.takers.push(cx.waker().clone());
        }
        false
    }

    /// Whether bytes of the client's last request may still be on their way here.
    pub fn is_cut(&self) -> bool {
        !self.is_between.load(Ordering::Relaxed)
    }

    pub fn note_version(&self, version: Version) {
        let is_http_1_0 = version == Version::HTTP_10;
        self.is_http_1_0.store(is_http_1_0, Ordering::Relaxed);
    }

    pub fn is_http_1_0(&self) -> bool {
        self.is_http_1_0.load(Ordering::Relaxed)
    }

    pub fn set_flood(&self, flood: Flood) {
        self.lock().flood = Some(flood);
    }

    pub fn flood(&self) -> Option<Flood> {
        self.lock().flood
    }

    pub fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Relaxed)
    }

    /// Exchanges under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Whether nothing is read from the client any more.
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    pub fn set_gone(&self, is_gone: bool) {
        self.is_gone.store(is_gone, Ordering::Relaxed);
    }

    pub fn set_upgrade(&self, upgrade: Upgrade) {
        self.lock().upgrade = Some(upgrade);
    }

    pub fn take_upgrade(&self) -> Option<Upgrade> {
        self.lock().upgrade.take()
    }

    pub fn with_forwarded<T>(&self, write: impl FnOnce(&mut Written) -> T) -> T {
        let written = self.forwarded.lock();
        write(&mut written.unwrap_or_else(PoisonError::into_inner))
    }

    /// Drops what only saves work: nothing is under way, perhaps for long.
    pub fn rest(&self) {
        self.with_forwarded(|written| *written = Written::default());
    }

    /// The listener as the present table has it, also under another name; `None`: it was removed.
    pub fn entry(&self) -> Option<Arc<ListenerEntry>> {
        let table = self.shared.table.load();
        let named = table.listeners.get(&self.cell.listener.name);
        let here = |entry: &&Arc<ListenerEntry>| entry.config.bind == self.cell.bind;
        let found = named.or_else(|| table.listeners.values().find(here));
        found.cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.link.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.link.cell.set_transaction(Transaction::Idle);
            self.link.cell.note_use();
            if let Some(reader) = self.link.lock().reader.take() {
                reader.wake();
            }
            if let Some(cause) = self.link.cell.grace() {
                self.link.cell.sever(cause);
            }
        }
    }
}
