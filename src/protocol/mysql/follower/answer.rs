//! What the server's messages mean, given the command that they answer.

use super::frames::Frames;
use crate::protocol::mysql::Capabilities;
use crate::protocol::mysql::Status;
use crate::protocol::mysql::packet::MAX_PAYLOAD_BYTES;
use crate::protocol::mysql::response::EOF_HEADER;
use crate::protocol::mysql::response::ERR_HEADER;
use crate::protocol::mysql::response::EofPacket;
use crate::protocol::mysql::response::MAX_EOF_BYTES;
use crate::protocol::mysql::response::OK_HEADER;
use crate::protocol::mysql::response::OkPacket;
use crate::protocol::mysql::wire::LENENC_NULL;
use crate::protocol::mysql::wire::Reader;

/// More columns than any server allows (4096) mean that we have lost count.
const MAX_COLUMNS: u64 = u16::MAX as u64;

/// Statements that leave a session without a transaction as it was when they fail.
const PLAIN_VERBS: [&[u8]; 5] = [b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"REPLACE"];

/// Commands by the shape of their answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// COM_QUERY. A plain statement neither opens nor ends a transaction when it fails.
    Query {
        is_plain: bool,
    },
    /// COM_STMT_EXECUTE and MariaDB's bulk form.
    Execute,
    Prepare,
    Fetch,
    FieldList,
    Statistics,
    ChangeUser,
    Reset,
    Quit,
    /// One OK, EOF or ERR.
    Simple,
    /// COM_STMT_CLOSE, COM_STMT_SEND_LONG_DATA.
    Unanswered,
}

/// How far the answer to a command has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) command: Command,
    stage: Stage,
    /// An earlier statement of the same command has succeeded.
    is_later_result: bool,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Head,
    Columns {
        missing: u16,
    },
    EofOfColumns,
    Rows,
    /// Definitions and their EOFs after a prepare.
    Definitions {
        missing: u32,
    },
    /// The OK after a file.
    EndOfFile,
}

/// What a message of the server has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Continues,
    /// The client is to send a file now.
    WantsFile,
    /// The answer is complete.
    Done(Status),
    /// Complete, and the session is as before.
    Unchanged,
    /// Complete, but nothing tells whether a transaction is open.
    Doubtful,
    /// Not an answer to this command.
    Lost,
}

impl Command {
    /// `None` for what changes the protocol (replication) or is not known to us.
    pub(super) fn parse(prefix: &[u8], capabilities: Capabilities) -> Option<Self> {
        let (code, argument) = prefix.split_first()?;
        Some(match code {
            0x01 => Self::Quit,
            0x03 | 0x0A => Self::Query {
                is_plain: is_plain(argument, capabilities),
            },
            0x04 => Self::FieldList,
            0x09 => Self::Statistics,
            0x11 => Self::ChangeUser,
            0x16 => Self::Prepare,
            0x17 | 0xFA => Self::Execute,
            0x18 | 0x19 => Self::Unanswered,
            0x1C => Self::Fetch,
            0x1F => Self::Reset,
            // INIT_DB, CREATE_DB, DROP_DB, REFRESH, SHUTDOWN, PROCESS_KILL, DEBUG, PING,
            // REGISTER_SLAVE, STMT_RESET, SET_OPTION.
            0x02 | 0x05..=0x08 | 0x0C..=0x0E | 0x15 | 0x1A | 0x1B => Self::Simple,
            _ => return None,
        })
    }
}

impl Answer {
    pub(super) fn to(command: Command) -> Self {
        let stage = match command {
            Command::Fetch | Command::FieldList => Stage::Rows,
            _ => Stage::Head,
        };
        Self {
            command,
            stage,
            is_later_result: false,
        }
    }

    /// Whether the client may have asked for `LOAD DATA LOCAL`. A statement behind others may be
    /// one; so may what begins with a comment.
    pub(super) fn may_load_files(&self, capabilities: Capabilities) -> bool {
        let is_another = matches!(self.command, Command::Query { is_plain: true });
        capabilities.has(Capabilities::LOCAL_FILES) && (self.is_later_result || !is_another)
    }

    /// Takes the message that `frames` has just read; `status` is that before the command.
    pub(super) fn on_message(
        &mut self,
        frames: &Frames,
        capabilities: Capabilities,
        status: Option<Status>,
    ) -> Outcome {
        let message = Received {
            prefix: frames.prefix(),
            bytes: frames.message_bytes(),
            deprecates_eof: capabilities.has(Capabilities::DEPRECATE_EOF),
        };
        match self.command {
            Command::Quit => return Outcome::Continues,
            Command::Statistics => return Outcome::Unchanged,
            _ if message.starts_with(ERR_HEADER) => return self.on_error(status),
            _ => {}
        }
        match self.stage {
            Stage::Head => self.on_head(message, capabilities),
            Stage::Columns { missing } => {
                self.stage = stage_after_columns(missing - 1, message.deprecates_eof);
                Outcome::Continues
            }
            Stage::EofOfColumns => match message.end_of_rows() {
                // The rows stay with the server until they are fetched.
                Some(status) if status.has(Status::CURSOR_EXISTS) => Outcome::Done(status),
                Some(_) => self.go_on(Stage::Rows),
                None => Outcome::Lost,
            },
            Stage::Rows if message.is_end_of_rows() => match message.end_of_rows() {
                Some(status) => self.end_result(status),
                None => Outcome::Lost,
            },
            Stage::Rows => Outcome::Continues,
            Stage::Definitions { missing: 1 } => Outcome::Unchanged,
            Stage::Definitions { missing } => {
                let missing = missing - 1;
                self.go_on(Stage::Definitions { missing })
            }
            Stage::EndOfFile => match message.ok() {
                Some(status) => self.end_result(status),
                None => Outcome::Lost,
            },
        }
    }

    fn go_on(&mut self, stage: Stage) -> Outcome {
        self.stage = stage;
        Outcome::Continues
    }

    /// An error carries no status. A procedure may have opened a transaction before it failed,
    /// a deadlock ends one: only in simple cases is the session surely as before.
    fn on_error(&self, status: Option<Status>) -> Outcome {
        let was_idle = status.is_some_and(|status| {
            status.has(Status::AUTOCOMMIT) && !status.has(Status::IN_TRANSACTION)
        });
        match self.command {
            Command::Prepare | Command::FieldList => Outcome::Unchanged,
            Command::Query { is_plain: true } if was_idle && !self.is_later_result => {
                Outcome::Unchanged
            }
            _ => Outcome::Doubtful,
        }
    }

    fn on_head(&mut self, message: Received<'_>, capabilities: Capabilities) -> Outcome {
        match self.command {
            Command::Query { .. } | Command::Execute => self.on_result_head(message, capabilities),
            Command::Prepare => self.on_prepared(message),
            // Every other message is a step of the authentication.
            Command::ChangeUser if !message.starts_with(OK_HEADER) => Outcome::Continues,
            Command::ChangeUser | Command::Reset => done_or_lost(message.ok()),
            Command::Simple if message.starts_with(EOF_HEADER) => {
                done_or_lost(message.end_of_rows())
            }
            Command::Simple => done_or_lost(message.ok()),
            Command::Fetch
            | Command::FieldList
            | Command::Statistics
            | Command::Quit
            | Command::Unanswered => Outcome::Lost,
        }
    }

    fn on_result_head(&mut self, message: Received<'_>, capabilities: Capabilities) -> Outcome {
        if message.starts_with(OK_HEADER) {
            return match message.ok() {
                Some(status) => self.end_result(status),
                None => Outcome::Lost,
            };
        }
        if message.starts_with(LENENC_NULL) {
            self.stage = Stage::EndOfFile;
            return Outcome::WantsFile;
        }
        let Some(missing) = message.column_count(capabilities) else {
            return Outcome::Lost;
        };
        self.go_on(match missing {
            0 => stage_after_columns(0, message.deprecates_eof),
            missing => Stage::Columns { missing },
        })
    }

    fn on_prepared(&mut self, message: Received<'_>) -> Outcome {
        // Header, statement (4 bytes), columns, parameters.
        let [
            OK_HEADER,
            _,
            _,
            _,
            _,
            columns_low,
            columns_high,
            low,
            high,
            ..,
        ] = message.prefix
        else {
            return Outcome::Lost;
        };
        let columns = u16::from_le_bytes([*columns_low, *columns_high]);
        let parameters = u16::from_le_bytes([*low, *high]);
        let messages = |definitions: u16| match definitions {
            0 => 0,
            _ if message.deprecates_eof => u32::from(definitions),
            _ => u32::from(definitions) + 1,
        };
        match messages(columns) + messages(parameters) {
            0 => Outcome::Unchanged,
            missing => self.go_on(Stage::Definitions { missing }),
        }
    }

    fn end_result(&mut self, status: Status) -> Outcome {
        if !status.has(Status::MORE_RESULTS) {
            return Outcome::Done(status);
        }
        self.is_later_result = true;
        self.go_on(Stage::Head)
    }
}

/// A message as far as it was kept.
#[derive(Debug, Clone, Copy)]
struct Received<'a> {
    prefix: &'a [u8],
    bytes: usize,
    deprecates_eof: bool,
}

impl Received<'_> {
    fn starts_with(&self, byte: u8) -> bool {
        self.prefix.first() == Some(&byte)
    }

    fn ok(&self) -> Option<Status> {
        let is_ok = self.starts_with(OK_HEADER);
        let parsed = OkPacket::parse(self.prefix).ok().filter(|_| is_ok);
        parsed.map(|ok| ok.status)
    }

    /// A row whose first value has 16 MB or more starts with the same byte.
    fn is_end_of_rows(&self) -> bool {
        let max_bytes = match self.deprecates_eof {
            true => MAX_PAYLOAD_BYTES - 1,
            false => MAX_EOF_BYTES,
        };
        self.starts_with(EOF_HEADER) && self.bytes <= max_bytes
    }

    fn end_of_rows(&self) -> Option<Status> {
        if !self.is_end_of_rows() {
            None
        } else if self.deprecates_eof {
            OkPacket::parse(self.prefix).ok().map(|ok| ok.status)
        } else {
            EofPacket::parse(self.prefix).ok().map(|eof| eof.status)
        }
    }

    /// How many column definitions follow; none if the client has them already.
    fn column_count(&self, capabilities: Capabilities) -> Option<u16> {
        let mut reader = Reader(self.prefix);
        let count = reader.lenenc().ok()?;
        if count == 0 || count > MAX_COLUMNS {
            return None;
        }
        let follow = match capabilities.has(Capabilities::MARIADB_CACHE_METADATA) {
            true => reader.u8().ok()?,
            false => 1,
        };
        let is_whole = reader.is_empty() && self.bytes == self.prefix.len();
        match follow {
            _ if !is_whole => None,
            0 => Some(0),
            1 => u16::try_from(count).ok(),
            _ => None,
        }
    }
}

fn stage_after_columns(missing: u16, deprecates_eof: bool) -> Stage {
    match missing {
        0 if deprecates_eof => Stage::Rows,
        0 => Stage::EofOfColumns,
        missing => Stage::Columns { missing },
    }
}

fn done_or_lost(status: Option<Status>) -> Outcome {
    status.map_or(Outcome::Lost, Outcome::Done)
}

/// The statement starts with one of `PLAIN_VERBS`.
///
/// Functions and triggers cannot open transactions; procedures can, hence no CALL.
fn is_plain(argument: &[u8], capabilities: Capabilities) -> bool {
    let statement = match (capabilities.has(Capabilities::QUERY_ATTRIBUTES), argument) {
        // No attributes, one set of them.
        (true, [0, 1, statement @ ..]) => statement,
        (true, _) => return false,
        (false, statement) => statement,
    };
    let statement = statement.trim_ascii_start();
    PLAIN_VERBS.iter().any(|verb| {
        statement
            .split_at_checked(verb.len())
            .is_some_and(|(word, after)| {
                word.eq_ignore_ascii_case(verb)
                    && after.first().is_some_and(u8::is_ascii_whitespace)
            })
    })
}
