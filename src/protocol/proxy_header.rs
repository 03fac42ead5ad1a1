//! The PROXY protocol, versions 1 and 2 (haproxy.org proxy-protocol.txt, 2020/03/05).

use std::net::SocketAddr;

/// Longest version 1 line, CRLF included.
pub const MAX_V1_BYTES: usize = 107;
/// Longest version 2 header we accept: addresses plus a sane amount of TLVs.
pub const MAX_V2_BYTES: usize = 16 + 4096;

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// A prefix of a valid header; at least `needed` bytes in all are required.
    /// Reading exactly up to `needed` never reads past the header.
    Incomplete { needed: usize },
    /// The header is the first `length` bytes.
    Complete { length: usize, source: Source },
}

/// Whom the header speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// LOCAL, UNKNOWN or an address family we cannot use: keep the socket's own addresses.
    Unchanged,
    Addresses {
        client: SocketAddr,
        server: SocketAddr,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    #[error("no PROXY header")]
    Missing,
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
}

/// Parses the bytes received so far.
pub fn parse(_bytes: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    todo!()
}

/// A version 2 header for a connection of `client` to `server`.
pub fn encode_v2(_client: SocketAddr, _server: SocketAddr) -> Vec<u8> {
    todo!()
}
