//! What only grows of a backend.

use std::sync::atomic::AtomicU64;

use crate::cluster::Cause;
use crate::routing::http_tally::BackendHttp;

/// What only grows. It belongs to the backend's name: one that moves to another
/// address counts on, and so do the sessions that it left behind.
#[derive(Debug)]
pub(super) struct Totals {
    pub(super) connected: AtomicU64,
    /// Bytes from the backend.
    pub(super) received: AtomicU64,
    /// Bytes to the backend.
    pub(super) sent: AtomicU64,
    pub(super) connect_errors: Vec<(Cause, AtomicU64)>,
    pub(super) checks_passed: AtomicU64,
    pub(super) checks_failed: AtomicU64,
    pub(super) http: BackendHttp,
    pub(super) ejections: Vec<(Cause, AtomicU64)>,
}

/// Reasons under which a failed connect is counted.
pub const CONNECT_ERROR_CAUSES: [Cause; 11] = [
    Cause::ConnectRefused,
    Cause::ConnectTimeout,
    Cause::Unreachable,
    Cause::Reset,
    Cause::TlsFailed,
    Cause::EarlyClose,
    Cause::StartingUp,
    Cause::ShuttingDown,
    Cause::TooManyConnections,
    Cause::OutOfResources,
    Cause::IoError,
];

/// Why a backend is ejected.
pub const EJECTION_CAUSES: [Cause; 5] = [
    Cause::ServerErrors,
    Cause::GatewayErrors,
    Cause::SuccessRate,
    Cause::SlowAnswers,
    Cause::RetryAfter,
];

impl Default for Totals {
    fn default() -> Self {
        Self {
            connected: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            connect_errors: CONNECT_ERROR_CAUSES
                .map(|cause| (cause, AtomicU64::new(0)))
                .into(),
            checks_passed: AtomicU64::new(0),
            checks_failed: AtomicU64::new(0),
            http: BackendHttp::default(),
            ejections: EJECTION_CAUSES
                .map(|cause| (cause, AtomicU64::new(0)))
                .into(),
        }
    }
}
