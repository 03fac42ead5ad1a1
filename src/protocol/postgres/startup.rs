//! What a client says first: a request for encryption, a request to cancel, or a StartupMessage
//! (protocol chapter, "Message Formats").
//!
//! Read in a loop that owns a [`Negotiation`]:
//! answer SSLRequest and GSSENCRequest, then ask again, until anything else comes.

use crate::protocol::postgres::CancelKey;
use crate::protocol::postgres::cursor::Cursor;
use crate::protocol::postgres::sqlstate::SqlState;

mod parameters;

pub use self::parameters::MAX_PARAMETERS;
pub use self::parameters::Replication;
pub use self::parameters::StartupMessage;

/// The server's own limit (MAX_STARTUP_PACKET_LENGTH, 10,000) excludes the four bytes of the length.
/// Nobody has proved who he is yet, so nobody may make us hold more.
pub const MAX_STARTUP_BYTES: usize = 4 + 10_000;

/// Length and code: no first message is shorter.
const MIN_BYTES: usize = 8;
/// In place of a version: requests that precede the StartupMessage have major version 1234.
const CANCEL_REQUEST: u32 = 1234 << 16 | 5678;
const SSL_REQUEST: u32 = 1234 << 16 | 5679;
const GSSENC_REQUEST: u32 = 1234 << 16 | 5680;
const PROTOCOL_MAJOR: u16 = 3;
/// A TLS handshake record. As the first byte of a length it would announce 369 MB.
const TLS_HANDSHAKE: u8 = 0x16;

/// What the first bytes of a connection say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// A prefix of something valid; at least `needed` bytes in all are required.
    ///
    /// Reading exactly up to `needed` never reads past the message: what follows an SSLRequest
    /// stays in the socket, where the TLS handshake will look for it.
    Incomplete { needed: usize },
    /// The first byte of a TLS handshake (direct TLS, PostgreSQL 17). Nothing was consumed.
    Tls,
    /// The message is the first `length` bytes.
    Complete { length: usize, request: Request },
}

/// A whole first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Answer `S` and begin TLS, or `N`.
    Ssl,
    /// Answer `N`: we do not speak GSSAPI encryption.
    GssEnc,
    /// To be passed on to the server that has the session. Never answered.
    Cancel(CancelKey),
    Startup(StartupMessage),
}

/// Why the first bytes of a connection are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// Very likely no PostgreSQL client at all; PostgreSQL closes such a connection silently.
    #[error("invalid length of startup packet")]
    Length,
    #[error("invalid length of query cancel packet")]
    CancelLength,
    #[error("unsupported frontend protocol {major}.{minor}")]
    Version { major: u16, minor: u16 },
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    #[error("more than {MAX_PARAMETERS} startup parameters")]
    TooManyParameters,
    #[error("no PostgreSQL user name specified in startup packet")]
    MissingUser,
    #[error("encryption requested again or too late")]
    RepeatedEncryption,
    /// Bytes that were sent in the clear and would have been taken for encrypted ones.
    #[error("received unencrypted data after encryption request")]
    StuffedBytes,
}

impl StartupError {
    /// The code to refuse the client with.
    #[must_use]
    pub fn sqlstate(self) -> SqlState {
        match self {
            Self::Version { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Self::MissingUser => SqlState::INVALID_AUTHORIZATION,
            Self::TooManyParameters => SqlState::PROGRAM_LIMIT_EXCEEDED,
            Self::Length
            | Self::CancelLength
            | Self::Layout
            | Self::RepeatedEncryption
            | Self::StuffedBytes => SqlState::PROTOCOL_VIOLATION,
        }
    }
}

/// Which encryption a connection has asked for so far.
///
/// At most one SSLRequest and one GSSENCRequest, neither once encryption has begun: a server that
/// recursed once for each of any number of them could be made to exhaust its stack (CVE-2026-6479).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Negotiation {
    ssl: Allowance,
    gssenc: Allowance,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Allowance {
    #[default]
    MayAsk,
    Spent,
}

impl Negotiation {
    /// For a connection that has just been accepted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// For a connection that is encrypted by now: by direct TLS, or because SSLRequest was answered
    /// with `S`. Only a StartupMessage or a CancelRequest may follow.
    #[must_use]
    pub fn encrypted() -> Self {
        Self {
            ssl: Allowance::Spent,
            gssenc: Allowance::Spent,
        }
    }

    /// Parses the bytes received since the last message was answered, and counts it once complete:
    /// the caller drops its `length` bytes before it asks again.
    ///
    /// # Errors
    /// As [`parse`]; a request for encryption that comes twice, once encrypted, or with bytes
    /// behind it, which must not be read as if they had been encrypted (CVE-2021-23214).
    pub fn next(&mut self, bytes: &[u8]) -> Result<Opening, StartupError> {
        let opening = parse(bytes)?;
        match &opening {
            Opening::Incomplete { .. } => {}
            Opening::Tls if *self == Self::new() => {}
            // PostgreSQL takes a ClientHello only as the very first bytes.
            Opening::Tls => return Err(StartupError::Length),
            Opening::Complete { length, request } => {
                let allowance = match request {
                    Request::Ssl => &mut self.ssl,
                    Request::GssEnc => &mut self.gssenc,
                    Request::Cancel(_) | Request::Startup(_) => return Ok(opening),
                };
                if std::mem::replace(allowance, Allowance::Spent) == Allowance::Spent {
                    return Err(StartupError::RepeatedEncryption);
                }
                if bytes.len() > *length {
                    return Err(StartupError::StuffedBytes);
                }
            }
        }
        Ok(opening)
    }
}

/// Parses the bytes received so far, without regard to what came before: see [`Negotiation::next`].
///
/// # Errors
/// As soon as the bytes cannot become a first message. The length is checked before anything else.
pub fn parse(bytes: &[u8]) -> Result<Opening, StartupError> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Opening::Tls);
    }
    let Some((length, rest)) = bytes.split_first_chunk() else {
        check_length(lowest_length(bytes), 0)?;
        return Ok(Opening::Incomplete { needed: MIN_BYTES });
    };
    let length = u32::from_be_bytes(*length) as usize;
    check_length(length, MIN_BYTES)?;
    let Some((code, _)) = rest.split_first_chunk() else {
        return Ok(Opening::Incomplete { needed: MIN_BYTES });
    };
    let code = u32::from_be_bytes(*code);
    check_code(code, length)?;
    let Some(message) = bytes.get(..length) else {
        return Ok(Opening::Incomplete { needed: length });
    };
    let request = match code {
        SSL_REQUEST => Request::Ssl,
        GSSENC_REQUEST => Request::GssEnc,
        CANCEL_REQUEST => Request::Cancel(cancel_key(&message[MIN_BYTES..])?),
        _ => Request::Startup(StartupMessage::parse(message)?),
    };
    Ok(Opening::Complete { length, request })
}

fn check_length(length: usize, min: usize) -> Result<(), StartupError> {
    if (min..=MAX_STARTUP_BYTES).contains(&length) {
        Ok(())
    } else {
        Err(StartupError::Length)
    }
}

/// The smallest length that these first bytes of one can become.
fn lowest_length(bytes: &[u8]) -> usize {
    let mut length = [0; 4];
    length[..bytes.len()].copy_from_slice(bytes);
    u32::from_be_bytes(length) as usize
}

/// What the code says about the length, and whether it is a version that may be relayed.
///
/// Any minor version is: the server answers it with the best that it has.
fn check_code(code: u32, length: usize) -> Result<(), StartupError> {
    match code {
        SSL_REQUEST | GSSENC_REQUEST if length == MIN_BYTES => Ok(()),
        SSL_REQUEST | GSSENC_REQUEST => Err(StartupError::Length),
        CANCEL_REQUEST => Ok(()),
        _ => {
            let [major, minor] = [(code >> 16) as u16, code as u16];
            if major == PROTOCOL_MAJOR {
                Ok(())
            } else {
                Err(StartupError::Version { major, minor })
            }
        }
    }
}

fn cancel_key(body: &[u8]) -> Result<CancelKey, StartupError> {
    let mut body = Cursor(body);
    body.u32()
        .and_then(|process_id| CancelKey::new(process_id, body.0))
        .ok_or(StartupError::CancelLength)
}

#[cfg(test)]
mod tests;
