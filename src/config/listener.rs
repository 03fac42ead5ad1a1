//! Where clients connect, and what their sessions need.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::cluster::Name;
use crate::cluster::WantedRole;
use crate::config::HttpListenerConfig;
use crate::config::Protocol;

/// Where clients connect.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerConfig {
    pub name: Name,
    pub bind: SocketAddr,
    /// Where a session goes that no route takes; `None` refuses it. With no
    /// `routes` it is always there.
    pub cluster: Option<Name>,
    /// The first match wins.
    pub routes: Vec<Route>,
    /// What clients speak: that of its clusters, or `Tcp` to relay bytes unseen.
    pub protocol: Protocol,
    pub intent: Intent,
    pub tls: Option<ListenerTlsConfig>,
    /// PostgreSQL only: a client's TLS goes through to the backend, whose role is all that is known.
    pub tls_passthrough: bool,
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
    /// `Some`: a PROXY header is required from these sources; others are refused.
    pub proxy_protocol: Option<ProxyProtocolConfig>,
    pub max_connections: usize,
    /// Zero = never.
    pub idle_timeout: Duration,
    /// PROXY header + ClientHello + TLS handshake together.
    pub handshake_timeout: Duration,
    pub keepalive: KeepaliveConfig,
    /// Length of the kernel's accept queue.
    pub backlog: u32,
    /// `Some` exactly for `protocol: http`.
    pub http: Option<Arc<HttpListenerConfig>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocolConfig {
    /// Never empty.
    pub trusted: Vec<IpNet>,
}

/// TCP keepalive and TCP_USER_TIMEOUT, on both sides of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepaliveConfig {
    pub idle: Duration,
    pub interval: Duration,
    pub probes: u32,
    /// Unacknowledged bytes may wait this long (RFC 5482); zero = the kernel's default.
    pub user_timeout: Duration,
}

/// Where sessions go that have all that is written here; at least one condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Lower case; `*.example.com` matches exactly one more label.
    pub sni: Option<String>,
    pub database: Option<String>,
    pub user: Option<String>,
    pub cluster: Name,
}

/// What a listener's sessions need of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Intent {
    pub role: WantedRole,
    /// Replicas further behind get no new sessions. `None` with every role but `Replica`.
    pub max_lag: Option<MaxLag>,
    /// Where sessions for a replica go when there is none.
    pub fallback: Fallback,
}

impl Intent {
    /// Any eligible backend.
    pub const ANY: Self = Self {
        role: WantedRole::Any,
        max_lag: None,
        fallback: Fallback::Nobody,
    };
}

/// How far a replica may be behind the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MaxLag {
    Time(Duration),
    Bytes(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fallback {
    Nobody,
    Primary,
}

/// TLS from the clients to the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTlsConfig {
    /// The first is the default; the others are chosen by the names in them. Never empty.
    pub certificates: Vec<CertificatePair>,
    pub client_ca_file: Option<PathBuf>,
    /// PostgreSQL and MySQL: clients that do not ask for TLS are let in without.
    pub optional: bool,
    pub min_version: TlsVersion,
    pub alpn: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificatePair {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}
