//! Follows what a server sends, while it passes, by the headers of its messages.
//!
//! Bodies are stepped over by arithmetic: nothing is copied, nothing is held back, and memory does
//! not depend on what passes. The few that are looked into are ReadyForQuery (one byte),
//! Authentication (four), ErrorResponse (up to its SQLSTATE, or who says 57P01) and, before the first ReadyForQuery,
//! BackendKeyData, whose secret is overwritten in place.
//!
//! The stream begins after the answer to SSLRequest, which is no message.

mod body;
mod key;
mod watch;

use self::key::KeyExchange;
use self::watch::ErrorScan;
use crate::protocol::postgres::CancelKey;
use crate::protocol::postgres::Severity;
use crate::protocol::postgres::TransactionStatus;
use crate::protocol::postgres::sqlstate::SqlState;

pub use self::key::IssuedKey;

/// PostgreSQL cannot build a longer message (MaxAllocSize); a longer one is not its own.
pub const MAX_MESSAGE_BYTES: u32 = 1 << 30;
/// How far into an error its SQLSTATE is looked for. It comes third, after two words for the
/// severity; texts of any length come behind it.
pub const MAX_ERROR_SCAN_BYTES: u16 = 512;

const HEADER_BYTES: usize = 5;
/// The length counts itself, not the tag.
const LENGTH_FIELD_BYTES: u32 = 4;
const READY_BODY_BYTES: u32 = 1;
const AUTHENTICATION_KIND_BYTES: u32 = 4;

/// What has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server has let the client in.
    AuthenticationOk,
    /// The client was told `issued` where the server said `backend`. Comes before the last byte of
    /// `issued` is handed on: once it is registered, no client can be too early with it.
    CancelKey {
        issued: CancelKey,
        backend: CancelKey,
    },
    ReadyForQuery(TransactionStatus),
    /// An ErrorResponse. Comes as soon as its SQLSTATE has, which may be before its end;
    /// `None` if there is none within [`MAX_ERROR_SCAN_BYTES`].
    Error {
        severity: Severity,
        sqlstate: Option<SqlState>,
        /// 57P01 because the postmaster has died: nobody has ordered that.
        is_orphaned: bool,
    },
    /// Streaming replication begins: the session may stay like this for weeks.
    CopyBoth,
}

/// These bytes are no stream of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    #[error("server message {tag:?} has an invalid length of {length}")]
    Length { tag: char, length: u32 },
    #[error("ReadyForQuery with unknown status {0:#04x}")]
    TransactionStatus(u8),
}

/// Where in the server's stream one session is.
///
/// After an error it follows no longer: bytes pass unseen and unchanged (a cancel key, too), and the
/// session can go on if its owner lets it. What was last known stays as it was.
#[derive(Debug)]
pub struct ServerFollower {
    position: Position,
    status: Option<TransactionStatus>,
    activity: Activity,
    /// Gone after the first ReadyForQuery, so that an idle session does not pay for it.
    keys: Option<Box<KeyExchange>>,
}

#[derive(Debug)]
enum Position {
    Header {
        bytes: [u8; HEADER_BYTES],
        filled: u8,
    },
    Body {
        remaining: u32,
        watch: Watch,
    },
    Lost,
}

/// What to look for in the rest of a body.
#[derive(Debug, Clone, Copy)]
enum Watch {
    Nothing,
    Ready,
    Authentication { kind: u32, missing: u8 },
    Error(ErrorScan),
    Key,
}

/// Whether the server has begun to answer something since its last ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    Busy,
    Waiting,
}

impl ServerFollower {
    /// For a session whose cancel key is left alone.
    #[must_use]
    pub fn new() -> Self {
        Self {
            position: Position::START,
            status: None,
            activity: Activity::Busy,
            keys: None,
        }
    }

    /// For a session whose client gets another cancel key than the server gave.
    #[must_use]
    pub fn issuing(key: IssuedKey) -> Self {
        Self {
            keys: Some(Box::new(KeyExchange::new(key))),
            ..Self::new()
        }
    }

    /// Takes note of the next bytes, however they are cut; overwrites those of a cancel key.
    ///
    /// # Errors
    /// Once, at the first message that cannot be one. All bytes after its header pass unseen.
    #[inline]
    pub fn feed(
        &mut self,
        bytes: &mut [u8],
        mut on_event: impl FnMut(Event),
    ) -> Result<(), FollowError> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &mut bytes[at..];
            let step = match self.position {
                Position::Header { filled: 0, .. } => match self.pass_unwatched(rest) {
                    0 => self.read_header(rest, &mut on_event),
                    passed => Ok(passed),
                },
                Position::Header { .. } => self.read_header(rest, &mut on_event),
                Position::Body { .. } => self.read_body(rest, &mut on_event),
                Position::Lost => return Ok(()),
            };
            at += step.inspect_err(|_| self.position = Position::Lost)?;
        }
        Ok(())
    }

    /// Bytes that may go by without being fed, if [`skip`](Self::skip) is told: the rest of a body
    /// that nobody looks into.
    #[must_use]
    pub fn remaining_in_body(&self) -> usize {
        match self.position {
            Position::Body {
                remaining,
                watch: Watch::Nothing,
            } => remaining as usize,
            _ => 0,
        }
    }

    /// `count` bytes went by without being fed: at most [`remaining_in_body`](Self::remaining_in_body).
    ///
    /// # Panics
    /// If it was more: the position in the stream would be wrong from here on.
    pub fn skip(&mut self, count: usize) {
        assert!(
            count <= self.remaining_in_body(),
            "bytes were skipped that had to be fed"
        );
        if let Position::Body { remaining, .. } = &mut self.position {
            *remaining -= count as u32;
            if *remaining == 0 {
                self.position = Position::START;
            }
        }
    }

    /// As of the last ReadyForQuery; `None` before the first, while the client logs in.
    #[must_use]
    pub fn transaction_status(&self) -> Option<TransactionStatus> {
        self.status
    }

    /// The last thing that the server has said is that it is in no transaction and waits.
    ///
    /// The client may have sent the next query since, and a client that pipelines has: see whether
    /// its bytes were forwarded after the ReadyForQuery that made this true.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.status == Some(TransactionStatus::Idle) && self.activity == Activity::Waiting
    }

    /// All messages so far have passed whole: another one may be put in here.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        matches!(self.position, Position::Header { filled: 0, .. })
    }

    /// No error so far.
    #[must_use]
    pub fn is_following(&self) -> bool {
        !matches!(self.position, Position::Lost)
    }

    /// The tight loop: steps over whole messages that nobody looks into. Returns how many bytes.
    #[inline]
    fn pass_unwatched(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some((header, _)) = bytes[at..].split_first_chunk::<HEADER_BYTES>() {
            let [tag, length @ ..] = *header;
            let length = u32::from_be_bytes(length);
            if is_watched(tag) || check_length(tag, length).is_err() {
                break;
            }
            self.note_activity(tag);
            at += 1 + length as usize;
            if at > bytes.len() {
                self.position = Position::Body {
                    // Less than `length`.
                    remaining: (at - bytes.len()) as u32,
                    watch: Watch::Nothing,
                };
                return bytes.len();
            }
        }
        at
    }

    /// Completes a header, if it can. Returns how many bytes were read.
    fn read_header(
        &mut self,
        bytes: &[u8],
        on_event: &mut impl FnMut(Event),
    ) -> Result<usize, FollowError> {
        let Position::Header {
            bytes: mut header,
            filled,
        } = self.position
        else {
            return Ok(0);
        };
        let missing = &mut header[usize::from(filled)..];
        let count = missing.len().min(bytes.len());
        missing[..count].copy_from_slice(&bytes[..count]);
        if count < missing.len() {
            self.position = Position::Header {
                bytes: header,
                filled: filled + count as u8,
            };
            return Ok(count);
        }
        let [tag, length @ ..] = header;
        self.begin_body(tag, u32::from_be_bytes(length), on_event)?;
        Ok(count)
    }

    fn begin_body(
        &mut self,
        tag: u8,
        length: u32,
        on_event: &mut impl FnMut(Event),
    ) -> Result<(), FollowError> {
        check_length(tag, length)?;
        self.note_activity(tag);
        let remaining = length - LENGTH_FIELD_BYTES;
        let watch = match tag {
            b'Z' if remaining == READY_BODY_BYTES => Watch::Ready,
            b'R' if remaining >= AUTHENTICATION_KIND_BYTES => Watch::Authentication {
                kind: 0,
                missing: AUTHENTICATION_KIND_BYTES as u8,
            },
            b'K' if self.keys.is_none() => Watch::Nothing,
            b'K' if key::is_body_length(remaining) => Watch::Key,
            b'Z' | b'R' | b'K' => {
                let tag = char::from(tag);
                return Err(FollowError::Length { tag, length });
            }
            b'E' => Watch::Error(ErrorScan::new()),
            b'W' => {
                on_event(Event::CopyBoth);
                Watch::Nothing
            }
            _ => Watch::Nothing,
        };
        self.position = Position::Body { remaining, watch };
        if remaining == 0 {
            self.end_body(watch, on_event);
        }
        Ok(())
    }

    #[inline]
    fn note_activity(&mut self, tag: u8) {
        if !may_come_unasked(tag) {
            self.activity = Activity::Busy;
        }
    }
}

impl Default for ServerFollower {
    fn default() -> Self {
        Self::new()
    }
}

impl Position {
    const START: Self = Self::Header {
        bytes: [0; HEADER_BYTES],
        filled: 0,
    };
}

#[inline]
fn check_length(tag: u8, length: u32) -> Result<(), FollowError> {
    if (LENGTH_FIELD_BYTES..=MAX_MESSAGE_BYTES).contains(&length) {
        Ok(())
    } else {
        let tag = char::from(tag);
        Err(FollowError::Length { tag, length })
    }
}

#[inline]
fn is_watched(tag: u8) -> bool {
    matches!(tag, b'E' | b'K' | b'R' | b'W' | b'Z')
}

/// NotificationResponse, NoticeResponse, ParameterStatus: also while the server waits for a query.
#[inline]
fn may_come_unasked(tag: u8) -> bool {
    matches!(tag, b'A' | b'N' | b'S')
}

#[cfg(test)]
mod tests;
