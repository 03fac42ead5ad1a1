//! Parameters of a query string.

/// The first value of a parameter, as written: percent-encoding is not undone, so that the same
/// spelling always gives the same value. A name without `=` has an empty value.
pub fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        (found == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_as_written() {
        let query = "xq=0&q=1&Q=2&q=3&empty=&bare&a=b=c&s=%20+";
        assert_eq!(value(query, "q"), Some("1"));
        assert_eq!(value(query, "Q"), Some("2"));
        assert_eq!(value(query, "empty"), Some(""));
        assert_eq!(value(query, "bare"), Some(""));
        assert_eq!(value(query, "a"), Some("b=c"));
        assert_eq!(value(query, "s"), Some("%20+"));
        assert_eq!(value(query, "none"), None);
        assert_eq!(value("", "q"), None);
    }
}
