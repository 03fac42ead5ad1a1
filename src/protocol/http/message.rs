//! What a message's method and fields allow.

use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::header;

use super::hop;

/// Whether a request only reads (RFC 9110 9.2.1). Methods that we do not know may write.
pub fn is_safe(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    )
}

/// Whether sending a request twice does what sending it once does (RFC 9110 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    is_safe(method) || matches!(*method, Method::PUT | Method::DELETE)
}

/// Whether a change of protocol may be passed to a backend: to WebSocket and whatever else, but
/// not to another HTTP or to TLS, which would carry requests past the routes and their rules.
pub fn may_upgrade(upgrade: &HeaderValue) -> bool {
    let protocols = upgrade.as_bytes().split(|byte| *byte == b',');
    let mut names = protocols.map(|protocol| {
        let end = protocol.iter().position(|byte| *byte == b'/');
        protocol[..end.unwrap_or(protocol.len())].trim_ascii()
    });
    let is_http = |name: &[u8]| {
        [&b"h2c"[..], b"h2", b"http", b"tls", b""]
            .iter()
            .any(|refused| name.eq_ignore_ascii_case(refused))
    };
    !names.any(is_http)
}

/// Why a request of HTTP/2 may not become one of HTTP/1.1, or is malformed in a way that nobody
/// before us looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a field of a connection in HTTP/2")]
    ConnectionField,
    #[error("white space around a field's value")]
    Padded,
    #[error("lengths that differ or are none")]
    ContentLength,
    #[error("an expectation that we cannot meet")]
    Expectation,
}

/// Checks a request of HTTP/2 (RFC 9113 8.2).
pub fn check_http2(headers: &HeaderMap) -> Result<(), Malformed> {
    for (name, value) in headers {
        match name.as_str() {
            "connection" | "proxy-connection" | "keep-alive" | "transfer-encoding" | "upgrade" => {
                return Err(Malformed::ConnectionField);
            }
            "te" if !value.as_bytes().eq_ignore_ascii_case(b"trailers") => {
                return Err(Malformed::ConnectionField);
            }
            _ => {}
        }
        let ends = [value.as_bytes().first(), value.as_bytes().last()];
        if ends
            .into_iter()
            .flatten()
            .any(|end| matches!(end, b' ' | b'\t'))
        {
            return Err(Malformed::Padded);
        }
    }
    content_length(headers).map(|_| ())
}

/// The length that a message's head announces. Several fields that agree are refused, too: the
/// next reader may take the first, the last or their list.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut fields = headers.get_all(header::CONTENT_LENGTH).into_iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    let digits = field.as_bytes();
    // `u64::from_str` takes a plus sign.
    let sound = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let length = std::str::from_utf8(digits).ok();
    let length = length.and_then(|digits| digits.parse().ok());
    match (length, fields.next()) {
        (Some(length), None) if sound => Ok(Some(length)),
        _ => Err(Malformed::ContentLength),
    }
}

/// Whether the client waits for `100 Continue`; the only expectation that there is.
pub fn expects_continue(headers: &HeaderMap) -> Result<bool, Malformed> {
    let mut expectations = hop::tokens(headers, &header::EXPECT).peekable();
    if expectations.peek().is_none() {
        return Ok(false);
    }
    match expectations.all(|one| one.eq_ignore_ascii_case(b"100-continue")) {
        true => Ok(true),
        false => Err(Malformed::Expectation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        HeaderMap::from_iter(fields.iter().map(field))
    }

    #[test]
    fn a_request_may_be_sent_again_when_its_method_says_so() {
        let unknown = Method::from_bytes(b"PROPFIND").unwrap();
        for (method, safe, idempotent) in [
            (Method::GET, true, true),
            (Method::HEAD, true, true),
            (Method::OPTIONS, true, true),
            (Method::TRACE, true, true),
            (Method::PUT, false, true),
            (Method::DELETE, false, true),
            (Method::POST, false, false),
            (Method::PATCH, false, false),
            (Method::CONNECT, false, false),
            (unknown, false, false),
        ] {
            assert_eq!(is_safe(&method), safe, "{method}");
            assert_eq!(is_idempotent(&method), idempotent, "{method}");
        }
    }

    #[test]
    fn an_upgrade_may_not_lead_past_the_routes() {
        let may = |text| may_upgrade(&HeaderValue::from_static(text));
        for yes in ["websocket", "WebSocket", "tcp", "etcd/3, websocket"] {
            assert!(may(yes), "{yes}");
        }
        for no in [
            "h2c",
            "H2C",
            "websocket, h2c",
            "HTTP/2.0",
            "TLS/1.0",
            "h2",
            "",
            "websocket,",
        ] {
            assert!(!may(no), "{no}");
        }
    }

    #[test]
    fn http2_has_no_fields_of_a_connection() {
        for name in [
            "connection",
            "proxy-connection",
            "keep-alive",
            "transfer-encoding",
            "upgrade",
        ] {
            let found = check_http2(&with(&[("a", "b"), (name, "x")]));
            assert_eq!(found, Err(Malformed::ConnectionField), "{name}");
        }
        assert_eq!(check_http2(&with(&[("te", "trailers")])), Ok(()));
        for te in ["gzip", "trailers, gzip", "trailers;q=1", ""] {
            let found = check_http2(&with(&[("te", te)]));
            assert_eq!(found, Err(Malformed::ConnectionField), "{te}");
        }
    }

    #[test]
    fn http2_has_no_white_space_around_values() {
        for value in [" a", "a ", "\ta", "a\t", " "] {
            let found = check_http2(&with(&[("x", value)]));
            assert_eq!(found, Err(Malformed::Padded), "{value:?}");
        }
        assert_eq!(check_http2(&with(&[("x", "a b"), ("y", "")])), Ok(()));
    }

    #[test]
    fn a_length_is_one_number() {
        let read = |values: &[&'static str]| {
            let fields: Vec<_> = values
                .iter()
                .map(|value| ("content-length", *value))
                .collect();
            content_length(&with(&fields))
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["0"]), Ok(Some(0)));
        assert_eq!(read(&["18446744073709551615"]), Ok(Some(u64::MAX)));
        for bad in [
            "",
            "+1",
            "-1",
            "1, 1",
            "0x1",
            "18446744073709551616",
            "1 ",
            "1.0",
        ] {
            assert_eq!(read(&[bad]), Err(Malformed::ContentLength), "{bad}");
        }
        assert_eq!(read(&["1", "1"]), Err(Malformed::ContentLength));
        assert_eq!(
            check_http2(&with(&[("content-length", "")])),
            Err(Malformed::ContentLength)
        );
    }

    #[test]
    fn the_only_expectation_is_to_continue() {
        let expects = |value| expects_continue(&with(&[("expect", value)]));
        assert_eq!(expects_continue(&with(&[])), Ok(false));
        assert_eq!(expects("100-Continue"), Ok(true));
        assert_eq!(expects("200-ok"), Err(Malformed::Expectation));
        assert_eq!(expects("100-continue, x"), Err(Malformed::Expectation));
    }
}
