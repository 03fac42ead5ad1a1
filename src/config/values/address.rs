//! Names, hosts, addresses and networks.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;

use crate::cluster::Name;
use crate::config::Host;
use crate::config::tree::Node;
use crate::config::tree::Value;
use crate::config::values::Wrong;

/// Longest name that is written: it is a metric label and stands in every log line.
pub(in crate::config) const MAX_NAME_BYTES: usize = 128;

pub(in crate::config) fn name(node: &Node) -> Result<Name, Wrong> {
    let text = node.text()?;
    name_text(&text.value)
        .map(|()| Name::from(text.value.as_str()))
        .map_err(|problem| Wrong {
            message: format!("{} cannot be a name: {problem}", node.shown()),
            help: None,
        })
}

/// Names stand in paths of the API, in metric labels and in logs.
pub(in crate::config) fn name_text(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > MAX_NAME_BYTES {
        return Err("it is longer than 128 bytes");
    }
    if matches!(text, "." | "..") {
        return Err("it means a directory in paths");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:[]".contains(c);
    if text.chars().all(allowed) {
        Ok(())
    } else {
        Err("use letters, digits and `.` `_` `-` `:`")
    }
}

/// A place to listen on.
pub(in crate::config) fn socket_address(node: &Node) -> Result<SocketAddr, Wrong> {
    let help = "write an IP address and a port, as in `0.0.0.0:5432` or `[::]:5432`";
    let Value::Text(text) = &node.value else {
        return Err(Wrong::not("an address to listen on", node, help));
    };
    let value = text.value.trim();
    // `:5432` is what other tools accept; which family it means differs between them.
    value
        .parse()
        .map_err(|_| Wrong::not("an address to listen on", node, help))
}

/// A backend's address.
pub(in crate::config) fn host_and_port(node: &Node) -> Result<(Host, NonZeroU16), Wrong> {
    let help = "write `host:port`, as in `db1.internal:5432`, `10.0.0.1:5432` or `[::1]:5432`";
    let Value::Text(text) = &node.value else {
        return Err(Wrong::not("a backend's address", node, help));
    };
    if text.value.ends_with(":0") {
        return Err(Wrong::new(
            format!("{} has port 0, which nothing listens on", node.shown()),
            help,
        ));
    }
    host_and_port_text(&text.value).ok_or_else(|| Wrong::not("a backend's address", node, help))
}

pub(in crate::config) fn host_and_port_text(text: &str) -> Option<(Host, NonZeroU16)> {
    let (host, port) = text.rsplit_once(':')?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits)?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match (bracketed, host.parse::<IpAddr>()) {
        (Some(inside), _) => Host::Ip(IpAddr::V6(inside.parse().ok()?)),
        (None, Ok(IpAddr::V4(address))) => Host::Ip(IpAddr::V4(address)),
        (None, Ok(IpAddr::V6(_))) => return None,
        (None, Err(_)) if is_host_name(host) => Host::Name(Name::from(host)),
        (None, Err(_)) => return None,
    };
    Some((host, port))
}

/// RFC 1123, and underscores, which container networks use.
pub(in crate::config) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    // All digits and dots is a mistyped IPv4 address.
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.len() <= 253 && !numeric && text.split('.').all(label)
}

/// A server name that a client asks for; `*.` may stand for one label.
pub(in crate::config) fn server_name(node: &Node, wildcard: bool) -> Result<String, Wrong> {
    let text = node.text()?;
    let lower = text.value.to_lowercase();
    let tail = match lower.strip_prefix("*.") {
        Some(tail) if wildcard => tail,
        _ => lower.as_str(),
    };
    if is_host_name(tail) && !tail.ends_with('.') {
        return Ok(lower);
    }
    let help = if wildcard {
        "write a host name, as in `db.example.com` or `*.example.com`"
    } else {
        "write a host name, as in `db.example.com`"
    };
    Err(Wrong::not("a server name", node, help))
}

/// An address of this machine that connections can come from.
pub(in crate::config) fn source_address(node: &Node) -> Result<IpAddr, Wrong> {
    let help = "write an IP address of this machine, as in `10.0.0.1` or `fd00::1`";
    let Value::Text(text) = &node.value else {
        return Err(Wrong::not("an address to connect from", node, help));
    };
    let address = text.value.trim().parse::<IpAddr>().ok();
    address
        .filter(|address| !address.is_unspecified() && !address.is_multicast())
        .ok_or_else(|| Wrong::not("an address to connect from", node, help))
}

/// A network; a lone address is a network of one.
pub(in crate::config) fn network(node: &Node) -> Result<IpNet, Wrong> {
    let help = "write a network, as in `10.0.0.0/8`, `fd00::/8` or `192.0.2.7`";
    let Value::Text(text) = &node.value else {
        return Err(Wrong::not("a network", node, help));
    };
    let value = text.value.trim();
    let network: IpNet = match value.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => value
            .parse()
            .map_err(|_| Wrong::not("a network", node, help))?,
    };
    if network.addr() != network.network() {
        return Err(Wrong::new(
            format!("{} has bits set outside its prefix", node.shown()),
            format!("did you mean `{}`?", network.trunc()),
        ));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_not_mistyped_addresses() {
        for name in [
            "db1",
            "db-1.internal",
            "my_service",
            "a.b.c.",
            "1password.example",
        ] {
            assert!(is_host_name(name), "{name}");
        }
        for name in ["", "10.0.0.300", "-a", "a-", "a..b", "a b", "a/b", "1.2"] {
            assert!(!is_host_name(name), "{name}");
        }
    }
}
