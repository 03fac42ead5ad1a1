//! The value that consistent hashing takes from a request.

use crate::config::HashKey;
use crate::protocol::http::cookie;
use crate::protocol::http::query;
use crate::routing::http::HttpRequestView;

/// For [`LoginKeys::parameter`](crate::routing::LoginKeys); `None`: the request has none, or the
/// key is not of the request. Of several with one name, the first.
pub fn request_key<'a>(
    key: &'a HashKey,
    view: &HttpRequestView<'a>,
    query: Option<&'a str>,
) -> Option<&'a str> {
    match key {
        HashKey::Header(name) => {
            let value = view.headers.get(name)?;
            std::str::from_utf8(value.as_bytes()).ok()
        }
        HashKey::Cookie(name) => cookie::values(view.headers, name).next(),
        HashKey::Query(name) => query::value(query?, name),
        HashKey::Path => Some(view.path),
        HashKey::ClientIp
        | HashKey::ClientIpPort
        | HashKey::Sni
        | HashKey::User
        | HashKey::Database
        | HashKey::StartupParameter(_) => None,
    }
}
