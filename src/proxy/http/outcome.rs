//! What a backend's answer says of the backend.

use std::time::Duration;
use std::time::Instant;

use crate::cluster::StatusClass;
use crate::proxy::Shared;
use crate::report::Report;
use crate::routing::Answer;
use crate::routing::BackendHandle;
use crate::routing::Outcome;

/// Counts what became of one attempt, and tells the control plane when that is reason to act.
/// `sent`: when the request was sent, and how long the backend asks not to be sent more.
pub fn note(
    shared: &Shared,
    backend: &BackendHandle,
    answer: Answer,
    (sent, retry_after): (Instant, Option<Duration>),
) {
    let now = Instant::now();
    let latency = now.saturating_duration_since(sent);
    if let Answer::Status(status) = answer {
        backend.http().answers.count(StatusClass::of(Some(status)));
        backend.record_latency(latency, now);
    }
    let outcome = Outcome {
        answer,
        latency,
        retry_after,
    };
    if let Some(cause) = backend.record_outcome(outcome, now) {
        shared.reporter.send(Report {
            backend: backend.id,
            cause,
        });
    }
}
