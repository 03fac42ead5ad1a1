//! HTTP listeners of the real binary, against real servers, recording backends and raw bytes.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod access;
mod affinity;
mod ages;
mod answers;
mod bytes;
mod certificates;
mod clients;
mod conformance;
mod counted;
mod downgrade;
mod drains;
mod explained;
mod failures;
mod floods;
mod frames;
mod grpc;
mod harness;
mod holds;
mod lenient;
mod libraries;
mod limits;
mod observed;
mod outliers;
#[allow(dead_code, reason = "another test binary needs the rest")]
#[path = "../tls/pki.rs"]
mod pki;
mod pools;
mod recorder;
mod reloads;
mod requests;
mod resumption;
mod retries;
mod routes;
mod rules;
mod smuggling;
mod stores;
mod streaming;
#[path = "../support/mod.rs"]
mod support;
mod upgrades;
mod uploads;
mod world;
