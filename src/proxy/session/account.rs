//! What is counted of a session, reported and logged, and given back at its end.

use std::sync::Arc;
use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::proxy::Shared;
use crate::proxy::listener::Accepted;
use crate::proxy::registry::SessionCell;
use crate::proxy::worker::Worker;
use crate::report::Report;
use crate::routing::Tally;

/// Takes everything back that was counted, however the session ends.
pub(super) struct Registration {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: Arc<Worker>,
    pub(super) cell: Arc<SessionCell>,
    key: usize,
}

/// Counts and logs the end of a session.
pub(super) fn finish(registration: &Registration, end: SessionEnd) {
    let Registration { shared, cell, .. } = registration;
    shared.metrics.count_session_end(end);
    tracing::debug!(
        session = cell.id,
        listener = %cell.listener.name,
        side = end.side.as_str(),
        phase = end.phase.as_str(),
        cause = end.cause.as_str(),
        received_bytes = cell.received_bytes(),
        sent_bytes = cell.sent_bytes(),
        "session ended"
    );
}

/// Counts what an incident costs.
pub(super) fn tally(tally: &Tally, end: SessionEnd) {
    match (end.side, end.cause) {
        (
            Side::Proxy,
            Cause::BackendDead
            | Cause::BackendDemoted
            | Cause::BackendFenced
            | Cause::BackendLagging
            | Cause::BackendDrained
            | Cause::BackendRemoved,
        ) => tally.count_severed(),
        (Side::Backend, _) => tally.count_lost(),
        _ => {}
    }
}

/// A backend that ends a session before its first byte may be failing.
pub(super) fn report_early_close(shared: &Shared, cell: &SessionCell, end: SessionEnd) {
    let early = end.side == Side::Backend && cell.sent_bytes() == 0;
    let cause = match end.cause {
        Cause::Closed | Cause::Reset if early => Cause::EarlyClose,
        Cause::Reset if end.side == Side::Backend => Cause::Reset,
        _ => return,
    };
    if let Some(backend) = cell.backend() {
        shared.reporter.send(Report {
            backend: backend.id,
            cause,
        });
    }
}

/// Counts and logs a session that ended before bytes flowed.
pub(super) fn note_refusal(registration: &Registration, end: SessionEnd) {
    let Registration { shared, cell, .. } = registration;
    cell.listener.count_rejected(end.cause);
    // A client that goes away, or was never one, is not worth an operator's attention …
    let went_away = matches!(end.cause, Cause::Closed | Cause::Reset);
    if end.side == Side::Client && went_away || end.cause == Cause::CancelForwarded {
        return;
    }
    if let Some(admitted) = shared.refusal_warnings.admit(end.cause, Instant::now()) {
        // … but whoever is turned away is.
        tracing::warn!(
            session = cell.id,
            listener = %cell.listener.name,
            phase = end.phase.as_str(),
            cause = end.cause.as_str(),
            suppressed = admitted.suppressed,
            "client refused"
        );
    }
}

impl Registration {
    pub(super) fn new(accepted: &Accepted, shared: Arc<Shared>, worker: Arc<Worker>) -> Self {
        let cell = Arc::new(SessionCell::new(
            shared.next_session_id(),
            Arc::clone(&accepted.entry.handle),
            accepted.entry.config.bind,
            accepted.entry.config.intent,
            accepted.entry.config.idle_timeout,
            accepted.entry.config.handshake_timeout,
            Instant::now(),
        ));
        cell.set_client(accepted.peer);
        let key = worker.registry.insert(Arc::clone(&cell));
        shared.listeners_in_force.judge_newcomer(&cell);
        Self {
            shared,
            worker,
            cell,
            key,
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.worker.registry.remove(self.key);
        self.worker.release();
        self.cell.listener.close();
        self.shared.close();
    }
}
