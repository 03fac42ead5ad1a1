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
