//! Commands of a probe and the rows that answer them.

use super::Capabilities;
use super::Malformed;
use super::Status;
use super::packet::MAX_PAYLOAD_BYTES;
use super::packet::Message;
use super::packet::message;
use super::response::EOF_HEADER;
use super::response::ERR_HEADER;
use super::response::EofPacket;
use super::response::MARIADB_PROGRESS_REPORT;
use super::response::MAX_EOF_BYTES;
use super::response::OK_HEADER;
use super::response::OkPacket;
use super::response::ServerError;
use super::wire::LENENC_NULL;
use super::wire::Reader;

const COM_QUIT: u8 = 0x01;
const COM_QUERY: u8 = 0x03;
const COM_PING: u8 = 0x0E;

/// A statement, ready to write. Its answer is read with [`ReplyReader`].
pub fn query(sql: &str) -> Vec<u8> {
    message(0, &[&[COM_QUERY], sql.as_bytes()].concat())
}

/// Asks for an OK packet.
pub fn ping() -> Vec<u8> {
    message(0, &[COM_PING])
}

/// A polite end: the server closes, and counts no aborted client.
pub fn quit() -> Vec<u8> {
    message(0, &[COM_QUIT])
}

/// How much of an answer is read before it is refused.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_columns: usize,
    pub max_rows: usize,
    /// Of all columns and rows together.
    pub max_bytes: usize,
}

impl Default for Limits {
    /// SHOW REPLICA STATUS has about sixty columns, a row per channel, and values of some kilobytes.
    fn default() -> Self {
        Self {
            max_columns: 256,
            max_rows: 1024,
            max_bytes: 1 << 20,
        }
    }
}

/// The whole answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Ok(OkPacket),
    Rows(Rows),
    /// The statement failed; the connection can be used on.
    Error(ServerError),
}

/// A text result set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    columns: Vec<String>,
    /// `None` is NULL.
    rows: Vec<Vec<Option<Vec<u8>>>>,
    pub status: Status,
}

/// One row with the names of its columns.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    columns: &'a [String],
    values: &'a [Option<Vec<u8>>],
}

/// Why an answer cannot be used; the connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("MySQL answer with too many {0}")]
    TooMany(&'static str),
    #[error("MySQL packets out of order")]
    OutOfOrder,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Puts the answer to one command together.
pub struct ReplyReader {
    limits: Limits,
    ends_with_eof: bool,
    phase: Phase,
    /// Of the next packet.
    sequence: u8,
    bytes: usize,
    columns: Vec<String>,
    rows: Vec<Vec<Option<Vec<u8>>>>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Head,
    Columns { missing: usize },
    EofOfColumns,
    Rows,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn column_names(&self) -> &[String] {
        &self.columns
    }

    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|values| Row {
            columns: &self.columns,
            values,
        })
    }

    pub fn first(&self) -> Option<Row<'_>> {
        self.iter().next()
    }
}

impl<'a> Row<'a> {
    /// The value of the first column called `name` in any case; `None` if it is NULL, absent or no UTF-8.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        let same = |column: &String| column.eq_ignore_ascii_case(name);
        self.text_at(self.columns.iter().position(same)?)
    }

    /// As [`Row::text`], for names that changed between versions (`Source_Host`, `Master_Host`).
    pub fn text_of_any(&self, names: &[&str]) -> Option<&'a str> {
        names.iter().find_map(|name| self.text(name))
    }

    pub fn text_at(&self, index: usize) -> Option<&'a str> {
        str::from_utf8(self.values.get(index)?.as_deref()?).ok()
    }
}

impl ReplyReader {
    /// `capabilities` are those of the login.
    pub fn new(capabilities: Capabilities, limits: Limits) -> Self {
        Self {
            limits,
            ends_with_eof: !capabilities.has(Capabilities::DEPRECATE_EOF),
            phase: Phase::Head,
            sequence: 1,
            bytes: 0,
            columns: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Takes the next message; returns the answer with its last one.
    ///
    /// # Errors
    /// Malformed, over a limit, or a request for a local file, which we never offered.
    pub fn on_message(&mut self, message: &Message) -> Result<Option<Reply>, ReplyError> {
        let payload = &message.payload[..];
        if payload.first() == Some(&ERR_HEADER) {
            let error = ServerError::parse(payload)?;
            if error.code == MARIADB_PROGRESS_REPORT {
                return Err(Malformed("progress report that was not asked for").into());
            }
            return Ok(Some(Reply::Error(error)));
        }
        // The limit on bytes keeps a reply far below the 256 packets after which numbers wrap
        // inside one message, so that the last number tells the next.
        if message.sequence != self.sequence {
            return Err(ReplyError::OutOfOrder);
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.bytes += payload.len();
        if self.bytes > self.limits.max_bytes {
            return Err(ReplyError::TooMany("bytes"));
        }
        match self.phase {
            Phase::Head => self.on_head(payload),
            Phase::Columns { missing } => self.on_column(payload, missing),
            Phase::EofOfColumns => {
                EofPacket::parse(payload)?;
                self.phase = Phase::Rows;
                Ok(None)
            }
            Phase::Rows => self.on_row(payload),
        }
    }

    fn on_head(&mut self, payload: &[u8]) -> Result<Option<Reply>, ReplyError> {
        match payload.first() {
            Some(&OK_HEADER) => {
                let ok = OkPacket::parse(payload)?;
                refuse_more_results(ok.status)?;
                Ok(Some(Reply::Ok(ok)))
            }
            Some(&LENENC_NULL) => Err(Malformed("request for a local file").into()),
            _ => {
                let mut reader = Reader(payload);
                let missing = usize::try_from(reader.lenenc()?).unwrap_or(usize::MAX);
                if missing > self.limits.max_columns {
                    return Err(ReplyError::TooMany("columns"));
                }
                if missing == 0 || !reader.is_empty() {
                    return Err(Malformed("column count").into());
                }
                self.phase = Phase::Columns { missing };
                Ok(None)
            }
        }
    }

    fn on_column(&mut self, payload: &[u8], missing: usize) -> Result<Option<Reply>, ReplyError> {
        let mut reader = Reader(payload);
        for _catalog_schema_table_original_table in 0..4 {
            reader.lenenc_bytes()?;
        }
        let name = String::from_utf8_lossy(reader.lenenc_bytes()?).into_owned();
        self.columns.push(name);
        self.phase = match missing - 1 {
            0 if self.ends_with_eof => Phase::EofOfColumns,
            0 => Phase::Rows,
            missing => Phase::Columns { missing },
        };
        Ok(None)
    }

    fn on_row(&mut self, payload: &[u8]) -> Result<Option<Reply>, ReplyError> {
        if let Some(status) = end_of_rows(payload, self.ends_with_eof)? {
            refuse_more_results(status)?;
            return Ok(Some(Reply::Rows(Rows {
                columns: std::mem::take(&mut self.columns),
                rows: std::mem::take(&mut self.rows),
                status,
            })));
        }
        if self.rows.len() == self.limits.max_rows {
            return Err(ReplyError::TooMany("rows"));
        }
        let mut reader = Reader(payload);
        let mut values = Vec::with_capacity(self.columns.len());
        for _column in &self.columns {
            if reader.0.first() == Some(&LENENC_NULL) {
                reader.take(1)?;
                values.push(None);
            } else {
                values.push(Some(reader.lenenc_bytes()?.to_vec()));
            }
        }
        if !reader.is_empty() {
            return Err(Malformed("row with more values than columns").into());
        }
        self.rows.push(values);
        Ok(None)
    }
}

/// The status at the end of the rows; `None` for a row.
fn end_of_rows(payload: &[u8], ends_with_eof: bool) -> Result<Option<Status>, Malformed> {
    // A row whose first value has 16 MB or more starts with the same byte.
    let max_bytes = if ends_with_eof {
        MAX_EOF_BYTES
    } else {
        MAX_PAYLOAD_BYTES - 1
    };
    if payload.first() != Some(&EOF_HEADER) || payload.len() > max_bytes {
        return Ok(None);
    }
    if ends_with_eof {
        EofPacket::parse(payload).map(|eof| Some(eof.status))
    } else {
        OkPacket::parse(payload).map(|ok| Some(ok.status))
    }
}

/// We send one statement at a time and never ask for several results.
fn refuse_more_results(status: Status) -> Result<(), Malformed> {
    match status.has(Status::MORE_RESULTS) {
        true => Err(Malformed("more than one result")),
        false => Ok(()),
    }
}

/// Feeds `data` as payloads, each behind its length.
pub(super) fn fuzz(data: &[u8]) {
    let limits = Limits {
        max_columns: 4,
        max_rows: 4,
        max_bytes: 400,
    };
    for capabilities in [Capabilities::default(), Capabilities::DEPRECATE_EOF] {
        let mut reader = ReplyReader::new(capabilities, limits);
        let mut rest = data;
        while let Some((&length, after)) = rest.split_first() {
            let (payload, after) = after.split_at(usize::from(length).min(after.len()));
            rest = after;
            let message = Message {
                sequence: reader.sequence,
                payload: payload.to_vec(),
            };
            match reader.on_message(&message) {
                Ok(None) => {}
                Ok(Some(Reply::Rows(rows))) => {
                    assert!(rows.len() <= limits.max_rows);
                    assert!(
                        rows.iter()
                            .all(|row| row.values.len() == rows.columns.len())
                    );
                    break;
                }
                Ok(Some(_)) | Err(_) => break,
            }
        }
    }
}
