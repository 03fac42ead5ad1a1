//! The keys of a cluster that only `protocol: http` has.

use crate::config::keys::DAY;
use crate::config::keys::HOUR;
use crate::config::keys::Kind;
use crate::config::keys::MINUTE;
use crate::config::keys::SECOND;
use crate::config::keys::Section;
use crate::config::keys::Unwritten::Absent;
use crate::config::keys::Unwritten::From;
use crate::config::keys::Unwritten::Is;
use crate::config::keys::http_listener::MAX_RATE;
use crate::config::keys::key;

/// Browsers keep no cookie longer (RFC 6265bis, 5.5).
const MAX_COOKIE_AGE: u64 = 400 * DAY;

pub(in crate::config) static HTTP_CLUSTER: Section = Section {
    what: "a cluster's http",
    keys: &[
        key(
            "version",
            Kind::Count(1, 2),
            Is("1"),
            "What the backends speak: 1 = HTTP/1.1; 2 = HTTP/2, with ALPN over TLS, else h2c.",
        ),
        key(
            "max_idle",
            Kind::Count(0, 100_000),
            Is("64"),
            "Idle connections to each backend that each worker keeps; 0 = none.",
        ),
        key(
            "idle_timeout",
            Kind::Duration(1, DAY),
            Is("30s"),
            "An idle connection to a backend is closed after this; less than the backend's own.",
        ),
        key(
            "max_requests",
            Kind::Count(1, 1_000_000_000),
            From("no limit"),
            "Requests on one connection to a backend.",
        ),
        key(
            "max_age",
            Kind::Duration(0, 365 * DAY),
            Is("1h"),
            "A connection to a backend is not used again after this; `0s` = no limit.",
        ),
        key(
            "retry",
            Kind::Section(&RETRY),
            From("2 attempts within the budget"),
            "When a request is sent again, to another backend.",
        ),
        key(
            "sticky",
            Kind::Section(&STICKY),
            Absent,
            "A cookie leads a client back to its backend.",
        ),
        key(
            "outlier",
            Kind::Section(&OUTLIER),
            Absent,
            "Ejects backends that answer worse than the others; `{}` = with the defaults.",
        ),
    ],
    later: &[],
};

pub(in crate::config) static RETRY: Section = Section {
    what: "retry",
    keys: &[
        key(
            "attempts",
            Kind::Count(0, 10),
            Is("2"),
            "Further attempts after the first; 0 = none.",
        ),
        key(
            "budget",
            Kind::Ratio(0.0, 1.0),
            Is("0.2"),
            "Retries may be this share of the requests.",
        ),
        key(
            "min_per_second",
            Kind::Count(0, MAX_RATE),
            Is("10"),
            "Retries that are allowed whatever the budget says.",
        ),
        key(
            "statuses",
            Kind::List(&Kind::Count(400, 599)),
            From("none"),
            "Answers after which a request that may be repeated is sent again.",
        ),
        key(
            "attempt_timeout",
            Kind::Duration(1, DAY),
            From("no limit"),
            "An attempt without an answer after this is given up, if another may follow.",
        ),
        key(
            "hedge",
            Kind::Section(&HEDGE),
            Absent,
            "A read that takes long is sent to a second backend; the first answer counts.",
        ),
    ],
    later: &[],
};

pub(in crate::config) static HEDGE: Section = Section {
    what: "hedge",
    keys: &[
        key(
            "percentile",
            Kind::Ratio(0.5, 0.999),
            Is("0.95"),
            "A read is long when this share of the latest ones was faster.",
        ),
        key(
            "min_delay",
            Kind::Duration(1, MINUTE),
            Is("10ms"),
            "Never sent a second time before this.",
        ),
    ],
    later: &[],
};

pub(in crate::config) static STICKY: Section = Section {
    what: "sticky",
    keys: &[
        key("cookie", Kind::Text, Is("evergate"), "The cookie's name."),
        key(
            "secret",
            Kind::Secret,
            Absent,
            "Keys its value, the same in every instance; better in `secret_file`.",
        ),
        key(
            "secret_file",
            Kind::Path,
            Absent,
            "File with the secret: one line of 16 characters or more.",
        ),
        key(
            "max_age",
            Kind::Duration(SECOND, MAX_COOKIE_AGE),
            From("until the browser closes"),
            "How long the client keeps the cookie; whole seconds.",
        ),
    ],
    later: &[],
};

pub(in crate::config) static OUTLIER: Section = Section {
    what: "outlier",
    keys: &[
        key(
            "consecutive_5xx",
            Kind::Count(0, 10_000),
            Is("5"),
            "Failures in a row (5xx, connection lost) that eject; 0 = never.",
        ),
        key(
            "consecutive_gateway",
            Kind::Count(0, 10_000),
            Is("3"),
            "Gateway errors in a row (502, 503, 504, connection lost) that eject; 0 = never.",
        ),
        key(
            "success_rate_factor",
            Kind::Ratio(0.0, 100.0),
            Is("1.9"),
            "Standard deviations below the mean success rate that eject; 0 = never.",
        ),
        key(
            "latency_factor",
            Kind::Ratio(0.0, 1000.0),
            Is("5"),
            "Times the others' median latency that eject; 0 = never.",
        ),
        key(
            "min_requests",
            Kind::Count(1, MAX_RATE),
            Is("100"),
            "Backends with fewer requests in an interval are not compared.",
        ),
        key(
            "min_backends",
            Kind::Count(2, 10_000),
            Is("3"),
            "With fewer comparable backends none is compared.",
        ),
        key(
            "interval",
            Kind::Duration(100, HOUR),
            Is("10s"),
            "How often backends are compared.",
        ),
        key(
            "base_ejection",
            Kind::Duration(1, DAY),
            Is("30s"),
            "The first ejection; each further one takes as much longer.",
        ),
        key(
            "max_ejection",
            Kind::Duration(1, DAY),
            Is("5m"),
            "The longest ejection.",
        ),
        key(
            "max_ejected",
            Kind::Ratio(0.0, 1.0),
            Is("0.5"),
            "Share of the backends that may be ejected at once; one always may when others are left.",
        ),
    ],
    later: &[],
};
