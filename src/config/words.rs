//! How values are written in the file.

use std::fmt;

use crate::config::CheckKind;
use crate::config::HashKey;
use crate::config::Protocol;

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
            Self::Redis => "redis",
            Self::Http => "http",
        }
    }
}

impl CheckKind {
    /// Whether its answers can tell a primary from a replica.
    pub fn tells_roles(&self) -> bool {
        match self {
            Self::Postgres(_) | Self::MySql(_) | Self::Redis(_) => true,
            Self::Http(http) => http.roles.is_some(),
            Self::Tcp { .. } | Self::Tls | Self::Exec { .. } => false,
        }
    }

    /// As it is written in the file.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Tls => "tls",
            Self::Http(_) => "http",
            Self::Postgres(_) => "postgres",
            Self::MySql(_) => "mysql",
            Self::Redis(_) => "redis",
            Self::Exec { .. } => "exec",
        }
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientIp => formatter.write_str("client_ip"),
            Self::ClientIpPort => formatter.write_str("client_ip_port"),
            Self::Sni => formatter.write_str("sni"),
            Self::User => formatter.write_str("user"),
            Self::Database => formatter.write_str("database"),
            Self::StartupParameter(name) => write!(formatter, "startup:{name}"),
            Self::Header(name) => write!(formatter, "header:{name}"),
            Self::Cookie(name) => write!(formatter, "cookie:{name}"),
            Self::Query(name) => write!(formatter, "query:{name}"),
            Self::Path => formatter.write_str("path"),
        }
    }
}
