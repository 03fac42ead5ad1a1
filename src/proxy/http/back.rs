//! What is done to a backend's answer on its way back to the client.

use http::HeaderMap;
use http::Response;
use http::StatusCode;
use http::Version;
use http::header;

use crate::protocol::http::hop;
use crate::protocol::http::rules;
use crate::protocol::http::sticky::CookieForm;
use crate::protocol::http::via;
use crate::proxy::http::link::Link;
use crate::proxy::http::prepare::Prepared;
use crate::routing::ClusterTable;

/// What a client gets of a backend's head.
pub fn forward_back<T>(response: &mut Response<T>, prepared: &Prepared) {
    let version = response.version();
    // Each hop speaks its own version (RFC 9110, 2.5); hyper lowers it for a client of HTTP/1.0.
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();
    hop::strip_response(headers);
    // A circle was refused on the way there.
    let _ = via::append(headers, version);
    if let Some(actions) = prepared.actions() {
        let wanted = &actions.response_headers;
        rules::apply(headers, &wanted.remove, &wanted.set, &wanted.add);
    }
}

/// Leads the client back here next time, if its cookie does not say so already.
pub fn set_cookie(
    headers: &mut HeaderMap,
    (prepared, link): (&Prepared, &Link),
    (cluster, backend): (&ClusterTable, usize),
) {
    let sticky = cluster.config.http.as_deref();
    let Some(sticky) = sticky.and_then(|http| http.sticky.as_ref()) else {
        return;
    };
    if prepared.sticky == Some(backend) {
        return;
    }
    let form = CookieForm {
        name: &sticky.cookie,
        max_age: sticky.max_age,
        secure: link.is_tls,
    };
    if let Some(cookie) = cluster.sticky.set_cookie(backend, form) {
        headers.append(header::SET_COOKIE, cookie);
    }
}

/// Whether an answer ends HTTP on its connection: 101, or 2xx to CONNECT (RFC 9110, 9.3.6).
pub fn is_switch<T>(response: &Response<T>, prepared: &Prepared) -> bool {
    let status = response.status();
    status == StatusCode::SWITCHING_PROTOCOLS || prepared.is_connect && status.is_success()
}

/// Whether the client has asked for it.
pub fn may_switch(prepared: &Prepared) -> bool {
    prepared.is_connect || prepared.hop.upgrade.is_some()
}
