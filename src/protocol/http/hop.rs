//! Fields that are meant for one connection only (RFC 9110 7.6.1) do not go further.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        HeaderMap::from_iter(fields.iter().map(field))
    }

    #[test]
    fn fields_of_one_connection_do_not_go_further() {
        let mut headers = with(&[
            ("connection", "close, X-Own"),
            ("connection", "keep-alive"),
            ("x-own", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("http2-settings", "AAA"),
            ("proxy-authorization", "Basic x"),
            ("te", "gzip"),
            ("upgrade", "websocket"),
            ("trailer", "x-sum"),
            ("x-other", "2"),
        ]);
        let hop = strip_request(&mut headers).unwrap();
        assert_eq!(headers, with(&[("trailer", "x-sum"), ("x-other", "2")]));
        let close = Hop {
            close: true,
            ..Hop::default()
        };
        assert_eq!(hop, close);
    }

    #[test]
    fn nothing_of_a_connection_means_nothing_changes() {
        let fields = [
            ("host", "a"),
            ("accept", "*/*"),
            ("x-te", "1"),
            ("connections", "te"),
        ];
        let mut headers = with(&fields);
        assert_eq!(strip_request(&mut headers), Ok(Hop::default()));
        assert_eq!(strip_response(&mut headers), Hop::default());
        assert_eq!(headers, with(&fields));
    }

    #[test]
    fn an_upgrade_is_kept_aside_and_said_again() {
        let mut headers = with(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
        ]);
        let hop = strip_request(&mut headers).unwrap();
        assert_eq!(hop.upgrade, Some(HeaderValue::from_static("websocket")));
        assert_eq!(headers, with(&[("sec-websocket-key", "k")]));
        set_http1(&mut headers, &hop);
        let expected = [
            ("sec-websocket-key", "k"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
        ];
        assert_eq!(headers, with(&expected));
    }

    #[test]
    fn an_upgrade_in_two_fields_is_none() {
        let mut headers = with(&[
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("upgrade", "h2c"),
        ]);
        assert_eq!(strip_request(&mut headers), Ok(Hop::default()));
        assert_eq!(headers, with(&[]));
    }

    #[test]
    fn who_reads_trailers_is_said_to_be_so_in_both_versions() {
        let mut headers = with(&[("te", "gzip;q=0.5, Trailers"), ("connection", "TE")]);
        let hop = strip_request(&mut headers).unwrap();
        assert!(hop.te_trailers);
        assert_eq!(headers, with(&[]));
        set_http2(&mut headers, &hop);
        assert_eq!(headers, with(&[("te", "trailers")]));
        set_http1(&mut headers, &hop);
        assert_eq!(headers, with(&[("te", "trailers"), ("connection", "te")]));
    }

    #[test]
    fn a_request_that_hides_what_it_means_is_refused() {
        for name in [
            "Host",
            "content-length",
            "keep-alive, COOKIE",
            "authorization",
            "x-forwarded-for",
            "X-Forwarded-Whatever",
        ] {
            let mut headers = with(&[("connection", name), ("host", "a")]);
            assert_eq!(strip_request(&mut headers), Err(BadConnection), "{name}");
        }
    }

    #[test]
    fn a_response_keeps_what_may_not_be_named() {
        let mut headers = with(&[
            ("connection", "content-length, x-own, content-type"),
            ("content-length", "5"),
            ("content-type", "text/plain"),
            ("x-own", "1"),
            ("proxy-authenticate", "Basic"),
        ]);
        strip_response(&mut headers);
        let expected = [("content-length", "5"), ("content-type", "text/plain")];
        assert_eq!(headers, with(&expected));
    }

    #[test]
    fn a_connection_names_few_fields() {
        let names = |count: usize| {
            let names: Vec<_> = (0..count).map(|at| format!("x-{at}")).collect();
            let value = HeaderValue::from_str(&names.join(",")).unwrap();
            HeaderMap::from_iter([(header::CONNECTION, value)])
        };
        assert!(strip_request(&mut names(MAX_NAMES)).is_ok());
        assert_eq!(strip_request(&mut names(MAX_NAMES + 1)), Err(BadConnection));
    }

    #[test]
    fn trailers_change_nothing_that_the_head_has_said() {
        let mut trailers = with(&[
            ("grpc-status", "0"),
            ("x-sum", "1"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("host", "b"),
            ("authorization", "x"),
            ("connection", "close"),
            ("trailer", "x"),
        ]);
        strip_trailers(&mut trailers);
        assert_eq!(trailers, with(&[("grpc-status", "0"), ("x-sum", "1")]));
    }

    /// Small enough to collide often.
    fn name() -> impl Strategy<Value = String> {
        prop::sample::select(vec![
            "connection",
            "te",
            "upgrade",
            "keep-alive",
            "x-a",
            "x-b",
            "host",
            "close",
            "trailer",
            "proxy-connection",
            "content-length",
            "transfer-encoding",
        ])
        .prop_map(str::to_owned)
    }

    fn any_headers() -> impl Strategy<Value = HeaderMap> {
        let value = prop_oneof![
            prop::collection::vec(name(), 0..4).prop_map(|names| names.join(" , ")),
            "[ -~]{0,12}",
        ];
        prop::collection::vec((name(), value), 0..8).prop_map(|fields| {
            let field = |(name, value): (String, String)| {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                (name, HeaderValue::from_str(&value).unwrap())
            };
            HeaderMap::from_iter(fields.into_iter().map(field))
        })
    }

    proptest! {
        #[test]
        fn what_is_left_is_for_the_other_end(headers in any_headers()) {
            let mut left = headers.clone();
            let Ok(_) = strip_request(&mut left) else {
                return Ok(());
            };
            for name in ["connection", "te", "upgrade", "keep-alive", "transfer-encoding"] {
                prop_assert!(!left.contains_key(name));
            }
            let options: Vec<String> = tokens(&headers, &header::CONNECTION)
                .map(|option| String::from_utf8_lossy(option).to_lowercase())
                .collect();
            for name in ["x-a", "x-b", "host", "trailer", "content-length"] {
                let kept = headers.contains_key(name) && !options.contains(&name.to_owned());
                prop_assert_eq!(left.contains_key(name), kept, "{}", name);
                if kept {
                    let (before, after) = (headers.get_all(name), left.get_all(name));
                    prop_assert!(before.iter().eq(after.iter()));
                }
            }
            // Twice does what once does.
            let mut again = left.clone();
            prop_assert_eq!(strip_request(&mut again), Ok(Hop::default()));
            prop_assert_eq!(again, left);
        }
    }
}
