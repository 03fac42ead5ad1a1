//! The flight recorder's records, as JSON.

use serde_json::Value;
use serde_json::json;

use crate::control::Incident;
use crate::control::IncidentPhase;
use crate::control::IncidentStep;
use crate::control::seconds;

/// `/api/v1/incidents`: the newest first.
pub fn incidents(incidents: &[Incident]) -> Value {
    let shown: Vec<_> = incidents.iter().map(incident).collect();
    json!({ "incidents": shown })
}

fn incident(incident: &Incident) -> Value {
    let steps: Vec<_> = incident.steps.iter().map(|it| step(incident, it)).collect();
    json!({
        "id": incident.id,
        "kind": incident.kind.as_str(),
        "cluster": &*incident.cluster,
        "lost": incident.lost.as_deref(),
        "found": incident.found.as_deref(),
        "timeline": incident.timeline,
        "times": incident.times,
        "open": incident.closed.is_none(),
        "started": incident.origin().map(|it| it.epoch_seconds),
        "duration_seconds": incident.duration().map(|it| it.as_secs_f64()),
        "sessions": {
            "severed": incident.counts.severed,
            "lost": incident.counts.lost,
            "held": incident.counts.held,
            "refused": incident.counts.refused,
        },
        "steps": steps,
        "steps_omitted": incident.omitted,
    })
}

fn step(incident: &Incident, step: &IncidentStep) -> Value {
    let origin = incident.origin().unwrap_or(step.at);
    let role = match step.phase {
        IncidentPhase::RoleChanged(role) => Some(role.as_str()),
        _ => None,
    };
    json!({
        "phase": step.phase.as_str(),
        "at": step.at.epoch_seconds,
        // Of the monotonic clock: right even when somebody sets the other one.
        "after_seconds": seconds(origin, step.at),
        "backend": step.backend.as_deref(),
        "cause": step.cause.map(|cause| cause.as_str()),
        "role": role,
        "timeline": step.timeline,
    })
}
