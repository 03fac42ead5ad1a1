//! `/api/v1/explain`: where a client would go, and why; where a session is, and why.

mod pick;
mod routes;

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::admin::explain::pick::add_pick;
use crate::admin::explain::routes::http_route;
use crate::admin::explain::routes::route;
use crate::admin::explain::routes::verdicts;
use crate::config::Fallback;
use crate::config::HashKey;
use crate::config::Intent;
use crate::config::MaxLag;
use crate::config::Policy;
use crate::config::Protocol;
use crate::report::SessionView;
use crate::routing;
use crate::routing::ClusterTable;
use crate::routing::Fate;
use crate::routing::HttpQuestion;
use crate::routing::KeySource;
use crate::routing::ListenerEntry;
use crate::routing::LoginKeys;
use crate::routing::PickRequest;
use crate::routing::RoutingTable;
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
        database: database(entry, client),
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
                    user: wish.user,
                    database: wish.database,
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

/// PostgreSQL takes the user's name for want of another.
fn database<'a>(entry: &ListenerEntry, client: &'a Client) -> Option<&'a str> {
    let named = client.database.as_deref();
    match entry.config.protocol {
        Protocol::Postgres => named
            .filter(|name| !name.is_empty())
            .or(client.user.as_deref()),
        Protocol::Tcp | Protocol::MySql | Protocol::Redis | Protocol::Http => named,
    }
}

/// The value of the startup parameter that the cluster hashes.
fn hashed_parameter<'a>(cluster: &ClusterTable, client: &'a Client) -> Option<&'a str> {
    let HashKey::StartupParameter(hashed) = &cluster.config.balance.key else {
        return None;
    };
    let (name, value) = client.startup.as_ref()?;
    (**name == **hashed).then_some(value)
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
        if !is_key_kept(cluster) {
            forget_pick(&mut shown);
        }
    }
    Ok(shown)
}

/// Whether a session still has what its cluster hashes: of its client it keeps the address.
fn is_key_kept(cluster: &ClusterTable) -> bool {
    let balance = &cluster.config.balance;
    let is_hashed = matches!(balance.policy, Policy::ConsistentHash(_));
    !is_hashed || matches!(balance.key, HashKey::ClientIp | HashKey::ClientIpPort)
}

/// Takes back what depends on a key that is not known.
fn forget_pick(shown: &mut Value) {
    shown["hash"] = Value::Null;
    let mut names = Vec::new();
    let backends = shown["backends"].as_array_mut();
    for backend in backends.into_iter().flatten() {
        if backend["standing"] == "picked" || backend["standing"] == "eligible" {
            backend["standing"] = "eligible".into();
            backend["reason"] = "the key may lead to it".into();
            names.push(backend["name"].clone());
        }
    }
    if shown["outcome"]["action"] == "pick" {
        let text = "the client goes where its key leads, which a session does not keep: ask for the client";
        shown["outcome"] = json!({ "action": "unknown", "backends": names, "text": text });
    }
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
