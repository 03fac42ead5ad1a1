//! One listener.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::cluster::Name;
use crate::config::CertificatePair;
use crate::config::KeepaliveConfig;
use crate::config::ListenerConfig;
use crate::config::ListenerTlsConfig;
use crate::config::Protocol;
use crate::config::ProxyProtocolConfig;
use crate::config::TlsVersion;
use crate::config::reader::Reader;
use crate::config::resolve::cluster::certificate_pair;
use crate::config::resolve::cluster::narrow;
use crate::config::resolve::fit;
use crate::config::resolve::fit::ClientTls;
use crate::config::resolve::fit::Known;
use crate::config::resolve::http_listener;
use crate::config::resolve::http_route;
use crate::config::resolve::intent;
use crate::config::resolve::legs;
use crate::config::resolve::route;
use crate::config::resolve::route::Opened;
use crate::config::resolve::route::Routes;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Value;
use crate::config::values;
use crate::config::values::Wrong;

/// A listener with the places that are needed to check it against the others.
pub(super) struct Read {
    pub config: ListenerConfig,
    pub bind_at: At,
    /// Every cluster it names, and where.
    pub names: Vec<(Name, At)>,
}

pub(super) fn read(
    sources: &mut Sources,
    name: Name,
    listener: &mut Reader<'_>,
    known: &Known<'_>,
) -> Read {
    let bind_at = listener.place("bind");
    let bind = read_bind(sources, listener);
    let (cluster, opened, names) = read_destinations(sources, listener);
    let clusters = fit::named(known, &names);
    let protocol = fit::protocol(sources, listener, &clusters);
    let intent = intent::read(sources, listener, &clusters);
    let (tls, client_tls) = read_client_tls(sources, listener, protocol);
    let (routes, http) = if route::are_of_requests(&opened, protocol) {
        let routes = http_route::read(sources, listener, opened, &clusters);
        let http = http_listener::read(sources, listener, routes);
        http_listener::check(sources, listener, tls.as_ref(), &clusters);
        (Routes::default(), Some(Arc::new(http)))
    } else {
        (route::read(sources, listener, opened), None)
    };
    if let Some(protocol) = protocol {
        if protocol != Protocol::Http {
            http_listener::refuse(sources, listener, protocol);
        }
        legs::check(
            sources,
            listener,
            protocol,
            client_tls,
            tls.as_ref(),
            &clusters,
        );
        fit::check_hash(
            sources,
            protocol,
            client_tls,
            listener.entry("routes").is_some(),
            &clusters,
        );
        route::refuse_unknown(sources, &routes, protocol, client_tls);
    }
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
        bind,
        cluster,
        routes: routes.routes,
        protocol: protocol.unwrap_or(Protocol::Tcp),
        intent,
        tls,
        tls_passthrough: client_tls == ClientTls::Passthrough,
        allow,
        deny,
        proxy_protocol,
        max_connections: usize::try_from(max_connections).unwrap_or(usize::MAX),
        idle_timeout,
        handshake_timeout,
        keepalive,
        backlog,
        http,
    };
    Read {
        config,
        bind_at,
        names,
    }
}

/// The cluster for all, the routes, and every cluster that they name.
fn read_destinations<'n>(
    sources: &mut Sources,
    listener: &mut Reader<'n>,
) -> (Option<Name>, Vec<Opened<'n>>, Vec<(Name, At)>) {
    let mut names = Vec::new();
    let cluster = listener.read(sources, "cluster", values::name, |name| (&**name).into());
    if let Some(cluster) = &cluster {
        names.push((cluster.clone(), listener.place("cluster")));
    }
    let routes = route::open(sources, listener, &mut names);
    if listener.entry("cluster").is_none() && listener.entry("routes").is_none() {
        let help = "add `cluster: NAME`, or `routes` to choose by what the client asks for";
        sources.error(
            listener.at,
            Wrong::new("a listener needs the key `cluster`", help),
        );
    }
    (cluster, routes, names)
}

fn read_bind(sources: &mut Sources, listener: &mut Reader<'_>) -> SocketAddr {
    let show = |bind: &SocketAddr| bind.to_string().into();
    let bind = listener.read(sources, "bind", values::socket_address, show);
    if bind.is_some_and(|bind| bind.port() == 0) {
        let message = "port 0: the kernel picks another port at each start";
        let help = "write the port that clients connect to";
        sources.warn(listener.place("bind"), Wrong::new(message, help));
    }
    // Port 0 collides with nothing; where it stands in for a wrong value, the load has failed.
    bind.unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into())
}

/// A section, or the word `passthrough`.
fn read_client_tls(
    sources: &mut Sources,
    listener: &mut Reader<'_>,
    protocol: Option<Protocol>,
) -> (Option<ListenerTlsConfig>, ClientTls) {
    let Some(node) = listener.node("tls") else {
        return (None, ClientTls::Unwritten);
    };
    if matches!(node.value, Value::Map(_)) {
        return (read_tls(sources, listener, protocol), ClientTls::Ended);
    }
    match values::choice(node, &["passthrough"]) {
        Ok(word) => {
            listener.attach_value("tls", word.into(), Vec::new());
            (None, ClientTls::Passthrough)
        }
        Err(mut wrong) => {
            let help =
                "write `tls: {cert_file: …, key_file: …}`, or `tls: passthrough` for PostgreSQL";
            wrong.help = Some(help.to_owned());
            sources.error(node.at, wrong);
            (None, ClientTls::Ended)
        }
    }
}

fn read_tls(
    sources: &mut Sources,
    listener: &mut Reader<'_>,
    protocol: Option<Protocol>,
) -> Option<ListenerTlsConfig> {
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
    let optional = tls.flag(sources, "optional");
    let mut alpn = tls.alpn(sources);
    let default = match protocol {
        Some(Protocol::Postgres) => &[legs::POSTGRES_ALPN][..],
        Some(Protocol::Http) => &http_listener::ALPN,
        _ => &[],
    };
    if !default.is_empty() && tls.entry("alpn").is_none() {
        alpn = default.iter().map(ToString::to_string).collect();
        tls.derived("alpn", alpn.clone());
    }
    listener.attach("tls", tls);
    Some(ListenerTlsConfig {
        certificates,
        client_ca_file,
        optional,
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
        if let Some(key_file) = &key_file {
            sources.warn_if_exposed(reader.place("key_file"), key_file);
        }
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
