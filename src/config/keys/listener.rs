//! The keys of a listener.

use crate::config::keys::DAY;
use crate::config::keys::HOUR;
use crate::config::keys::Kind;
use crate::config::keys::MAX_LAG_BYTES;
use crate::config::keys::MAX_SESSIONS;
use crate::config::keys::SECOND;
use crate::config::keys::Section;
use crate::config::keys::Unwritten::Absent;
use crate::config::keys::Unwritten::From;
use crate::config::keys::Unwritten::Is;
use crate::config::keys::Unwritten::Required;
use crate::config::keys::http_listener::HEADER_RULES;
use crate::config::keys::http_listener::HTTP_LISTENER;
use crate::config::keys::http_listener::PATH;
use crate::config::keys::http_listener::PRESENT;
use crate::config::keys::http_listener::RATE_LIMIT;
use crate::config::keys::key;

pub(in crate::config) static LISTENER: Section = Section {
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
            "Clusters by what the client asks for; the first match wins, with http the closest.",
        ),
        key(
            "protocol",
            Kind::Choice(&["tcp"]),
            From("that of its clusters"),
            "`tcp`: relays bytes unseen, whatever the clusters speak.",
        ),
        key(
            "role",
            Kind::Choice(&["any", "primary", "replica"]),
            Is("any"),
            "Which backends its sessions need.",
        ),
        key(
            "max_lag",
            Kind::Either(
                &Kind::Either(&MAX_LAG_TIME, &MAX_LAG_SIZE),
                &Kind::Section(&MAX_LAG),
            ),
            From("no limit"),
            "Replicas further behind get no new sessions: a time, a size, or `{bytes: 16MiB}`.",
        ),
        key(
            "fallback",
            Kind::Choice(&["none", "primary"]),
            Is("none"),
            "Where sessions for a replica go when there is none.",
        ),
        key(
            "tls",
            Kind::Either(
                &Kind::Choice(&["passthrough"]),
                &Kind::Section(&LISTENER_TLS),
            ),
            Absent,
            "Ends the clients' TLS here; or `passthrough`, for PostgreSQL.",
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
            Is("0s"),
            "Sent bytes may stay unacknowledged this long; `0s` = as long as the kernel tries.",
        ),
        key(
            "backlog",
            Kind::Count(1, 65535),
            Is("4096"),
            "Connections the kernel queues until they are accepted.",
        ),
        key(
            "http",
            Kind::Section(&HTTP_LISTENER),
            From("limits that stop abuse"),
            "http: limits, trust and the access log.",
        ),
    ],
    later: &[],
};

pub(in crate::config) static ROUTE: Section = Section {
    what: "a route",
    keys: &[
        key(
            "sni",
            Kind::ServerName,
            Absent,
            "Server name; `*.example.com` matches exactly one more label.",
        ),
        key("database", Kind::Text, Absent, "postgres: database."),
        key("user", Kind::Text, Absent, "postgres: user."),
        key(
            "host",
            Kind::Text,
            Absent,
            "http: host without port; `*.example.com` matches everything below it.",
        ),
        key(
            "path",
            Kind::Either(&Kind::Text, &Kind::Section(&PATH)),
            Absent,
            "http: whole segments that the path begins with, `{prefix: …}` or `{exact: …}`.",
        ),
        key(
            "method",
            Kind::Either(&Kind::Text, &Kind::List(&Kind::Text)),
            Absent,
            "http: one of these methods.",
        ),
        key(
            "header",
            Kind::Map(&Kind::Either(&Kind::Text, &Kind::Section(&PRESENT))),
            Absent,
            "http: all of these headers have these values, or `{present: true}`.",
        ),
        key("cluster", Kind::Name, Required, "Where it goes."),
        key(
            "request_headers",
            Kind::Section(&HEADER_RULES),
            Absent,
            "http: what is changed in a request on its way to the backend.",
        ),
        key(
            "response_headers",
            Kind::Section(&HEADER_RULES),
            Absent,
            "http: what is changed in a response on its way to the client.",
        ),
        key(
            "rate_limit",
            Kind::Section(&RATE_LIMIT),
            Absent,
            "http: how many requests each client may send.",
        ),
        key(
            "timeout",
            Kind::Duration(1, DAY),
            From("no limit"),
            "http: longest time from a request's head to its response's head.",
        ),
    ],
    later: &[],
};

pub(in crate::config) const MAX_LAG_TIME: Kind = Kind::Duration(1, 7 * DAY);
pub(in crate::config) const MAX_LAG_SIZE: Kind = Kind::Size(1, MAX_LAG_BYTES);

pub(in crate::config) static MAX_LAG: Section = Section {
    what: "max_lag",
    keys: &[key(
        "bytes",
        MAX_LAG_SIZE,
        Required,
        "Of the primary's log of changes.",
    )],
    later: &[],
};

pub(in crate::config) static LISTENER_TLS: Section = Section {
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
            "optional",
            Kind::Flag,
            Is("false"),
            "postgres, mysql: clients that do not ask for TLS are let in without.",
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

pub(in crate::config) static CERTIFICATE: Section = Section {
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

pub(in crate::config) static KEEPALIVE: Section = Section {
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
