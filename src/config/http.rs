//! What only `protocol: http` has: routes of requests, limits, header rules, pools, retries.

use std::num::NonZeroU32;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::HeaderValue;
use http::Method;
use ipnet::IpNet;

use crate::cluster::Name;
use crate::config::ClusterConfig;
use crate::config::Secret;

/// A listener that routes requests.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HttpListenerConfig {
    /// The most specific match wins, not the first; see `routing::http`.
    pub routes: Vec<HttpRoute>,
    pub limits: HttpLimits,
    /// Peers whose `Forwarded`, `X-Forwarded-*` and request id are believed.
    pub trusted: Vec<IpNet>,
    /// Whether CONNECT is passed to backends.
    pub allow_connect: bool,
    pub access_log: Option<AccessLogConfig>,
}

/// What a client may make the proxy hold.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpLimits {
    /// Request line and header fields together, as HTTP/1.1 would spell them.
    pub max_head_bytes: usize,
    /// Fields of one head; each crumb of a cookie counts.
    pub max_headers: usize,
    pub max_uri_bytes: usize,
    /// `None` = any length.
    pub max_body_bytes: Option<NonZeroU64>,
    /// Streams at once on an HTTP/2 connection.
    pub max_streams: u32,
    /// From the first byte of a head to its last.
    pub header_timeout: Duration,
    /// A body that stands still this long, either way, ends its exchange.
    pub body_timeout: Duration,
    /// A connection without a request is closed after this.
    pub keep_alive: Duration,
    /// A connection gets no further request after this; zero = never.
    pub max_age: Duration,
}

/// Which requests go where, and what is done to them on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRoute {
    pub host: Option<HostPattern>,
    pub path: Option<PathPattern>,
    /// Empty = any.
    pub methods: Vec<Method>,
    /// All of them must hold.
    pub headers: Vec<HeaderMatch>,
    pub cluster: Name,
    pub actions: RouteActions,
}

/// What is done to the requests of a route.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouteActions {
    pub request_headers: HeaderRules,
    pub response_headers: HeaderRules,
    pub rate_limit: Option<RateLimit>,
    /// From the request's head to the response's head; `None` = no limit.
    pub timeout: Option<Duration>,
}

/// Lower case, without port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.com`: one or more labels before this suffix, which begins with a dot.
    Below(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathPattern {
    Exact(String),
    /// Whole segments: `/api` takes `/api` and `/api/x`, not `/apix`; `/api/` takes `/api/x` only.
    Prefix(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    pub name: HeaderName,
    /// `None` = present with any value.
    pub value: Option<HeaderValue>,
}

/// Applied in this order: remove, set, add.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderRules {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// A token bucket for each client.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    pub requests: NonZeroU32,
    pub per: Duration,
    /// Requests at once; at least 1.
    pub burst: NonZeroU32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLogConfig {
    /// `None` = standard output.
    pub path: Option<PathBuf>,
    /// Share of the requests that are written, 0 to 1; failed ones always are.
    pub sample: f64,
}

/// How a cluster's backends are asked.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpClusterConfig {
    pub version: HttpVersion,
    pub pool: PoolConfig,
    pub retry: RetryConfig,
    pub sticky: Option<StickyConfig>,
    pub outlier: Option<OutlierConfig>,
}

/// What the backends speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    One,
    /// HTTP/2: by ALPN over TLS, with prior knowledge without (h2c).
    Two,
}

/// Connections to one backend, for each worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Idle ones that are kept.
    pub max_idle: usize,
    pub idle_timeout: Duration,
    /// Requests on one connection; `None` = any number.
    pub max_requests: Option<NonZeroU64>,
    /// A connection is not used again after this; zero = never.
    pub max_age: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RetryConfig {
    /// Further attempts after the first.
    pub attempts: u32,
    /// Retries may be this share of the requests, 0 to 1 …
    pub budget: f64,
    /// … and this many a second are allowed anyway, so that a quiet cluster can retry.
    pub min_per_second: u32,
    /// Statuses after which a safe request is sent again.
    pub statuses: Vec<u16>,
    /// An attempt without an answer after this is given up, if another may follow; `None` = never.
    pub attempt_timeout: Option<Duration>,
    pub hedge: Option<HedgeConfig>,
}

/// A second copy of a read that takes long; the first answer counts.
#[derive(Debug, Clone, PartialEq)]
pub struct HedgeConfig {
    /// Of the cluster's latest latencies, 0.5 to 0.999.
    pub percentile: f64,
    /// Not before.
    pub min_delay: Duration,
}

/// A cookie that leads a client back to its backend.
#[derive(Debug, Clone, PartialEq)]
pub struct StickyConfig {
    /// Its name.
    pub cookie: String,
    /// Keys the value, so that it tells nobody an address; the same in every instance.
    pub secret: Arc<Secret>,
    /// `None` = until the browser closes.
    pub max_age: Option<Duration>,
}

/// Passive health: what the answers say of a backend.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierConfig {
    /// Failures in a row (5xx and gateway errors) that eject; 0 = never.
    pub consecutive_5xx: u32,
    /// Gateway errors in a row (502, 503, 504, connection lost) that eject; 0 = never.
    pub consecutive_gateway: u32,
    /// Ejects a backend whose success rate is this many standard deviations below the mean; 0 = never.
    pub success_rate_factor: f64,
    /// Ejects a backend whose mean latency is this many times the median of the others; 0 = never.
    pub latency_factor: f64,
    /// Rates are compared only among backends with this many requests in an interval …
    pub min_requests: u32,
    /// … and only when this many backends have them.
    pub min_backends: usize,
    pub interval: Duration,
    /// The first ejection; each further one takes as much longer.
    pub base_ejection: Duration,
    pub max_ejection: Duration,
    /// Share of the cluster's backends that may be ejected at once, 0 to 1; one always may
    /// when others are left.
    pub max_ejected: f64,
}

impl ClusterConfig {
    /// How outliers are looked for; `None`: they are not.
    pub fn outlier(&self) -> Option<&OutlierConfig> {
        self.http.as_ref()?.outlier.as_ref()
    }
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_head_bytes: 32 << 10,
            max_headers: 128,
            max_uri_bytes: 8 << 10,
            max_body_bytes: None,
            max_streams: 128,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(60),
            max_age: Duration::ZERO,
        }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_idle: 64,
            idle_timeout: Duration::from_secs(30),
            max_requests: None,
            max_age: Duration::from_secs(3600),
        }
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: 2,
            budget: 0.2,
            min_per_second: 10,
            statuses: Vec::new(),
            attempt_timeout: None,
            hedge: None,
        }
    }
}

impl Default for HttpClusterConfig {
    fn default() -> Self {
        Self {
            version: HttpVersion::One,
            pool: PoolConfig::default(),
            retry: RetryConfig::default(),
            sticky: None,
            outlier: None,
        }
    }
}
