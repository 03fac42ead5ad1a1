//! HTTP listeners of the real binary, against real servers, recording backends and raw bytes.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod affinity;
mod certificates;
mod drains;
mod explained;
mod failures;
mod grpc;
mod harness;
mod holds;
mod outliers;
mod recorder;
mod reloads;
mod requests;
mod retries;
mod stores;
#[path = "../support/mod.rs"]
mod support;
mod upgrades;
mod world;
