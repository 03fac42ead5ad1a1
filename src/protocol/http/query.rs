//! Parameters of a query string.

/// The first value of a parameter, as written: percent-encoding is not undone, so that the same
/// spelling always gives the same value. A name without `=` has an empty value.
pub fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        (found == name).then_some(value)
    })
}
