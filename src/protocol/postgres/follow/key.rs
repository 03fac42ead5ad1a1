//! Exchanges the cancel key on its way to the client.
//!
//! A client's CancelRequest comes on a connection of its own, with nothing but this key to say
//! which backend it is for. Keys of our own are unique over all backends, and worthless at any of
//! them: whoever reads one can cancel through us, where it is limited, or not at all.

use crate::protocol::postgres::CancelKey;
use crate::protocol::postgres::MAX_CANCEL_SECRET_BYTES;
use crate::protocol::postgres::MIN_CANCEL_SECRET_BYTES;

const PROCESS_ID_BYTES: usize = 4;
/// What PostgreSQL 18 sends; 256 random bits are enough for longer keys too.
const RANDOM_BYTES: usize = 32;

/// What the client gets to see.
#[derive(Clone)]
pub struct IssuedKey {
    /// `None` keeps the server's, which applications compare with `pg_backend_pid()` and with
    /// the sender of a notification.
    pub process_id: Option<u32>,
    /// From a cryptographic source. A key is as long as the server's own: the client gets as many of
    /// these bytes (4 in protocol 3.0), and again from the first if the server's is longer.
    pub random: [u8; RANDOM_BYTES],
}

impl std::fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedKey")
            .field("process_id", &self.process_id)
            .finish_non_exhaustive()
    }
}

/// The exchange, at any byte of BackendKeyData.
#[derive(Debug)]
pub(super) struct KeyExchange {
    issued: IssuedKey,
    /// The body as the server sent it, as far as it has come.
    original: BodySoFar,
}

/// Apart, because its bytes must not be shown.
struct BodySoFar(Vec<u8>);

impl std::fmt::Debug for BodySoFar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Whether BackendKeyData can have a body of this length.
pub(super) fn is_body_length(body_bytes: u32) -> bool {
    (PROCESS_ID_BYTES + MIN_CANCEL_SECRET_BYTES..=PROCESS_ID_BYTES + MAX_CANCEL_SECRET_BYTES)
        .contains(&(body_bytes as usize))
}

impl KeyExchange {
    pub(super) fn new(issued: IssuedKey) -> Self {
        Self {
            issued,
            original: BodySoFar(Vec::new()),
        }
    }

    /// Remembers the next part of the body and puts ours in its place.
    pub(super) fn overwrite(&mut self, part: &mut [u8]) {
        for byte in part {
            let at = self.original.0.len();
            self.original.0.push(*byte);
            *byte = self.issued_byte(at).unwrap_or(*byte);
        }
    }

    /// The issued key and the server's own, once the body is over. Ready for another one then: a
    /// server that sends two means the second, as its clients do.
    pub(super) fn finish(&mut self) -> Option<(CancelKey, CancelKey)> {
        let body = std::mem::take(&mut self.original.0);
        let issued: Vec<u8> = body
            .iter()
            .enumerate()
            .map(|(at, byte)| self.issued_byte(at).unwrap_or(*byte))
            .collect();
        Some((key(&issued)?, key(&body)?))
    }

    /// `None` where the server's byte stays.
    fn issued_byte(&self, at: usize) -> Option<u8> {
        match at.checked_sub(PROCESS_ID_BYTES) {
            Some(at) => Some(self.issued.random[at % RANDOM_BYTES]),
            None => Some(self.issued.process_id?.to_be_bytes()[at]),
        }
    }
}

fn key(body: &[u8]) -> Option<CancelKey> {
    let (process_id, secret) = body.split_first_chunk()?;
    CancelKey::new(u32::from_be_bytes(*process_id), secret)
}
