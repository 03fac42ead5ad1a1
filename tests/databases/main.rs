//! Real database clusters, one module per theme.
//!
//! One test binary for all: each one links the whole library again.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod harness;
mod incidents;
mod liars;
mod mysql;
mod patroni;
#[allow(dead_code, reason = "another test binary needs the rest")]
#[path = "../tls/pki.rs"]
mod pki;
mod postgres;
mod probes;
mod redis;
mod sentinels;
#[path = "../support/mod.rs"]
mod support;
mod told;
