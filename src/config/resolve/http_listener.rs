//! A listener's `http` section: limits, trust, the access log.

use std::num::NonZeroU64;
use std::path::PathBuf;

use crate::config::AccessLogConfig;
use crate::config::HttpLimits;
use crate::config::HttpListenerConfig;
use crate::config::HttpRoute;
use crate::config::ListenerTlsConfig;
use crate::config::Protocol;
use crate::config::reader::Reader;
use crate::config::resolve::cluster::narrow;
use crate::config::resolve::fit::Named;
use crate::config::resolve::http_cluster::HTTP1_ALPN;
use crate::config::resolve::http_cluster::HTTP2_ALPN;
use crate::config::resolve::http_cluster::outlives;
use crate::config::source::Sources;
use crate::config::values;
use crate::config::values::Wrong;

/// Best first.
pub(super) const ALPN: [&str; 2] = [HTTP2_ALPN, HTTP1_ALPN];

pub(super) fn read(
    sources: &mut Sources,
    listener: &mut Reader<'_>,
    routes: Vec<HttpRoute>,
) -> HttpListenerConfig {
    let mut http = listener.section(sources, "http");
    let limits = read_limits(sources, &mut http);
    let config = HttpListenerConfig {
        routes,
        limits,
        trusted: http.values(sources, "trusted", values::network),
        allow_connect: http.flag(sources, "allow_connect"),
        access_log: read_access_log(sources, &mut http),
    };
    listener.attach("http", http);
    config
}

/// The section where nothing reads requests.
pub(super) fn refuse(sources: &mut Sources, listener: &Reader<'_>, protocol: Protocol) {
    let Some(entry) = listener.entry("http") else {
        return;
    };
    let (message, help) = match listener.entry("protocol") {
        Some(_) => (
            "`http` has no meaning for a listener that relays bytes unseen".to_owned(),
            "remove the listener's `protocol: tcp`, or remove `http`",
        ),
        None => (
            format!(
                "`http` has no meaning for a listener whose clusters speak `{}`",
                protocol.as_str()
            ),
            "write `protocol: http` in the clusters, or remove `http`",
        ),
    };
    sources.error(entry.key_at, Wrong::new(message, help));
}

/// What only sessions have, and what cannot work with shared connections to the backends.
pub(super) fn check(
    sources: &mut Sources,
    listener: &Reader<'_>,
    tls: Option<&ListenerTlsConfig>,
    clusters: &[Named<'_>],
) {
    let unknown = tls.and_then(|tls| tls.alpn.iter().find(|name| !ALPN.contains(&name.as_str())));
    if let Some(unknown) = unknown {
        let message = format!("`alpn` accepts `{unknown}`, which this listener does not speak");
        let help = "write `h2` and `http/1.1`, or remove `alpn`, whose default they are";
        sources.error(listener.place("tls"), Wrong::new(message, help));
    }
    for named in clusters
        .iter()
        .filter(|named| named.cluster.send_proxy_protocol)
    {
        let message = format!(
            "the cluster `{}` sends PROXY headers, but requests of many clients share a connection",
            named.cluster.name
        );
        let help = "remove `send_proxy_protocol`: `Forwarded` and `X-Forwarded-For` tell the \
                    client's address";
        sources.error(named.at, Wrong::new(message, help));
    }
}

fn read_limits(sources: &mut Sources, http: &mut Reader<'_>) -> HttpLimits {
    let max_head = bytes(http.size(sources, "max_head"));
    let max_headers = bytes(http.count(sources, "max_headers"));
    let max_uri = bytes(http.size(sources, "max_uri"));
    let max_body = http.size(sources, "max_body");
    let limits = HttpLimits {
        max_head_bytes: max_head,
        max_headers,
        max_uri_bytes: max_uri,
        max_body_bytes: max_body.and_then(NonZeroU64::new),
        max_streams: http.count(sources, "max_streams").map_or(0, narrow),
        header_timeout: http.duration(sources, "header_timeout"),
        body_timeout: http.duration(sources, "body_timeout"),
        keep_alive: http.duration(sources, "keep_alive"),
        max_age: http.duration(sources, "max_age"),
    };
    if max_uri > max_head && max_head > 0 {
        let message = "`max_uri` is more than `max_head`, which the request line is part of";
        let help = "lower `max_uri`, or raise `max_head`";
        let key = match http.entry("max_uri") {
            Some(_) => "max_uri",
            None => "max_head",
        };
        sources.error(http.place(key), Wrong::new(message, help));
    }
    if let Some(entry) = http.entry("keep_alive")
        && limits.max_age < limits.keep_alive
        && !limits.max_age.is_zero()
    {
        let wrong = outlives("keep_alive", limits.keep_alive, limits.max_age);
        sources.error(entry.key_at, wrong);
    }
    limits
}

fn bytes(value: Option<u64>) -> usize {
    usize::try_from(value.unwrap_or_default()).unwrap_or(usize::MAX)
}

fn read_access_log(sources: &mut Sources, http: &mut Reader<'_>) -> Option<AccessLogConfig> {
    let mut log = http.switched_section(sources, "access_log")?;
    let path = read_log_path(sources, &mut log);
    let sample = log.ratio(sources, "sample");
    http.attach("access_log", log);
    Some(AccessLogConfig {
        path,
        sample: sample.unwrap_or_default(),
    })
}

/// Whether it can be written is asked at the start: a file may be checked on another machine.
fn read_log_path(sources: &mut Sources, log: &mut Reader<'_>) -> Option<PathBuf> {
    let path = log.path(sources, "path")?;
    let mentions = sources.named.iter().filter(|named| **named == path);
    if mentions.count() > 1 {
        let message = format!("{} is a file that the configuration reads", path.display());
        let help = "name a file of its own: lines are appended to it";
        sources.error(log.place("path"), Wrong::new(message, help));
        return None;
    }
    // Ours to write: it is nothing to watch.
    sources.named.retain(|named| *named != path);
    if sources.outside.files && path.is_dir() {
        let message = format!("{} is a directory", path.display());
        let help = "name a file, as in `/var/log/evergate/access.json`";
        sources.error(log.place("path"), Wrong::new(message, help));
    }
    Some(path)
}
