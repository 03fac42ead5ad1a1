//! Every key of the file in one table: its kind, default and meaning.
//!
//! Reading, "did you mean", the JSON schema and the test of the documentation
//! all use this table, so they cannot drift apart.

mod cluster;
mod failover;
mod http_cluster;
mod http_listener;
mod listener;

pub(super) use cluster::BACKEND;
use cluster::CLUSTER;
pub(super) use cluster::HASH_KEYS;
pub(super) use failover::EVENTS;
pub(super) use failover::SESSION_WORDS;
pub(super) use http_listener::PATH;
pub(super) use http_listener::PRESENT;
use listener::LISTENER;
pub(super) use listener::MAX_LAG_SIZE;
pub(super) use listener::MAX_LAG_TIME;

use Unwritten::Absent;
use Unwritten::From;
use Unwritten::Is;
use Unwritten::Required;

/// A map with fixed keys.
pub(super) struct Section {
    /// How messages call it.
    pub what: &'static str,
    pub keys: &'static [Key],
    /// Keys of later versions, and what to do until then.
    pub later: &'static [(&'static str, &'static str)],
}

pub(super) struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Unwritten,
    pub meaning: &'static str,
}

/// What holds where a key is not written.
#[derive(Clone, Copy)]
pub(super) enum Unwritten {
    /// Must be written.
    Required,
    /// Absent means: not used.
    Absent,
    /// As if this were written.
    Is(&'static str),
    /// Depends on other keys; said in words.
    From(&'static str),
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    /// Text that is shown to nobody.
    Secret,
    Name,
    /// `host:port`.
    Backend,
    /// `address:port` to listen on.
    Bind,
    /// An IP address of this machine.
    Address,
    Network,
    ServerName,
    Path,
    Flag,
    Count(u64, u64),
    Ratio(f64, f64),
    /// Milliseconds.
    Duration(u64, u64),
    /// Bytes.
    Size(u64, u64),
    Choice(&'static [&'static str]),
    StatusRange,
    List(&'static Kind),
    Section(&'static Section),
    /// Free keys to values of one kind.
    Map(&'static Kind),
    /// Names to sections.
    Named(&'static Section),
    Either(&'static Kind, &'static Kind),
}

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;
/// 1 TiB: more than any log of changes that a server keeps.
const MAX_LAG_BYTES: u64 = 1 << 40;
/// More than any machine has memory for.
const MAX_SESSIONS: u64 = 10_000_000;

const fn key(name: &'static str, kind: Kind, default: Unwritten, meaning: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        meaning,
    }
}

pub(super) static ROOT: Section = Section {
    what: "the file",
    keys: &[
        key(
            "version",
            Kind::Count(1, 1),
            Required,
            "Version of this format.",
        ),
        key(
            "include",
            Kind::Either(&Kind::Text, &Kind::List(&Kind::Text)),
            Absent,
            "More files with clusters and listeners; the last part of a path may have wildcards.",
        ),
        key(
            "clusters",
            Kind::Named(&CLUSTER),
            Required,
            "Sets of backends that hold the same service, by name.",
        ),
        key(
            "listeners",
            Kind::Named(&LISTENER),
            Required,
            "Where clients connect, by name.",
        ),
        key(
            "admin",
            Kind::Section(&ADMIN),
            From("on loopback"),
            "Metrics, health and the API.",
        ),
        key(
            "log",
            Kind::Section(&LOG),
            From("text, info"),
            "What is logged to stderr, and how.",
        ),
        key(
            "workers",
            Kind::Either(&Kind::Choice(&["auto"]), &Kind::Count(1, 1024)),
            Is("auto"),
            "Threads that move bytes; `auto` = cores available to the process.",
        ),
        key(
            "zone",
            Kind::Name,
            Absent,
            "Where this process runs; backends of the same zone are preferred.",
        ),
        key(
            "drain_timeout",
            Kind::Duration(0, 7 * DAY),
            Is("30s"),
            "How long sessions of drained, removed or stopping parts may go on.",
        ),
        key(
            "shutdown_delay",
            Kind::Duration(0, HOUR),
            Is("0s"),
            "After SIGTERM clients are still accepted for this long, with readiness false.",
        ),
        key(
            "max_connections",
            Kind::Count(1, MAX_SESSIONS),
            From("the sum over all listeners"),
            "Client connections of the whole process.",
        ),
        key(
            "state_dir",
            Kind::Path,
            From("only memory"),
            "Directory that remembers over restarts which primary was the newest.",
        ),
    ],
    later: &[],
};

pub(super) static ADMIN: Section = Section {
    what: "admin",
    keys: &[
        key(
            "bind",
            Kind::Either(&Kind::Choice(&["none"]), &Kind::Bind),
            Is("127.0.0.1:9187"),
            "Where HTTP is served; `none` = nowhere.",
        ),
        key(
            "socket",
            Kind::Path,
            Absent,
            "A unix socket, mode 0600, that needs no token.",
        ),
        key(
            "token_file",
            Kind::Path,
            From("no changes over HTTP"),
            "File with the token that changes need.",
        ),
    ],
    later: &[],
};

pub(super) static LOG: Section = Section {
    what: "log",
    keys: &[
        key(
            "format",
            Kind::Choice(&["text", "json"]),
            Is("text"),
            "One line of text, or one JSON object, per event.",
        ),
        key(
            "level",
            Kind::Choice(&["error", "warn", "info", "debug"]),
            Is("info"),
            "Least severe level that is logged.",
        ),
    ],
    later: &[],
};

/// Words of later versions, by key, and what to do until then.
pub(super) static LATER_WORDS: &[(&str, &[&str], &str)] = &[(
    "key",
    &["redis_key"],
    "write `client_ip`, `client_ip_port` or `sni`",
)];

impl Section {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        let keys: &'static [Key] = self.keys;
        keys.iter().find(|key| key.name == name)
    }
}
