//! Which of a listener's HTTP routes takes a request: the most specific one that matches.
//!
//! In this order, each only between equals of the one before:
//! 1. host: exact, then the longest wildcard, then none;
//! 2. path: exact, then the longest prefix, then none;
//! 3. routes that name methods before those that take any;
//! 4. the one with more header conditions;
//! 5. the one that is written first.
//!
//! A more specific host wins even where its route has no path: `api.example.com` before `/metrics`
//! of any host.

mod explain;
mod index;
mod key;
mod question;

use http::HeaderMap;
use http::Method;

use crate::cluster::Name;
use crate::config::HeaderMatch;
use crate::config::HostPattern;
use crate::config::HttpListenerConfig;
use crate::config::HttpRoute;
use crate::config::PathPattern;

pub use explain::HttpVerdict;
pub use explain::explain_http;
pub use index::HttpRoutes;
pub use key::request_key;
pub use question::HttpQuestion;
pub use question::WrittenRequest;

/// What routes look at in a request.
#[derive(Debug, Clone, Copy)]
pub struct HttpRequestView<'a> {
    /// Lower case, without port; IPv6 in brackets.
    pub host: Option<&'a str>,
    /// Without query; dot segments and repeated slashes removed.
    pub path: &'a str,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

/// Where a request goes, and by which route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpRouted<'a> {
    pub cluster: &'a Name,
    /// Position among the listener's routes; `None`: the listener's default.
    pub route: Option<usize>,
}

/// The most specific route that matches, else the listener's default; `None`: there is none.
///
/// `routes` was made of the same `config`.
pub fn route_http<'a>(
    routes: &HttpRoutes,
    config: &'a HttpListenerConfig,
    default: Option<&'a Name>,
    view: &HttpRequestView<'_>,
) -> Option<HttpRouted<'a>> {
    let route = routes.find(&config.routes, view);
    let cluster = match route.and_then(|at| config.routes.get(at)) {
        Some(found) => &found.cluster,
        None => default?,
    };
    Some(HttpRouted { cluster, route })
}

fn matches_host(pattern: Option<&HostPattern>, host: Option<&str>) -> bool {
    match (pattern, host) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(HostPattern::Exact(exact)), Some(host)) => exact == host,
        (Some(HostPattern::Below(suffix)), Some(host)) => {
            host.len() > suffix.len() && host.ends_with(suffix.as_str())
        }
    }
}

fn matches_path(pattern: Option<&PathPattern>, path: &str) -> bool {
    match pattern {
        None => true,
        Some(PathPattern::Exact(exact)) => exact == path,
        Some(PathPattern::Prefix(prefix)) => {
            path.starts_with(prefix.as_str()) && ends_segment(path, prefix.len())
        }
    }
}

/// Whether the first `len` bytes of a path are whole segments.
fn ends_segment(path: &str, len: usize) -> bool {
    let path = path.as_bytes();
    len == path.len() || path.get(len) == Some(&b'/') || (len > 0 && path[len - 1] == b'/')
}

fn matches_method(route: &HttpRoute, method: &Method) -> bool {
    route.methods.is_empty() || route.methods.contains(method)
}

/// A field that is sent several times holds when one of its values does.
fn matches_header(wanted: &HeaderMatch, headers: &HeaderMap) -> bool {
    match &wanted.value {
        None => headers.contains_key(&wanted.name),
        Some(value) => headers.get_all(&wanted.name).iter().any(|has| has == value),
    }
}

#[cfg(test)]
mod tests;
