//! Text in, a value that cannot be wrong out.
//!
//! `file.rs` turns text into a tree that knows its places, `keys.rs` is the table of
//! all keys, and `resolve/` turns the tree into the types below, reporting every error
//! at once. Nothing here has an `Option` that only stands for a missing default.

mod diagnostic;
mod env;
mod file;
mod include;
mod keys;
mod reader;
mod resolve;
mod schema;
mod source;
mod tree;
mod values;
mod watch;

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use diagnostic::Diagnostic;
pub use diagnostic::Diagnostics;
pub use diagnostic::Place;
pub use diagnostic::Severity;
pub use watch::FileWatcher;

use crate::cluster::Name;

/// One valid configuration: the whole of what an operator asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Sorted by name.
    pub clusters: Vec<ClusterConfig>,
    /// Sorted by name; every cluster they name exists.
    pub listeners: Vec<ListenerConfig>,
    pub admin: Option<AdminConfig>,
    pub log: LogConfig,
    /// Threads of the data plane.
    pub workers: NonZeroUsize,
    /// Where this process runs; backends of the same zone are preferred.
    pub zone: Option<Name>,
    /// How long sessions of drained, removed or stopping parts may go on.
    pub drain_timeout: Duration,
    /// Client connections of the whole process.
    pub max_connections: usize,
}

/// A configuration as it was loaded from files.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// Things that work but should be mended, e.g. a world-readable secret.
    pub warnings: Vec<Diagnostic>,
    /// Every file that was read or that a key names (includes, certificates, secrets): watch these.
    pub files: Vec<PathBuf>,
    /// The whole schema with defaults filled in and marked, secrets redacted; for `/api/v1/config`.
    pub effective: serde_json::Value,
}

/// Reads, parses and resolves a file with everything it includes.
///
/// # Errors
/// All problems at once, each with its place.
pub fn load(path: &Path) -> Result<Loaded, Diagnostics> {
    resolve::load(path)
}

/// Resolves a text alone, as if it were a file: no environment, includes or secrets are read.
/// For tests of any input, and for texts that come from elsewhere than a file.
///
/// # Errors
/// All problems at once, each with its place.
pub fn load_text(path: &Path, text: &str) -> Result<Loaded, Diagnostics> {
    resolve::load_text(path, text)
}

/// The JSON schema of the file.
pub fn schema() -> serde_json::Value {
    schema::schema()
}

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
}

/// What the backends of a cluster speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
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
    Ip(std::net::IpAddr),
    Name(Name),
}

/// What a probe asks and how its answers become health.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheckConfig {
    pub kind: CheckKind,
    pub interval: Duration,
    /// Interval while no backend of the cluster is eligible, and after hard evidence.
    pub fast_interval: Duration,
    /// Never longer than `interval`.
    pub timeout: Duration,
    pub rise: NonZeroU32,
    pub fall: NonZeroU32,
    /// Asks another port than the one sessions go to.
    pub port: Option<NonZeroU16>,
    /// Each return after a flap waits twice as long, up to this; zero switches damping off.
    pub max_damping: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub enum CheckKind {
    /// Connect; optionally send bytes and expect the answer to contain bytes.
    Tcp {
        send: Vec<u8>,
        expect: Option<Vec<u8>>,
    },
    /// Connect and finish a TLS handshake with the cluster's `tls` settings.
    Tls,
    Http(HttpCheck),
    /// Run a command; exit code 0 is a pass. First element is the program.
    /// `EVERGATE_ADDRESS`, `_PORT`, `_CLUSTER` and `_BACKEND` are in its environment.
    Exec {
        command: Vec<String>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpCheck {
    pub path: String,
    /// The `Host` header; default is the backend's host and port.
    pub host: Option<String>,
    pub method: String,
    /// Inclusive ranges of accepted status codes. Never empty.
    pub expect: Vec<(u16, u16)>,
    /// The body must contain this.
    pub body: Option<String>,
    /// Ask over TLS, with the cluster's `tls` settings.
    pub tls: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct BalanceConfig {
    pub policy: Policy,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Policy {
    RoundRobin,
    LeastConnections,
    RandomTwo,
    LeastLatency,
    ConsistentHash(HashConfig),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HashConfig {
    pub key: HashKey,
    pub algorithm: HashAlgorithm,
    /// No backend gets more than this many times the average; always ≥ 1. `None` = unbounded.
    pub bounded_load: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKey {
    ClientIp,
    ClientIpPort,
    Sni,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    Maglev,
    Ring,
    Rendezvous,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FailoverConfig {
    pub hold: WaitLimit,
    pub queue: WaitLimit,
    pub on_dead: OnDead,
    pub panic: Panic,
    /// A returning backend gets its weight back over this time.
    pub slow_start: Duration,
    /// Overrides the process's `drain_timeout`.
    pub drain_timeout: Duration,
}

/// Bounded waiting: how long, and how many at once. `max_wait` zero = refuse at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitLimit {
    pub max_wait: Duration,
    pub max_sessions: usize,
}

/// What happens to live sessions of a backend that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDead {
    Sever,
    Keep,
}

/// What happens when every backend of a cluster is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panic {
    /// Hold, then refuse.
    Fail,
    /// Route as if all were up.
    TryAll,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectConfig {
    pub timeout: Duration,
    /// Backends tried for one session before it is refused.
    pub attempts: NonZeroU32,
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificatePair {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// Where clients connect.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerConfig {
    pub name: Name,
    pub bind: SocketAddr,
    /// Where a session goes that no route takes; `None` refuses it. With no
    /// `routes` it is always there.
    pub cluster: Option<Name>,
    /// By requested server name; first match wins.
    pub routes: Vec<SniRoute>,
    pub tls: Option<ListenerTlsConfig>,
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

/// `name` is lower case; `*.example.com` matches exactly one more label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SniRoute {
    pub sni: String,
    pub cluster: Name,
}

/// TLS from the clients to the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTlsConfig {
    /// The first is the default; the others are chosen by the names in them. Never empty.
    pub certificates: Vec<CertificatePair>,
    pub client_ca_file: Option<PathBuf>,
    pub min_version: TlsVersion,
    pub alpn: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AdminConfig {
    /// Reads are open here; changes need `token`.
    pub bind: Option<SocketAddr>,
    /// Unix socket, mode 0600: no token needed.
    pub socket: Option<PathBuf>,
    pub token: Option<Secret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    pub level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// A value that is never printed, logged or served.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: String) -> Self {
        Self(value)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("<redacted>")
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(std::net::IpAddr::V6(address)) => write!(formatter, "[{address}]"),
            Self::Ip(address) => write!(formatter, "{address}"),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}
