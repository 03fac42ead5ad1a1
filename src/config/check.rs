//! How the health of backends is asked for.

use std::num::NonZeroU16;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::Secret;

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
