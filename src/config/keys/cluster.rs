//! The keys of a cluster.

use crate::config::keys::DAY;
use crate::config::keys::HOUR;
use crate::config::keys::Kind;
use crate::config::keys::MAX_SESSIONS;
use crate::config::keys::Section;
use crate::config::keys::Unwritten::Absent;
use crate::config::keys::Unwritten::From;
use crate::config::keys::Unwritten::Is;
use crate::config::keys::Unwritten::Required;
use crate::config::keys::failover::FAILOVER;
use crate::config::keys::http_cluster::HTTP_CLUSTER;
use crate::config::keys::key;

/// Port numbers but 0.
pub(super) const PORT: Kind = Kind::Count(1, 65535);

pub(in crate::config) static CLUSTER: Section = Section {
    what: "a cluster",
    keys: &[
        key(
            "protocol",
            Kind::Choice(&["tcp", "http", "postgres", "mysql", "redis"]),
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
            From("a check of the cluster's protocol, each second"),
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
        key(
            "http",
            Kind::Section(&HTTP_CLUSTER),
            From("HTTP/1.1 with pools and retries"),
            "http: how the backends are asked.",
        ),
    ],
    later: &[],
};

pub(in crate::config) static BACKEND: Section = Section {
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
            Kind::Count(0, crate::config::MAX_WEIGHT as u64),
            Is("100"),
            "Share of new sessions relative to the others; 0 = no new sessions, except as the primary.",
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

pub(in crate::config) static HEALTH_CHECK: Section = Section {
    what: "health_check",
    keys: &[
        key(
            "kind",
            Kind::Choice(&["tcp", "tls", "http", "postgres", "mysql", "redis", "exec"]),
            From("the cluster's protocol"),
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
            From("25ms, or `interval` if that is shorter"),
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
            "primary_path",
            Kind::Text,
            Absent,
            "http: answered as expected by the primary only; with `replica_path`.",
        ),
        key(
            "replica_path",
            Kind::Text,
            Absent,
            "http: answered as expected by replicas only; with `primary_path`.",
        ),
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
            From("false; with `protocol: http` and no `port`, whether the cluster has `tls`"),
            "http: ask over TLS, with the cluster's `tls` settings.",
        ),
        key(
            "command",
            Kind::List(&Kind::Text),
            Absent,
            "exec: program and arguments; exit code 0 is a pass.",
        ),
        key(
            "user",
            Kind::Text,
            From("postgres and mysql: evergate; redis: the default user"),
            "postgres, mysql, redis: who logs in.",
        ),
        key(
            "password",
            Kind::Secret,
            From("none"),
            "postgres, mysql, redis: its password; better in `password_file`.",
        ),
        key(
            "password_file",
            Kind::Path,
            Absent,
            "postgres, mysql, redis: file with its password.",
        ),
        key(
            "database",
            Kind::Text,
            From("postgres: postgres; mysql: none"),
            "postgres, mysql: where the check logs in.",
        ),
    ],
    later: &[],
};

pub(in crate::config) static BALANCE: Section = Section {
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

/// `startup:NAME`, `header:NAME`, `cookie:NAME` and `query:NAME` besides.
pub(in crate::config) const HASH_KEYS: &[&str] = &[
    "client_ip",
    "client_ip_port",
    "sni",
    "user",
    "database",
    "path",
];

pub(in crate::config) static HASH: Section = Section {
    what: "hash",
    keys: &[
        key(
            "key",
            Kind::Either(&Kind::Choice(HASH_KEYS), &Kind::Text),
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

pub(in crate::config) static CONNECT: Section = Section {
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
        key(
            "source",
            Kind::List(&Kind::Address),
            From("the system chooses"),
            "Local addresses that connections to the backends come from; probes use them, too.",
        ),
    ],
    later: &[],
};

pub(in crate::config) static BACKEND_TLS: Section = Section {
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
