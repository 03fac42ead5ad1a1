//! Whether the TLS to the clients and the TLS to the backends fit the protocol between them.

use crate::config::ListenerTlsConfig;
use crate::config::Protocol;
use crate::config::reader::Reader;
use crate::config::resolve::fit::ClientTls;
use crate::config::resolve::fit::Named;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::values::Wrong;

/// <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>
pub(super) const POSTGRES_ALPN: &str = "postgresql";

/// Refuses TLS that cannot work with the protocol and the clusters; warns where some logins fail.
pub(super) fn check(
    sources: &mut Sources,
    listener: &Reader<'_>,
    protocol: Protocol,
    client_tls: ClientTls,
    tls: Option<&ListenerTlsConfig>,
    clusters: &[Named<'_>],
) {
    let at = listener.place("tls");
    if client_tls == ClientTls::Passthrough {
        refuse_passthrough(sources, at, protocol, clusters);
    }
    if let Some(tls) = tls {
        refuse_section(sources, at, protocol, tls);
    }
    match protocol {
        Protocol::Postgres if tls.is_some() => warn_of_channel_binding(sources, at, clusters),
        Protocol::MySql => warn_of_half_secure(sources, at, tls.is_some(), clusters),
        _ => {}
    }
}

fn refuse_section(sources: &mut Sources, at: At, protocol: Protocol, tls: &ListenerTlsConfig) {
    if tls.optional && !matches!(protocol, Protocol::Postgres | Protocol::MySql) {
        let message = format!("TLS cannot be optional for `{}`", protocol.as_str());
        let help =
            "only PostgreSQL and MySQL clients ask for it; use a second listener without `tls`";
        sources.error(at, Wrong::new(message, help));
    }
    if tls.optional && tls.client_ca_file.is_some() {
        let message = "`client_ca_file` keeps nobody out while TLS is `optional`";
        let help = "remove one of them: a client without TLS shows no certificate";
        sources.error(at, Wrong::new(message, help));
    }
    if protocol == Protocol::Postgres && !tls.alpn.iter().any(|name| name == POSTGRES_ALPN) {
        let message =
            format!("`alpn` without `{POSTGRES_ALPN}`, which PostgreSQL 17 clients ask for");
        let help = format!("add `{POSTGRES_ALPN}`, or remove `alpn`, whose default it is");
        sources.error(at, Wrong::new(message, help));
    }
}

/// The client binds its login to our certificate and the server to its own (RFC 5929, 4).
fn warn_of_channel_binding(sources: &mut Sources, at: At, clusters: &[Named<'_>]) {
    let Some(named) = clusters.iter().find(|named| named.cluster.tls.is_some()) else {
        return;
    };
    let message = format!(
        "TLS ends here and begins anew to the cluster `{}`: clients that bind the channel cannot log in with SCRAM",
        named.cluster.name
    );
    let help = "clients need `channel_binding=disable`, unless the backends show this same certificate; \
                see docs/configuration.md, or use `tls: passthrough`";
    sources.warn(at, Wrong::new(message, help));
}

/// `caching_sha2_password` sends the password itself where its side uses TLS, and encrypts it with
/// the server's key where it does not; so both sides must think the same.
fn warn_of_half_secure(sources: &mut Sources, at: At, ends_tls: bool, clusters: &[Named<'_>]) {
    let mut others = clusters
        .iter()
        .filter(|named| named.cluster.tls.is_some() != ends_tls);
    let Some(named) = others.next() else {
        return;
    };
    let name = &named.cluster.name;
    let (message, help) = if ends_tls {
        (
            format!(
                "TLS ends here and the way to the cluster `{name}` is plain: logins with `caching_sha2_password`, \
                 MySQL 8's default, fail and send the password over it"
            ),
            "add `tls` to the cluster",
        )
    } else {
        (
            format!(
                "TLS to the cluster `{name}` only: logins with `caching_sha2_password`, MySQL 8's default, fail"
            ),
            "add `tls` to the listener",
        )
    };
    sources.warn(at, Wrong::new(message, help));
}

fn refuse_passthrough(sources: &mut Sources, at: At, protocol: Protocol, clusters: &[Named<'_>]) {
    let (message, help) = match protocol {
        Protocol::Postgres => {
            let Some(named) = clusters.iter().find(|named| named.cluster.tls.is_some()) else {
                return;
            };
            let message = format!(
                "a client's TLS cannot pass through the TLS to the cluster `{}`",
                named.cluster.name
            );
            let help = "remove the cluster's `tls` (its check then logs in without TLS), or end TLS here \
                        with `tls: {cert_file: …, key_file: …}`";
            (message, help)
        }
        Protocol::MySql => (
            "MySQL's TLS cannot pass through: it begins after the server's greeting".to_owned(),
            "end TLS here with `tls: {cert_file: …, key_file: …}`, or write `protocol: tcp`",
        ),
        Protocol::Redis => (
            "Redis' TLS cannot pass through, or no answer could be read".to_owned(),
            "end TLS here with `tls: {cert_file: …, key_file: …}`, or write `protocol: tcp`",
        ),
        Protocol::Http => (
            "TLS cannot pass through a listener that reads requests".to_owned(),
            "end TLS here with `tls: {cert_file: …, key_file: …}`, or write `protocol: tcp`",
        ),
        Protocol::Tcp => (
            "TLS passes through a `tcp` listener anyway".to_owned(),
            "remove `tls`, or write `protocol: postgres` in the cluster",
        ),
    };
    sources.error(at, Wrong::new(message, help));
}
