//! HTTP listeners of the real binary, against real servers, recording backends and raw bytes.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod access;
mod harness;
mod lenient;
mod limits;
mod recorder;
mod requests;
mod routes;
mod rules;
mod smuggling;
#[path = "../support/mod.rs"]
mod support;
