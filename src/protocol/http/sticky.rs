//! Sticky sessions: a cookie that leads a client back to its backend and tells nobody its name.
//!
//! The value is a keyed hash of the cluster's and the backend's name: the same in every instance
//! with the same secret, over restarts, and when the backend's address changes.

use std::collections::HashMap;
use std::time::Duration;

use aws_lc_rs::hmac;
use http::HeaderMap;
use http::HeaderValue;

use crate::protocol::http::cookie;

/// 132 of the 256 bits: nobody hits a token by chance, and the cookie is short.
const TOKEN_CHARS: usize = 22;
const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

type Token = [u8; TOKEN_CHARS];

/// The tokens of a cluster's backends, computed once for each table.
///
/// Found by a hash that is keyed anew in every process: how long a search takes tells nothing
/// about the tokens that there are.
#[derive(Debug, Clone, Default)]
pub struct StickyTokens {
    tokens: Vec<Token>,
    positions: HashMap<Token, usize>,
}

/// How the cookie is set.
#[derive(Debug, Clone, Copy)]
pub struct CookieForm<'a> {
    pub name: &'a str,
    /// `None` = until the browser closes.
    pub max_age: Option<Duration>,
    /// Whether the client came over TLS.
    pub secure: bool,
}

impl StickyTokens {
    /// `backends` are names, in the order in which positions are wanted.
    pub fn new<'a>(
        secret: &[u8],
        cluster: &str,
        backends: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let backends = backends.into_iter();
        let tokens: Vec<Token> = backends.map(|name| token(&key, cluster, name)).collect();
        let positions = tokens.iter().enumerate().map(|(at, token)| (*token, at));
        Self {
            positions: positions.collect(),
            tokens,
        }
    }

    /// Position of the backend that a request's cookie names. Of several cookies with the name,
    /// the first that names one.
    pub fn find(&self, headers: &HeaderMap, cookie_name: &str) -> Option<usize> {
        cookie::values(headers, cookie_name).find_map(|value| self.position(value))
    }

    fn position(&self, value: &str) -> Option<usize> {
        let token = Token::try_from(value.as_bytes()).ok()?;
        self.positions.get(&token).copied()
    }

    /// The `Set-Cookie` for a backend; `None`: there is no such position.
    pub fn set_cookie(&self, position: usize, form: CookieForm<'_>) -> Option<HeaderValue> {
        let token = std::str::from_utf8(self.tokens.get(position)?).ok()?;
        let name = form.name;
        let mut text = format!("{name}={token}; Path=/; HttpOnly; SameSite=Lax");
        if form.secure {
            text.push_str("; Secure");
        }
        if let Some(max_age) = form.max_age {
            text.push_str("; Max-Age=");
            text.push_str(&max_age.as_secs().to_string());
        }
        HeaderValue::try_from(text).ok()
    }
}

/// base64url(HMAC-SHA256(secret, cluster ‖ 0 ‖ backend)), cut.
fn token(key: &hmac::Key, cluster: &str, backend: &str) -> Token {
    let mut context = hmac::Context::with_key(key);
    context.update(cluster.as_bytes());
    context.update(&[0]);
    context.update(backend.as_bytes());
    let tag = context.sign();
    let tag = tag.as_ref();
    std::array::from_fn(|at| {
        // Six bits, which lie in one byte or two.
        let (byte, bit) = (at * 6 / 8, at * 6 % 8);
        let pair = u16::from_be_bytes([tag[byte], tag[byte + 1]]);
        BASE64URL[usize::from(pair >> (10 - bit)) & 0x3f]
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use http::header::COOKIE;
    use proptest::prelude::*;

    use super::*;

    const FORM: CookieForm<'_> = CookieForm {
        name: "backend",
        max_age: None,
        secure: false,
    };

    fn sent(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(cookie).unwrap())])
    }

    fn cookie(tokens: &StickyTokens, position: usize) -> String {
        let set = tokens.set_cookie(position, FORM).unwrap();
        let (pair, _) = set.to_str().unwrap().split_once(';').unwrap();
        pair.to_owned()
    }

    #[test]
    fn a_cookie_leads_back_to_its_backend() {
        let tokens = StickyTokens::new(b"secret", "shop", ["a", "b", "c"]);
        for position in 0..3 {
            let headers = sent(&format!("x=1; {}", cookie(&tokens, position)));
            assert_eq!(tokens.find(&headers, "backend"), Some(position));
            assert_eq!(tokens.find(&headers, "other"), None);
        }
    }

    #[test]
    fn a_cookie_survives_a_restart_and_the_loss_of_other_backends() {
        let before = StickyTokens::new(b"secret", "shop", ["a", "b", "c"]);
        let after = StickyTokens::new(b"secret", "shop", ["c", "d"]);
        assert_eq!(after.find(&sent(&cookie(&before, 2)), "backend"), Some(0));
        assert_eq!(after.find(&sent(&cookie(&before, 0)), "backend"), None);
    }

    #[test]
    fn of_several_cookies_the_first_that_names_a_backend_counts() {
        let tokens = StickyTokens::new(b"secret", "shop", ["a", "b"]);
        let (a, b) = (cookie(&tokens, 0), cookie(&tokens, 1));
        let headers = sent(&format!("backend=stale; {b}; {a}"));
        assert_eq!(tokens.find(&headers, "backend"), Some(1));
    }

    #[test]
    fn another_secret_or_cluster_gives_other_cookies() {
        let tokens = StickyTokens::new(b"secret", "shop", ["a"]);
        for other in [
            StickyTokens::new(b"other", "shop", ["a"]),
            StickyTokens::new(b"secret", "shops", ["a"]),
            StickyTokens::new(b"secret", "sho", ["pa"]),
        ] {
            assert_eq!(other.find(&sent(&cookie(&tokens, 0)), "backend"), None);
        }
    }

    #[test]
    fn the_cookie_says_how_it_may_be_used() {
        let tokens = StickyTokens::new(b"secret", "shop", ["a"]);
        // Computed with `openssl dgst -sha256 -hmac secret -binary | basenc --base64url`.
        let value = "backend=iQArowFpKRC6LhCdDpEFei; Path=/; HttpOnly; SameSite=Lax";
        assert_eq!(tokens.set_cookie(0, FORM).unwrap(), value);
        let secure = CookieForm {
            max_age: Some(Duration::from_secs(3600)),
            secure: true,
            ..FORM
        };
        let value = format!("{value}; Secure; Max-Age=3600");
        assert_eq!(tokens.set_cookie(0, secure).unwrap(), value);
        assert_eq!(tokens.set_cookie(1, FORM), None);
    }

    proptest! {
        #[test]
        fn a_token_is_the_beginning_of_the_hash_in_base64url(
            secret in prop::collection::vec(any::<u8>(), 0..80),
            cluster in "[a-z]{1,8}",
            backend in "[a-z]{1,8}",
        ) {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
            let tag = hmac::sign(&key, format!("{cluster}\0{backend}").as_bytes());
            let text = BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref());
            prop_assert_eq!(&token(&key, &cluster, &backend)[..], &text.as_bytes()[..TOKEN_CHARS]);
        }

        #[test]
        fn strange_cookies_name_no_backend(text in "[ -~]{0,60}") {
            let tokens = StickyTokens::new(b"secret", "shop", ["a", "b"]);
            prop_assert_eq!(tokens.find(&sent(&format!("backend={text}")), "backend"), None);
        }
    }
}
