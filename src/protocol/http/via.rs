//! The `Via` field (RFC 9110 7.6.3): which proxies a message came through.

use http::HeaderMap;
use http::HeaderValue;
use http::Version;
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
    if passes(headers) >= MAX_PASSES {
        return Err(Loop);
    }
    headers.append(VIA, value);
    Ok(())
}

fn passes(headers: &HeaderMap) -> usize {
    let fields = headers.get_all(VIA).into_iter();
    let texts = fields.filter_map(|field| field.to_str().ok());
    let proxies = texts.flat_map(|text| text.split(','));
    proxies
        .filter(|proxy| proxy.split_ascii_whitespace().nth(1) == Some(PSEUDONYM))
        .count()
}
