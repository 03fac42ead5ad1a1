//! SQLSTATE: the five characters that say what went wrong
//! (postgresql.org/docs/current/errcodes-appendix.html).

use std::fmt;

/// Five digits or capital letters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// An established connection is lost.
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    /// A peer broke the protocol.
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    /// Among others: a protocol version that the server does not speak.
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    /// A write was sent to a replica, or in a read-only transaction.
    pub const READ_ONLY_SQL_TRANSACTION: Self = Self(*b"25006");
    /// This user may not connect, or none was named.
    pub const INVALID_AUTHORIZATION: Self = Self(*b"28000");
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    /// There is no such database.
    pub const INVALID_CATALOG_NAME: Self = Self(*b"3D000");
    /// The server has no free connection slot.
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// A limit of the program, not of its configuration, was reached.
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(*b"54000");
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    /// The server stops, or an administrator ended the session.
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// Another server process crashed; all sessions are ended.
    pub const CRASH_SHUTDOWN: Self = Self(*b"57P02");
    /// The server is starting, stopping or recovering: try again later.
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    pub const IDLE_SESSION_TIMEOUT: Self = Self(*b"57P05");
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");

    /// `None` unless the text is exactly five digits or capital letters.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        let code = <[u8; 5]>::try_from(text).ok()?;
        code.iter()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
            .then_some(Self(code))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("digits and capital letters only")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_five_digits_or_capital_letters() {
        assert_eq!(SqlState::new(b"57P03"), Some(SqlState::CANNOT_CONNECT_NOW));
        assert_eq!(SqlState::CANNOT_CONNECT_NOW.to_string(), "57P03");
        for wrong in [
            &b""[..],
            b"57P0",
            b"57P033",
            b"57p03",
            b"57P0\0",
            b"57P0\xff",
            b"57 03",
        ] {
            assert_eq!(SqlState::new(wrong), None, "{}", wrong.escape_ascii());
        }
    }
}
