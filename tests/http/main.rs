//! HTTP listeners of the real binary, against real servers, recording backends and raw bytes.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod access;
mod answers;
mod clients;
mod conformance;
mod downgrade;
mod failures;
mod floods;
mod frames;
mod harness;
mod holds;
mod lenient;
mod limits;
mod observed;
mod recorder;
mod requests;
mod retries;
mod routes;
mod rules;
mod smuggling;
#[path = "../support/mod.rs"]
mod support;
mod world;
