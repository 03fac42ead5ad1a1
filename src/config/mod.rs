//! Text in, a value that cannot be wrong out.
//!
//! `file.rs` turns text into a tree that knows its places, `keys/` is the table of
//! all keys, and `resolve/` turns the tree into the types that are named below, reporting every
//! error at once. None of them has an `Option` that only stands for a missing default.

mod balance;
mod check;
mod cluster;
mod diagnostic;
mod env;
mod failover;
mod file;
mod hash_key;
mod http;
mod include;
mod keys;
mod listener;
mod process;
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

use std::path::Path;
use std::path::PathBuf;

pub use balance::BalanceConfig;
pub use balance::HashAlgorithm;
pub use balance::HashConfig;
pub use balance::HashKey;
pub use balance::Policy;
pub use check::CheckKind;
pub use check::DatabaseCheck;
pub use check::HealthCheckConfig;
pub use check::HttpCheck;
pub use check::RolePaths;
pub use cluster::BackendConfig;
pub use cluster::BackendTlsConfig;
pub use cluster::ClusterConfig;
pub use cluster::ConnectConfig;
pub use cluster::DEFAULT_WEIGHT;
pub use cluster::Host;
pub use cluster::MAX_WEIGHT;
pub use cluster::Protocol;
pub use cluster::VerifyMode;
pub use diagnostic::Diagnostic;
pub use diagnostic::Diagnostics;
pub use diagnostic::Place;
pub use diagnostic::Severity;
pub use failover::AuthorityConfig;
pub use failover::FailoverConfig;
pub use failover::HookAction;
pub use failover::HookConfig;
pub use failover::HookEvent;
pub use failover::OnDead;
pub use failover::Panic;
pub use failover::SessionPolicy;
pub use failover::WaitLimit;
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
pub use listener::CertificatePair;
pub use listener::Fallback;
pub use listener::Intent;
pub use listener::KeepaliveConfig;
pub use listener::ListenerConfig;
pub use listener::ListenerTlsConfig;
pub use listener::MaxLag;
pub use listener::ProxyProtocolConfig;
pub use listener::Route;
pub use listener::TlsVersion;
pub use process::AdminConfig;
pub use process::Config;
pub use process::LogConfig;
pub use process::LogFormat;
pub use process::LogLevel;
pub use secret::Secret;
pub use watch::FileWatcher;

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
