//! Whether a listener and its clusters fit together.

use std::collections::HashMap;

use crate::cluster::Name;
use crate::config::ClusterConfig;
use crate::config::HashKey;
use crate::config::Policy;
use crate::config::Protocol;
use crate::config::reader::Reader;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::values::Wrong;

/// The clusters that were read without an error, by name.
pub(super) type Known<'c> = HashMap<&'c str, &'c ClusterConfig>;

/// A cluster, and where a listener names it first.
pub(super) struct Named<'c> {
    pub cluster: &'c ClusterConfig,
    pub at: At,
}

/// What a listener does with its clients' TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientTls {
    /// The protocol decides: `tcp` relays it unseen, a database's has none.
    Unwritten,
    Passthrough,
    Ended,
}

/// Each of the clusters that a listener names, once.
pub(super) fn named<'c>(known: &Known<'c>, names: &[(Name, At)]) -> Vec<Named<'c>> {
    let mut first_at = HashMap::new();
    let first = names
        .iter()
        .filter(|(name, at)| *first_at.entry(&**name).or_insert(*at) == *at);
    first
        .filter_map(|(name, at)| {
            let cluster = *known.get(&**name)?;
            Some(Named { cluster, at: *at })
        })
        .collect()
}

/// What a listener's clients speak; `None` where its clusters do not tell.
pub(super) fn protocol(
    sources: &mut Sources,
    listener: &mut Reader<'_>,
    clusters: &[Named<'_>],
) -> Option<Protocol> {
    if let Some(node) = listener.node("protocol") {
        if let Some(word) = node.word()
            && ["http", "postgres", "mysql", "redis"].contains(&word.as_str())
        {
            let message = format!("a listener speaks what its clusters speak, not `{word}`");
            let help = format!("write `protocol: {word}` in the clusters instead");
            sources.error(node.at, Wrong::new(message, help));
            return None;
        }
        let is_tcp = listener.choice(sources, "protocol") == "tcp";
        return is_tcp.then_some(Protocol::Tcp);
    }
    let (first, others) = clusters.split_first()?;
    let protocol = first.cluster.protocol;
    for other in others {
        if other.cluster.protocol == protocol {
            continue;
        }
        let message = format!(
            "the cluster `{}` speaks `{}`, but `{}` speaks `{}`",
            other.cluster.name,
            other.cluster.protocol.as_str(),
            first.cluster.name,
            protocol.as_str(),
        );
        let help = "give each its own listener, or write `protocol: tcp` to relay bytes unseen";
        let wrong = Wrong::new(message, help);
        sources.conflict(other.at, wrong, "the other one is here", first.at);
        return None;
    }
    listener.derived("protocol", protocol.as_str());
    Some(protocol)
}

/// A cluster that hashes something of a client needs a listener that learns it.
pub(super) fn check_hash(
    sources: &mut Sources,
    protocol: Protocol,
    tls: ClientTls,
    has_routes: bool,
    clusters: &[Named<'_>],
) {
    for named in clusters {
        let balance = &named.cluster.balance;
        if !matches!(balance.policy, Policy::ConsistentHash(_)) {
            continue;
        }
        let name = &named.cluster.name;
        let key = &balance.key;
        let (what, help) = match (key, protocol, tls) {
            (HashKey::ClientIp | HashKey::ClientIpPort, ..) => continue,
            (HashKey::Sni, _, ClientTls::Ended) => continue,
            (HashKey::Sni, Protocol::Tcp, _) if has_routes => continue,
            (HashKey::Sni, Protocol::Tcp, _) => (
                "the server name".to_owned(),
                "add `tls` or `routes` to the listener, or hash `client_ip`",
            ),
            (HashKey::Sni, ..) => (
                "the server name".to_owned(),
                "end TLS here with `tls: {cert_file: …, key_file: …}`, or hash `client_ip`",
            ),
            (_, Protocol::Postgres, ClientTls::Passthrough) => (
                format!("`{key}`"),
                "it is inside the TLS that passes through: end TLS here, or hash `client_ip`",
            ),
            (_, Protocol::Postgres | Protocol::Http, _) => continue,
            (..) => (
                format!("`{key}`"),
                "remove the listener's `protocol`, or hash `client_ip`",
            ),
        };
        let message =
            format!("the cluster `{name}` hashes {what}, which this listener does not learn");
        sources.error(named.at, Wrong::new(message, help));
    }
}
