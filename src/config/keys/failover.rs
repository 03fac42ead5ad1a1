//! The keys of a cluster's `failover` section.

use crate::config::HookEvent;
use crate::config::keys::DAY;
use crate::config::keys::HOUR;
use crate::config::keys::Kind;
use crate::config::keys::MAX_SESSIONS;
use crate::config::keys::Section;
use crate::config::keys::Unwritten::Absent;
use crate::config::keys::Unwritten::From;
use crate::config::keys::Unwritten::Is;
use crate::config::keys::Unwritten::Required;
use crate::config::keys::cluster::PORT;
use crate::config::keys::key;

/// What may happen to sessions.
const SESSION_POLICY: Kind = Kind::Either(&Kind::Choice(&SESSION_WORDS), &Kind::Section(&GRACE));
pub(in crate::config) const SESSION_WORDS: [&str; 2] = ["keep", "sever"];

/// The words for [`HookEvent`].
pub(in crate::config) static EVENTS: [&str; HookEvent::ALL.len()] = {
    let mut words = [""; HookEvent::ALL.len()];
    let mut index = 0;
    while index < words.len() {
        words[index] = HookEvent::ALL[index].as_str();
        index += 1;
    }
    words
};

pub(in crate::config) static FAILOVER: Section = Section {
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
            "on_demoted",
            SESSION_POLICY,
            From("{grace: 5s}"),
            "Sessions that need the primary, when their backend is no longer it.",
        ),
        key(
            "on_fenced",
            SESSION_POLICY,
            Is("sever"),
            "Sessions that need the primary, when their backend may not be written to.",
        ),
        key(
            "on_lagging",
            SESSION_POLICY,
            Is("keep"),
            "Sessions with `max_lag`, when their backend is over it.",
        ),
        key(
            "authority",
            Kind::Section(&AUTHORITY),
            Absent,
            "Who knows better than the backends which of them is primary.",
        ),
        key(
            "on_event",
            Kind::List(&Kind::Section(&HOOK)),
            Absent,
            "Commands to run and URLs to tell when something happens.",
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
    later: &[],
};

pub(in crate::config) static GRACE: Section = Section {
    what: "a policy for sessions",
    keys: &[key(
        "grace",
        Kind::Duration(1, HOUR),
        Required,
        "Severed when the current transaction ends, at most this much later.",
    )],
    later: &[],
};

pub(in crate::config) static AUTHORITY: Section = Section {
    what: "authority",
    keys: &[
        key(
            "kind",
            Kind::Choice(&["patroni", "sentinel"]),
            Required,
            "`patroni` for PostgreSQL, `sentinel` for Redis.",
        ),
        key(
            "port",
            PORT,
            Is("8008"),
            "patroni: port of its REST API, on every backend's host.",
        ),
        key(
            "tls",
            Kind::Flag,
            Is("false"),
            "patroni: ask over TLS, with the cluster's `tls` settings.",
        ),
        key(
            "sentinels",
            Kind::List(&Kind::Backend),
            Absent,
            "sentinel: all of them, as `host:port`; a majority decides.",
        ),
        key(
            "service",
            Kind::Text,
            Is("mymaster"),
            "sentinel: the name that they know the primary by.",
        ),
        key(
            "user",
            Kind::Text,
            From("the default user"),
            "sentinel: who logs in.",
        ),
        key(
            "password",
            Kind::Secret,
            From("none"),
            "sentinel: its password; better in `password_file`.",
        ),
        key(
            "password_file",
            Kind::Path,
            Absent,
            "sentinel: file with its password.",
        ),
    ],
    later: &[],
};

pub(in crate::config) static HOOK: Section = Section {
    what: "a hook",
    keys: &[
        key(
            "events",
            Kind::List(&Kind::Choice(&EVENTS)),
            From("all"),
            "What it is told of.",
        ),
        key(
            "command",
            Kind::List(&Kind::Text),
            Absent,
            "Program and arguments; the event is JSON on its standard input.",
        ),
        key(
            "url",
            Kind::Text,
            Absent,
            "The event is POSTed here as JSON; `http://` or `https://`.",
        ),
        key(
            "timeout",
            Kind::Duration(1, HOUR),
            Is("10s"),
            "It is given up after this.",
        ),
    ],
    later: &[],
};

pub(in crate::config) static HOLD: Section = Section {
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

pub(in crate::config) static QUEUE: Section = Section {
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
