//! Whom a cluster picks, and why not the others.

use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::admin::view;
use crate::config::Intent;
use crate::config::Policy;
use crate::routing::BackendEntry;
use crate::routing::ClusterTable;
use crate::routing::Exclusion;
use crate::routing::Explanation;
use crate::routing::PickError;
use crate::routing::PickRequest;
use crate::routing::Standing;

/// Adds the cluster, its backends and, unless the client is refused already, what comes of it.
pub fn add_pick(shown: &mut Value, cluster: &ClusterTable, request: &PickRequest<'_>) {
    let explanation = cluster.explain(request);
    let backends = cluster.backends.iter().zip(&explanation.standings);
    let backends: Vec<_> = backends
        .map(|(entry, standing)| backend(entry, *standing, request.now))
        .collect();
    shown["cluster"] = json!(&*cluster.config.name);
    shown["policy"] = json!(policy(cluster.config.balance.policy));
    shown["hash"] = json!(explanation.key.as_ref().map(|key| json!({
        "source": key.source,
        "value": key.value,
        "hash": format!("{:016x}", key.hash),
    })));
    shown["held_sessions"] = json!(cluster.handle.hold(request.intent).len());
    shown["queued_sessions"] = json!(cluster.handle.queue(request.intent.role).len());
    shown["backends"] = backends.into();
    if shown["outcome"].is_null() {
        shown["outcome"] = outcome(cluster, request.intent, &explanation);
    }
}

fn outcome(cluster: &ClusterTable, intent: Intent, explanation: &Explanation) -> Value {
    let failover = &cluster.config.failover;
    let picks = match &explanation.picks {
        Ok(picks) => picks,
        Err(why) => {
            let (text, wait) = match why {
                PickError::NoneEligible => ("nobody is eligible", failover.hold),
                PickError::AllFull => ("every eligible backend is full", failover.queue),
                PickError::AllTried => ("all were tried", failover.hold),
            };
            let (action, text) = match wait.max_wait.is_zero() {
                true => ("refuse", format!("{text}: the client is refused")),
                false => {
                    let longest = wait.max_wait.as_secs_f64();
                    (
                        "wait",
                        format!("{text}: the client waits up to {longest} s"),
                    )
                }
            };
            return json!({ "action": action, "backends": [], "text": text });
        }
    };
    let names: Vec<&str> = picks
        .iter()
        .map(|pick| &*cluster.backends[*pick].config.name)
        .collect();
    let queued = !cluster.handle.queue(intent.role).is_empty();
    let text = match (&names[..], queued) {
        (_, true) => "others wait for a place: the client waits behind them".to_owned(),
        ([one], false) => format!("the client goes to {one}"),
        (several, false) => format!("the client goes to one of {}", several.join(", ")),
    };
    let action = if queued { "wait" } else { "pick" };
    json!({ "action": action, "backends": names, "text": text })
}

fn backend(entry: &BackendEntry, standing: Standing, now: Instant) -> Value {
    let (standing, reason) = told(standing, now);
    let config = &entry.config;
    json!({
        "name": &*config.name,
        "standing": standing,
        "reason": reason,
        "health": entry.health.as_str(),
        "admin_state": entry.admin.as_str(),
        "role": entry.role.as_str(),
        "tier": config.tier,
        "zone": config.zone.as_deref(),
        "weight": config.weight,
        "connections_active": entry.handle.active(),
        "max_connections": config.max_connections,
        "latency_seconds": entry.handle.latency(now).as_secs_f64(),
        "warming": entry.warming_since.is_some(),
        "ejected": view::ejection(entry, now),
    })
}

fn told(standing: Standing, now: Instant) -> (&'static str, String) {
    let excluded = |reason: String| ("excluded", reason);
    match standing {
        Standing::Picked => ("picked", "the policy picks it".to_owned()),
        Standing::Eligible => ("eligible", "the policy prefers another".to_owned()),
        Standing::OtherZone => ("other_zone", "the own zone has room".to_owned()),
        Standing::Spare => ("spare", "a lower tier serves".to_owned()),
        Standing::Full => ("full", "it has max_connections sessions".to_owned()),
        Standing::Tried => ("tried", "this session has tried it".to_owned()),
        Standing::Excluded(exclusion) => excluded(match exclusion {
            Exclusion::Weightless => "its weight is 0".to_owned(),
            Exclusion::Unresolved => "its name is not resolved".to_owned(),
            Exclusion::Admin(state) => format!("an operator has set {}", state.as_str()),
            Exclusion::Health(health, cause) => format!("{} ({cause})", health.as_str()),
            Exclusion::Role(role, cause) => format!("its role is {} ({cause})", role.as_str()),
            Exclusion::Lagging => "its lag is over max_lag".to_owned(),
            Exclusion::Ejected(ejection) => {
                let left = ejection.until.saturating_duration_since(now);
                format!(
                    "ejected: {}, for {:.0} s more",
                    ejection.cause,
                    left.as_secs_f64().ceil()
                )
            }
        }),
    }
}

fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::RoundRobin => "round_robin",
        Policy::LeastConnections => "least_connections",
        Policy::RandomTwo => "random_two",
        Policy::LeastLatency => "least_latency",
        Policy::ConsistentHash(_) => "consistent_hash",
    }
}
