//! The keys of a listener that only `protocol: http` has.

use crate::config::keys::DAY;
use crate::config::keys::HOUR;
use crate::config::keys::Kind;
use crate::config::keys::Section;
use crate::config::keys::Unwritten::Absent;
use crate::config::keys::Unwritten::From;
use crate::config::keys::Unwritten::Is;
use crate::config::keys::Unwritten::Required;
use crate::config::keys::key;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
/// A head is held whole for each request that is read.
const MAX_HEAD: u64 = MIB;
/// More than any backend answers in a second.
pub(in crate::config) const MAX_RATE: u64 = 1_000_000;

pub(in crate::config) static HTTP_LISTENER: Section = Section {
    what: "a listener's http",
    keys: &[
        key(
            "max_head",
            Kind::Size(KIB, MAX_HEAD),
            Is("32KiB"),
            "Request line and header fields together; more is 431.",
        ),
        key(
            "max_headers",
            Kind::Count(1, 10_000),
            Is("128"),
            "Header fields of one request; more is 431.",
        ),
        key(
            "max_uri",
            Kind::Size(64, MAX_HEAD),
            Is("8KiB"),
            "The request's target; more is 414.",
        ),
        key(
            "max_body",
            Kind::Size(1, TIB),
            From("no limit"),
            "A request's body; more is 413.",
        ),
        key(
            "max_streams",
            Kind::Count(1, 10_000),
            Is("128"),
            "Requests at once on one HTTP/2 connection.",
        ),
        key(
            "header_timeout",
            Kind::Duration(1, HOUR),
            Is("10s"),
            "From the first byte of a request's head to its last.",
        ),
        key(
            "body_timeout",
            Kind::Duration(1, DAY),
            Is("60s"),
            "A body that stands still this long, either way, ends its request.",
        ),
        key(
            "keep_alive",
            Kind::Duration(1, DAY),
            Is("60s"),
            "A connection without a request is closed after this.",
        ),
        key(
            "max_age",
            Kind::Duration(0, 365 * DAY),
            Is("0s"),
            "A connection gets no further request after this; `0s` = never.",
        ),
        key(
            "trusted",
            Kind::List(&Kind::Network),
            From("nobody"),
            "Whose `Forwarded`, `X-Forwarded-*` and request id are believed.",
        ),
        key(
            "allow_connect",
            Kind::Flag,
            Is("false"),
            "Passes CONNECT to backends.",
        ),
        key(
            "access_log",
            Kind::Section(&ACCESS_LOG),
            Absent,
            "One line of JSON for each request; `{}` = all, to standard output.",
        ),
    ],
    later: &[],
};

pub(in crate::config) static ACCESS_LOG: Section = Section {
    what: "access_log",
    keys: &[
        key(
            "path",
            Kind::Path,
            From("standard output"),
            "File that lines are appended to.",
        ),
        key(
            "sample",
            Kind::Ratio(0.0, 1.0),
            Is("1"),
            "Share of the requests that are written; failed ones always are.",
        ),
    ],
    later: &[],
};

/// `{exact: /health}` or `{prefix: /api}`.
pub(in crate::config) static PATH: Section = Section {
    what: "a path",
    keys: &[
        key("exact", Kind::Text, Absent, "This path and no other."),
        key(
            "prefix",
            Kind::Text,
            Absent,
            "Paths that begin with these whole segments.",
        ),
    ],
    later: &[],
};

/// `{present: true}` in the place of a header's value.
pub(in crate::config) static PRESENT: Section = Section {
    what: "a header's condition",
    keys: &[key(
        "present",
        Kind::Flag,
        Required,
        "`true`: the header is there, with any value.",
    )],
    later: &[],
};

pub(in crate::config) static HEADER_RULES: Section = Section {
    what: "a section of header rules",
    keys: &[
        key(
            "remove",
            Kind::List(&Kind::Text),
            Absent,
            "Headers taken out, first of all.",
        ),
        key(
            "set",
            Kind::Map(&Kind::Text),
            Absent,
            "Headers that get this value in the place of any other.",
        ),
        key(
            "add",
            Kind::Map(&Kind::Text),
            Absent,
            "Headers added to what is there.",
        ),
    ],
    later: &[],
};

pub(in crate::config) static RATE_LIMIT: Section = Section {
    what: "rate_limit",
    keys: &[
        key(
            "requests",
            Kind::Count(1, MAX_RATE),
            Required,
            "Requests of one client in `per`; more is 429.",
        ),
        key(
            "per",
            Kind::Duration(1, DAY),
            Is("1s"),
            "The time that `requests` is counted in.",
        ),
        key(
            "burst",
            Kind::Count(1, MAX_RATE),
            From("`requests`"),
            "Requests of one client at once.",
        ),
    ],
    later: &[],
};
