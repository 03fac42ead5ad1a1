//! ErrorResponse: what we tell a client, and what a server tells us
//! (protocol chapter, "Error and Notice Message Fields").

use std::fmt;

use crate::protocol::postgres::Severity;
use crate::protocol::postgres::cursor::Cursor;
use crate::protocol::postgres::cursor::printable;
use crate::protocol::postgres::sqlstate::SqlState;
use crate::protocol::postgres::writer::Writer;

/// More than anybody reads in a log line or a terminal.
pub const MAX_TEXT_BYTES: usize = 1024;

/// An error to be sent to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorResponse<'a> {
    severity: Severity,
    sqlstate: SqlState,
    message: &'a str,
    detail: Option<&'a str>,
    hint: Option<&'a str>,
}

impl<'a> ErrorResponse<'a> {
    /// The session is refused or ends with it.
    #[must_use]
    pub fn fatal(sqlstate: SqlState, message: &'a str) -> Self {
        Self {
            severity: Severity::Fatal,
            sqlstate,
            message,
            detail: None,
            hint: None,
        }
    }

    /// A statement fails with it; ReadyForQuery has to follow.
    #[must_use]
    pub fn error(sqlstate: SqlState, message: &'a str) -> Self {
        Self {
            severity: Severity::Error,
            ..Self::fatal(sqlstate, message)
        }
    }

    /// What exactly was wrong, as a full sentence.
    #[must_use]
    pub fn with_detail(self, detail: &'a str) -> Self {
        Self {
            detail: Some(detail),
            ..self
        }
    }

    /// What the user might do, as a full sentence.
    #[must_use]
    pub fn with_hint(self, hint: &'a str) -> Self {
        Self {
            hint: Some(hint),
            ..self
        }
    }

    /// The whole message. Control characters become spaces, long texts are cut at
    /// [`MAX_TEXT_BYTES`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let severity = match self.severity {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        // `S` may be translated and `V` (since 9.6) may not; both are wanted.
        let fields = [
            (b'S', Some(severity)),
            (b'V', Some(severity)),
            (b'C', Some(self.sqlstate.as_str())),
            (b'M', Some(self.message)),
            (b'D', self.detail),
            (b'H', self.hint),
        ];
        let mut message = Writer::tagged(b'E');
        for (field, text) in fields {
            let Some(text) = text else { continue };
            let text = printable(text.as_bytes(), MAX_TEXT_BYTES);
            message = message.byte(field).c_string(&text);
        }
        message.byte(0).finish()
    }
}

/// An error that a server sent. Its texts are printable and short, whatever the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    pub severity: Severity,
    /// `None` if there was none, or not one of five digits and capital letters.
    pub sqlstate: Option<SqlState>,
    /// Empty if there was none.
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// The server's function that says it: never translated, other than the message.
    pub routine: Option<String>,
}

impl ServerError {
    /// 57P01 because the postmaster has died: nobody has ordered that (`be-secure.c`).
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        self.sqlstate == Some(SqlState::ADMIN_SHUTDOWN)
            && matches!(
                self.routine.as_deref(),
                Some("secure_read" | "secure_write")
            )
    }

    /// Reads the body of an ErrorResponse, or as much of it as makes sense: a server that is broken
    /// enough to send a bad error has failed all the same.
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        let mut error = Self {
            severity: Severity::Error,
            sqlstate: None,
            message: String::new(),
            detail: None,
            hint: None,
            routine: None,
        };
        let mut rest = Cursor(body);
        while let Some(field @ 1..) = rest.byte() {
            let Some(text) = rest.c_string() else { break };
            match field {
                // `V` comes after `S` and is the one that is never translated.
                b'S' | b'V' => error.severity = Severity::from_field(text),
                b'C' => error.sqlstate = SqlState::new(text),
                b'M' => error.message = printable(text, MAX_TEXT_BYTES),
                b'D' => error.detail = Some(printable(text, MAX_TEXT_BYTES)),
                b'H' => error.hint = Some(printable(text, MAX_TEXT_BYTES)),
                b'R' => error.routine = Some(printable(text, MAX_TEXT_BYTES)),
                // The protocol tells us to ignore what we do not know.
                _ => {}
            }
        }
        error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = match self.message.as_str() {
            "" => "error without a message",
            message => message,
        };
        match self.sqlstate {
            Some(sqlstate) => write!(f, "{message} (SQLSTATE {sqlstate})"),
            None => write!(f, "{message} (no SQLSTATE)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn sent(response: ErrorResponse<'_>) -> ServerError {
        let bytes = response.encode();
        assert_eq!(bytes[0], b'E');
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
        assert_eq!(length as usize, bytes.len() - 1);
        ServerError::parse(&bytes[5..])
    }

    #[test]
    fn who_says_57p01_tells_a_killed_server_from_one_that_is_stopped() {
        for (fields, expected) in [
            (&b"SFATAL\0C57P01\0Mx\0Rsecure_read\0\0"[..], true),
            (b"SFATAL\0C57P01\0Mx\0RProcessInterrupts\0\0", false),
            (b"SFATAL\0C57P01\0Mx\0\0", false),
            (b"SFATAL\0C57P02\0Mx\0Rsecure_read\0\0", false),
        ] {
            assert_eq!(ServerError::parse(fields).is_orphaned(), expected);
        }
    }

    #[test]
    fn an_error_has_the_fields_that_drivers_read() {
        let response = ErrorResponse::fatal(SqlState::CANNOT_CONNECT_NOW, "no primary");
        assert_eq!(
            response.encode(),
            b"E\0\0\0\x26SFATAL\0VFATAL\0C57P03\0Mno primary\0\0"
        );
        let with_all = response.with_detail("Since 3 s.").with_hint("Wait.");
        assert_eq!(
            sent(with_all),
            ServerError {
                severity: Severity::Fatal,
                sqlstate: Some(SqlState::CANNOT_CONNECT_NOW),
                message: "no primary".to_owned(),
                detail: Some("Since 3 s.".to_owned()),
                hint: Some("Wait.".to_owned()),
                routine: None,
            }
        );
        let mild = ErrorResponse::error(SqlState::INTERNAL_ERROR, "x");
        assert_eq!(sent(mild).severity, Severity::Error);
    }

    #[test]
    fn texts_cannot_smuggle_fields_or_lines_and_are_cut() {
        let message = format!("user \"a\0C00000\0\n\x1b[2J\" {}", "x".repeat(5000));
        let error = sent(ErrorResponse::fatal(SqlState::INTERNAL_ERROR, &message));
        assert_eq!(error.sqlstate, Some(SqlState::INTERNAL_ERROR));
        assert!(error.message.starts_with("user \"a C00000   [2J\" xxx"));
        assert_eq!(error.message.len(), MAX_TEXT_BYTES);
    }

    #[test]
    fn a_servers_error_needs_no_sqlstate() {
        for (body, sqlstate, message) in [
            (&b""[..], None, ""),
            (b"\0", None, ""),
            (b"SERROR\0Mboom\0\0", None, "boom"),
            (b"C57P0\0Mboom\0\0", None, "boom"),
            (b"C57P034\0Mboom\0\0", None, "boom"),
            (b"C57p03\0Mboom\0\0", None, "boom"),
            (b"C57P03", None, ""),
            (b"Mbo\0C57P03", None, "bo"),
            (b"C57P03\0", Some(SqlState::CANNOT_CONNECT_NOW), ""),
            (b"\x01odd\0C57P03\0", Some(SqlState::CANNOT_CONNECT_NOW), ""),
            (
                b"C57P03\0\0Mafter\0",
                Some(SqlState::CANNOT_CONNECT_NOW),
                "",
            ),
        ] {
            let error = ServerError::parse(body);
            let found = (error.sqlstate, error.message.as_str());
            assert_eq!(found, (sqlstate, message), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn severity_is_believed_untranslated_first() {
        for (body, severity) in [
            (&b"SFATAL\0"[..], Severity::Fatal),
            (b"SPANIC\0VPANIC\0", Severity::Fatal),
            ("SFATALE\0VFATAL\0".as_bytes(), Severity::Fatal),
            (b"SFATAL\0VERROR\0", Severity::Error),
            (b"SFATALE\0", Severity::Error),
        ] {
            assert_eq!(ServerError::parse(body).severity, severity);
        }
    }

    #[test]
    fn errors_name_their_code() {
        let error = ServerError::parse(b"C53300\0Mtoo many\0\0");
        assert_eq!(error.to_string(), "too many (SQLSTATE 53300)");
        let silent = ServerError::parse(b"\0");
        assert_eq!(silent.to_string(), "error without a message (no SQLSTATE)");
    }

    proptest! {
        #[test]
        fn any_body_is_an_error_that_can_be_logged(body in vec(any::<u8>(), 0..300)) {
            let error = ServerError::parse(&body);
            prop_assert!(!error.to_string().chars().any(char::is_control));
        }
    }
}
