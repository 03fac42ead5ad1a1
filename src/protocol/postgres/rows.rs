//! The answer to a simple query: a few rows of text.

use crate::protocol::postgres::Severity;
use crate::protocol::postgres::cursor::Cursor;
use crate::protocol::postgres::error::ServerError;

/// Bodies and headers of a whole answer. A probe asks for one row of a dozen short values.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// A probe asks for a dozen.
const MAX_COLUMNS: usize = 64;

const HEADER_BYTES: usize = 5;
/// Table oid, column number, type oid, type size, modifier, format.
const COLUMN_BYTES: usize = 4 + 2 + 4 + 2 + 4 + 2;
/// In place of a value's length.
const NULL_LENGTH: u32 = u32::MAX;

/// What one query returned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows {
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
}

impl Rows {
    /// Rows in their order; each has one value per column, `None` is NULL.
    #[must_use]
    pub fn rows(&self) -> &[Vec<Option<String>>] {
        &self.rows
    }

    /// The value in a column of the first row; `None` if there is no such column, no row, or NULL.
    #[must_use]
    pub fn first(&self, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|name| name == column)?;
        self.rows.first()?.get(at)?.as_deref()
    }
}

/// What to do after a message.
#[derive(Debug, PartialEq, Eq)]
pub enum AnswerStep {
    /// Read the next message.
    Wait,
    /// The answer is complete and the session waits for the next query. `Err`: the statement failed.
    Done(Result<Rows, ServerError>),
}

/// There will be no answer; the connection is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The server has ended the session.
    #[error("{0}")]
    Ended(ServerError),
    #[error("malformed {0} message")]
    Malformed(&'static str),
    #[error("unexpected message {0:?} in answer to a query")]
    Unexpected(char),
    #[error("answer longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
}

/// Collects the answer to one simple query, which may hold several statements, of which one returns
/// rows.
#[derive(Debug, Default)]
pub struct Answer {
    bytes: usize,
    columns: Option<Vec<String>>,
    rows: Vec<Vec<Option<String>>>,
    failed: Option<ServerError>,
}

impl Answer {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next message of the server. ParameterStatus is accepted and ignored: see
    /// [`ServerParameters::note`](super::login::ServerParameters::note).
    ///
    /// # Errors
    /// The server ends the session, sends too much, or does not follow the protocol.
    pub fn on_message(&mut self, tag: u8, body: &[u8]) -> Result<AnswerStep, AnswerError> {
        self.bytes += HEADER_BYTES + body.len();
        if self.bytes > MAX_ANSWER_BYTES {
            return Err(AnswerError::TooLong);
        }
        match tag {
            b'T' if self.columns.is_some() => return Err(AnswerError::Unexpected('T')),
            b'T' => self.columns = Some(row_description(body)?),
            b'D' => {
                let columns = self.columns.as_ref().map(Vec::len);
                let columns = columns.ok_or(AnswerError::Unexpected('D'))?;
                self.rows.push(data_row(body, columns)?);
            }
            b'E' => {
                let error = ServerError::parse(body);
                if error.severity == Severity::Fatal {
                    return Err(AnswerError::Ended(error));
                }
                self.failed = Some(error);
            }
            b'Z' => return Ok(AnswerStep::Done(self.take_result())),
            // CommandComplete, EmptyQueryResponse, and what may come at any time.
            b'C' | b'I' | b'A' | b'N' | b'S' => {}
            _ => return Err(AnswerError::Unexpected(char::from(tag))),
        }
        Ok(AnswerStep::Wait)
    }

    fn take_result(&mut self) -> Result<Rows, ServerError> {
        let answer = std::mem::take(self);
        match answer.failed {
            Some(error) => Err(error),
            None => Ok(Rows {
                columns: answer.columns.unwrap_or_default(),
                rows: answer.rows,
            }),
        }
    }
}

/// The columns' names out of a RowDescription.
fn row_description(body: &[u8]) -> Result<Vec<String>, AnswerError> {
    let malformed = AnswerError::Malformed("RowDescription");
    let mut body = Cursor(body);
    let Some(count @ 0..=MAX_COLUMNS) = body.u16().map(usize::from) else {
        return Err(malformed);
    };
    let column = |_| {
        let name = body.c_string()?;
        body.take(COLUMN_BYTES)?;
        Some(text(name))
    };
    let columns: Option<Vec<_>> = (0..count).map(column).collect();
    columns.filter(|_| body.is_empty()).ok_or(malformed)
}

/// The values out of a DataRow.
fn data_row(body: &[u8], columns: usize) -> Result<Vec<Option<String>>, AnswerError> {
    let malformed = AnswerError::Malformed("DataRow");
    let mut body = Cursor(body);
    if body.u16().map(usize::from) != Some(columns) {
        return Err(malformed);
    }
    let value = |_| match body.u32()? {
        NULL_LENGTH => Some(None),
        length => body.take(length as usize).map(|value| Some(text(value))),
    };
    let values: Option<Vec<_>> = (0..columns).map(value).collect();
    values.filter(|_| body.is_empty()).ok_or(malformed)
}

/// Invalid UTF-8 is replaced: the login asked for UTF-8, and a comparison with it just fails.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::TransactionStatus;
    use crate::protocol::postgres::backend;
    use crate::protocol::postgres::error::ErrorResponse;
    use crate::protocol::postgres::sqlstate::SqlState;

    /// What an answer of these messages is, up to the first step that is not to wait.
    fn read(messages: &[Vec<u8>]) -> Result<AnswerStep, AnswerError> {
        let mut answer = Answer::new();
        for message in messages {
            match answer.on_message(message[0], &message[5..]) {
                Ok(AnswerStep::Wait) => {}
                decided => return decided,
            }
        }
        Ok(AnswerStep::Wait)
    }

    fn ready() -> Vec<u8> {
        backend::ready_for_query(TransactionStatus::Idle)
    }

    fn raw(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag, 0, 0, 0, 0], body].concat()
    }

    #[test]
    fn a_row_is_read_by_column_name() {
        let Ok(AnswerStep::Done(Ok(rows))) = read(&[
            backend::command_complete("SET"),
            backend::row_description(&["in_recovery", "lag"]),
            backend::parameter_status("in_hot_standby", "off"),
            backend::data_row(&[Some("f"), None]),
            backend::data_row(&[Some("t"), Some("")]),
            backend::command_complete("SELECT 2"),
            ready(),
        ]) else {
            panic!("no rows");
        };
        assert_eq!(rows.first("in_recovery"), Some("f"));
        assert_eq!(rows.first("lag"), None);
        assert_eq!(rows.first("other"), None);
        assert_eq!(rows.rows()[1], [Some("t".to_owned()), Some(String::new())]);
    }

    #[test]
    fn an_answer_may_be_as_long_as_the_limit() {
        let longest = vec![0; MAX_ANSWER_BYTES - HEADER_BYTES];
        let read = |body: &[u8]| Answer::new().on_message(b'N', body);
        assert!(matches!(read(&longest), Ok(AnswerStep::Wait)));
        let longer = [&longest[..], &[0]].concat();
        assert!(matches!(read(&longer), Err(AnswerError::TooLong)));
    }

    #[test]
    fn a_row_may_have_no_columns() {
        let Ok(AnswerStep::Done(Ok(rows))) = read(&[
            backend::row_description(&[]),
            backend::data_row(&[]),
            backend::command_complete("SELECT 1"),
            ready(),
        ]) else {
            panic!("no rows");
        };
        assert_eq!(rows.rows(), [[]]);
        assert_eq!(rows.first(""), None);
    }

    #[test]
    fn a_query_without_rows_is_answered() {
        for messages in [vec![ready()], vec![raw(b'I', b""), ready()]] {
            assert_eq!(read(&messages), Ok(AnswerStep::Done(Ok(Rows::default()))));
        }
    }

    #[test]
    fn a_failed_statement_leaves_the_session_and_a_fatal_error_does_not() {
        let error = ErrorResponse::error(SqlState::READ_ONLY_SQL_TRANSACTION, "no").encode();
        let Ok(AnswerStep::Done(Err(failed))) = read(&[
            backend::row_description(&["a"]),
            backend::data_row(&[Some("1")]),
            error,
            ready(),
        ]) else {
            panic!("no error");
        };
        assert_eq!(failed.sqlstate, Some(SqlState::READ_ONLY_SQL_TRANSACTION));

        let fatal = ErrorResponse::fatal(SqlState::ADMIN_SHUTDOWN, "bye").encode();
        let Err(AnswerError::Ended(ended)) = read(&[fatal]) else {
            panic!("not ended");
        };
        assert_eq!(ended.sqlstate, Some(SqlState::ADMIN_SHUTDOWN));
    }

    #[test]
    fn rows_that_lie_about_themselves_are_refused() {
        let one_column = backend::row_description(&["a"]);
        for body in [
            &b""[..],
            b"\0",
            b"\0\0",
            b"\0\x02\0\0\0\0",
            b"\0\x02\0\0\0\0\0\0\0\0",
            b"\0\x01",
            b"\0\x01\0\0\0\x01",
            b"\0\x01\0\0\0\0x",
            b"\0\x01\x7f\xff\xff\xff",
            b"\0\x01\x80\0\0\0",
            b"\0\x01\xff\xff\xff\xfe",
        ] {
            let answer = read(&[one_column.clone(), raw(b'D', body)]);
            assert_eq!(
                answer,
                Err(AnswerError::Malformed("DataRow")),
                "{}",
                body.escape_ascii()
            );
        }
        let valid = &one_column[5..];
        let most = backend::row_description(&["a"; MAX_COLUMNS]);
        assert_eq!(read(&[most]), Ok(AnswerStep::Wait));
        let too_many = backend::row_description(&["a"; MAX_COLUMNS + 1]);
        for body in [
            &b""[..],
            b"\xff\xff",
            &valid[..valid.len() - 1],
            &[valid, b"x"].concat(),
            &too_many[5..],
        ] {
            let answer = read(&[raw(b'T', body)]);
            assert_eq!(answer, Err(AnswerError::Malformed("RowDescription")));
        }
    }

    #[test]
    fn an_answer_out_of_order_is_refused() {
        let one_column = backend::row_description(&["a"]);
        assert_eq!(
            read(&[backend::data_row(&[None])]),
            Err(AnswerError::Unexpected('D'))
        );
        assert_eq!(
            read(&[one_column.clone(), one_column]),
            Err(AnswerError::Unexpected('T'))
        );
        for tag in *b"RKWGHvt12n" {
            assert_eq!(
                read(&[raw(tag, b"")]),
                Err(AnswerError::Unexpected(char::from(tag)))
            );
        }
    }

    #[test]
    fn an_endless_answer_ends() {
        for message in [raw(b'N', b""), backend::command_complete("SELECT 1")] {
            let messages = vec![message; MAX_ANSWER_BYTES];
            assert_eq!(read(&messages), Err(AnswerError::TooLong));
        }
    }
}
