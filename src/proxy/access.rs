//! Who may use a listener: access lists and trusted proxies.

use std::net::IpAddr;

use crate::routing;
use crate::routing::ListenerEntry;

/// Behind a proxy the access list is for the clients in its headers, and only
/// trusted proxies may connect: anyone could write a header.
pub fn may_connect(entry: &ListenerEntry, peer: IpAddr) -> bool {
    match &entry.config.proxy_protocol {
        Some(proxies) => {
            let peer = peer.to_canonical();
            proxies.trusted.iter().any(|net| net.contains(&peer))
        }
        None => permits(entry, peer),
    }
}

/// `deny` wins; an empty `allow` allows everyone else.
pub fn permits(entry: &ListenerEntry, address: IpAddr) -> bool {
    routing::permits(&entry.config, address)
}
