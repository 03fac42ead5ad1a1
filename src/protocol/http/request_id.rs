//! The id by which a request is found in the logs of everybody who handled it.
//!
//! `traceparent` and its kin are not touched: they belong to the caller's tracing.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A UUID has 36; room for those of other makers, and a bound on what goes into every log line.
const MAX_BYTES: usize = 128;

/// Keeps a trusted peer's id when it is sane, else sets one made of `random`; returns the one
/// that goes to the backend and into the logs.
pub fn apply(headers: &mut HeaderMap, trusted: bool, random: u128) -> HeaderValue {
    if trusted && let Some(id) = sane(headers) {
        return id;
    }
    let id = new(random);
    headers.insert(&X_REQUEST_ID, id.clone());
    id
}

/// The only id, when it is short and visible ASCII.
fn sane(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(&X_REQUEST_ID).into_iter();
    let id = values.next()?;
    let bytes = id.as_bytes();
    let visible = bytes.iter().all(u8::is_ascii_graphic);
    let fits = (1..=MAX_BYTES).contains(&bytes.len());
    (visible && fits && values.next().is_none()).then(|| id.clone())
}

/// A UUID of version 4 (RFC 9562 5.4).
fn new(random: u128) -> HeaderValue {
    const VERSION: u128 = 0xf << 76;
    const VARIANT: u128 = 0b11 << 62;
    let uuid = random & !VERSION & !VARIANT | 0x4 << 76 | 0b10 << 62;
    let mut text = [b'-'; 36];
    let mut nibble = 128;
    for (at, byte) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            nibble -= 4;
            *byte = b"0123456789abcdef"[(uuid >> nibble) as usize & 0xf];
        }
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}
