//! Cookies of a request (RFC 6265 5.4, as servers read them).

use http::HeaderMap;
use http::HeaderValue;
use http::header::COOKIE;

/// Joins crumbs into one field, as HTTP/1.1 requires (RFC 9113 8.2.3): there are servers that read
/// only the first.
pub fn join(headers: &mut HeaderMap) {
    let mut fields = headers.get_all(COOKIE).into_iter();
    let Some(first) = fields.next() else {
        return;
    };
    let mut joined = Vec::new();
    for crumb in fields {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if joined.is_empty() {
        return;
    }
    joined.splice(..0, first.as_bytes().iter().copied());
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, value);
    }
}

/// All values of the cookies with this name, in the order that they were sent; HTTP/2 clients
/// send crumbs, so there may be several fields (RFC 9113 8.2.3).
pub fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let fields = headers.get_all(COOKIE).into_iter();
    let texts = fields.filter_map(|field| std::str::from_utf8(field.as_bytes()).ok());
    texts
        .flat_map(|text| text.split(';'))
        .filter_map(move |pair| value_of(pair, name))
}

fn value_of<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    let (found, value) = pair.split_once('=')?;
    // Names are case-sensitive.
    (found.trim_matches([' ', '\t']) == name).then(|| unquoted(value.trim_matches([' ', '\t'])))
}

fn unquoted(value: &str) -> &str {
    let inside = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    inside.unwrap_or(value)
}
