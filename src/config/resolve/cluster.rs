//! One cluster.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use crate::cluster::Name;
use crate::config::BackendConfig;
use crate::config::BackendTlsConfig;
use crate::config::BalanceConfig;
use crate::config::CertificatePair;
use crate::config::ClusterConfig;
use crate::config::ConnectConfig;
use crate::config::DEFAULT_WEIGHT;
use crate::config::HashAlgorithm;
use crate::config::HashConfig;
use crate::config::HashKey;
use crate::config::Host;
use crate::config::Policy;
use crate::config::Protocol;
use crate::config::VerifyMode;
use crate::config::hash_key;
use crate::config::keys;
use crate::config::reader::Reader;
use crate::config::resolve::check;
use crate::config::resolve::failover;
use crate::config::resolve::http_cluster;
use crate::config::resolve::source;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Node;
use crate::config::tree::Value;
use crate::config::values;
use crate::config::values::Wrong;

/// Keeps sums of weights within 32 bits, see `MAX_WEIGHT`.
const MAX_BACKENDS: usize = 10_000;

pub(super) fn read(
    sources: &mut Sources,
    name: Name,
    cluster: &mut Reader<'_>,
    drain_timeout: Duration,
) -> ClusterConfig {
    let protocol = match cluster.choice(sources, "protocol") {
        "postgres" => Protocol::Postgres,
        "mysql" => Protocol::MySql,
        "redis" => Protocol::Redis,
        "http" => Protocol::Http,
        _ => Protocol::Tcp,
    };
    let tls = read_tls(sources, cluster, protocol);
    let backends = read_backends(sources, cluster);
    let has_tls = cluster.entry("tls").is_some();
    let health_check = check::read(sources, cluster, protocol, has_tls);
    let send_proxy_protocol = cluster.choice(sources, "send_proxy_protocol") == "v2";
    ClusterConfig {
        name,
        protocol,
        backends,
        balance: read_balance(sources, cluster, protocol),
        failover: failover::read(sources, cluster, &health_check.kind, has_tls, drain_timeout),
        health_check,
        connect: read_connect(sources, cluster),
        tls,
        send_proxy_protocol,
        http: http_cluster::read(sources, cluster, protocol).map(Arc::new),
    }
}

fn read_backends(sources: &mut Sources, cluster: &mut Reader<'_>) -> Vec<BackendConfig> {
    cluster.require(sources, "backends");
    let nodes = cluster.list(sources, "backends").unwrap_or_default();
    if nodes.len() > MAX_BACKENDS {
        let message = format!("more than {MAX_BACKENDS} backends");
        sources.error(
            nodes[MAX_BACKENDS].at,
            Wrong::new(message, "split the cluster"),
        );
    }
    let mut backends: Vec<BackendConfig> = Vec::new();
    let mut names: HashMap<Name, At> = HashMap::new();
    let mut shown = Vec::new();
    let mut defaults = Vec::new();
    for (index, node) in nodes.iter().take(MAX_BACKENDS).enumerate() {
        let pointer = cluster.pointer_to(&format!("backends/{index}"));
        let Some((backend, value, mut unwritten)) = read_backend(sources, node, pointer) else {
            continue;
        };
        if let Some(first) = names.insert(backend.name.clone(), node.at) {
            let message = format!("backend `{}` stands twice", backend.name);
            let wrong = Wrong::new(message, "remove one, or give one another `name`");
            sources.conflict(node.at, wrong, "the other one is here", first);
        }
        backends.push(backend);
        shown.push(value);
        defaults.append(&mut unwritten);
    }
    cluster.attach_value("backends", shown.into(), defaults);
    if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        let message = "every backend has weight 0, so none takes sessions";
        let at = cluster.place("backends");
        sources.error(
            at,
            Wrong::new(message, "give at least one a weight above 0"),
        );
    }
    backends
}

fn read_backend(
    sources: &mut Sources,
    node: &Node,
    pointer: String,
) -> Option<(BackendConfig, Json, Vec<String>)> {
    if !matches!(node.value, Value::Map(_)) {
        let (host, port) = match values::host_and_port(node) {
            Ok(address) => address,
            Err(wrong) => {
                sources.error(node.at, wrong);
                return None;
            }
        };
        let backend = short_backend(host, port);
        let shown = serde_json::json!({
            "address": &*backend.name, "name": &*backend.name, "weight": backend.weight, "tier": 0,
        });
        let defaults = ["name", "weight", "tier"];
        let defaults = defaults.map(|name| format!("{pointer}/{name}")).to_vec();
        return Some((backend, shown, defaults));
    }
    let mut reader = Reader::open(sources, &keys::BACKEND, node, pointer);
    let show = |(host, port): &(Host, NonZeroU16)| format!("{host}:{port}").into();
    let address = reader.read(sources, "address", values::host_and_port, show);
    let name = reader.read(sources, "name", values::name, |name| (&**name).into());
    let weight = reader.count(sources, "weight");
    let zone = reader.read(sources, "zone", values::name, |name| (&**name).into());
    let tier = reader.count(sources, "tier");
    let max_connections = reader.count(sources, "max_connections");
    let (host, port) = address?;
    let short = short_backend(host, port);
    if name.is_none() {
        reader.derived("name", &*short.name);
    }
    let backend = BackendConfig {
        name: name.unwrap_or_else(|| short.name.clone()),
        weight: weight.map_or(DEFAULT_WEIGHT, narrow),
        zone,
        tier: tier.map_or(0, narrow),
        max_connections: max_connections.map(narrow).and_then(NonZeroU32::new),
        ..short
    };
    let (shown, defaults) = reader.finish();
    Some((backend, shown, defaults))
}

fn short_backend(host: Host, port: NonZeroU16) -> BackendConfig {
    BackendConfig {
        name: Name::from(format!("{host}:{port}")),
        host,
        port,
        weight: DEFAULT_WEIGHT,
        zone: None,
        tier: 0,
        max_connections: None,
    }
}

/// The table's limits are within 32 bits.
pub(super) fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn read_balance(
    sources: &mut Sources,
    cluster: &mut Reader<'_>,
    protocol: Protocol,
) -> BalanceConfig {
    let mut balance = cluster.section(sources, "balance");
    let mut key = HashKey::ClientIp;
    let policy = match balance.choice(sources, "policy") {
        "round_robin" => Policy::RoundRobin,
        "random_two" => Policy::RandomTwo,
        "least_latency" => Policy::LeastLatency,
        "consistent_hash" => {
            let (hash, written) = read_hash(sources, &mut balance, protocol);
            key = written;
            Policy::ConsistentHash(hash)
        }
        _ => Policy::LeastConnections,
    };
    if !matches!(policy, Policy::ConsistentHash(_))
        && let Some(entry) = balance.entry("hash")
    {
        let message = "`hash` has no effect with this policy";
        let help = "write `policy: consistent_hash`, or remove `hash`";
        sources.error(entry.key_at, Wrong::new(message, help));
    }
    cluster.attach("balance", balance);
    BalanceConfig { policy, key }
}

fn read_hash(
    sources: &mut Sources,
    balance: &mut Reader<'_>,
    protocol: Protocol,
) -> (HashConfig, HashKey) {
    let mut hash = balance.section(sources, "hash");
    let key = hash
        .read(sources, "key", hash_key::hash_key, |key| {
            key.to_string().into()
        })
        .unwrap_or(HashKey::ClientIp);
    refuse_unknown_key(sources, &hash, &key, protocol);
    let algorithm = match hash.choice(sources, "algorithm") {
        "ring" => HashAlgorithm::Ring,
        "rendezvous" => HashAlgorithm::Rendezvous,
        _ => HashAlgorithm::Maglev,
    };
    let bounded_load = hash.ratio(sources, "bounded_load");
    balance.attach("hash", hash);
    let config = HashConfig {
        algorithm,
        bounded_load,
    };
    (config, key)
}

/// What is hashed must be known before a backend is chosen: a login is of PostgreSQL's clients
/// alone, and only HTTP has requests.
fn refuse_unknown_key(sources: &mut Sources, hash: &Reader<'_>, key: &HashKey, protocol: Protocol) {
    let of_request = matches!(
        key,
        HashKey::Header(_) | HashKey::Cookie(_) | HashKey::Query(_) | HashKey::Path
    );
    let because = match (key, protocol) {
        (HashKey::ClientIp | HashKey::ClientIpPort, _) => return,
        (HashKey::Sni, Protocol::Tcp | Protocol::Redis | Protocol::Http) => return,
        (_, Protocol::Http) if of_request => return,
        (_, Protocol::Http) => "a request has no login",
        (_, Protocol::MySql) => {
            "a MySQL server speaks first, so the backend is chosen before the client says a word"
        }
        _ if of_request => "only a request over HTTP has one",
        (_, Protocol::Postgres) => return,
        (_, Protocol::Redis) => "a Redis client may log in at any time, or never",
        (_, Protocol::Tcp) => "nothing is known of what a `tcp` cluster speaks",
    };
    let help = match protocol {
        _ if of_request && protocol == Protocol::Tcp => {
            "write `protocol: http` in the cluster, or hash `client_ip`"
        }
        Protocol::Tcp => "write `protocol: postgres` in the cluster, or hash `client_ip`",
        _ => "hash `client_ip`",
    };
    let message = format!("`{key}` cannot be hashed: {because}");
    sources.error(hash.place("key"), Wrong::new(message, help));
}

fn read_connect(sources: &mut Sources, cluster: &mut Reader<'_>) -> ConnectConfig {
    let mut connect = cluster.section(sources, "connect");
    let timeout = connect.duration(sources, "timeout");
    let attempts = connect.count(sources, "attempts").map_or(1, narrow);
    let source = source::read(sources, cluster, &mut connect);
    cluster.attach("connect", connect);
    ConnectConfig {
        timeout,
        attempts: NonZeroU32::new(attempts).unwrap_or(NonZeroU32::MIN),
        source,
    }
}

fn read_tls(
    sources: &mut Sources,
    cluster: &mut Reader<'_>,
    protocol: Protocol,
) -> Option<BackendTlsConfig> {
    let mut tls = cluster.optional_section(sources, "tls")?;
    let mode = match tls.choice(sources, "mode") {
        "verify_ca" => VerifyMode::VerifyCa,
        "insecure" => VerifyMode::Insecure,
        _ => VerifyMode::VerifyFull,
    };
    let ca_file = tls.path(sources, "ca_file");
    let client_pair = certificate_pair(sources, &mut tls);
    let show = |name: &String| name.as_str().into();
    let parse = |node: &Node| values::server_name(node, false);
    let server_name = tls.read(sources, "server_name", parse, show);
    let mut alpn = tls.alpn(sources);
    if protocol == Protocol::Http {
        alpn = http_cluster::alpn(sources, cluster, &mut tls, alpn);
    }
    if mode == VerifyMode::Insecure {
        if let Some(entry) = tls.entry("ca_file") {
            let message = "`ca_file` has no effect: mode `insecure` checks nothing";
            let help = "write `mode: verify_ca`, or remove `ca_file`";
            sources.error(entry.key_at, Wrong::new(message, help));
        } else {
            let message = "anyone on the path to the backends can read and change everything";
            let help = "write `mode: verify_full` and a `ca_file`";
            sources.warn(tls.place("mode"), Wrong::new(message, help));
        }
    }
    cluster.attach("tls", tls);
    Some(BackendTlsConfig {
        mode,
        ca_file,
        client_pair,
        server_name,
        alpn,
    })
}

/// `cert_file` and `key_file`: both or none.
pub(super) fn certificate_pair(
    sources: &mut Sources,
    tls: &mut Reader<'_>,
) -> Option<CertificatePair> {
    let cert_file = tls.path(sources, "cert_file");
    let key_file = tls.path(sources, "key_file");
    if let Some(key_file) = &key_file {
        sources.warn_if_exposed(tls.place("key_file"), key_file);
    }
    for (there, missing) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if let Some(entry) = tls.entry(there)
            && tls.entry(missing).is_none()
        {
            let message = format!("`{there}` without `{missing}`");
            let help = format!("add `{missing}`, or remove `{there}`");
            sources.error(entry.key_at, Wrong::new(message, help));
        }
    }
    Some(CertificatePair {
        cert_file: cert_file?,
        key_file: key_file?,
    })
}
