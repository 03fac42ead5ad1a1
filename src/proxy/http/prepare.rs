//! What is done to a request before it goes to a backend.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Uri;
use http::Version;
use http::header;
use http::request;
use hyper::body::Incoming;

use crate::cluster::Name;
use crate::config::HttpLimits;
use crate::config::HttpListenerConfig;
use crate::config::HttpVersion;
use crate::config::RouteActions;
use crate::protocol::http::cookie;
use crate::protocol::http::forwarded;
use crate::protocol::http::forwarded::Arrival;
use crate::protocol::http::hop;
use crate::protocol::http::hop::Hop;
use crate::protocol::http::message;
use crate::protocol::http::problem::Form;
use crate::protocol::http::problem::Problem;
use crate::protocol::http::request_id;
use crate::protocol::http::rules;
use crate::protocol::http::target;
use crate::protocol::http::via;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::link::Link;
use crate::proxy::http::record::Record;
use crate::proxy::http::refusal::Refusal;
use crate::routing::HttpRequestView;
use crate::routing::ListenerEntry;
use crate::routing::request_key;
use crate::routing::route_http;

/// What is known of a request beside what is sent on.
#[derive(Debug)]
pub struct Prepared {
    pub cluster: Name,
    /// Position among the listener's routes.
    pub route: Option<usize>,
    pub config: Arc<HttpListenerConfig>,
    /// Behind trusted proxies, the one they name.
    pub client: SocketAddr,
    /// What the cluster's hash uses of it.
    pub hashed: Option<String>,
    /// Position of the backend that the client's cookie names.
    pub sticky: Option<usize>,
    /// Further attempts after one that may have been acted on.
    pub retries: u32,
    pub min_retries_per_second: u32,
    /// Of one attempt that another may follow.
    pub attempt_timeout: Option<Duration>,
    pub is_idempotent: bool,
    /// CONNECT: a good answer makes the connection a tunnel.
    pub is_connect: bool,
    pub hop: Hop,
    pub version: HttpVersion,
}

/// How the client wants answers that the proxy makes itself.
#[derive(Debug, Default)]
pub struct Wanted {
    pub form: Form,
    pub request_id: Option<HeaderValue>,
}

impl Prepared {
    pub fn actions(&self) -> Option<&RouteActions> {
        let route = self.config.routes.get(self.route?)?;
        Some(&route.actions)
    }

    /// From the request's head to the answer's.
    pub fn timeout(&self) -> Option<Duration> {
        self.actions()?.timeout
    }
}

/// Reads a request's head: where it goes, and what goes there.
///
/// # Errors
/// It is malformed, or goes nowhere.
pub fn prepare(
    (mut parts, incoming): (request::Parts, Incoming),
    record: &mut Record,
    wanted: &mut Wanted,
) -> Result<(Box<Prepared>, Box<Request<RequestBody>>), Refusal> {
    let link = Arc::clone(record.link());
    let link = &*link;
    let entry = link.entry().ok_or(Problem::Shutdown)?;
    let config = entry.config.http.clone().ok_or(Problem::Shutdown)?;
    wanted.form = Form::of(&parts.headers);
    if parts.version == Version::HTTP_2 {
        check_size(&parts, &config.limits)?;
        message::check_http2(&parts.headers).map_err(|_| Problem::BadRequest)?;
    }
    let is_connect = parts.method == Method::CONNECT;
    // A tunnel takes the whole connection, which other requests share over HTTP/2.
    if is_connect && (!config.allow_connect || parts.version == Version::HTTP_2) {
        return Err(Problem::MethodNotAllowed.into());
    }
    let expects = message::expects_continue(&parts.headers);
    if expects.map_err(|_| Problem::ExpectationFailed)? {
        // hyper answers it when the body is asked for.
        parts.headers.remove(header::EXPECT);
    }
    let seen = Seen::of(&parts, (&entry, &config), record)?;
    let max_body = config.limits.max_body_bytes.map(|max| max.get());
    let length = message::content_length(&parts.headers).map_err(|_| Problem::BadRequest)?;
    if let (Some(max), Some(length)) = (max_body, length)
        && length > max
    {
        return Err(Problem::TooLarge.into());
    }
    let limits = (config.limits.body_timeout, max_body);
    let body = RequestBody::new((incoming, parts.version == Version::HTTP_2), limits, record);
    let mut hop = hop::strip_request(&mut parts.headers).map_err(|_| Problem::BadRequest)?;
    hop.upgrade = hop.upgrade.filter(message::may_upgrade);
    let trusted = forwarded::is_trusted(&config.trusted, link.origin.client.ip());
    let client = link.with_forwarded(|written| {
        let arrival = seen.arrival(link);
        forwarded::apply(&mut parts.headers, &arrival, &config.trusted, written)
    });
    if let Some(limiter) = seen.route.and_then(|route| entry.rates.of(route)) {
        limiter.take(client, Instant::now()).map_err(|wait| {
            link.cell.listener.http.count_rate_limited();
            Refusal {
                retry_after: Some(wait),
                ..Problem::RateLimited.into()
            }
        })?;
    }
    let random = u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..));
    wanted.request_id = Some(request_id::apply(&mut parts.headers, trusted, random));
    via::append(&mut parts.headers, parts.version).map_err(|_| Problem::Loop)?;
    let prepared = Prepared {
        cluster: seen.cluster,
        route: seen.route,
        client: SocketAddr::new(client, link.origin.client.port()),
        hashed: seen.hashed,
        sticky: seen.sticky,
        retries: seen.retries,
        min_retries_per_second: seen.min_retries_per_second,
        attempt_timeout: seen.attempt_timeout,
        is_idempotent: message::is_idempotent(&parts.method),
        is_connect,
        version: seen.version,
        hop,
        config,
    };
    record.set_client(prepared.client, wanted.request_id.as_ref());
    if let Some(actions) = prepared.actions() {
        let wanted = &actions.request_headers;
        rules::apply(&mut parts.headers, &wanted.remove, &wanted.set, &wanted.add);
    }
    parts.uri = seen.uri;
    match prepared.version {
        HttpVersion::One => {
            parts.version = Version::HTTP_11;
            cookie::join(&mut parts.headers);
            if let Some(host) = seen.host_field {
                parts.headers.insert(header::HOST, host);
            }
            hop::set_http1(&mut parts.headers, &prepared.hop);
        }
        HttpVersion::Two => {
            parts.version = Version::HTTP_2;
            parts.headers.remove(header::HOST);
            hop::set_http2(&mut parts.headers, &prepared.hop);
        }
    }
    let request = Request::from_parts(parts, body);
    Ok((Box::new(prepared), Box::new(request)))
}

/// What the guard checks of HTTP/1.1, as far as the HTTP/2 library does not.
fn check_size(parts: &request::Parts, limits: &HttpLimits) -> Result<(), Problem> {
    let uri_bytes = parts.uri.path_and_query().map_or(0, |it| it.as_str().len());
    if uri_bytes > limits.max_uri_bytes {
        return Err(Problem::UriTooLong);
    }
    let authority = parts.uri.authority().map_or(0, |it| it.as_str().len());
    let line_bytes = parts.method.as_str().len() + uri_bytes + authority;
    // A colon, a space and a line break.
    let field_bytes =
        |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    let fields_bytes: usize = parts.headers.iter().map(field_bytes).sum();
    let is_too_large = line_bytes + fields_bytes > limits.max_head_bytes;
    if is_too_large || parts.headers.len() > limits.max_headers {
        return Err(Problem::HeadersTooLarge);
    }
    Ok(())
}

/// What the target and the routes say.
struct Seen {
    cluster: Name,
    route: Option<usize>,
    hashed: Option<String>,
    sticky: Option<usize>,
    retries: u32,
    min_retries_per_second: u32,
    attempt_timeout: Option<Duration>,
    version: HttpVersion,
    uri: Uri,
    authority: Option<String>,
    host_field: Option<HeaderValue>,
}

impl Seen {
    fn of(
        parts: &request::Parts,
        (entry, config): (&ListenerEntry, &HttpListenerConfig),
        record: &mut Record,
    ) -> Result<Self, Problem> {
        let target = target::read(&parts.method, &parts.uri, parts.version, &parts.headers)
            .map_err(|_| Problem::BadRequest)?;
        check_certificate(entry, record.link(), target.host.as_deref())?;
        let view = HttpRequestView {
            host: target.host.as_deref(),
            path: &target.path,
            method: &parts.method,
            headers: &parts.headers,
        };
        let default = entry.config.cluster.as_ref();
        let routed = route_http(&entry.http_routes, config, default, &view);
        let routed = routed.ok_or(Problem::NoRoute)?;
        record.route = routed.route;
        let link = Arc::clone(record.link());
        let table = link.shared.table.load();
        let cluster = table.clusters.get(routed.cluster).ok_or(Problem::NoRoute)?;
        let http = cluster.config.http.as_deref().ok_or(Problem::NoRoute)?;
        record.set_cluster(&cluster.handle);
        let key = &cluster.config.balance.key;
        let hashed = request_key(key, &view, parts.uri.query()).map(str::to_owned);
        cluster.handle.retries.deposit(http.retry.budget);
        let sticky = http.sticky.as_ref();
        let sticky = sticky.and_then(|it| cluster.sticky.find(&parts.headers, &it.cookie));
        let uri = match http.version {
            HttpVersion::One => target.http1_form(),
            HttpVersion::Two if parts.method == Method::CONNECT => {
                return Err(Problem::MethodNotAllowed);
            }
            HttpVersion::Two => {
                let absolute = target.absolute_form(cluster.tls.is_some());
                absolute.ok_or(Problem::BadRequest)?
            }
        };
        Ok(Self {
            cluster: routed.cluster.clone(),
            route: routed.route,
            hashed,
            sticky,
            retries: http.retry.attempts,
            min_retries_per_second: http.retry.min_per_second,
            attempt_timeout: http.retry.attempt_timeout,
            version: http.version,
            uri,
            host_field: target.host_field(),
            authority: target.authority.map(str::to_owned),
        })
    }

    fn arrival(&self, link: &Link) -> Arrival<'_> {
        Arrival {
            peer: link.origin.client.ip(),
            tls: link.is_tls,
            authority: self.authority.as_deref(),
            port: link.cell.bind.port(),
        }
    }
}

/// A connection was made for the names in the certificate that the client has seen. Requests for
/// hosts of another one are misdirected (RFC 9110, 7.4 and 15.5.20).
fn check_certificate(
    entry: &ListenerEntry,
    link: &Link,
    host: Option<&str>,
) -> Result<(), Problem> {
    let (Some(tls), Some(host), true) = (&entry.tls, host, link.is_tls) else {
        return Ok(());
    };
    match tls.shows_the_same(link.origin.sni.as_deref(), host) {
        true => Ok(()),
        false => Err(Problem::Misdirected),
    }
}
