//! A cluster's `http` section: pools, retries, sticky sessions.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use crate::config::HedgeConfig;
use crate::config::HttpClusterConfig;
use crate::config::HttpVersion;
use crate::config::PoolConfig;
use crate::config::Protocol;
use crate::config::RetryConfig;
use crate::config::StickyConfig;
use crate::config::reader::Reader;
use crate::config::request;
use crate::config::resolve::cluster::narrow;
use crate::config::resolve::http_outlier;
use crate::config::resolve::password;
use crate::config::source::Sources;
use crate::config::tree::Value;
use crate::config::values;
use crate::config::values::Wrong;

/// Names of RFC 7301's registry.
pub(super) const HTTP2_ALPN: &str = "h2";
pub(super) const HTTP1_ALPN: &str = "http/1.1";

/// Anyone who guesses the secret chooses backends.
const MIN_SECRET_BYTES: usize = 16;

/// Clients drop cookies over 4096 bytes (RFC 6265, 6.1), and all of them share `max_head`.
const MAX_COOKIE_NAME_BYTES: usize = 64;

/// `Some` exactly for `protocol: http`.
pub(super) fn read(
    sources: &mut Sources,
    cluster: &mut Reader<'_>,
    protocol: Protocol,
) -> Option<HttpClusterConfig> {
    if protocol != Protocol::Http {
        if let Some(entry) = cluster.entry("http") {
            let speaks = protocol.as_str();
            let message = format!("`http` has no meaning for backends that speak `{speaks}`");
            let help = "write `protocol: http` in the cluster, or remove `http`";
            sources.error(entry.key_at, Wrong::new(message, help));
        }
        return None;
    }
    let backends = match cluster.node("backends").map(|node| &node.value) {
        Some(Value::List(backends)) => backends.len(),
        // Reported already.
        _ => usize::MAX,
    };
    let mut http = cluster.section(sources, "http");
    let version = match http.count(sources, "version") {
        Some(2) => HttpVersion::Two,
        _ => HttpVersion::One,
    };
    let config = HttpClusterConfig {
        version,
        pool: read_pool(sources, &mut http, version),
        retry: read_retry(sources, &mut http, backends),
        sticky: read_sticky(sources, &mut http),
        outlier: http_outlier::read(sources, &mut http, backends),
    };
    cluster.attach("http", http);
    Some(config)
}

fn read_pool(sources: &mut Sources, http: &mut Reader<'_>, version: HttpVersion) -> PoolConfig {
    let max_idle = http.count(sources, "max_idle").unwrap_or_default();
    let idle_timeout = http.duration(sources, "idle_timeout");
    let max_requests = http.count(sources, "max_requests");
    let max_age = http.duration(sources, "max_age");
    if let Some(entry) = http.entry("idle_timeout") {
        let at = entry.key_at;
        if max_idle == 0 {
            let message = "`idle_timeout` has no effect with `max_idle: 0`";
            let help = "remove it: no idle connection is kept";
            sources.error(at, Wrong::new(message, help));
        } else if max_age < idle_timeout && !max_age.is_zero() {
            sources.error(at, outlives("idle_timeout", idle_timeout, max_age));
        }
    }
    if version == HttpVersion::One && max_idle == 0 {
        for key in ["max_requests", "max_age"] {
            if let Some(entry) = http.entry(key) {
                let message = format!("`{key}` has no effect with `max_idle: 0`");
                let help = "remove it: each request has a connection of its own";
                sources.error(entry.key_at, Wrong::new(message, help));
            }
        }
    }
    PoolConfig {
        max_idle: usize::try_from(max_idle).unwrap_or(usize::MAX),
        idle_timeout,
        max_requests: max_requests.and_then(NonZeroU64::new),
        max_age,
    }
}

/// A connection cannot be idle longer than it lives.
pub(super) fn outlives(key: &str, value: Duration, max_age: Duration) -> Wrong {
    let value = values::show_duration(value);
    let max_age = values::show_duration(max_age);
    let message = format!("`{key}` {value} is longer than `max_age` {max_age}");
    Wrong::new(message, "shorten it, or lengthen `max_age`")
}

fn read_retry(sources: &mut Sources, http: &mut Reader<'_>, backends: usize) -> RetryConfig {
    let mut retry = http.section(sources, "retry");
    let attempts = retry.count(sources, "attempts").map(narrow);
    let budget = retry.ratio(sources, "budget").unwrap_or_default();
    let min_per_second = retry.count(sources, "min_per_second").map(narrow);
    let statuses = retry.counts(sources, "statuses");
    let attempt_timeout = retry.optional_duration(sources, "attempt_timeout");
    let hedge = read_hedge(sources, &mut retry);
    if attempts == Some(0) {
        refuse_beside_none(sources, &retry);
    } else if budget == 0.0 && min_per_second == Some(0) && retry.entry("budget").is_some() {
        let message = "with `budget: 0` and `min_per_second: 0` nothing is ever sent again";
        let help = "write `attempts: 0` if that is meant, or raise one of them";
        sources.error(retry.place("budget"), Wrong::new(message, help));
    }
    if let Some(hedge) = &hedge {
        refuse_idle_hedge(sources, &retry, hedge, (attempt_timeout, backends));
    }
    http.attach("retry", retry);
    RetryConfig {
        attempts: attempts.unwrap_or_default(),
        budget,
        min_per_second: min_per_second.unwrap_or_default(),
        statuses: statuses
            .into_iter()
            .filter_map(|status| u16::try_from(status).ok())
            .collect(),
        attempt_timeout,
        hedge,
    }
}

fn refuse_beside_none(sources: &mut Sources, retry: &Reader<'_>) {
    let attempts_at = retry.place("attempts");
    for key in [
        "budget",
        "min_per_second",
        "statuses",
        "attempt_timeout",
        "hedge",
    ] {
        if let Some(entry) = retry.entry(key) {
            let message = format!("`{key}` has no effect with `attempts: 0`");
            let help = format!("allow an attempt, or remove `{key}`");
            let wrong = Wrong::new(message, help);
            sources.conflict(entry.key_at, wrong, "`attempts` is here", attempts_at);
        }
    }
}

/// A second copy that is never sent.
fn refuse_idle_hedge(
    sources: &mut Sources,
    retry: &Reader<'_>,
    hedge: &HedgeConfig,
    (attempt_timeout, backends): (Option<Duration>, usize),
) {
    let at = retry.place("hedge");
    if backends == 1 {
        let message = "`hedge` sends a slow read to a second backend, and there is one only";
        sources.error(at, Wrong::new(message, "remove it, or add a backend"));
    }
    if let Some(limit) = attempt_timeout.filter(|limit| *limit <= hedge.min_delay) {
        let delay = values::show_duration(hedge.min_delay);
        let limit = values::show_duration(limit);
        let message = format!("`hedge` waits {delay}, and `attempt_timeout` {limit} comes first");
        let help = "shorten `hedge.min_delay`, or lengthen `attempt_timeout`";
        sources.error(at, Wrong::new(message, help));
    }
}

fn read_hedge(sources: &mut Sources, retry: &mut Reader<'_>) -> Option<HedgeConfig> {
    let mut hedge = retry.switched_section(sources, "hedge")?;
    let percentile = hedge.ratio(sources, "percentile");
    let min_delay = hedge.duration(sources, "min_delay");
    retry.attach("hedge", hedge);
    Some(HedgeConfig {
        percentile: percentile?,
        min_delay,
    })
}

fn read_sticky(sources: &mut Sources, http: &mut Reader<'_>) -> Option<StickyConfig> {
    let mut sticky = http.optional_section(sources, "sticky")?;
    let cookie = sticky.text(sources, "cookie");
    if let Some(node) = sticky.node("cookie")
        && cookie
            .as_deref()
            .is_some_and(|name| !request::is_token(name))
    {
        let help = "write letters, digits, `-` and `_`, as in `evergate`";
        sources.error(node.at, Wrong::not("the name of a cookie", node, help));
    } else if let Some(node) = sticky.node("cookie")
        && cookie
            .as_ref()
            .is_some_and(|name| name.len() > MAX_COOKIE_NAME_BYTES)
    {
        let message = "the cookie's name is longer than 64 bytes, and each request carries it";
        sources.error(node.at, Wrong::new(message, "shorten it"));
    }
    let secret_keys = ["secret", "secret_file"];
    let secret_entry = secret_keys.iter().find_map(|key| sticky.entry(key));
    let secret = password::read_secret(sources, &mut sticky, &password::COOKIE_SECRET);
    match (secret_entry, &secret) {
        (None, _) => {
            let message = "sticky sessions need a secret";
            let help = "add `secret_file`, the same in every instance: \
                        without it a cookie could be made up, or would tell a backend's address";
            sources.error(sticky.at, Wrong::new(message, help));
        }
        (Some(entry), Some(secret)) if secret.expose().len() < MIN_SECRET_BYTES => {
            let message = "the secret is too short to be safe";
            let help = "write at least 16 characters, as from `openssl rand -hex 32`";
            sources.error(entry.value.at, Wrong::new(message, help));
        }
        _ => {}
    }
    let max_age = sticky.optional_duration(sources, "max_age");
    if max_age.is_some_and(|age| age.subsec_nanos() != 0) {
        let message = "a cookie's age is whole seconds";
        let help = "round it, as in `max_age: 1d`";
        sources.error(sticky.place("max_age"), Wrong::new(message, help));
    }
    http.attach("sticky", sticky);
    Some(StickyConfig {
        cookie: cookie?,
        // Without files, as where a text is checked alone, the secret stays unread.
        secret: Arc::new(secret.unwrap_or_else(|| crate::config::Secret::new(String::new()))),
        max_age,
    })
}

/// What a cluster offers its backends over TLS: what `http.version` says.
pub(super) fn alpn(
    sources: &mut Sources,
    cluster: &Reader<'_>,
    tls: &mut Reader<'_>,
    written: Vec<String>,
) -> Vec<String> {
    let is_two = cluster
        .node("http")
        .and_then(|node| node.map().ok())
        .and_then(|entries| entries.iter().find(|entry| entry.key == "version"))
        .and_then(|entry| entry.value.word())
        .is_some_and(|word| word == "2");
    let (version, offered) = if is_two {
        (2, HTTP2_ALPN)
    } else {
        (1, HTTP1_ALPN)
    };
    if tls.entry("alpn").is_none() {
        let alpn = vec![offered.to_owned()];
        tls.derived("alpn", alpn.clone());
        return alpn;
    }
    if let Some(other) = written.iter().find(|name| *name != offered) {
        let message = format!(
            "`alpn` offers `{other}`, but `http.version: {version}` speaks `{offered}` only"
        );
        let help =
            format!("remove `alpn`, whose default is `[{offered}]`, or change `http.version`");
        sources.error(tls.place("alpn"), Wrong::new(message, help));
    }
    written
}
