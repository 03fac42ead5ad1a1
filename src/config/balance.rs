//! How a cluster's backends are picked.

use http::HeaderName;

use crate::cluster::Name;

#[derive(Debug, Clone, PartialEq)]
pub struct BalanceConfig {
    pub policy: Policy,
    /// What is hashed; read by consistent hashing only.
    pub key: HashKey,
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
    pub algorithm: HashAlgorithm,
    /// No backend gets more than this many times the average; always ≥ 1. `None` = unbounded.
    pub bounded_load: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    ClientIp,
    ClientIpPort,
    Sni,
    /// Of the PostgreSQL or MySQL login.
    User,
    Database,
    /// A parameter of PostgreSQL's startup message, or a setting in its `options`.
    StartupParameter(Name),
    /// Of a request: the value of a header, of a cookie, of a query parameter, or the path.
    Header(HeaderName),
    Cookie(Name),
    Query(Name),
    Path,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    Maglev,
    Ring,
    Rendezvous,
}
