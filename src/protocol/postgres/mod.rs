//! The PostgreSQL frontend/backend protocol, version 3
//! (postgresql.org/docs/current/protocol.html), as far as a proxy in session mode and a health
//! probe need it.
//!
//! - The client side of a proxy: [`startup`] (what a client says first), [`backend`] (what a server
//!   may answer), [`error`] (refusals that drivers understand).
//! - The server side of a proxy: [`follow`] reads nothing but message headers as they pass.
//! - A probe: [`frontend`], [`frame`], [`login`] and [`rows`].
//!
//! Pure: bytes in, values out. Whoever is on the other side is not trusted: every length is
//! checked before it is used, every text that may end in a log is made printable and short.

pub mod backend;
pub mod binding;
mod cursor;
pub mod error;
pub mod follow;
pub mod frame;
pub mod frontend;
mod fuzz;
pub mod login;
pub mod rows;
mod scram;
pub mod sqlstate;
pub mod startup;
pub mod wal;
mod writer;

#[doc(hidden)]
pub use self::fuzz::fuzz;

/// What a server says it is doing, in ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: in no transaction.
    Idle,
    /// `T`: in a transaction.
    InTransaction,
    /// `E`: in a transaction that can only be rolled back.
    Failed,
}

impl TransactionStatus {
    /// From the byte in ReadyForQuery; `None` for any that the protocol does not have.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    /// The byte in ReadyForQuery.
    #[must_use]
    pub fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// How bad an error is, as far as a third party has to care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the session lives. Any user can raise one with any SQLSTATE.
    Error,
    /// FATAL or PANIC: the server ends the session. SQL code cannot raise one.
    Fatal,
}

impl Severity {
    /// From field `V` or `S` of an ErrorResponse.
    fn from_field(text: &[u8]) -> Self {
        match text {
            b"FATAL" | b"PANIC" => Self::Fatal,
            _ => Self::Error,
        }
    }
}

/// What a CancelRequest carries: which server process, and the right to ask it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    process_id: u32,
    secret: Box<[u8]>,
}

/// Protocol 3.0 has 4 bytes, always; 3.2 has up to 256.
pub const MIN_CANCEL_SECRET_BYTES: usize = 4;
/// See [`MIN_CANCEL_SECRET_BYTES`].
pub const MAX_CANCEL_SECRET_BYTES: usize = 256;

impl CancelKey {
    /// `None` if the secret is shorter or longer than the protocol allows.
    #[must_use]
    pub fn new(process_id: u32, secret: &[u8]) -> Option<Self> {
        (MIN_CANCEL_SECRET_BYTES..=MAX_CANCEL_SECRET_BYTES)
            .contains(&secret.len())
            .then(|| Self {
                process_id,
                secret: secret.into(),
            })
    }

    /// The process that serves the session, as the server (or a proxy before it) names it.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// 4 to 256 bytes.
    #[must_use]
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }
}

impl std::fmt::Debug for CancelKey {
    /// Without the secret: whoever has it may cancel the session's queries.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelKey")
            .field("process_id", &self.process_id)
            .field("secret_bytes", &self.secret.len())
            .finish()
    }
}
