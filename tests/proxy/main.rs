//! The real binary against real and misbehaving peers, one module per theme.
//!
//! One test binary for all: each one links the whole library again.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod backends;
mod bytes;
mod certificates;
mod clients;
mod commands;
mod handshakes;
mod harness;
mod hot_swap;
mod incidents;
mod lifecycle;
mod mysql;
mod network;
mod observability;
#[allow(dead_code, reason = "another test binary needs the rest")]
#[path = "../tls/pki.rs"]
mod pki;
mod policies;
mod postgres;
mod redis;
mod redispatch;
mod reload;
mod resources;
mod security;
mod servers;
mod storm;
#[path = "../support/mod.rs"]
mod support;
mod talk;
mod waiting;
