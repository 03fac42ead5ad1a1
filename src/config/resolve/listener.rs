//! One listener.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::cluster::Name;
use crate::config::CertificatePair;
use crate::config::KeepaliveConfig;
use crate::config::ListenerConfig;
use crate::config::ListenerTlsConfig;
use crate::config::ProxyProtocolConfig;
use crate::config::SniRoute;
use crate::config::TlsVersion;
use crate::config::reader::Reader;
use crate::config::resolve::cluster::certificate_pair;
use crate::config::resolve::cluster::narrow;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Node;
use crate::config::values;
use crate::config::values::Wrong;

/// A listener with the places that are needed to check it against the others.
pub(super) struct Read {
    pub config: ListenerConfig,
    pub bind_at: At,
    /// Every cluster it names, and where.
    pub names: Vec<(Name, At)>,
}

pub(super) fn read(sources: &mut Sources, name: Name, listener: &mut Reader<'_>) -> Read {
    let show = |bind: &SocketAddr| bind.to_string().into();
    let bind = listener.read(sources, "bind", values::socket_address, show);
    let bind_at = listener.place("bind");
    if bind.is_some_and(|bind| bind.port() == 0) {
        let message = "port 0: the kernel picks another port at each start";
        sources.warn(
            bind_at,
            Wrong::new(message, "write the port that clients connect to"),
        );
    }
    let mut names = Vec::new();
    let cluster = listener.read(sources, "cluster", values::name, |name| (&**name).into());
    if let Some(cluster) = &cluster {
        names.push((cluster.clone(), listener.place("cluster")));
    }
    let routes = read_routes(sources, listener, &mut names);
    if listener.entry("cluster").is_none() && listener.entry("routes").is_none() {
        let help = "add `cluster: NAME`, or `routes` to choose by server name";
        sources.error(
            listener.at,
            Wrong::new("a listener needs the key `cluster`", help),
        );
    }
    let tls = read_tls(sources, listener);
    let allow = listener.values(sources, "allow", values::network);
    let deny = listener.values(sources, "deny", values::network);
    let proxy_protocol = read_proxy_protocol(sources, listener);
    let max_connections = listener
        .count(sources, "max_connections")
        .unwrap_or_default();
    let idle_timeout = listener.duration(sources, "idle_timeout");
    let handshake_timeout = listener.duration(sources, "handshake_timeout");
    let keepalive = read_keepalive(sources, listener);
    let backlog = listener.count(sources, "backlog").map_or(0, narrow);
    let config = ListenerConfig {
        name,
        // Port 0 collides with nothing; where it stands in for a wrong value, the load has failed.
        bind: bind.unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into()),
        cluster,
        routes,
        tls,
        allow,
        deny,
        proxy_protocol,
        max_connections: usize::try_from(max_connections).unwrap_or(usize::MAX),
        idle_timeout,
        handshake_timeout,
        keepalive,
        backlog,
    };
    Read {
        config,
        bind_at,
        names,
    }
}

fn read_routes(
    sources: &mut Sources,
    listener: &mut Reader<'_>,
    names: &mut Vec<(Name, At)>,
) -> Vec<SniRoute> {
    let Some(readers) = listener.list_of_sections(sources, "routes") else {
        return Vec::new();
    };
    let mut routes = Vec::new();
    let mut seen: HashMap<String, At> = HashMap::new();
    let mut shown = Vec::new();
    for mut route in readers {
        let parse = |node: &Node| values::server_name(node, true);
        let sni = route.read(sources, "sni", parse, |sni| sni.as_str().into());
        let cluster = route.read(sources, "cluster", values::name, |name| (&**name).into());
        if let Some(cluster) = &cluster {
            names.push((cluster.clone(), route.place("cluster")));
        }
        let at = route.place("sni");
        if let Some(sni) = &sni
            && let Some(first) = seen.insert(sni.clone(), at)
        {
            let wrong = Wrong::new(format!("the route for `{sni}` stands twice"), "remove one");
            sources.conflict(at, wrong, "the other one is here", first);
        }
        shown.push(route.finish().0);
        if let (Some(sni), Some(cluster)) = (sni, cluster) {
            routes.push(SniRoute { sni, cluster });
        }
    }
    listener.attach_value("routes", shown.into(), Vec::new());
    routes
}

fn read_tls(sources: &mut Sources, listener: &mut Reader<'_>) -> Option<ListenerTlsConfig> {
    let mut tls = listener.optional_section(sources, "tls")?;
    let lone = certificate_pair(sources, &mut tls);
    let mut certificates = read_certificates(sources, &mut tls);
    if let Some(entry) = tls.entry("certificates") {
        if tls.entry("cert_file").is_some() {
            let message = "`certificates` beside `cert_file`";
            let help = "move the pair into `certificates`; the first is the default";
            sources.error(entry.key_at, Wrong::new(message, help));
        }
    } else if tls.entry("cert_file").is_none() && tls.entry("key_file").is_none() {
        let help = "add `cert_file` and `key_file`, or a list of them as `certificates`";
        sources.error(tls.at, Wrong::new("`tls` has no certificate", help));
    }
    certificates.extend(lone);
    let client_ca_file = tls.path(sources, "client_ca_file");
    let min_version = match tls.choice(sources, "min_version") {
        "1.3" => TlsVersion::V1_3,
        _ => TlsVersion::V1_2,
    };
    let alpn = tls.alpn(sources);
    listener.attach("tls", tls);
    Some(ListenerTlsConfig {
        certificates,
        client_ca_file,
        min_version,
        alpn,
    })
}

fn read_certificates(sources: &mut Sources, tls: &mut Reader<'_>) -> Vec<CertificatePair> {
    let Some(readers) = tls.list_of_sections(sources, "certificates") else {
        return Vec::new();
    };
    let mut pairs = Vec::new();
    let mut shown = Vec::new();
    for mut reader in readers {
        reader.require(sources, "cert_file");
        reader.require(sources, "key_file");
        let cert_file = reader.path(sources, "cert_file");
        let key_file = reader.path(sources, "key_file");
        shown.push(reader.finish().0);
        if let (Some(cert_file), Some(key_file)) = (cert_file, key_file) {
            pairs.push(CertificatePair {
                cert_file,
                key_file,
            });
        }
    }
    tls.attach_value("certificates", shown.into(), Vec::new());
    pairs
}

fn read_proxy_protocol(
    sources: &mut Sources,
    listener: &mut Reader<'_>,
) -> Option<ProxyProtocolConfig> {
    let accept = listener.choice(sources, "proxy_protocol") == "accept";
    let trusted: Vec<IpNet> = listener.values(sources, "proxy_protocol_from", values::network);
    match (accept, listener.entry("proxy_protocol_from")) {
        (true, None) => {
            let message = "`proxy_protocol: accept` needs `proxy_protocol_from`";
            let help = "a PROXY header can claim any address: list the networks that may send one";
            sources.error(listener.place("proxy_protocol"), Wrong::new(message, help));
        }
        (false, Some(entry)) => {
            let message = "`proxy_protocol_from` has no effect without `proxy_protocol: accept`";
            let help = "add `proxy_protocol: accept`, or remove this key";
            sources.error(entry.key_at, Wrong::new(message, help));
        }
        _ => {}
    }
    accept.then_some(ProxyProtocolConfig { trusted })
}

fn read_keepalive(sources: &mut Sources, listener: &mut Reader<'_>) -> KeepaliveConfig {
    let mut keepalive = listener.section(sources, "keepalive");
    let idle = keepalive.duration(sources, "idle");
    let interval = keepalive.duration(sources, "interval");
    let probes = keepalive.count(sources, "probes").map_or(1, narrow);
    listener.attach("keepalive", keepalive);
    KeepaliveConfig {
        idle,
        interval,
        probes,
        user_timeout: listener.duration(sources, "user_timeout"),
    }
}
