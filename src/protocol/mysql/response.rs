//! The three short answers: OK, ERR, EOF.

use std::borrow::Cow;

use super::Capabilities;
use super::Malformed;
use super::Status;
use super::wire::Reader;
use super::wire::put_lenenc;

pub const OK_HEADER: u8 = 0x00;
pub const ERR_HEADER: u8 = 0xFF;
/// EOF, and an OK at the end of a result set where EOF is deprecated.
pub const EOF_HEADER: u8 = 0xFE;

/// The old EOF packet is at most this long; anything longer is a row.
pub(super) const MAX_EOF_BYTES: usize = 8;

/// "Too many connections", SQLSTATE 08004.
pub const ER_CON_COUNT: u16 = 1040;
pub const ER_ACCESS_DENIED: u16 = 1045;
/// "Server shutdown in progress", SQLSTATE 08S01.
pub const ER_SERVER_SHUTDOWN: u16 = 1053;
/// "The server is running with the %s option so it cannot execute this statement".
pub const ER_OPTION_PREVENTS_STATEMENT: u16 = 1290;
pub const ER_READ_ONLY_TRANSACTION: u16 = 1792;
/// "Running in read-only mode" (InnoDB cannot write at all).
pub const ER_READ_ONLY_MODE: u16 = 1836;
/// MariaDB reports progress as an error with this number; the real answer follows.
pub const MARIADB_PROGRESS_REPORT: u16 = 0xFFFF;

/// Behind it, the five characters of an SQLSTATE.
const SQL_STATE_MARKER: u8 = b'#';
const SQL_STATE_BYTES: usize = 5;
const UNKNOWN_SQL_STATE: [u8; SQL_STATE_BYTES] = *b"HY000";

/// OK: a statement without rows succeeded, or rows have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OkPacket {
    pub affected_rows: u64,
    pub last_insert_id: u64,
    pub status: Status,
    pub warnings: u16,
}

impl OkPacket {
    /// Parses either header; what follows the warnings (message, session state) is left unread.
    ///
    /// # Errors
    /// Not an OK packet of protocol 4.1.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(payload);
        if !matches!(reader.u8()?, OK_HEADER | EOF_HEADER) {
            return Err(Malformed("not an OK packet"));
        }
        Ok(Self {
            affected_rows: reader.lenenc()?,
            last_insert_id: reader.lenenc()?,
            status: Status(reader.u16()?),
            warnings: reader.u16()?,
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut payload = vec![OK_HEADER];
        put_lenenc(&mut payload, self.affected_rows);
        put_lenenc(&mut payload, self.last_insert_id);
        payload.extend_from_slice(&self.status.0.to_le_bytes());
        payload.extend_from_slice(&self.warnings.to_le_bytes());
        payload
    }
}

/// EOF: columns or rows have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EofPacket {
    pub warnings: u16,
    pub status: Status,
}

impl EofPacket {
    /// # Errors
    /// Not an EOF packet of protocol 4.1.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(payload);
        if reader.u8()? != EOF_HEADER || payload.len() > MAX_EOF_BYTES {
            return Err(Malformed("not an EOF packet"));
        }
        Ok(Self {
            warnings: reader.u16()?,
            status: Status(reader.u16()?),
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut payload = vec![EOF_HEADER];
        payload.extend_from_slice(&self.warnings.to_le_bytes());
        payload.extend_from_slice(&self.status.0.to_le_bytes());
        payload
    }
}

/// ERR: what the server refuses, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} ({}): {message}", String::from_utf8_lossy(.sql_state))]
pub struct ServerError {
    pub code: u16,
    /// `HY000` if the server sent none, as before the capabilities are known.
    pub sql_state: [u8; SQL_STATE_BYTES],
    pub message: String,
}

impl ServerError {
    /// An error of our own.
    pub fn new(code: u16, sql_state: [u8; SQL_STATE_BYTES], message: &str) -> Self {
        Self {
            code,
            sql_state,
            message: message.to_owned(),
        }
    }

    /// # Errors
    /// Not an ERR packet.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(payload);
        if reader.u8()? != ERR_HEADER {
            return Err(Malformed("not an ERR packet"));
        }
        let code = reader.u16()?;
        let mut sql_state = UNKNOWN_SQL_STATE;
        if reader.0.first() == Some(&SQL_STATE_MARKER) && reader.0.len() > SQL_STATE_BYTES {
            sql_state.copy_from_slice(&reader.take(1 + SQL_STATE_BYTES)?[1..]);
        }
        let message = String::from_utf8_lossy(reader.0).into_owned();
        Ok(Self {
            code,
            sql_state,
            message,
        })
    }

    /// The payload for a client that has sent its capabilities.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_for(Capabilities::PROTOCOL_41)
    }

    /// The payload for the very first packet, instead of a greeting.
    ///
    /// A server does not know its client yet and so leaves out the SQLSTATE; libmysqlclient
    /// would show it as part of the message.
    pub fn encode_as_first_packet(&self) -> Vec<u8> {
        self.encode_for(Capabilities::default())
    }

    fn encode_for(&self, client: Capabilities) -> Vec<u8> {
        let mut payload = vec![ERR_HEADER];
        payload.extend_from_slice(&self.code.to_le_bytes());
        if client.has(Capabilities::PROTOCOL_41) {
            payload.push(SQL_STATE_MARKER);
            payload.extend_from_slice(&self.sql_state);
        }
        payload.extend_from_slice(self.message.as_bytes());
        payload
    }

    /// What the error proves about the server's role.
    pub fn proof(&self) -> Option<Proof> {
        proof(self.code, self.message.as_bytes())
    }
}

/// What an error tells about the server, whatever the statement was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// It takes no writes from ordinary users: no primary.
    ReadOnly,
    /// It is going away.
    ShuttingDown,
    /// A read-only transaction, which the client may have asked for itself: a reason to ask, no proof.
    MaybeReadOnly,
}

/// What error `code` proves; `message` may be a prefix of the message.
///
/// 1290 is used for every option that forbids a statement (`--secure-file-priv`,
/// `--skip-grant-tables`), so that it alone proves nothing.
pub fn proof(code: u16, message: &[u8]) -> Option<Proof> {
    match code {
        ER_SERVER_SHUTDOWN => Some(Proof::ShuttingDown),
        ER_READ_ONLY_MODE => Some(Proof::ReadOnly),
        ER_READ_ONLY_TRANSACTION => Some(Proof::MaybeReadOnly),
        ER_OPTION_PREVENTS_STATEMENT => names_read_only(message).then_some(Proof::ReadOnly),
        _ => None,
    }
}

/// `--read-only`, `--super-read-only`, `--innodb-read-only`, with either spelling; translations keep it.
fn names_read_only(message: &[u8]) -> bool {
    let message: Cow<'_, str> = String::from_utf8_lossy(message);
    message.contains("read-only") || message.contains("read_only")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_with_and_without_a_state() {
        let error = ServerError::new(ER_CON_COUNT, *b"08004", "Too many connections");
        assert_eq!(error.encode(), b"\xff\x10\x04#08004Too many connections");
        assert_eq!(ServerError::parse(&error.encode()), Ok(error.clone()));
        let first = error.encode_as_first_packet();
        assert_eq!(first, b"\xff\x10\x04Too many connections");
        let parsed = ServerError::parse(&first).unwrap();
        assert_eq!((parsed.code, parsed.sql_state), (1040, *b"HY000"));
        assert_eq!(
            parsed.to_string(),
            "1040 (HY000): Too many connections",
            "shown in probes"
        );
    }

    #[test]
    fn short_answers_are_refused() {
        for payload in [
            &b""[..],
            b"\0",
            b"\0\0\0\x02",
            b"\0\xfc\0",
            b"\x01\0\0\x02\0\0\0",
        ] {
            assert!(OkPacket::parse(payload).is_err(), "{payload:?}");
        }
        for payload in [&b"\xfe"[..], b"\xfe\0\0\0", b"\xfe\0\0\0\0\0\0\0\0"] {
            assert!(EofPacket::parse(payload).is_err(), "{payload:?}");
        }
        for payload in [&b""[..], b"\xff\x10", b"\0\x10\x04"] {
            assert!(ServerError::parse(payload).is_err(), "{payload:?}");
        }
        assert_eq!(
            ServerError::parse(b"\xff\x10\x04#080").unwrap().message,
            "#080"
        );
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        let status = Status(0x4002);
        let ok = OkPacket {
            affected_rows: 300,
            last_insert_id: u64::MAX,
            status,
            warnings: 7,
        };
        assert_eq!(OkPacket::parse(&ok.encode()), Ok(ok));
        let eof = EofPacket {
            warnings: 1,
            status,
        };
        assert_eq!(EofPacket::parse(&eof.encode()), Ok(eof));
    }

    #[test]
    fn only_a_read_only_option_proves_a_replica() {
        let message = |option: &str| {
            format!(
                "The MySQL server is running with the {option} option so it cannot execute this statement"
            )
        };
        for option in ["--read-only", "--super-read-only", "read_only"] {
            let proof = proof(1290, message(option).as_bytes());
            assert_eq!(proof, Some(Proof::ReadOnly), "{option}");
        }
        for option in ["--secure-file-priv", "--skip-grant-tables"] {
            assert_eq!(proof(1290, message(option).as_bytes()), None, "{option}");
        }
        assert_eq!(proof(1836, b""), Some(Proof::ReadOnly));
        assert_eq!(proof(1053, b""), Some(Proof::ShuttingDown));
        assert_eq!(proof(1792, b""), Some(Proof::MaybeReadOnly));
        assert_eq!(proof(1064, b"read-only"), None);
    }
}
