//! The rules that a request and its response pass on their way, on `http` crate types.

pub mod cookie;
pub mod forwarded;
pub mod grpc;
pub mod hop;
pub mod message;
mod path;
pub mod problem;
pub mod query;
pub mod request_id;
pub mod rules;
pub mod sticky;
pub mod target;
pub mod via;
