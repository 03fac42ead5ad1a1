//! The id by which a request is found in the logs of everybody who handled it.
//!
//! `traceparent` and its kin are not touched: they belong to the caller's tracing.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A UUID has 36; room for those of other makers, and a bound on what goes into every log line.
const MAX_BYTES: usize = 128;

const HEX: &[u8; 16] = b"0123456789abcdef";
/// Where the bytes of a UUID stand in its text.
const DIGITS_AT: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

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
    for (at, byte) in DIGITS_AT.into_iter().zip(uuid.to_be_bytes()) {
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 0xf)];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(ids: &[&str]) -> HeaderMap {
        let id = |id: &&str| (X_REQUEST_ID.clone(), HeaderValue::from_str(id).unwrap());
        HeaderMap::from_iter(ids.iter().map(id))
    }

    #[test]
    fn a_trusted_peers_id_is_kept() {
        let longest = "x".repeat(MAX_BYTES);
        for id in [
            "1",
            "f058ebd6-02f7-4d3f-942e-904344e8cde5",
            "a;b=c",
            &longest,
        ] {
            let mut headers = with(&[id]);
            assert_eq!(apply(&mut headers, true, 0), id);
            assert_eq!(headers, with(&[id]));
        }
    }

    #[test]
    fn nobody_elses_id_and_no_strange_one_is_kept() {
        let long = "x".repeat(MAX_BYTES + 1);
        let strange: [&[&str]; 6] = [&[], &[""], &["a b"], &["\u{e9}"], &[&long], &["1", "2"]];
        for (ids, trusted) in strange
            .map(|ids| (ids, true))
            .into_iter()
            .chain([(&["1"][..], false)])
        {
            let mut headers = with(ids);
            let id = apply(&mut headers, trusted, 7);
            assert_eq!(id, "00000000-0000-4000-8000-000000000007");
            assert_eq!(
                headers.get_all(&X_REQUEST_ID).iter().collect::<Vec<_>>(),
                [&id]
            );
        }
    }

    #[test]
    fn a_new_id_is_all_of_the_random_number_but_version_and_variant() {
        let id = apply(
            &mut HeaderMap::new(),
            false,
            0x0123_4567_89ab_cdef_fedc_ba98_7654_3210,
        );
        assert_eq!(id, "01234567-89ab-4def-bedc-ba9876543210");
        assert_eq!(new(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    proptest! {
        #[test]
        fn different_numbers_give_different_sane_ids(one: u64, two: u64) {
            // Neither version nor variant is in the lowest 62 bits.
            let (one, two) = (u128::from(one >> 2), u128::from(two >> 2));
            prop_assert_eq!(new(one) == new(two), one == two);
            let mut headers = HeaderMap::new();
            let id = apply(&mut headers, false, one);
            prop_assert_eq!(apply(&mut headers, true, two), id);
        }
    }
}
