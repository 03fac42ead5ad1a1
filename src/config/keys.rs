//! Every key of the file in one table: its kind, default and meaning.
//!
//! Reading, "did you mean", the JSON schema and the test of the documentation
//! all use this table, so they cannot drift apart.

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
    Name,
    /// `host:port`.
    Backend,
    /// `address:port` to listen on.
    Bind,
    Network,
    ServerName,
    Path,
    Flag,
    Count(u64, u64),
    Ratio(f64, f64),
    /// Milliseconds.
    Duration(u64, u64),
    Choice(&'static [&'static str]),
    StatusRange,
    List(&'static Kind),
    Section(&'static Section),
    /// Names to sections.
    Named(&'static Section),
    Either(&'static Kind, &'static Kind),
}

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;
/// Port numbers but 0.
const PORT: Kind = Kind::Count(1, 65535);
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
            "max_connections",
            Kind::Count(1, MAX_SESSIONS),
            From("the sum over all listeners"),
            "Client connections of the whole process.",
        ),
    ],
    later: &[("state_dir", "this version keeps no state; remove the key")],
};

pub(super) static CLUSTER: Section = Section {
    what: "a cluster",
    keys: &[
        key(
            "protocol",
            Kind::Choice(&["tcp"]),
            Is("tcp"),
            "What the backends speak; `tcp` relays any protocol over TCP.",
        ),
        key(
            "backends",
            Kind::List(&Kind::Either(&Kind::Backend, &Kind::Section(&BACKEND))),
            Required,
            "The servers, as `host:port` or in long form.",
        ),
        key(
            "health_check",
            Kind::Section(&HEALTH_CHECK),
            From("a TCP connect each second"),
            "What a probe asks and how its answers become health.",
        ),
        key(
            "balance",
            Kind::Section(&BALANCE),
            From("least_connections"),
            "Which backend a new session goes to.",
        ),
        key(
            "failover",
            Kind::Section(&FAILOVER),
            From("hold 15s, sever"),
            "What happens to sessions when backends fail.",
        ),
        key(
            "connect",
            Kind::Section(&CONNECT),
            From("1s, 3 attempts"),
            "How a session's connection to a backend is made.",
        ),
        key(
            "tls",
            Kind::Section(&BACKEND_TLS),
            Absent,
            "TLS to the backends.",
        ),
        key(
            "send_proxy_protocol",
            Kind::Choice(&["none", "v2"]),
            Is("none"),
            "Tells backends the client's address in a PROXY header.",
        ),
    ],
    later: &[],
};

pub(super) static BACKEND: Section = Section {
    what: "a backend",
    keys: &[
        key("address", Kind::Backend, Required, "Host and port."),
        key(
            "name",
            Kind::Name,
            From("the address"),
            "Its name in logs, metrics and commands.",
        ),
        key(
            "weight",
            Kind::Count(0, super::MAX_WEIGHT as u64),
            Is("100"),
            "Share of new sessions relative to the others; 0 = no new sessions.",
        ),
        key("zone", Kind::Name, Absent, "Where it runs."),
        key(
            "tier",
            Kind::Count(0, 100),
            Is("0"),
            "0 is used first; higher tiers are spares.",
        ),
        key(
            "max_connections",
            Kind::Count(1, MAX_SESSIONS),
            Absent,
            "Sessions at once from this process; more wait in `failover.queue`.",
        ),
    ],
    later: &[],
};

pub(super) static HEALTH_CHECK: Section = Section {
    what: "health_check",
    keys: &[
        key(
            "kind",
            Kind::Choice(&["tcp", "tls", "http", "exec"]),
            Is("tcp"),
            "What a probe does.",
        ),
        key(
            "interval",
            Kind::Duration(1, HOUR),
            Is("1s"),
            "Time between two probes of a backend.",
        ),
        key(
            "fast_interval",
            Kind::Duration(1, HOUR),
            From("50ms, or `interval` if that is shorter"),
            "Interval while no backend is eligible, and after hard evidence of a failure.",
        ),
        key(
            "timeout",
            Kind::Duration(1, HOUR),
            From("800ms, or `interval` if that is shorter"),
            "A probe without an answer by then has failed.",
        ),
        key(
            "rise",
            Kind::Count(1, 1000),
            Is("2"),
            "Passes in a row until a backend is up again.",
        ),
        key(
            "fall",
            Kind::Count(1, 1000),
            Is("3"),
            "Failures in a row until a backend is down.",
        ),
        key(
            "max_damping",
            Kind::Duration(0, DAY),
            Is("1m"),
            "A backend that flaps waits twice as long each time, up to this; `0s` = never.",
        ),
        key(
            "port",
            PORT,
            From("the backend's port"),
            "Asks another port than the one sessions go to.",
        ),
        key("send", Kind::Text, Absent, "tcp: sent after connecting."),
        key(
            "expect",
            Kind::Either(&Kind::Text, &Kind::List(&Kind::StatusRange)),
            From("tcp: any answer or none; http: [200-299]"),
            "tcp: text that the answer contains. http: accepted status codes.",
        ),
        key("path", Kind::Text, Is("/"), "http: what is asked for."),
        key(
            "host",
            Kind::Text,
            From("the backend's host and port"),
            "http: the Host header.",
        ),
        key(
            "method",
            Kind::Choice(&["GET", "HEAD", "OPTIONS"]),
            Is("GET"),
            "http: the method.",
        ),
        key(
            "body",
            Kind::Text,
            Absent,
            "http: text that the answer's body contains.",
        ),
        key(
            "tls",
            Kind::Flag,
            Is("false"),
            "http: ask over TLS, with the cluster's `tls` settings.",
        ),
        key(
            "command",
            Kind::List(&Kind::Text),
            Absent,
            "exec: program and arguments; exit code 0 is a pass.",
        ),
    ],
    later: &[
        ("user", "checks do not log in yet; remove the key"),
        ("password_file", "checks do not log in yet; remove the key"),
        ("database", "checks do not log in yet; remove the key"),
    ],
};

pub(super) static BALANCE: Section = Section {
    what: "balance",
    keys: &[
        key(
            "policy",
            Kind::Choice(&[
                "least_connections",
                "round_robin",
                "random_two",
                "least_latency",
                "consistent_hash",
            ]),
            Is("least_connections"),
            "How a backend is picked.",
        ),
        key(
            "hash",
            Kind::Section(&HASH),
            From("client_ip, maglev"),
            "For consistent_hash only.",
        ),
    ],
    later: &[],
};

pub(super) static HASH: Section = Section {
    what: "hash",
    keys: &[
        key(
            "key",
            Kind::Choice(&["client_ip", "client_ip_port", "sni"]),
            Is("client_ip"),
            "What is hashed: the same key goes to the same backend.",
        ),
        key(
            "algorithm",
            Kind::Choice(&["maglev", "ring", "rendezvous"]),
            Is("maglev"),
            "How keys are spread over backends.",
        ),
        key(
            "bounded_load",
            Kind::Ratio(1.0, 1000.0),
            Absent,
            "No backend gets more than this many times the average.",
        ),
    ],
    later: &[],
};

pub(super) static FAILOVER: Section = Section {
    what: "failover",
    keys: &[
        key(
            "hold",
            Kind::Section(&HOLD),
            From("15s, 10000 sessions"),
            "New sessions wait here while no backend is eligible.",
        ),
        key(
            "queue",
            Kind::Section(&QUEUE),
            From("5s, 1000 sessions"),
            "New sessions wait here while every eligible backend is full.",
        ),
        key(
            "on_dead",
            Kind::Choice(&["sever", "keep"]),
            Is("sever"),
            "Live sessions of a backend that died.",
        ),
        key(
            "panic",
            Kind::Choice(&["fail", "try_all"]),
            Is("fail"),
            "When every backend is down: hold and refuse, or route as if all were up.",
        ),
        key(
            "slow_start",
            Kind::Duration(0, DAY),
            Is("0s"),
            "A returning backend gets its weight back over this time.",
        ),
        key(
            "drain_timeout",
            Kind::Duration(0, 7 * DAY),
            From("the file's drain_timeout"),
            "Sessions of a drained or removed backend may go on this long.",
        ),
    ],
    later: &[
        ("on_demoted", "roles are not followed yet; remove the key"),
        (
            "on_lagging",
            "replication lag is not followed yet; remove the key",
        ),
        ("on_fenced", "roles are not followed yet; remove the key"),
    ],
};

pub(super) static HOLD: Section = Section {
    what: "hold",
    keys: &[
        key(
            "for",
            Kind::Duration(0, HOUR),
            Is("15s"),
            "Longest wait; `0s` with `max_sessions: 0` refuses at once.",
        ),
        key(
            "max_sessions",
            Kind::Count(0, MAX_SESSIONS),
            Is("10000"),
            "Sessions that wait at once.",
        ),
    ],
    later: &[],
};

pub(super) static QUEUE: Section = Section {
    what: "queue",
    keys: &[
        key(
            "for",
            Kind::Duration(0, HOUR),
            Is("5s"),
            "Longest wait; `0s` with `max_sessions: 0` refuses at once.",
        ),
        key(
            "max_sessions",
            Kind::Count(0, MAX_SESSIONS),
            Is("1000"),
            "Sessions that wait at once.",
        ),
    ],
    later: &[],
};

pub(super) static CONNECT: Section = Section {
    what: "connect",
    keys: &[
        key(
            "timeout",
            Kind::Duration(1, HOUR),
            Is("1s"),
            "Longest time for one connection, its TLS handshake included.",
        ),
        key(
            "attempts",
            Kind::Count(1, 100),
            Is("3"),
            "Backends tried for one session before it is refused.",
        ),
    ],
    later: &[],
};

pub(super) static BACKEND_TLS: Section = Section {
    what: "a cluster's tls",
    keys: &[
        key(
            "mode",
            Kind::Choice(&["verify_full", "verify_ca", "insecure"]),
            Is("verify_full"),
            "What is checked of a backend's certificate: chain and name, chain, nothing.",
        ),
        key(
            "ca_file",
            Kind::Path,
            From("the Mozilla root certificates"),
            "Certificates that may sign a backend's.",
        ),
        key(
            "cert_file",
            Kind::Path,
            Absent,
            "Certificate that is shown to the backends.",
        ),
        key("key_file", Kind::Path, Absent, "Key of `cert_file`."),
        key(
            "server_name",
            Kind::ServerName,
            From("each backend's host"),
            "Sent as SNI, and expected in the certificate.",
        ),
        key(
            "alpn",
            Kind::List(&Kind::Text),
            From("none"),
            "Protocols offered.",
        ),
    ],
    later: &[],
};

pub(super) static LISTENER: Section = Section {
    what: "a listener",
    keys: &[
        key("bind", Kind::Bind, Required, "Address and port."),
        key(
            "cluster",
            Kind::Name,
            From("with routes: refused"),
            "Where sessions go that no route takes.",
        ),
        key(
            "routes",
            Kind::List(&Kind::Section(&ROUTE)),
            Absent,
            "Clusters by requested server name (SNI); the first match wins.",
        ),
        key(
            "tls",
            Kind::Section(&LISTENER_TLS),
            Absent,
            "Ends the clients' TLS here; without it TLS passes through.",
        ),
        key(
            "allow",
            Kind::List(&Kind::Network),
            From("everyone"),
            "Only clients from these networks.",
        ),
        key(
            "deny",
            Kind::List(&Kind::Network),
            From("nobody"),
            "No clients from these networks; wins over `allow`.",
        ),
        key(
            "proxy_protocol",
            Kind::Choice(&["none", "accept"]),
            Is("none"),
            "`accept`: a PROXY header must come first and tells the client's address.",
        ),
        key(
            "proxy_protocol_from",
            Kind::List(&Kind::Network),
            Absent,
            "Who may send a PROXY header; required with `accept`.",
        ),
        key(
            "max_connections",
            Kind::Count(1, MAX_SESSIONS),
            Is("10000"),
            "Clients at once.",
        ),
        key(
            "idle_timeout",
            Kind::Duration(0, 365 * DAY),
            Is("1h"),
            "A session without a byte for this long ends; `0s` = never.",
        ),
        key(
            "handshake_timeout",
            Kind::Duration(1, HOUR),
            Is("5s"),
            "PROXY header, ClientHello and TLS handshake together.",
        ),
        key(
            "keepalive",
            Kind::Section(&KEEPALIVE),
            From("60s, 10s, 3"),
            "TCP keepalive on both sides of a session.",
        ),
        key(
            "user_timeout",
            Kind::Duration(0, DAY),
            Is("30s"),
            "Sent bytes may stay unacknowledged this long; `0s` = the kernel's default.",
        ),
        key(
            "backlog",
            Kind::Count(1, 65535),
            Is("4096"),
            "Connections the kernel queues until they are accepted.",
        ),
    ],
    later: &[
        (
            "role",
            "this version routes to every healthy backend; remove the key",
        ),
        (
            "max_lag",
            "replication lag is not measured yet; remove the key",
        ),
        (
            "fallback",
            "roles are not followed yet; use `tier` on the backends",
        ),
    ],
};

pub(super) static ROUTE: Section = Section {
    what: "a route",
    keys: &[
        key(
            "sni",
            Kind::ServerName,
            Required,
            "Server name; `*.example.com` matches exactly one more label.",
        ),
        key("cluster", Kind::Name, Required, "Where it goes."),
    ],
    later: &[],
};

pub(super) static LISTENER_TLS: Section = Section {
    what: "a listener's tls",
    keys: &[
        key(
            "cert_file",
            Kind::Path,
            Absent,
            "Certificate chain in PEM; with `key_file`.",
        ),
        key("key_file", Kind::Path, Absent, "Key of `cert_file` in PEM."),
        key(
            "certificates",
            Kind::List(&Kind::Section(&CERTIFICATE)),
            Absent,
            "Several certificates instead; chosen by the names in them, the first is the default.",
        ),
        key(
            "client_ca_file",
            Kind::Path,
            From("no client certificates"),
            "Clients must show a certificate signed by one of these.",
        ),
        key(
            "min_version",
            Kind::Choice(&["1.2", "1.3"]),
            Is("1.2"),
            "Oldest TLS version.",
        ),
        key(
            "alpn",
            Kind::List(&Kind::Text),
            From("none"),
            "Protocols accepted, best first.",
        ),
    ],
    later: &[],
};

pub(super) static CERTIFICATE: Section = Section {
    what: "a certificate",
    keys: &[
        key(
            "cert_file",
            Kind::Path,
            Required,
            "Certificate chain in PEM.",
        ),
        key("key_file", Kind::Path, Required, "Its key in PEM."),
    ],
    later: &[],
};

pub(super) static KEEPALIVE: Section = Section {
    what: "keepalive",
    keys: &[
        key(
            "idle",
            Kind::Duration(SECOND, 9 * HOUR),
            Is("60s"),
            "Silence before the first probe; whole seconds.",
        ),
        key(
            "interval",
            Kind::Duration(SECOND, 9 * HOUR),
            Is("10s"),
            "Time between probes; whole seconds.",
        ),
        key(
            "probes",
            Kind::Count(1, 127),
            Is("3"),
            "Unanswered probes that end the session.",
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
pub(super) static LATER_WORDS: &[(&str, &[&str], &str)] = &[
    (
        "protocol",
        &["postgres", "mysql", "redis", "http"],
        "write `tcp`, which relays any protocol over TCP",
    ),
    (
        "kind",
        &["postgres", "mysql", "redis"],
        "write `tcp` (with `send` and `expect`), `http` or `exec`",
    ),
    (
        "key",
        &[
            "user",
            "database",
            "header",
            "cookie",
            "query",
            "path",
            "redis_key",
        ],
        "write `client_ip`, `client_ip_port` or `sni`",
    ),
];

impl Section {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        let keys: &'static [Key] = self.keys;
        keys.iter().find(|key| key.name == name)
    }
}
