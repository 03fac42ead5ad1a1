//! Who may do what. Pure: a request's facts in, a verdict out.
//!
//! The peer's address and `X-Forwarded-For` are never asked: the first proves
//! nothing on a shared host, the second can be typed by anyone.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::StatusCode;
use hyper::Uri;
use hyper::Version;
use hyper::header;
use subtle::ConstantTimeEq;

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Anyone who can reach the address, including a web page in somebody's browser.
    Tcp,
    /// Only the user that runs the process: the file's mode is 0600.
    Unix,
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub reason: &'static str,
}

/// Longest token. Every comparison reads this many bytes, whatever the
/// lengths, so that neither content nor length shows in its duration.
pub const MAX_TOKEN_BYTES: usize = 1024;

/// The configured token, ready for comparison.
#[derive(Clone)]
pub struct Token(Padded);

#[derive(Clone)]
struct Padded {
    bytes: [u8; MAX_TOKEN_BYTES],
    length: u64,
}

impl Padded {
    fn new(token: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_TOKEN_BYTES];
        bytes.get_mut(..token.len())?.copy_from_slice(token);
        let length = token.len() as u64;
        Some(Self { bytes, length })
    }
}

impl Token {
    /// `None` when it is empty or longer than [`MAX_TOKEN_BYTES`].
    pub fn new(token: &str) -> Option<Self> {
        let token = Padded::new(token.as_bytes())?;
        (token.length > 0).then_some(Self(token))
    }

    fn matches(&self, presented: &[u8]) -> bool {
        let Some(presented) = Padded::new(presented) else {
            return false;
        };
        let same_bytes = self.0.bytes.ct_eq(&presented.bytes);
        let same_length = self.0.length.ct_eq(&presented.length);
        (same_bytes & same_length).into()
    }
}

/// Turns away what a web page could make a browser send (DNS rebinding): its
/// `Host` would be a name of the attacker's.
pub fn check_host(
    door: Door,
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    if door == Door::Unix {
        return Ok(());
    }
    if uri.host().is_some_and(|host| !is_own_name(host)) {
        return Err(FOREIGN_HOST);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        // Old health checkers speak HTTP/1.0 without it; browsers never do.
        (None, _) if version == Version::HTTP_10 => Ok(()),
        (Some(host), None) => match host.to_str() {
            Ok(host) if is_own_name(host_without_port(host)) => Ok(()),
            _ => Err(FOREIGN_HOST),
        },
        _ => Err(Refusal {
            status: StatusCode::BAD_REQUEST,
            reason: "exactly one Host header is required",
        }),
    }
}

/// Whether a request that changes something may pass.
pub fn check_change(door: Door, token: Option<&Token>, headers: &HeaderMap) -> Result<(), Refusal> {
    if door == Door::Unix {
        return Ok(());
    }
    if headers.contains_key(header::ORIGIN) && !has_own_origin(headers) {
        return Err(Refusal {
            status: StatusCode::FORBIDDEN,
            reason: "the Origin header names another site: a web page may not change anything here",
        });
    }
    let Some(token) = token else {
        return Err(Refusal {
            status: StatusCode::FORBIDDEN,
            reason: "changes over TCP need admin.token_file in the configuration; without it, use the Unix socket (admin.socket)",
        });
    };
    match bearer(headers) {
        Some(presented) if token.matches(presented) => Ok(()),
        Some(_) => Err(Refusal {
            status: StatusCode::UNAUTHORIZED,
            reason: "the token is wrong",
        }),
        None => Err(Refusal {
            status: StatusCode::UNAUTHORIZED,
            reason: "a change needs the header `Authorization: Bearer TOKEN`",
        }),
    }
}

const FOREIGN_HOST: Refusal = Refusal {
    status: StatusCode::FORBIDDEN,
    reason: "the Host header must be an IP address or localhost (protection against DNS rebinding)",
};

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

/// A browser names its page's origin; ours is the one that it also put into `Host`.
fn has_own_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else {
        return false;
    };
    origin.strip_prefix("http://") == Some(host) || origin.strip_prefix("https://") == Some(host)
}

/// An address can not be rebound, and browsers resolve `localhost` themselves.
/// The configured bind is an address, so it is covered by the first rule.
fn is_own_name(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    bare.unwrap_or(host).parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

fn host_without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(value: &str) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, value.parse().unwrap());
        check_host(
            Door::Tcp,
            Version::HTTP_11,
            &Uri::from_static("/"),
            &headers,
        )
    }

    #[test]
    fn addresses_and_localhost_are_our_own_names() {
        for own in [
            "127.0.0.1",
            "127.0.0.1:9187",
            "[::1]:9187",
            "[::1]",
            "localhost:1",
            "LocalHost",
            "10.0.0.7:80",
        ] {
            assert_eq!(host(own), Ok(()), "{own}");
        }
        for foreign in [
            "evil.example",
            "evil.example:9187",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "[::1",
            "127.0.0.1@evil",
            "localhost:x",
        ] {
            assert_eq!(host(foreign), Err(FOREIGN_HOST), "{foreign}");
        }
    }

    #[test]
    fn a_token_matches_only_itself() {
        let token = Token::new("secret").unwrap();
        assert!(token.matches(b"secret"));
        let long = vec![b's'; MAX_TOKEN_BYTES + 1];
        for wrong in [&b"secre"[..], b"secrets", b"secret\0", b"", &long] {
            assert!(!token.matches(wrong));
        }
    }

    #[test]
    fn an_empty_or_overlong_token_is_no_token() {
        assert!(Token::new("").is_none());
        assert!(Token::new(&"x".repeat(MAX_TOKEN_BYTES + 1)).is_none());
        assert!(Token::new(&"x".repeat(MAX_TOKEN_BYTES)).is_some());
    }
}
