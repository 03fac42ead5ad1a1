//! A cluster's `health_check` section.

use std::num::NonZeroU16;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::CheckKind;
use crate::config::DatabaseCheck;
use crate::config::HealthCheckConfig;
use crate::config::HttpCheck;
use crate::config::Protocol;
use crate::config::RolePaths;
use crate::config::reader::Reader;
use crate::config::resolve::cluster::narrow;
use crate::config::resolve::password;
use crate::config::source::Sources;
use crate::config::tree::Node;
use crate::config::tree::Value;
use crate::config::values;
use crate::config::values::Wrong;

/// Fast enough to find a failure within the figures that Evergate promises, slow enough for the
/// backend's log and processor.
const DEFAULT_FAST_INTERVAL: Duration = Duration::from_millis(25);
/// Below the default interval, so that a probe ends before the next one is due.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(800);

/// Who asks a database, unless somebody else is named. Not the superuser: a check needs no rights.
const DEFAULT_USER: &str = "evergate";
/// Every PostgreSQL server has it.
const DEFAULT_POSTGRES_DATABASE: &str = "postgres";

/// The kinds that log in.
const DATABASES: &[&str] = &["postgres", "mysql", "redis"];

/// Which kinds have a use for a key; a key that is not here fits all.
const KEYS_BY_KIND: &[(&str, &[&str])] = &[
    ("send", &["tcp"]),
    ("expect", &["tcp", "http"]),
    ("path", &["http"]),
    ("primary_path", &["http"]),
    ("replica_path", &["http"]),
    ("host", &["http"]),
    ("method", &["http"]),
    ("body", &["http"]),
    ("tls", &["http"]),
    ("command", &["exec"]),
    (
        "port",
        &["tcp", "tls", "http", "postgres", "mysql", "redis"],
    ),
    ("user", DATABASES),
    ("password", DATABASES),
    ("password_file", DATABASES),
    ("database", &["postgres", "mysql"]),
];

pub(super) fn read(
    sources: &mut Sources,
    cluster: &mut Reader<'_>,
    protocol: Protocol,
    cluster_has_tls: bool,
) -> HealthCheckConfig {
    let mut check = cluster.section(sources, "health_check");
    let word = read_kind(sources, &mut check, protocol);
    refuse_foreign_keys(sources, &check, word);
    // The port that requests go to speaks TLS, another one may not.
    let follows_tls =
        cluster_has_tls && protocol == Protocol::Http && check.entry("port").is_none();
    let kind = match word {
        "tls" => CheckKind::Tls,
        "http" => CheckKind::Http(read_http(sources, &mut check, follows_tls)),
        "postgres" => CheckKind::Postgres(read_database(sources, &mut check, word)),
        "mysql" => CheckKind::MySql(read_database(sources, &mut check, word)),
        "redis" => CheckKind::Redis(read_database(sources, &mut check, word)),
        "exec" => read_exec(sources, &mut check),
        _ => read_tcp(sources, &mut check),
    };
    let needs_tls = match &kind {
        CheckKind::Tls => Some("kind"),
        CheckKind::Http(http) if http.tls => Some("tls"),
        _ => None,
    };
    if let Some(key) = needs_tls.filter(|_| !cluster_has_tls) {
        let message = "this check asks over TLS, but the cluster has no `tls` settings";
        let help = "add `tls: {mode: verify_full, ca_file: …}` to the cluster";
        let at = check.place(key);
        sources.error(at, Wrong::new(message, help));
    }
    let (interval, fast_interval, timeout) = read_times(sources, &mut check);
    let port = match word {
        "exec" => None,
        _ => check.count(sources, "port"),
    };
    let config = HealthCheckConfig {
        kind,
        interval,
        fast_interval,
        timeout,
        rise: positive(check.count(sources, "rise")),
        fall: positive(check.count(sources, "fall")),
        port: port.and_then(|port| NonZeroU16::new(u16::try_from(port).ok()?)),
        max_damping: check.duration(sources, "max_damping"),
    };
    cluster.attach("health_check", check);
    config
}

/// The kind of check; the cluster's protocol unless another is written.
fn read_kind(sources: &mut Sources, check: &mut Reader<'_>, protocol: Protocol) -> &'static str {
    let word = check.choice(sources, "kind");
    let Some(node) = check.node("kind") else {
        check.derived("kind", protocol.as_str());
        return protocol.as_str();
    };
    let speaks = protocol.as_str();
    if DATABASES.contains(&word) && protocol != Protocol::Tcp && word != speaks {
        let message = format!("a check of kind `{word}` of backends that speak `{speaks}`");
        let help = format!("remove `kind`: it is the cluster's `protocol`, `{speaks}`");
        sources.error(node.at, Wrong::new(message, help));
    }
    if word == "tls" && protocol == Protocol::MySql {
        let message = "a MySQL server speaks first: a TLS handshake cannot begin a connection";
        let help = "write `kind: mysql`, which uses the cluster's `tls`";
        sources.error(node.at, Wrong::new(message, help));
    }
    word
}

fn read_database(sources: &mut Sources, check: &mut Reader<'_>, kind: &str) -> DatabaseCheck {
    let mut or = |sources: &mut Sources, name: &'static str, default: Option<&str>| {
        let written = check.text(sources, name);
        if written
            .as_deref()
            .is_some_and(|text| text.is_empty() || text.contains('\0'))
        {
            let message = format!("`{name}` cannot be empty or contain NUL");
            sources.error(
                check.place(name),
                Wrong::new(message, "remove it or fill it"),
            );
        }
        if check.entry(name).is_none()
            && let Some(default) = default
        {
            check.derived(name, default);
            return Some(default.to_owned());
        }
        written
    };
    let user = or(sources, "user", (kind != "redis").then_some(DEFAULT_USER));
    let database = match kind {
        "postgres" => or(sources, "database", Some(DEFAULT_POSTGRES_DATABASE)),
        "mysql" => or(sources, "database", None),
        _ => None,
    };
    let password = password::read(sources, check);
    if kind == "redis"
        && let Some(entry) = check.entry("user")
        && !password::is_written(check)
    {
        let message = "Redis logs in a user with a password only";
        let help = "add `password_file`, or remove `user`";
        sources.error(entry.key_at, Wrong::new(message, help));
    }
    DatabaseCheck {
        user,
        password,
        database,
    }
}

fn positive(value: Option<u64>) -> NonZeroU32 {
    value
        .map(narrow)
        .and_then(NonZeroU32::new)
        .unwrap_or(NonZeroU32::MIN)
}

/// Interval, fast interval and timeout. The defaults of the last two give way to a short interval.
fn read_times(sources: &mut Sources, check: &mut Reader<'_>) -> (Duration, Duration, Duration) {
    let interval = check.optional_duration(sources, "interval");
    let mut within = |name: &'static str, default: Duration| {
        let written = check.optional_duration(sources, name);
        match (written, interval) {
            (Some(written), Some(interval)) if written > interval => {
                let written = values::show_duration(written);
                let interval = values::show_duration(interval);
                let message = format!("`{name}` {written} is longer than `interval` {interval}");
                let help = "shorten it, or lengthen `interval`";
                sources.error(check.place(name), Wrong::new(message, help));
            }
            _ => {}
        }
        written.unwrap_or_else(|| {
            let value = interval.map_or(default, |interval| interval.min(default));
            if check.entry(name).is_none() {
                check.derived(name, values::show_duration(value));
            }
            value
        })
    };
    let fast_interval = within("fast_interval", DEFAULT_FAST_INTERVAL);
    let timeout = within("timeout", DEFAULT_TIMEOUT);
    (interval.unwrap_or_default(), fast_interval, timeout)
}

fn refuse_foreign_keys(sources: &mut Sources, check: &Reader<'_>, kind: &str) {
    if kind.is_empty() {
        return;
    }
    for (key, kinds) in KEYS_BY_KIND {
        if let Some(entry) = check.entry(key)
            && !kinds.contains(&kind)
        {
            let message = format!("`{key}` has no meaning for a check of kind `{kind}`");
            let help = format!("it belongs to kind {}", kinds.join(", "));
            sources.error(entry.key_at, Wrong::new(message, help));
        }
    }
}

fn read_tcp(sources: &mut Sources, check: &mut Reader<'_>) -> CheckKind {
    let send = check.text(sources, "send").unwrap_or_default();
    let expect = check.text(sources, "expect");
    if expect.as_deref() == Some("") {
        let wrong = Wrong::new("`expect` is empty, so any answer fits", "remove it");
        sources.error(check.place("expect"), wrong);
    }
    CheckKind::Tcp {
        send: send.into_bytes(),
        expect: expect.map(String::into_bytes),
    }
}

fn read_exec(sources: &mut Sources, check: &mut Reader<'_>) -> CheckKind {
    if check.entry("command").is_none() {
        let message = "a check of kind `exec` needs the key `command`";
        let help = "as in `command: [/usr/local/bin/check-db, --quick]`";
        sources.error(check.place("kind"), Wrong::new(message, help));
    }
    let command = check.texts(sources, "command");
    if command.iter().any(|word| word.contains('\0')) {
        let wrong = Wrong::new("a command cannot contain NUL", "take it out");
        sources.error(check.place("command"), wrong);
    }
    CheckKind::Exec { command }
}

fn read_http(sources: &mut Sources, check: &mut Reader<'_>, follows_tls: bool) -> HttpCheck {
    let roles = read_role_paths(sources, check);
    let path = match &roles {
        Some(roles) => roles.primary.clone(),
        None => read_path(sources, check, "path"),
    };
    let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let host = check.text(sources, "host");
    if host
        .as_deref()
        .is_some_and(|host| host.is_empty() || !printable(host))
    {
        let wrong = Wrong::new(
            "`host` cannot be sent in a header",
            "as in `db.example.com`",
        );
        sources.error(check.place("host"), wrong);
    }
    let tls = match check.entry("tls") {
        Some(_) => check.flag(sources, "tls"),
        None => {
            check.derived("tls", follows_tls);
            follows_tls
        }
    };
    let method = check.choice(sources, "method");
    let body = check.text(sources, "body");
    if let Some(entry) = check.entry("body")
        && method == "HEAD"
    {
        let message = "`body` beside `method: HEAD`, whose answer has none";
        let help = "remove `body`, or ask with `GET`";
        sources.error(entry.key_at, Wrong::new(message, help));
    }
    HttpCheck {
        path,
        host,
        method: method.to_owned(),
        expect: read_status(sources, check),
        body,
        tls,
        roles,
    }
}

/// Both paths or none, and nothing else that decides.
fn read_role_paths(sources: &mut Sources, check: &mut Reader<'_>) -> Option<RolePaths> {
    let (primary, replica) = ("primary_path", "replica_path");
    for (there, missing) in [(primary, replica), (replica, primary)] {
        if let Some(entry) = check.entry(there)
            && check.entry(missing).is_none()
        {
            let message = format!("`{there}` without `{missing}`");
            let help = "write both, as in `primary_path: /primary` and `replica_path: /replica`";
            sources.error(entry.key_at, Wrong::new(message, help));
        }
    }
    let first = check.entry(primary).or(check.entry(replica))?;
    for other in ["path", "body"] {
        if let Some(entry) = check.entry(other) {
            let message = format!("`{other}` beside `{}`", first.key);
            let help = format!("remove `{other}`: the status of the two paths tells the role");
            let wrong = Wrong::new(message, help);
            sources.conflict(entry.key_at, wrong, "the other one is here", first.key_at);
        }
    }
    let roles = RolePaths {
        primary: read_path(sources, check, primary),
        replica: read_path(sources, check, replica),
    };
    if roles.primary == roles.replica && check.entry(primary).is_some() {
        let message = "`primary_path` and `replica_path` are the same, which tells no role";
        let help =
            "write the path that only the primary answers, and the one that only replicas do";
        let at = check.place(replica);
        sources.error(at, Wrong::new(message, help));
    }
    Some(roles)
}

fn read_path(sources: &mut Sources, check: &mut Reader<'_>, name: &'static str) -> String {
    let path = check.text(sources, name).unwrap_or_default();
    let printable = path.bytes().all(|byte| byte.is_ascii_graphic());
    if check.entry(name).is_some() && !(path.starts_with('/') && printable) {
        let message = format!("`{name}` must begin with `/` and have no spaces");
        sources.error(check.place(name), Wrong::new(message, "as in `/status`"));
    }
    path
}

fn read_status(sources: &mut Sources, check: &mut Reader<'_>) -> Vec<(u16, u16)> {
    let Some(node) = check.node("expect") else {
        check.derived("expect", vec!["200-299"]);
        return vec![(200, 299)];
    };
    let nodes: Vec<&Node> = match &node.value {
        Value::List(_) => check
            .list(sources, "expect")
            .unwrap_or_default()
            .iter()
            .collect(),
        _ => vec![node],
    };
    let mut ranges = Vec::new();
    for node in nodes {
        match values::status_range(node) {
            Ok(range) => ranges.push(range),
            Err(wrong) => sources.error(node.at, wrong),
        }
    }
    let show = |(low, high): &(u16, u16)| match low == high {
        true => low.to_string(),
        false => format!("{low}-{high}"),
    };
    let shown: Vec<String> = ranges.iter().map(show).collect();
    check.attach_value("expect", shown.into(), Vec::new());
    ranges
}
