//! What is done to a request before it goes to a backend, and to the answer on its way back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Version;
use http::header;
use hyper::body::Incoming;

use crate::cluster::Cause;
use crate::cluster::Name;
use crate::config::HttpListenerConfig;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::link::Link;
use crate::proxy::http::upstream::Sender;

/// What is known of a request beside what is sent on.
#[derive(Debug)]
pub struct Prepared {
    pub cluster: Name,
    pub client: SocketAddr,
    /// What the cluster's hash uses of it.
    pub hashed: Option<String>,
    pub timeout: Option<Duration>,
    pub body_timeout: Duration,
    /// Further attempts after one that may have been acted on.
    pub retries: u32,
    pub wants_upgrade: bool,
    pub config: Arc<HttpListenerConfig>,
}

pub fn prepare(
    request: Request<Incoming>,
    link: &Link,
) -> Result<(Prepared, Request<RequestBody>), Cause> {
    let entry = link.entry().ok_or(Cause::ListenerRemoved)?;
    let config = entry.config.http.clone().ok_or(Cause::Reload)?;
    let cluster = entry.config.cluster.clone().ok_or(Cause::NoRoute)?;
    let (mut parts, incoming) = request.into_parts();
    let max = config.limits.max_body_bytes.map(|max| max.get());
    let body = RequestBody::new(incoming, config.limits.body_timeout, max);
    let wants_upgrade =
        parts.version == Version::HTTP_11 && parts.headers.contains_key(header::UPGRADE);
    if !wants_upgrade {
        parts.headers.remove(header::CONNECTION);
    }
    let retries = if parts.method.is_idempotent() { 2 } else { 0 };
    let prepared = Prepared {
        cluster,
        client: link.origin.client,
        hashed: None,
        timeout: None,
        body_timeout: config.limits.body_timeout,
        retries,
        wants_upgrade,
        config,
    };
    Ok((prepared, Request::from_parts(parts, body)))
}

/// Writes the request's target and version as this connection needs them.
pub fn address(request: &mut Request<RequestBody>, sender: &Sender, _prepared: &Prepared) {
    *request.version_mut() = match sender {
        Sender::One(_) => Version::HTTP_11,
        Sender::Two(_) => Version::HTTP_2,
    };
}

pub fn forward_back(response: &mut Response<Incoming>, _prepared: &Prepared) {
    response.headers_mut().remove(header::CONNECTION);
}

pub fn problem(cause: Cause) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(cause.as_str()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
