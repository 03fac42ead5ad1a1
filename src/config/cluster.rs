//! A cluster: its backends and how they are reached.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Name;
use crate::config::BalanceConfig;
use crate::config::CertificatePair;
use crate::config::FailoverConfig;
use crate::config::HealthCheckConfig;
use crate::config::HttpClusterConfig;

/// Backends that hold the same service.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterConfig {
    pub name: Name,
    pub protocol: Protocol,
    /// In the file's order; names are unique within the cluster. Never empty.
    pub backends: Vec<BackendConfig>,
    pub health_check: HealthCheckConfig,
    pub balance: BalanceConfig,
    pub failover: FailoverConfig,
    pub connect: ConnectConfig,
    pub tls: Option<BackendTlsConfig>,
    pub send_proxy_protocol: bool,
    /// `Some` exactly for `protocol: http`.
    pub http: Option<Arc<HttpClusterConfig>>,
}

/// What the backends of a cluster speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Postgres,
    MySql,
    Redis,
    /// HTTP/1.1 and HTTP/2, request by request.
    Http,
}

/// One server of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendConfig {
    pub name: Name,
    pub host: Host,
    pub port: NonZeroU16,
    /// Share of new sessions relative to the others; 0 = no new sessions. At most `MAX_WEIGHT`.
    pub weight: u32,
    pub zone: Option<Name>,
    /// 0 first; higher tiers are spares.
    pub tier: u32,
    /// Sessions at once, from this process.
    pub max_connections: Option<NonZeroU32>,
}

/// Largest weight: keeps sums of weights over 10,000 backends within 32 bits.
pub const MAX_WEIGHT: u32 = 10_000;

/// Default weight, so that halves and quarters can be written.
pub const DEFAULT_WEIGHT: u32 = 100;

/// A literal address, or a name that has to be looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    Ip(IpAddr),
    Name(Name),
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(address)) => write!(formatter, "[{address}]"),
            Self::Ip(address) => write!(formatter, "{address}"),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectConfig {
    pub timeout: Duration,
    /// Backends tried for one session before it is refused.
    pub attempts: NonZeroU32,
    /// Local addresses of connections to the backends, each once; empty = the system chooses.
    pub source: Arc<[IpAddr]>,
}

/// TLS from the proxy to the backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTlsConfig {
    pub mode: VerifyMode,
    /// `None`: the Mozilla root certificates.
    pub ca_file: Option<PathBuf>,
    pub client_pair: Option<CertificatePair>,
    /// Sent as SNI and verified; default is each backend's host.
    pub server_name: Option<String>,
    /// ALPN protocols offered; empty = no ALPN.
    pub alpn: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyMode {
    /// Chain and name.
    VerifyFull,
    /// Chain only.
    VerifyCa,
    /// Nothing: anyone on the path can read and change everything.
    Insecure,
}
