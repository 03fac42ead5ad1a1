//! Hash keys of consistent hashing at layer 4.

use std::net::SocketAddr;

use crate::config::HashKey;

/// What is known of a client when a backend is picked.
#[derive(Debug, Clone, Copy)]
pub struct KeySource<'a> {
    /// The client's address; behind a trusted PROXY header, the one in the header.
    pub client: SocketAddr,
    pub sni: Option<&'a str>,
}

/// Stable across versions, instances and restarts: xxh3 of the key's bytes.
pub fn hash_key(_key: HashKey, _source: KeySource<'_>) -> u64 {
    todo!()
}
