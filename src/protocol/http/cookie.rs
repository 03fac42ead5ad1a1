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

#[cfg(test)]
mod tests {
    use super::*;

    fn with(fields: &[&'static str]) -> HeaderMap {
        let field = |text: &&'static str| (COOKIE, HeaderValue::from_static(text));
        HeaderMap::from_iter(fields.iter().map(field))
    }

    fn all<'a>(headers: &'a HeaderMap, name: &'a str) -> Vec<&'a str> {
        values(headers, name).collect()
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let headers = with(&["xsid=1; sid=2;SID=3; sid2=4; =5; sid"]);
        assert_eq!(all(&headers, "sid"), ["2"]);
        assert_eq!(all(&headers, "other"), Vec::<&str>::new());
    }

    #[test]
    fn a_value_may_be_quoted_empty_or_have_equal_signs() {
        let headers = with(&["a=\"1\"; b=; c=x=y; d=\""]);
        let found = ["a", "b", "c", "d"].map(|name| all(&headers, name)[0]);
        assert_eq!(found, ["1", "", "x=y", "\""]);
    }

    #[test]
    fn crumbs_are_read_and_joined_in_order() {
        let mut headers = with(&["sid=1", "b=2; sid=3", "c=4"]);
        assert_eq!(all(&headers, "sid"), ["1", "3"]);
        join(&mut headers);
        assert_eq!(headers.len(), 1);
        assert_eq!(headers[COOKIE], "sid=1; b=2; sid=3; c=4");
        assert_eq!(all(&headers, "sid"), ["1", "3"]);
    }

    #[test]
    fn a_single_field_is_left_alone() {
        for fields in [&[][..], &["a=1; b=2"]] {
            let mut headers = with(fields);
            join(&mut headers);
            assert_eq!(headers, with(fields));
        }
    }
}
