//! HTTP listeners of the real binary, against real servers, recording backends and raw bytes.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod clients;
mod conformance;
mod downgrade;
mod floods;
mod frames;
mod harness;
mod recorder;
mod requests;
#[path = "../support/mod.rs"]
mod support;
