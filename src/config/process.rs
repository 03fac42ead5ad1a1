//! The whole of a configuration, and what concerns the process.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::Name;
use crate::config::ClusterConfig;
use crate::config::ListenerConfig;
use crate::config::Secret;

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
