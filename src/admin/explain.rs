//! `/api/v1/explain`: where a client would go, and why; where a session is, and why.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::admin::view;
use crate::config::Fallback;
use crate::config::HashKey;
use crate::config::HostPattern;
use crate::config::HttpListenerConfig;
use crate::config::HttpRoute;
use crate::config::Intent;
use crate::config::MaxLag;
use crate::config::PathPattern;
use crate::config::Policy;
use crate::report::SessionView;
use crate::routing;
use crate::routing::BackendEntry;
use crate::routing::ClusterTable;
use crate::routing::Exclusion;
use crate::routing::Explanation;
use crate::routing::Fate;
use crate::routing::HttpQuestion;
use crate::routing::HttpVerdict;
use crate::routing::KeySource;
use crate::routing::ListenerEntry;
use crate::routing::LoginKeys;
use crate::routing::PickError;
use crate::routing::PickRequest;
use crate::routing::RoutingTable;
use crate::routing::Standing;
use crate::routing::Wish;
use crate::routing::WrittenRequest;

/// Who asks for a backend.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Client {
    pub listener: String,
    /// `None`: a client of this host.
    pub source: Option<SocketAddr>,
    pub user: Option<String>,
    pub database: Option<String>,
    pub sni: Option<String>,
    /// One startup parameter of PostgreSQL, name and value: what `startup:NAME` hashes.
    pub startup: Option<(String, String)>,
    /// Of an HTTP listener.
    pub request: WrittenRequest,
}

/// An address, with or without a port.
pub fn parse_source(text: &str) -> Option<SocketAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let ip = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
    ip.or_else(|_| text.parse()).ok()
}

/// `NAME=VALUE`, as in `application_name=reports`.
pub fn parse_startup(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

/// Where this client would go now.
///
/// # Errors
/// There is no such listener, and the message names a near one; or what is asked is no request.
pub fn client(table: &RoutingTable, client: &Client, now: Instant) -> Result<Value, String> {
    let entry = table.listeners.get(&*client.listener);
    let entry = entry.ok_or_else(|| unknown_listener(table, &client.listener))?;
    let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let source = client.source.unwrap_or(here);
    // As the handshake does it: names are compared in lower case.
    let sni = client.sni.as_ref().map(|sni| sni.to_ascii_lowercase());
    let wish = Wish {
        sni: sni.as_deref(),
        database: client.database.as_deref(),
        user: client.user.as_deref(),
    };
    let http = match &entry.config.http {
        Some(http) => Some((&**http, HttpQuestion::read(&client.request)?)),
        None => None,
    };
    let mut shown = json!({
        "generation": table.generation,
        "listener": { "name": &*entry.config.name, "bind": entry.config.bind.to_string() },
        "source": source.ip().to_string(),
        "source_assumed": client.source.is_none(),
        "intent": intent(entry.config.intent),
    });
    let cluster = match &http {
        Some((config, question)) => {
            let default = entry.config.cluster.as_ref();
            let view = question.view();
            let routed = routing::route_http(&entry.http_routes, config, default, &view);
            shown["route"] = http_route(config, routed);
            shown["routes"] = verdicts(entry, config, question);
            routed.map(|routed| routed.cluster)
        }
        None => {
            let routed = routing::route(&entry.config, wish);
            shown["route"] = route(entry, routed);
            routed.map(|routed| routed.cluster)
        }
    };
    let cluster = cluster.and_then(|name| table.clusters.get(name));
    if let Some(refusal) = refusal(entry, source.ip(), cluster.is_some()) {
        shown["outcome"] = refusal;
    }
    if let Some(cluster) = cluster {
        let hashed = http.as_ref().and_then(|(_, question)| {
            let key = &cluster.config.balance.key;
            routing::request_key(key, &question.view(), question.query())
        });
        let request = PickRequest {
            intent: entry.config.intent,
            source: KeySource {
                client: source,
                sni: sni.as_deref(),
                login: LoginKeys {
                    user: client.user.as_deref(),
                    database: client.database.as_deref(),
                    parameter: hashed.or_else(|| hashed_parameter(cluster, client)),
                },
            },
            tried: &[],
            now,
        };
        add_pick(&mut shown, cluster, &request);
    }
    Ok(shown)
}

/// The value of the startup parameter that the cluster hashes.
fn hashed_parameter<'a>(cluster: &ClusterTable, client: &'a Client) -> Option<&'a str> {
    let HashKey::StartupParameter(hashed) = &cluster.config.balance.key else {
        return None;
    };
    let (name, value) = client.startup.as_ref()?;
    (**name == **hashed).then_some(value)
}

/// The route that takes a request.
fn http_route(config: &HttpListenerConfig, routed: Option<routing::HttpRouted<'_>>) -> Value {
    let Some(routed) = routed else {
        return Value::Null;
    };
    let Some(at) = routed.route else {
        return json!({ "cluster": &**routed.cluster, "number": null,
            "text": "the listener's cluster" });
    };
    let text = config.routes.get(at).map(conditions).unwrap_or_default();
    let text = format!("route {} ({text})", at + 1);
    json!({ "cluster": &**routed.cluster, "number": at + 1, "text": text })
}

/// What each route says to the request.
fn verdicts(entry: &ListenerEntry, config: &HttpListenerConfig, question: &HttpQuestion) -> Value {
    let verdicts = routing::explain_http(&entry.http_routes, config, &question.view());
    let routes = config.routes.iter().zip(&verdicts).enumerate();
    let routes = routes.map(|(at, (route, verdict))| {
        let header = match verdict {
            HttpVerdict::OtherHeader(at) => route.headers.get(*at).map(|it| it.name.as_str()),
            _ => None,
        };
        json!({ "number": at + 1, "text": conditions(route), "verdict": verdict.as_str(),
            "header": header })
    });
    routes.collect()
}

/// As in the file, on one line.
fn conditions(route: &HttpRoute) -> String {
    let mut conditions = Vec::new();
    match &route.host {
        Some(HostPattern::Exact(host)) => conditions.push(format!("host: {host}")),
        Some(HostPattern::Below(suffix)) => conditions.push(format!("host: *{suffix}")),
        None => {}
    }
    match &route.path {
        Some(PathPattern::Exact(path)) => conditions.push(format!("path: exact {path}")),
        Some(PathPattern::Prefix(path)) => conditions.push(format!("path: {path}")),
        None => {}
    }
    if !route.methods.is_empty() {
        let methods: Vec<_> = route.methods.iter().map(|it| it.as_str()).collect();
        conditions.push(format!("method: {}", methods.join(" ")));
    }
    for header in &route.headers {
        let value = header.value.as_ref().and_then(|value| value.to_str().ok());
        conditions.push(format!(
            "header {}: {}",
            header.name,
            value.unwrap_or("any")
        ));
    }
    conditions.join(", ")
}

/// Where this session is, and where its client would go now.
///
/// # Errors
/// There is no such session.
pub fn session(
    table: &RoutingTable,
    sessions: &[SessionView],
    id: u64,
    now: Instant,
) -> Result<Value, String> {
    let view = sessions.iter().find(|session| session.id == id);
    let view = view.ok_or_else(|| {
        format!("no session {id} is alive; /api/v1/sessions and the log have the numbers")
    })?;
    let listener = table.listeners.get(&view.listener);
    let wanted = listener.map(|entry| entry.config.intent);
    let wanted = wanted.unwrap_or(Intent::ANY);
    let cluster = view.cluster.as_ref();
    let cluster = cluster.and_then(|name| table.clusters.get(name));
    let mut shown = json!({
        "generation": table.generation,
        "listener": { "name": &*view.listener },
        "source": view.client.ip().to_string(),
        "source_assumed": false,
        "intent": intent(wanted),
        "session": {
            "id": view.id,
            "phase": view.phase.as_str(),
            "age_seconds": view.age_seconds,
            "cluster": view.cluster.as_deref(),
            "backend": view.backend.as_deref(),
            "fate": view.backend.as_deref().map(|name| fate(cluster, view, name, wanted, now)),
        },
    });
    if let Some(cluster) = cluster {
        let request = PickRequest {
            intent: wanted,
            source: KeySource {
                client: view.client,
                sni: None,
                login: LoginKeys::default(),
            },
            tried: &[],
            now,
        };
        add_pick(&mut shown, cluster, &request);
    }
    Ok(shown)
}

/// What is to become of a session on this backend.
fn fate(
    cluster: Option<&std::sync::Arc<ClusterTable>>,
    view: &SessionView,
    backend: &str,
    intent: Intent,
    now: Instant,
) -> String {
    let mut entries = cluster.iter().flat_map(|cluster| &cluster.backends);
    let entry = entries.find(|entry| *entry.handle.name == *backend);
    let Some(entry) = entry.filter(|entry| Some(entry.handle.id) == view.backend_id) else {
        return "its backend is not in the file any more, or has moved: it may go on for \
                drain_timeout; one that needs the primary, until another is primary"
            .to_owned();
    };
    let left = |deadline: Instant| deadline.saturating_duration_since(now).as_secs_f64();
    match entry.handle.fate(intent) {
        Fate::Serve => "it lives as long as its peers like".to_owned(),
        Fate::Drain { deadline, cause } => {
            format!("it may go on for {:.1} s ({cause})", left(deadline))
        }
        Fate::Grace { deadline, cause } => format!(
            "it ends with its transaction, at most in {:.1} s ({cause})",
            left(deadline)
        ),
        Fate::Sever { cause } => format!("it is being severed ({cause})"),
    }
}

fn add_pick(shown: &mut Value, cluster: &ClusterTable, request: &PickRequest<'_>) {
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

fn refusal(entry: &ListenerEntry, source: IpAddr, has_cluster: bool) -> Option<Value> {
    let text = if !routing::permits(&entry.config, source) {
        "the access list of the listener refuses this client (denied)"
    } else if !has_cluster {
        "no route matches, and the listener has no cluster of its own (no_route)"
    } else if entry.handle.active() >= entry.config.max_connections {
        "the listener has max_connections clients (listener_full)"
    } else {
        return None;
    };
    Some(json!({ "action": "refuse", "backends": [], "text": text }))
}

fn route(entry: &ListenerEntry, routed: Option<routing::Routed<'_>>) -> Value {
    let Some(routed) = routed else {
        return Value::Null;
    };
    let Some(at) = routed.route else {
        return json!({ "cluster": &**routed.cluster, "number": null,
            "text": "the listener's cluster" });
    };
    let route = &entry.config.routes[at];
    let conditions = [
        ("sni", &route.sni),
        ("database", &route.database),
        ("user", &route.user),
    ];
    let conditions: Vec<String> = conditions
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}: {value}")))
        .collect();
    let text = format!("route {} ({})", at + 1, conditions.join(", "));
    json!({ "cluster": &**routed.cluster, "number": at + 1, "text": text })
}

fn intent(intent: Intent) -> Value {
    let max_lag = intent.max_lag.map(|max| match max {
        MaxLag::Time(time) => format!("{time:?}"),
        MaxLag::Bytes(bytes) => format!("{bytes} bytes"),
    });
    let fallback = match intent.fallback {
        Fallback::Nobody => "none",
        Fallback::Primary => "primary",
    };
    json!({ "role": intent.role.as_str(), "max_lag": max_lag, "fallback": fallback })
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

fn unknown_listener(table: &RoutingTable, name: &str) -> String {
    // As for clusters and backends: half the letters may differ.
    let limit = name.chars().count().div_ceil(2).max(1);
    let near = table
        .listeners
        .keys()
        .map(|known| (strsim::osa_distance(name, known), known))
        .filter(|(distance, _)| *distance <= limit)
        .min();
    match near {
        Some((_, near)) => format!("no listener {name:?}; did you mean {near:?}?"),
        None => format!("no listener {name:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_with_or_without_a_port() {
        for (text, expected) in [
            ("10.0.0.7", Some("10.0.0.7:0")),
            ("10.0.0.7:4711", Some("10.0.0.7:4711")),
            ("::1", Some("[::1]:0")),
            ("[::1]", Some("[::1]:0")),
            ("[::1]:4711", Some("[::1]:4711")),
            ("10.0.0", None),
            ("10.0.0.7:x", None),
            ("db.example", None),
            ("", None),
        ] {
            let expected = expected.map(|it| it.parse().unwrap());
            assert_eq!(parse_source(text), expected, "{text}");
        }
    }
}
