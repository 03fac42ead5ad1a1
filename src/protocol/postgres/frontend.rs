//! Messages that a client sends: written by a probe, and by a proxy to its backends.

use crate::protocol::postgres::CancelKey;
use crate::protocol::postgres::writer::Writer;

/// Version 3.0, which every server since 7.4 speaks. What later ones add (longer cancel keys) is of
/// no use to a probe.
const PROTOCOL_3_0: u32 = 3 << 16;
const CANCEL_REQUEST: u32 = 1234 << 16 | 5678;
const SSL_REQUEST: u32 = 1234 << 16 | 5679;

/// What a server says to an SSLRequest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslAnswer {
    /// `S`: the TLS handshake may begin.
    Accepted,
    /// `N`: the connection goes on in the clear, if we want that.
    Refused,
}

/// What a server may not say to an SSLRequest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SslAnswerError {
    /// Bytes that were sent in the clear and would have been taken for encrypted ones.
    #[error("server sent unencrypted data after its answer to SSLRequest")]
    StuffedBytes,
    /// An ErrorResponse. Its text is worth nothing: nobody knows yet who wrote it (CVE-2024-10977).
    #[error("server answered SSLRequest with an error")]
    Error,
    #[error("server answered SSLRequest with {0:#04x}")]
    Unknown(u8),
}

/// Asks for TLS: see [`ssl_answer`].
#[must_use]
pub fn ssl_request() -> Vec<u8> {
    Writer::untagged().u32(SSL_REQUEST).finish()
}

/// Reads all that has come since an SSLRequest was sent; `None` if nothing has.
///
/// # Errors
/// Anything but one byte, `S` or `N`. What comes with it in the clear must not be read as if it
/// had been encrypted (CVE-2021-23222).
pub fn ssl_answer(bytes: &[u8]) -> Result<Option<SslAnswer>, SslAnswerError> {
    match bytes {
        [] => Ok(None),
        [b'S'] => Ok(Some(SslAnswer::Accepted)),
        [b'N'] => Ok(Some(SslAnswer::Refused)),
        [b'S' | b'N', ..] => Err(SslAnswerError::StuffedBytes),
        [b'E', ..] => Err(SslAnswerError::Error),
        [other, ..] => Err(SslAnswerError::Unknown(*other)),
    }
}

/// Asks a server, on a connection of its own, to cancel what a session is doing. Never answered.
#[must_use]
pub fn cancel_request(key: &CancelKey) -> Vec<u8> {
    Writer::untagged()
        .u32(CANCEL_REQUEST)
        .u32(key.process_id())
        .raw(key.secret())
        .finish()
}

/// Begins a session. NUL bytes are left out of names and values.
#[must_use]
pub fn startup_message(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut message = Writer::untagged().u32(PROTOCOL_3_0);
    for (name, value) in parameters {
        message = message.c_string(name).c_string(value);
    }
    message.byte(0).finish()
}

/// The answer to AuthenticationCleartextPassword and AuthenticationMD5Password.
#[must_use]
pub fn password_message(password: &str) -> Vec<u8> {
    Writer::tagged(b'p').c_string(password).finish()
}

/// Chooses a SASL mechanism and speaks first in it.
#[must_use]
pub fn sasl_initial_response(mechanism: &str, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("we build no message of 4 GiB");
    Writer::tagged(b'p')
        .c_string(mechanism)
        .u32(length)
        .raw(data)
        .finish()
}

/// The answer to AuthenticationSASLContinue.
#[must_use]
pub fn sasl_response(data: &[u8]) -> Vec<u8> {
    Writer::tagged(b'p').raw(data).finish()
}

/// A simple query: one or more statements, answered in text.
#[must_use]
pub fn query(sql: &str) -> Vec<u8> {
    Writer::tagged(b'Q').c_string(sql).finish()
}

/// Says goodbye. A connection that is just closed leaves a line in the server's log.
#[must_use]
pub fn terminate() -> Vec<u8> {
    Writer::tagged(b'X').finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_laid_out_as_the_protocol_says() {
        assert_eq!(ssl_request(), b"\0\0\0\x08\x04\xd2\x16\x2f");
        let key = CancelKey::new(7, b"abcd").unwrap();
        assert_eq!(
            cancel_request(&key),
            b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07abcd"
        );
        assert_eq!(
            startup_message(&[("user", "a"), ("database", "b")]),
            b"\0\0\0\x1b\0\x03\0\0user\0a\0database\0b\0\0"
        );
        assert_eq!(password_message("pw"), b"p\0\0\0\x07pw\0");
        assert_eq!(
            sasl_initial_response("X", b"hi"),
            b"p\0\0\0\x0cX\0\0\0\0\x02hi"
        );
        assert_eq!(sasl_response(b"hi"), b"p\0\0\0\x06hi");
        assert_eq!(query("SELECT 1"), b"Q\0\0\0\x0dSELECT 1\0");
        assert_eq!(terminate(), b"X\0\0\0\x04");
    }

    #[test]
    fn a_server_answers_an_ssl_request_with_one_byte() {
        for (bytes, answer) in [
            (&b""[..], Ok(None)),
            (b"S", Ok(Some(SslAnswer::Accepted))),
            (b"N", Ok(Some(SslAnswer::Refused))),
            (b"SR\0\0\0\x08", Err(SslAnswerError::StuffedBytes)),
            (b"S\x16", Err(SslAnswerError::StuffedBytes)),
            (b"NZ", Err(SslAnswerError::StuffedBytes)),
            (b"E", Err(SslAnswerError::Error)),
            (b"E\0\0\0\x05\0", Err(SslAnswerError::Error)),
            (b"\0", Err(SslAnswerError::Unknown(0))),
        ] {
            assert_eq!(ssl_answer(bytes), answer, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_nul_cannot_start_another_field() {
        let message = startup_message(&[("user", "a\0replication\0true")]);
        assert!(message.ends_with(b"user\0areplicationtrue\0\0"));
    }
}
