//! The `Via` field (RFC 9110 7.6.3): which proxies a message came through.

use http::HeaderMap;
use http::HeaderValue;
use http::Version;
use http::header::Entry;
use http::header::VIA;

/// A pseudonym, as the RFC allows: it tells nobody an address.
const PSEUDONYM: &str = "evergate";

/// More passes through proxies of our name are a loop; a chain of that many would be a strange
/// design.
const MAX_PASSES: usize = 8;

/// The request has come through here again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request runs in a circle")]
pub struct Loop;

/// Adds ourselves; `version` is that of the message as it came in.
pub fn append(headers: &mut HeaderMap, version: Version) -> Result<(), Loop> {
    let value = HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 evergate",
        Version::HTTP_2 => "2 evergate",
        Version::HTTP_3 => "3 evergate",
        _ => "1.1 evergate",
    });
    match headers.entry(VIA) {
        Entry::Vacant(place) => {
            place.insert(value);
        }
        Entry::Occupied(fields) if passes(fields.iter()) >= MAX_PASSES => return Err(Loop),
        Entry::Occupied(mut fields) => fields.append(value),
    }
    Ok(())
}

fn passes<'a>(fields: impl Iterator<Item = &'a HeaderValue>) -> usize {
    let texts = fields.filter_map(|field| field.to_str().ok());
    let proxies = texts.flat_map(|text| text.split(','));
    proxies
        .filter(|proxy| proxy.split_ascii_whitespace().nth(1) == Some(PSEUDONYM))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_which_proxies_it_came_through() {
        let mut headers = HeaderMap::new();
        headers.insert(VIA, HeaderValue::from_static("1.0 fred"));
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            append(&mut headers, version).unwrap();
        }
        let via: Vec<_> = headers.get_all(VIA).iter().collect();
        assert_eq!(
            via,
            ["1.0 fred", "1.0 evergate", "1.1 evergate", "2 evergate"]
        );
    }

    #[test]
    fn a_request_that_comes_again_and_again_is_refused() {
        let mut headers = HeaderMap::new();
        let passes = std::iter::repeat_with(|| append(&mut headers, Version::HTTP_11));
        let passed = passes.take(100).take_while(Result::is_ok).count();
        assert_eq!(passed, MAX_PASSES);
        // Others' proxies, and in one field instead of many.
        let joined = "1.1 evergate, ".repeat(MAX_PASSES - 1) + "1.1 evergatex, 1.1 a (evergate)";
        headers.insert(VIA, HeaderValue::from_str(&joined).unwrap());
        assert_eq!(append(&mut headers, Version::HTTP_2), Ok(()));
        assert_eq!(append(&mut headers, Version::HTTP_2), Err(Loop));
    }
}
