//! Text in, a value that cannot be wrong out.
//!
//! `file.rs` turns text into a tree that knows its places, `keys.rs` is the table of
//! all keys, and `resolve/` turns the tree into the types below, reporting every error
//! at once. Nothing here has an `Option` that only stands for a missing default.

mod balance;
mod diagnostic;
mod env;
mod file;
mod hash_key;
mod http;
mod include;
mod keys;
mod reader;
mod request;
mod resolve;
mod schema;
mod secret;
mod sizes;
mod source;
mod tree;
mod values;
mod watch;
mod words;

use std::net::IpAddr;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use balance::BalanceConfig;
pub use balance::HashAlgorithm;
pub use balance::HashConfig;
pub use balance::HashKey;
pub use balance::Policy;
pub use diagnostic::Diagnostic;
pub use diagnostic::Diagnostics;
pub use diagnostic::Place;
pub use diagnostic::Severity;
pub use http::AccessLogConfig;
pub use http::HeaderMatch;
pub use http::HeaderRules;
pub use http::HedgeConfig;
pub use http::HostPattern;
pub use http::HttpClusterConfig;
pub use http::HttpLimits;
pub use http::HttpListenerConfig;
pub use http::HttpRoute;
pub use http::HttpVersion;
pub use http::OutlierConfig;
pub use http::PathPattern;
pub use http::PoolConfig;
pub use http::RateLimit;
pub use http::RetryConfig;
pub use http::RouteActions;
pub use http::StickyConfig;
pub use secret::Secret;
pub use watch::FileWatcher;

use crate::cluster::Name;
use crate::cluster::WantedRole;

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
    /// How long clients are still accepted after readiness went false for good.
    pub shutdown_delay: Duration,
    /// Client connections of the whole process.
    pub max_connections: usize,
    /// Where fences are remembered over restarts; `None` = only while the process lives.
    pub state_dir: Option<PathBuf>,
}

/// A configuration as it was loaded from files.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// Things that work but should be mended, e.g. a world-readable secret.
    pub warnings: Vec<Diagnostic>,
    /// Every file that was read or that a key names (includes, certificates, secrets): watch these.
    pub files: Vec<PathBuf>,
    named: source::NamedFiles,
    /// The whole schema with defaults filled in and marked, secrets redacted; for `/api/v1/config`.
    pub effective: serde_json::Value,
}

impl Loaded {
    /// What is wrong with a file that the configuration names, at the key that names it.
    pub fn problem_with(&self, path: &Path, message: String) -> Diagnostic {
        let place = self.named.place_of(path);
        Diagnostic {
            severity: Severity::Error,
            message,
            place: place.unwrap_or_else(|| Place::file(path.to_owned())),
            help: None,
            related: None,
        }
    }
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
    /// Log in, and read role, history, replication positions and free connections.
    Postgres(DatabaseCheck),
    MySql(DatabaseCheck),
    Redis(DatabaseCheck),
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
    /// `Some`: asked instead of `path`, and the answers tell the role.
    pub roles: Option<RolePaths>,
}

/// Who asks a database for its role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseCheck {
    /// Redis: an ACL user; `None` = the default user.
    pub user: Option<String>,
    /// `None` = log in without one.
    pub password: Option<Secret>,
    /// PostgreSQL and MySQL; `None` = none is asked for (MySQL) or `postgres`.
    pub database: Option<String>,
}

/// Paths by which a service tells its role: the one that answers with an expected status is true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolePaths {
    pub primary: String,
    pub replica: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FailoverConfig {
    pub hold: WaitLimit,
    pub queue: WaitLimit,
    pub on_dead: OnDead,
    /// Sessions that need the primary, when their backend is no longer it.
    pub on_demoted: SessionPolicy,
    /// Sessions that need the primary, when their backend may not be written to.
    pub on_fenced: SessionPolicy,
    /// Sessions with `max_lag`, when their backend is over it.
    pub on_lagging: SessionPolicy,
    pub authority: Option<AuthorityConfig>,
    pub hooks: Vec<HookConfig>,
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

/// What happens to live sessions whose backend may no longer serve them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPolicy {
    Keep,
    /// Now.
    Sever,
    /// When the current transaction ends, at most this much later.
    Grace(Duration),
}

/// Who knows better than the backends which of them is primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorityConfig {
    /// Every backend's Patroni, at this port of its host.
    Patroni { port: NonZeroU16, tls: bool },
    Sentinel {
        /// Asked all; a majority of them decides. Never empty.
        sentinels: Vec<(Host, NonZeroU16)>,
        /// The name that the Sentinels know the primary by.
        service: String,
        user: Option<String>,
        password: Option<Secret>,
    },
}

/// What is told to somebody else, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookConfig {
    /// Never empty.
    pub events: Vec<HookEvent>,
    pub action: HookAction,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookAction {
    /// First element is the program; the event is JSON on its stdin.
    Command(Vec<String>),
    /// The event is the JSON body of a POST.
    Post(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookEvent {
    PrimaryLost,
    PrimaryChanged,
    SplitBrain,
    BackendDown,
    BackendUp,
}

impl HookEvent {
    pub const ALL: [Self; 5] = [
        Self::PrimaryLost,
        Self::PrimaryChanged,
        Self::SplitBrain,
        Self::BackendDown,
        Self::BackendUp,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PrimaryLost => "primary_lost",
            Self::PrimaryChanged => "primary_changed",
            Self::SplitBrain => "split_brain",
            Self::BackendDown => "backend_down",
            Self::BackendUp => "backend_up",
        }
    }
}

/// What happens when every backend of a cluster is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panic {
    /// Hold, then refuse.
    Fail,
    /// Route as if all were up.
    TryAll,
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

impl std::fmt::Display for Host {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(std::net::IpAddr::V6(address)) => write!(formatter, "[{address}]"),
            Self::Ip(address) => write!(formatter, "{address}"),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}
