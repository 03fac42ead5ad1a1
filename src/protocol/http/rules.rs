//! Header fields that a route removes, sets and adds.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

/// Removes, then sets, then adds: so that a field can be removed and set anew.
pub fn apply(
    headers: &mut HeaderMap,
    remove: &[HeaderName],
    set: &[(HeaderName, HeaderValue)],
    add: &[(HeaderName, HeaderValue)],
) {
    for name in remove {
        headers.remove(name);
    }
    for (name, value) in set {
        headers.insert(name, value.clone());
    }
    for (name, value) in add {
        headers.append(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    }

    #[test]
    fn rules_remove_then_set_then_add() {
        let mut headers = HeaderMap::from_iter([pair("a", "1"), pair("b", "2"), pair("c", "3")]);
        let remove = [HeaderName::from_static("a"), HeaderName::from_static("b")];
        let add = [pair("b", "5"), pair("b", "6")];
        apply(
            &mut headers,
            &remove,
            &[pair("b", "4"), pair("c", "7")],
            &add,
        );
        let expected = [
            pair("b", "4"),
            pair("b", "5"),
            pair("b", "6"),
            pair("c", "7"),
        ];
        assert_eq!(headers.len(), expected.len());
        let values: Vec<_> = headers.get_all("b").iter().collect();
        assert_eq!(values, ["4", "5", "6"]);
        assert_eq!(headers.get_all("c").iter().collect::<Vec<_>>(), ["7"]);
    }
}
