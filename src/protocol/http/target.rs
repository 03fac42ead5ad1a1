//! Whom and what a request asks for: from the request line or the pseudo-headers, and `Host`.
//!
//! One host or none: two that differ are refused, and so is what is no host (RFC 9112 3.2,
//! RFC 9113 8.3.1). The absolute form is accepted where it says the same as `Host`.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Uri;
use http::Version;
use http::header::HOST;
use http::uri::Authority;
use http::uri::PathAndQuery;
use http::uri::Scheme;

use super::path::Forward;
use super::path::normalize;

/// Names in DNS are at most 253 characters; an IPv6 literal is shorter.
const MAX_HOST_BYTES: usize = 255;

/// Why a request is answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error("the request names no host")]
    NoHost,
    #[error("the request names no valid host")]
    Host,
    #[error("the request names two hosts")]
    HostConflict,
    #[error("the request names a user in its target")]
    UserInfo,
    #[error("the path has dot segments in disguise or above its root")]
    Path,
    #[error("the form of the target does not go with the method")]
    Form,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// As it was written, with a port if it has one; `None`: HTTP/1.0 without `Host`.
    pub authority: Option<&'a str>,
    /// Lower case, without port and final dot; IPv6 in brackets, in its shortest form.
    pub host: Option<Cow<'a, str>>,
    /// For matching: without dot segments and repeated slashes. `*` for `OPTIONS *`, empty for
    /// CONNECT.
    pub path: Cow<'a, str>,
    /// Path and query for the backend.
    pub forward: PathAndQuery,
}

/// Reads the target of a request. `uri` is what the request line or the pseudo-headers say.
pub fn read<'a>(
    method: &Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
) -> Result<Target<'a>, BadTarget> {
    let authority = authority(uri, version, headers)?;
    let host = authority.map(host).transpose()?;
    let raw = uri.path();
    let (path, normal) = match raw {
        "" if *method == Method::CONNECT => (Cow::Borrowed(""), Forward::Raw),
        "*" if *method == Method::OPTIONS => (Cow::Borrowed("*"), Forward::Raw),
        _ if raw.starts_with('/') => {
            let normal = normalize(raw)?;
            (normal.path, normal.forward)
        }
        _ => return Err(BadTarget::Form),
    };
    let forward = match (normal, uri.path_and_query()) {
        // Sharing its bytes. An absolute form may lack the slash: `http://host?query`.
        (Forward::Raw, Some(raw)) if raw.as_str().starts_with(['/', '*']) => raw.clone(),
        // CONNECT has no path, and this is not sent for it.
        (Forward::Raw, None) => PathAndQuery::from_static("/"),
        _ => with_query(&path, uri.query())?,
    };
    Ok(Target {
        authority,
        host,
        path,
        forward,
    })
}

impl Target<'_> {
    /// The target for an HTTP/1.1 backend, which reads the host in `Host`. That of CONNECT says
    /// whom to connect to (RFC 9112, 3.2.3).
    pub fn http1_form(&self) -> Uri {
        let connect_to = self.authority.filter(|_| self.path.is_empty());
        match connect_to.map(Authority::try_from) {
            Some(Ok(authority)) => Uri::from(authority),
            _ => Uri::from(self.forward.clone()),
        }
    }

    /// The target for an HTTP/2 backend: the pseudo-headers.
    pub fn absolute_form(&self, tls: bool) -> Option<Uri> {
        let scheme = match tls {
            true => Scheme::HTTPS,
            false => Scheme::HTTP,
        };
        let target = Uri::builder().scheme(scheme).authority(self.authority?);
        target.path_and_query(self.forward.clone()).build().ok()
    }

    /// `Host` for an HTTP/1.1 backend.
    pub fn host_field(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(self.authority?).ok()
    }
}

fn with_query(path: &str, query: Option<&str>) -> Result<PathAndQuery, BadTarget> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    PathAndQuery::try_from(text).map_err(|_| BadTarget::Path)
}

/// The one authority that the request names.
fn authority<'a>(
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
) -> Result<Option<&'a str>, BadTarget> {
    let mut fields = headers.get_all(HOST).into_iter();
    let field = fields.next().map(|field| field.to_str());
    let field = field.transpose().map_err(|_| BadTarget::Host)?;
    let target = uri.authority().map(|authority| authority.as_str());
    if fields.next().is_some() {
        return Err(BadTarget::HostConflict);
    }
    let mut found = target.into_iter().chain(field);
    if found.any(|authority| authority.contains('@')) {
        return Err(BadTarget::UserInfo);
    }
    match (target, field) {
        (Some(target), Some(field)) if !same(target, field, uri.scheme()) => {
            Err(BadTarget::HostConflict)
        }
        (None, None) if version > Version::HTTP_10 => Err(BadTarget::NoHost),
        (target, field) => Ok(target.or(field)),
    }
}

/// Whether two authorities say the same: letters' case and the scheme's own port do not matter.
fn same(one: &str, other: &str, scheme: Option<&Scheme>) -> bool {
    let default = match scheme {
        Some(scheme) if *scheme == Scheme::HTTPS => ":443",
        Some(_) => ":80",
        None => "",
    };
    let without = |text: &'_ str| text.strip_suffix(default).unwrap_or(text).len();
    one[..without(one)].eq_ignore_ascii_case(&other[..without(other)])
}

/// The host of an authority, in the spelling that routes are written in.
fn host(authority: &str) -> Result<Cow<'_, str>, BadTarget> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (literal, port) = rest.split_once(']').ok_or(BadTarget::Host)?;
        check_port(port)?;
        let address: Ipv6Addr = literal.parse().map_err(|_| BadTarget::Host)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let port_at = authority.find(':').unwrap_or(authority.len());
    let (name, port) = authority.split_at(port_at);
    check_port(port)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    if !is_name(name.as_bytes()) {
        return Err(BadTarget::Host);
    }
    Ok(match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    })
}

/// Nothing, or a colon and a port. RFC 3986 allows a colon with nothing after it.
fn check_port(port: &str) -> Result<(), BadTarget> {
    let Some(digits) = port.strip_prefix(':') else {
        return if port.is_empty() {
            Ok(())
        } else {
            Err(BadTarget::Host)
        };
    };
    let valid = digits.is_empty()
        || digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok();
    valid.then_some(()).ok_or(BadTarget::Host)
}

/// Labels of letters, digits, `-` and `_`; none is empty. RFC 3986 would allow more, but no name
/// in use has it, and readers differ about it.
fn is_name(name: &[u8]) -> bool {
    let fits = (1..=MAX_HOST_BYTES).contains(&name.len());
    let mut labels = name.split(|byte| *byte == b'.');
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    fits && labels.all(|label| !label.is_empty() && label.iter().all(is_letter))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts(values: &[&str]) -> HeaderMap {
        let field = |value: &&str| (HOST, HeaderValue::from_str(value).unwrap());
        HeaderMap::from_iter(values.iter().map(field))
    }

    /// Host and path of a GET, or why not.
    fn get(uri: &str, host: &[&str]) -> Result<(String, String), BadTarget> {
        let (uri, headers) = (uri.parse().unwrap(), hosts(host));
        let target = read(&Method::GET, &uri, Version::HTTP_11, &headers)?;
        Ok((target.host.unwrap().into_owned(), target.path.into_owned()))
    }

    fn host_of(authority: &str) -> Result<String, BadTarget> {
        get("/", &[authority]).map(|(host, _)| host)
    }

    #[test]
    fn a_host_is_compared_in_one_spelling() {
        for (authority, host) in [
            ("shop.example", "shop.example"),
            ("Shop.EXAMPLE:8443", "shop.example"),
            ("shop.example.", "shop.example"),
            ("shop.example.:80", "shop.example"),
            ("shop_1.example:", "shop_1.example"),
            ("192.0.2.1:80", "192.0.2.1"),
            ("[2001:DB8:0::1]:80", "[2001:db8::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(host_of(authority).as_deref(), Ok(host), "{authority}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long = "a".repeat(MAX_HOST_BYTES + 1);
        for authority in [
            "",
            ":80",
            ".",
            "..",
            ".example",
            "a..b",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a,b",
            "a%41",
            "a\\b",
            "a:b",
            "a:80:80",
            "a:65536",
            "a:+80",
            "a:-1",
            "[::1",
            "::1",
            "[::1]x",
            "[::1%25eth0]",
            "[v1.a]",
            "[1.2.3.4]",
            "\u{e9}",
            "a\tb",
            &long,
        ] {
            assert_eq!(host_of(authority), Err(BadTarget::Host), "{authority:?}");
        }
        for authority in ["user@a", "user:secret@a:80", "@a"] {
            assert_eq!(host_of(authority), Err(BadTarget::UserInfo), "{authority}");
        }
        assert_eq!(get("http://user@a/", &["a"]), Err(BadTarget::UserInfo));
    }

    #[test]
    fn a_request_names_one_host() {
        let found = Ok(("a".to_owned(), "/x".to_owned()));
        assert_eq!(get("http://a/x", &["a"]), found);
        assert_eq!(get("http://A/x", &["a"]), found);
        assert_eq!(get("http://a:80/x", &["a"]), found);
        assert_eq!(get("http://a/x", &["a:80"]), found);
        assert_eq!(get("http://a/x", &[]), found);
        for (uri, host) in [
            ("http://a/x", &["b"][..]),
            ("http://a:8080/x", &["a"]),
            ("http://a/x", &["a:443"]),
            ("https://a/x", &["a:80"]),
            ("http://a/x", &[""]),
            ("/x", &["a", "a"]),
            ("/x", &["a", "b"]),
            ("http://a/x", &["a", "b"]),
        ] {
            assert_eq!(
                get(uri, host),
                Err(BadTarget::HostConflict),
                "{uri} {host:?}"
            );
        }
        assert_eq!(get("/x", &[]), Err(BadTarget::NoHost));
    }

    #[test]
    fn only_http_1_0_needs_no_host() {
        let (uri, headers) = (Uri::from_static("/x"), HeaderMap::new());
        let read = |version| read(&Method::GET, &uri, version, &headers);
        let old = read(Version::HTTP_10).unwrap();
        assert_eq!((old.host, old.authority), (None, None));
        assert_eq!(read(Version::HTTP_11), Err(BadTarget::NoHost));
        assert_eq!(read(Version::HTTP_2), Err(BadTarget::NoHost));
    }

    #[test]
    fn forms_go_with_methods() {
        let headers = hosts(&["a:1"]);
        let read = |method: &Method, uri: &str| {
            let uri = uri.parse().unwrap();
            let target = read(method, &uri, Version::HTTP_11, &headers);
            target.map(|target| target.path.into_owned())
        };
        assert_eq!(read(&Method::OPTIONS, "*").as_deref(), Ok("*"));
        assert_eq!(read(&Method::CONNECT, "a:1").as_deref(), Ok(""));
        assert_eq!(read(&Method::GET, "*"), Err(BadTarget::Form));
        assert_eq!(read(&Method::GET, "a:1"), Err(BadTarget::Form));
        assert_eq!(read(&Method::CONNECT, "b:1"), Err(BadTarget::HostConflict));
    }

    #[test]
    fn the_backend_gets_what_was_asked_for() {
        let headers = hosts(&["Shop.example:80"]);
        for (uri, forwarded) in [
            ("/a%2Fb/?x=%20&y=../z", "/a%2Fb/?x=%20&y=../z"),
            ("//a//b", "//a//b"),
            ("/a/../b?x=/../", "/b?x=/../"),
            ("http://shop.example/a?b", "/a?b"),
            ("http://shop.example", "/"),
            ("http://shop.example?q=1", "/?q=1"),
            ("/a?", "/a?"),
        ] {
            let uri = uri.parse().unwrap();
            let target = read(&Method::GET, &uri, Version::HTTP_11, &headers).unwrap();
            assert_eq!(target.http1_form().to_string(), forwarded);
            let absolute = target.absolute_form(true).unwrap();
            let authority = target.authority.unwrap();
            assert_eq!(
                absolute.to_string(),
                format!("https://{authority}{forwarded}")
            );
            assert_eq!(target.host_field().unwrap(), authority);
        }
    }

    #[test]
    fn options_for_the_whole_server_stay_so() {
        let (uri, headers) = (Uri::from_static("*"), hosts(&["a"]));
        let target = read(&Method::OPTIONS, &uri, Version::HTTP_11, &headers).unwrap();
        assert_eq!(target.http1_form(), "*");
    }

    proptest! {
        #[test]
        fn every_accepted_host_is_in_its_one_spelling(authority in "[a-zA-Z0-9.:@\\[\\]_-]{0,20}") {
            if let Ok(host) = host_of(&authority) {
                prop_assert!(!host.contains('@') && !host.ends_with('.'));
                prop_assert_eq!(&host, &host.to_ascii_lowercase());
                prop_assert_eq!(host_of(&host), Ok(host));
            }
        }
    }
}
