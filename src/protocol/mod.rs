//! Bytes to messages and back. No sockets, no clocks, no tokio.

pub mod client_hello;
#[cfg(test)]
mod corpus;
pub mod http;
pub mod http1;
pub mod http2;
pub mod mysql;
pub mod postgres;
pub mod proxy_header;
pub mod redis;
