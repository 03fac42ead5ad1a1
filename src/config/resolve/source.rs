//! `connect.source`: the addresses that connections to a cluster's backends come from.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Host;
use crate::config::reader::Reader;
use crate::config::source::Sources;
use crate::config::tree::Node;
use crate::config::values;
use crate::config::values::Wrong;

pub(super) fn read(
    sources: &mut Sources,
    cluster: &Reader<'_>,
    connect: &mut Reader<'_>,
) -> Arc<[IpAddr]> {
    let addresses = connect.values(sources, "source", values::source_address);
    let nodes = connect.node("source").and_then(|node| node.list().ok());
    refuse_doubles(sources, nodes.unwrap_or_default());
    // A wrong one may be the one of the family that is missing.
    if addresses.len() == nodes.map_or(0, <[Node]>::len) && !addresses.is_empty() {
        refuse_unreachable(sources, cluster, connect, &addresses);
    }
    addresses.into()
}

fn refuse_doubles(sources: &mut Sources, nodes: &[Node]) {
    let mut seen = Vec::new();
    for node in nodes {
        let Ok(address) = values::source_address(node) else {
            continue;
        };
        if let Some((_, first)) = seen.iter().find(|(known, _)| *known == address) {
            let wrong = Wrong::new(format!("{address} stands twice"), "remove one");
            sources.conflict(node.at, wrong, "the other one is here", *first);
        } else {
            seen.push((address, node.at));
        }
    }
}

/// Names may have addresses of any family; what is written as an address has one.
fn refuse_unreachable(
    sources: &mut Sources,
    cluster: &Reader<'_>,
    connect: &Reader<'_>,
    addresses: &[IpAddr],
) {
    let backends = cluster.node("backends").and_then(|node| node.list().ok());
    for backend in backends.unwrap_or_default() {
        let long = backend.map().ok().and_then(|entries| {
            let mut entries = entries.iter();
            entries.find(|entry| entry.key == "address")
        });
        let node = long.map_or(backend, |entry| &entry.value);
        let Ok((Host::Ip(address), _)) = values::host_and_port(node) else {
            continue;
        };
        let same_family = |source: &IpAddr| source.is_ipv4() == address.is_ipv4();
        if !addresses.iter().any(same_family) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("no {family} address in `source` to reach this backend from");
            let help = format!("add one of this machine's {family} addresses");
            let at = connect.place("source");
            sources.conflict(node.at, Wrong::new(message, help), "`source` is here", at);
        }
    }
}
