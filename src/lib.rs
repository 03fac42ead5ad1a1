//! Evergate: a failover load balancer for database clusters.
//!
//! Modules in the order data flows; ARCHITECTURE.md says who may use whom.

pub mod admin;
pub mod calendar;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod lines;
pub mod log;
pub mod metrics;
pub mod net;
pub mod protocol;
pub mod proxy;
pub mod report;
pub mod routing;
pub mod server;
pub mod shutdown;
pub mod throttle;
pub mod tls;
