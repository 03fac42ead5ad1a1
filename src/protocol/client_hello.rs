//! The server name in a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3).

/// What the first bytes of a connection say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientHello {
    /// A prefix of a valid ClientHello: read more.
    Incomplete,
    /// Complete. `sni` is lower case.
    Complete { sni: Option<String> },
}

/// The bytes are no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientHelloError {
    #[error("not a TLS handshake")]
    NotTls,
    #[error("malformed ClientHello")]
    Malformed,
    #[error("ClientHello longer than {MAX_CLIENT_HELLO_BYTES} bytes")]
    TooLong,
}

/// Post-quantum key shares and many extensions fit; a flood does not.
pub const MAX_CLIENT_HELLO_BYTES: usize = 16 * 1024;

/// Parses the bytes received so far (TLS records, possibly fragmented).
pub fn parse(_bytes: &[u8]) -> Result<ClientHello, ClientHelloError> {
    todo!()
}
