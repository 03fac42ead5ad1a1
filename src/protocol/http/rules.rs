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
