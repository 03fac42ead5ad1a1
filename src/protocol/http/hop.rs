//! Fields that are meant for one connection only (RFC 9110 7.6.1) do not go further.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Version;
use http::header;

/// Clients name one or two fields. Each costs a search.
const MAX_NAMES: usize = 32;

/// `Connection` names very many fields, or one that changes what the message means or whom it is
/// from. A sender does that only to make one reader see it and the next one not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Connection names fields that are not the connection's")]
pub struct BadConnection;

/// What the fields of a connection said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hop {
    /// The protocols that the sender would change to: `Upgrade`, confirmed by `Connection`.
    pub upgrade: Option<HeaderValue>,
    /// `Connection: close`.
    pub close: bool,
    /// `TE: trailers`: the sender reads trailers. The field has been removed.
    pub te_trailers: bool,
}

/// Removes a request's fields for one connection and says what they were.
pub fn strip_request(headers: &mut HeaderMap) -> Result<Hop, BadConnection> {
    let found = Found::of(headers);
    if found.none() {
        return Ok(Hop::default());
    }
    let options = Options::of(headers);
    let names = &options.names;
    if names.len() > MAX_NAMES || names.iter().any(is_end_to_end) {
        return Err(BadConnection);
    }
    Ok(strip(headers, found, &options))
}

/// Removes a response's fields for one connection. Names that may not be named are ignored: the
/// backend is trusted, and the field stays.
pub fn strip_response(headers: &mut HeaderMap) -> Hop {
    let found = Found::of(headers);
    if found.none() {
        return Hop::default();
    }
    let mut options = Options::of(headers);
    options.names.retain(|name| !is_end_to_end(name));
    strip(headers, found, &options)
}

/// Removes from trailers what would change the framing, the routing or the rights of a message
/// that has been judged by its head (RFC 9110 6.5.1).
pub fn strip_trailers(trailers: &mut HeaderMap) {
    let is_bad = |name: &HeaderName| {
        let connection = matches!(name.as_str(), "connection" | "upgrade" | "te" | "trailer");
        connection || OTHERS.contains(&name.as_str()) || is_end_to_end(name)
    };
    let bad: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| is_bad(name))
        .cloned()
        .collect();
    for name in bad {
        trailers.remove(name);
    }
}

/// Says to an HTTP/1.1 peer what is meant for this connection: an upgrade, `TE: trailers`.
pub fn set_http1(headers: &mut HeaderMap, hop: &Hop) {
    let options = match (&hop.upgrade, hop.te_trailers) {
        (None, false) => return,
        (Some(_), false) => "upgrade",
        (None, true) => "te",
        (Some(_), true) => "upgrade, te",
    };
    headers.insert(header::CONNECTION, HeaderValue::from_static(options));
    if let Some(upgrade) = &hop.upgrade {
        headers.insert(header::UPGRADE, upgrade.clone());
    }
    if hop.te_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Says to an HTTP/2 peer the only thing that is left to say there (RFC 9113 8.2.2).
pub fn set_http2(headers: &mut HeaderMap, hop: &Hop) {
    if hop.te_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Which of the fields are there: one pass over the names is cheaper than a search for each.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    connection: bool,
    upgrade: bool,
    te: bool,
    other: bool,
}

impl Found {
    fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => found.connection = true,
                "upgrade" => found.upgrade = true,
                "te" => found.te = true,
                name if OTHERS.contains(&name) => found.other = true,
                _ => {}
            }
        }
        found
    }

    fn none(self) -> bool {
        !(self.connection || self.upgrade || self.te || self.other)
    }
}

/// Fields of one connection whether `Connection` names them or not. Framing is the connection's
/// own affair; credentials for a proxy are for this one, and it asks for none. `Trailer` stays:
/// trailers are passed on.
const OTHERS: [&str; 7] = [
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "http2-settings",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
];

/// What `Connection` says.
#[derive(Debug, Default)]
struct Options {
    close: bool,
    /// Names of fields.
    names: Vec<HeaderName>,
}

impl Options {
    fn of(headers: &HeaderMap) -> Self {
        let mut options = Self::default();
        for option in tokens(headers, &header::CONNECTION) {
            // Nearly all there is; no field is called like that, or it is removed anyway.
            if option.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            if option.eq_ignore_ascii_case(b"close") {
                options.close = true;
            } else if let Ok(name) = HeaderName::from_bytes(option) {
                options.names.push(name);
            }
        }
        options
    }
}

fn strip(headers: &mut HeaderMap, found: Found, options: &Options) -> Hop {
    let upgrades = found.upgrade && options.names.contains(&header::UPGRADE);
    let te_trailers = found.te && reads_trailers(headers);
    let hop = Hop {
        upgrade: upgrades.then(|| only_upgrade(headers)).flatten(),
        close: options.close,
        te_trailers,
    };
    for name in &options.names {
        headers.remove(name);
    }
    if found.connection {
        headers.remove(header::CONNECTION);
    }
    if found.upgrade {
        headers.remove(header::UPGRADE);
    }
    if found.te {
        headers.remove(header::TE);
    }
    if found.other {
        OTHERS.iter().for_each(|name| drop(headers.remove(*name)));
    }
    hop
}

fn reads_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// `Upgrade` in one field. In several it is nothing that any client sends: not passed on.
fn only_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(header::UPGRADE).into_iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.clone())
}

/// The elements of a list, without parameters.
pub(super) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    let fields = headers.get_all(name).into_iter();
    let elements = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    elements
        .map(|element| {
            let end = element.iter().position(|byte| *byte == b';');
            element[..end.unwrap_or(element.len())].trim_ascii()
        })
        .filter(|token| !token.is_empty())
}

/// Whether the sender keeps the connection open after the message (RFC 9112, 9.3).
pub fn keeps(headers: &HeaderMap, version: Version) -> bool {
    let says = |option: &[u8]| {
        let mut options = tokens(headers, &header::CONNECTION);
        options.any(|it| it.eq_ignore_ascii_case(option))
    };
    match version {
        Version::HTTP_10 => says(b"keep-alive") && !says(b"close"),
        _ => !says(b"close"),
    }
}

/// Fields that say what the message is, whom it is from and whom it is for.
fn is_end_to_end(name: &HeaderName) -> bool {
    const PROTECTED: [&str; 22] = [
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "content-range",
        "content-location",
        "authorization",
        "cookie",
        "set-cookie",
        "location",
        "forwarded",
        "via",
        "x-request-id",
        "traceparent",
        "tracestate",
        "expect",
        "range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
        "cache-control",
    ];
    let name = name.as_str();
    PROTECTED.contains(&name) || name.starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests;
