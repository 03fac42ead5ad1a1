//! One connection to a backend as others see it: the sweep, the pool, whoever counts.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Instant;

use crate::cluster::Cause;
use crate::config::Intent;
use crate::routing::BackendHandle;
use crate::routing::Fate;

/// One connection as the worker's sweep sees it, whoever uses it.
#[derive(Debug)]
pub struct UpstreamCell {
    pub backend: Arc<BackendHandle>,
    /// What its exchanges need of the backend.
    pub intent: Intent,
    pub opened: Instant,
    busy: AtomicU32,
    requests: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    counted_received: AtomicU64,
    counted_sent: AtomicU64,
    severed: OnceLock<Cause>,
    /// Whoever waits for the backend.
    waiting: Mutex<Option<Waker>>,
}

impl UpstreamCell {
    pub fn new(backend: Arc<BackendHandle>, intent: Intent, now: Instant) -> Self {
        Self {
            backend,
            intent,
            opened: now,
            busy: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            counted_received: AtomicU64::new(0),
            counted_sent: AtomicU64::new(0),
            severed: OnceLock::new(),
            waiting: Mutex::default(),
        }
    }

    /// Counts a request; returns how many there were with it.
    pub fn count_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// An exchange begins on it.
    pub fn take(&self) {
        if self.busy.fetch_add(1, Ordering::AcqRel) == 0 {
            self.backend.http().take();
        }
    }

    /// An exchange on it is over.
    pub fn rest(&self) {
        if self.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.backend.http().rest();
        }
    }

    /// Exchanges under way.
    pub fn busy(&self) -> u32 {
        self.busy.load(Ordering::Acquire)
    }

    /// Why its exchanges were ended, if they were.
    pub fn severed(&self) -> Option<Cause> {
        self.severed.get().copied()
    }

    /// Applies the backend's fate and counts the bytes so far.
    pub fn sweep(&self, now: Instant) {
        self.count();
        let cause = match self.backend.fate(self.intent) {
            Fate::Serve => return,
            Fate::Sever { cause } => cause,
            Fate::Drain { deadline, cause } | Fate::Grace { deadline, cause } => {
                if self.busy() > 0 && now < deadline {
                    return;
                }
                cause
            }
        };
        self.sever(cause);
    }

    fn sever(&self, cause: Cause) {
        // The first cause stays.
        let _ = self.severed.set(cause);
        if let Some(waiting) = self.lock_waiting().take() {
            waiting.wake();
        }
    }

    /// Ready as soon as the exchanges on it are to end, and why.
    pub fn poll_severed(&self, cx: &mut Context<'_>) -> Poll<Cause> {
        if let Some(cause) = self.severed() {
            return Poll::Ready(cause);
        }
        let mut waiting = self.lock_waiting();
        match &mut *waiting {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        drop(waiting);
        // It may have happened meanwhile.
        self.severed().map_or(Poll::Pending, Poll::Ready)
    }

    fn lock_waiting(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody waits for the backend any more.
    pub fn forget_waiting(&self) {
        *self.lock_waiting() = None;
    }

    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Counts bytes that came; right with one reader.
    pub fn note_received(&self, bytes: usize) {
        add(&self.received, bytes);
    }

    /// Counts bytes that went; right with one writer.
    pub fn note_sent(&self, bytes: usize) {
        add(&self.sent, bytes);
    }

    /// Adds new bytes to the backend's counters.
    pub fn count(&self) {
        let news = |now: &AtomicU64, counted: &AtomicU64| {
            let now = now.load(Ordering::Relaxed);
            now - counted.swap(now, Ordering::Relaxed)
        };
        let received = news(&self.received, &self.counted_received);
        let sent = news(&self.sent, &self.counted_sent);
        if received > 0 || sent > 0 {
            self.backend.count_bytes(received, sent);
        }
    }
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.store(
        counter.load(Ordering::Relaxed) + bytes as u64,
        Ordering::Relaxed,
    );
}
