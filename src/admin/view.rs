//! What the API shows, as JSON.

use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::report::SessionView;
use crate::routing::BackendEntry;
use crate::routing::ClusterTable;
use crate::routing::ListenerEntry;
use crate::routing::RoutingTable;
use crate::shutdown::Stage;

/// Why the process should get no new clients; `None` when it should.
pub fn not_ready(stage: Stage, table: &RoutingTable) -> Option<&'static str> {
    match stage {
        Stage::Starting => Some("starting"),
        Stage::Draining => Some("draining"),
        Stage::Serving => {
            let mut listeners = table.listeners.values();
            let serves = listeners.any(|listener| has_eligible(listener, table));
            (!serves).then_some("no listener has an eligible backend")
        }
    }
}

fn has_eligible(listener: &ListenerEntry, table: &RoutingTable) -> bool {
    let routes = listener.config.routes.iter().map(|route| &route.cluster);
    let http = listener.config.http.iter().flat_map(|http| &http.routes);
    let routes = routes.chain(http.map(|route| &route.cluster));
    let mut clusters = listener.config.cluster.iter().chain(routes);
    clusters.any(|name| {
        let cluster = table.clusters.get(name);
        cluster.is_some_and(|cluster| cluster.eligible_for(listener.config.intent) > 0)
    })
}

/// `/api/v1/status`: everything that `evergate status` prints.
pub fn status(stage: Stage, table: &RoutingTable, now: Instant) -> Value {
    let reason = not_ready(stage, table);
    let mut listeners: Vec<_> = table.listeners.iter().collect();
    listeners.sort_by_key(|(name, _)| *name);
    let listeners: Vec<_> = listeners
        .into_iter()
        .map(|(_, entry)| listener(entry))
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "stage": stage.as_str(),
        "ready": reason.is_none(),
        "not_ready_because": reason,
        "generation": table.generation,
        "listeners": listeners,
        "clusters": clusters(table, now),
    })
}

/// `/api/v1/clusters`
pub fn clusters(table: &RoutingTable, now: Instant) -> Value {
    let mut clusters: Vec<_> = table.clusters.iter().collect();
    clusters.sort_by_key(|(name, _)| *name);
    clusters
        .into_iter()
        .map(|(name, table)| cluster(name, table, now))
        .collect()
}

/// `/api/v1/sessions`: the oldest `limit` ones.
pub fn sessions(mut sessions: Vec<SessionView>, limit: usize) -> Value {
    let total = sessions.len();
    sessions.sort_by_key(|session| session.id);
    sessions.truncate(limit);
    let shown: Vec<_> = sessions.iter().map(session).collect();
    json!({ "total": total, "truncated": total > shown.len(), "sessions": shown })
}

fn listener(entry: &ListenerEntry) -> Value {
    json!({
        "name": &*entry.config.name,
        "bind": entry.config.bind.to_string(),
        "cluster": entry.config.cluster.as_deref(),
        "connections_active": entry.handle.active(),
        "connections_total": entry.handle.accepted(),
        "max_connections": entry.config.max_connections,
    })
}

fn cluster(name: &str, table: &ClusterTable, now: Instant) -> Value {
    let backends: Vec<_> = table
        .backends
        .iter()
        .map(|entry| backend(entry, now))
        .collect();
    json!({
        "name": name,
        "eligible_backends": table.eligible(),
        "headroom_backends": table.headroom(),
        "primary": table.primary().map(|entry| &*entry.config.name),
        "split_brain": table.is_split_brain,
        "held_sessions": table.handle.held(),
        "queued_sessions": table.handle.queued(),
        "backends": backends,
    })
}

fn backend(entry: &BackendEntry, now: Instant) -> Value {
    let config = &entry.config;
    let lag = entry.handle.lag();
    json!({
        "name": &*config.name,
        "host": config.host.to_string(),
        "port": config.port,
        "address": entry.address.map(|address| address.to_string()),
        "health": entry.health.as_str(),
        "admin_state": entry.admin.as_str(),
        "cause": entry.cause.as_str(),
        "role": entry.role.as_str(),
        "role_cause": entry.role_cause.as_str(),
        "lag_seconds": lag.time().map(|time| time.as_secs_f64()),
        "lag_bytes": lag.bytes(),
        "ejected": ejection(entry, now),
        "since": entry.since_epoch,
        "weight": config.weight,
        "tier": config.tier,
        "zone": config.zone.as_deref(),
        "max_connections": config.max_connections,
        "connections_active": entry.handle.active(),
        "connections_total": entry.handle.total(),
        "latency_seconds": entry.handle.latency(now).as_secs_f64(),
    })
}

/// Why passive health leaves it alone and for how long; null when it does not.
pub fn ejection(entry: &BackendEntry, now: Instant) -> Value {
    let left = |until: Instant| until.saturating_duration_since(now).as_secs_f64();
    json!(entry.ejected.map(|it| json!({
        "cause": it.cause.as_str(),
        "for_seconds": left(it.until),
    })))
}

fn session(view: &SessionView) -> Value {
    json!({
        "id": view.id,
        "listener": &*view.listener,
        "cluster": view.cluster.as_deref(),
        "backend": view.backend.as_deref(),
        "client": view.client.to_string(),
        "phase": view.phase.as_str(),
        "age_seconds": view.age_seconds,
        "idle_seconds": view.idle_seconds,
        "received_bytes": view.received_bytes,
        "sent_bytes": view.sent_bytes,
    })
}
