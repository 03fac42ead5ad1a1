//! One listener's live state.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::cluster::Cause;
use crate::cluster::Name;
use crate::routing::http_tally::ListenerHttp;

/// One listener's live counters.
#[derive(Debug)]
pub struct ListenerHandle {
    pub name: Name,
    active: AtomicUsize,
    accepted: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    rejected: Vec<(Cause, AtomicU64)>,
    /// What only HTTP counts.
    pub http: ListenerHttp,
}

/// Reasons under which a connection is counted as rejected.
pub const REJECT_CAUSES: [Cause; 21] = [
    Cause::Denied,
    Cause::ListenerFull,
    Cause::ProcessFull,
    Cause::BadProxyHeader,
    Cause::BadProtocol,
    Cause::HandshakeTimeout,
    Cause::TlsFailed,
    Cause::NoRoute,
    Cause::HoldTimeout,
    Cause::HoldFull,
    Cause::QueueTimeout,
    Cause::QueueFull,
    Cause::ConnectRefused,
    Cause::ConnectTimeout,
    Cause::Unreachable,
    Cause::EarlyClose,
    Cause::StartingUp,
    Cause::ShuttingDown,
    Cause::CancelUnknown,
    Cause::CancelFailed,
    Cause::OutOfResources,
];

impl ListenerHandle {
    pub fn new(name: Name) -> Self {
        Self {
            name,
            active: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            rejected: REJECT_CAUSES.map(|cause| (cause, AtomicU64::new(0))).into(),
            http: ListenerHttp::default(),
        }
    }

    /// Counts a connection in; returns how many there are now.
    pub fn open(&self) -> usize {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub fn close(&self) {
        self.active.fetch_sub(1, Ordering::AcqRel);
    }

    pub fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Counts a refused connection when `cause` is one that a client can be refused for.
    pub fn count_rejected(&self, cause: Cause) {
        if let Some((_, counter)) = self.rejected.iter().find(|(known, _)| *known == cause) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn rejected(&self) -> impl Iterator<Item = (Cause, u64)> + '_ {
        self.rejected
            .iter()
            .map(|(cause, count)| (*cause, count.load(Ordering::Relaxed)))
    }

    /// `received` came from clients, `sent` went to clients.
    pub fn count_bytes(&self, received: u64, sent: u64) {
        self.received.fetch_add(received, Ordering::Relaxed);
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }

    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
