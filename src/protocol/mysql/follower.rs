//! Follows a session between a client and a server by its packet headers: errors, and whether it may be cut.
//!
//! Bodies are skipped by arithmetic. What a packet means depends on the command that it answers,
//! so both directions are followed. Where that is not certain (compression, TLS from end to end,
//! replication streams, commands that we do not know) the follower says [`SessionState::Unknown`]
//! and looks at nothing any more: it is never wrong about "idle".

use std::collections::VecDeque;

use self::answer::Answer;
use self::answer::Command;
use self::answer::Outcome;
use self::frames::Frames;
use super::Capabilities;
use super::Status;
use super::greeting::Greeting;
use super::greeting::MAX_GREETING_BYTES;
use super::handshake_response::SSL_REQUEST_BYTES;
use super::handshake_response::SslRequest;
use super::response::EOF_HEADER;
use super::response::ERR_HEADER;
use super::response::MARIADB_PROGRESS_REPORT;
use super::response::OK_HEADER;
use super::response::OkPacket;
use super::response::Proof;
use super::response::proof;

mod answer;
mod frames;

/// Commands sent ahead of their answers. Drivers pipeline a handful; more is not worth memory.
const MAX_PIPELINED: usize = 64;
/// Enough of an OK or EOF packet to reach its status.
const STATUS_PREFIX_BYTES: usize = 24;
/// Enough of an error to see which option it names, in any language.
const ERROR_PREFIX_BYTES: usize = 160;
/// Enough of a column count.
const HEAD_PREFIX_BYTES: usize = 10;
/// Enough of a command to see its first word behind blanks.
const COMMAND_PREFIX_BYTES: usize = 24;

/// What may be done to the session now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Not logged in yet, or changing the user.
    Login,
    /// All commands are answered and no transaction is open. Nothing is said of what else a
    /// session may hold: temporary tables, user locks, variables.
    Idle,
    /// All commands are answered; a transaction is open.
    InTransaction,
    /// A command is on its way, running, or being answered.
    Busy,
    /// Cannot be told.
    Unknown,
}

/// An error that the server sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenError {
    pub code: u16,
    pub proof: Option<Proof>,
}

/// Follows one session. Feed it every byte in the order in which it is passed on.
#[derive(Debug)]
pub struct SessionFollower {
    client: Frames,
    server: Frames,
    phase: Phase,
    /// Shared by both sides.
    capabilities: Capabilities,
    /// Commands without a whole answer, oldest first.
    pending: VecDeque<Answer>,
    /// The client sends a file, up to an empty packet.
    is_sending_file: bool,
    /// The server has asked for a file although the client cannot have offered one.
    is_robbed: bool,
    /// What the server last said, if nothing since has put it in doubt.
    status: Option<Status>,
    /// Result sets that are kept open for COM_STMT_FETCH.
    cursors: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting,
    /// The server's capabilities are known, the client's are not.
    Response,
    Authentication,
    Commands,
    Transparent,
}

impl Default for SessionFollower {
    fn default() -> Self {
        Self::new()
    }
}

impl SessionFollower {
    /// Follows from the server's greeting on.
    pub fn new() -> Self {
        Self {
            client: Frames::default(),
            server: Frames::default(),
            phase: Phase::Greeting,
            capabilities: Capabilities::default(),
            pending: VecDeque::new(),
            is_sending_file: false,
            is_robbed: false,
            status: None,
            cursors: 0,
        }
    }

    /// Follows from the first command on. `capabilities` are those that both sides have.
    pub fn after_login(capabilities: Capabilities, status: Status) -> Self {
        let mut follower = Self::new();
        follower.capabilities = capabilities;
        follower.begin_commands(status);
        follower
    }

    pub fn state(&self) -> SessionState {
        let awaited = self.pending.front().map(|answer| answer.command);
        match self.phase {
            Phase::Transparent => SessionState::Unknown,
            Phase::Greeting | Phase::Response | Phase::Authentication => SessionState::Login,
            Phase::Commands if awaited == Some(Command::ChangeUser) => SessionState::Login,
            Phase::Commands if awaited.is_some() || self.is_within_message() => SessionState::Busy,
            Phase::Commands => match self.status {
                Some(status) if status.has(Status::IN_TRANSACTION) => SessionState::InTransaction,
                Some(_) if self.cursors == 0 => SessionState::Idle,
                _ => SessionState::Unknown,
            },
        }
    }

    /// Nothing more will be learned: the caller may stop feeding bytes.
    pub fn is_transparent(&self) -> bool {
        self.phase == Phase::Transparent
    }

    /// The server has asked for one of the client's files, and the client either has not agreed
    /// to `LOAD DATA LOCAL` or has sent a statement that is none. Nothing of what was read
    /// last may reach the client: many would send whatever file is named.
    pub fn is_robbed(&self) -> bool {
        self.is_robbed
    }

    /// What the server says next begins a message.
    pub fn is_between_answers(&self) -> bool {
        self.server.is_between_messages()
    }

    /// Takes bytes on their way from the client to the server.
    pub fn on_client(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while self.phase != Phase::Transparent {
            let prefix_bytes = match self.phase {
                Phase::Commands => COMMAND_PREFIX_BYTES,
                _ => SSL_REQUEST_BYTES,
            };
            if !self.client.read(&mut rest, |_| prefix_bytes) {
                return;
            }
            self.on_client_message();
        }
    }

    /// Takes bytes on their way from the server to the client; returns the errors that end in them.
    pub fn on_server(&mut self, bytes: &[u8]) -> Vec<SeenError> {
        let mut errors = Vec::new();
        let mut rest = bytes;
        while self.phase != Phase::Transparent {
            let limit = match self.phase {
                Phase::Greeting => |_| MAX_GREETING_BYTES,
                _ => server_prefix_bytes,
            };
            if !self.server.read(&mut rest, limit) {
                break;
            }
            self.on_server_message(&mut errors);
        }
        errors
    }

    fn is_within_message(&self) -> bool {
        !self.client.is_between_messages() || !self.server.is_between_messages()
    }

    fn on_client_message(&mut self) {
        match self.phase {
            Phase::Response => self.on_first_client_message(),
            Phase::Commands => self.on_command(),
            Phase::Authentication => {}
            // A client waits for the greeting: these are no MySQL packets.
            Phase::Greeting | Phase::Transparent => self.become_transparent(),
        }
    }

    fn on_first_client_message(&mut self) {
        let client = SslRequest::parse_prefix(self.client.prefix());
        let is_ssl_request = self.client.message_bytes() == SSL_REQUEST_BYTES;
        match client {
            Ok(client) if !is_ssl_request => {
                self.capabilities = self.capabilities & client.capabilities;
                self.phase = Phase::Authentication;
            }
            _ => self.become_transparent(),
        }
    }

    fn on_command(&mut self) {
        if self.is_sending_file {
            // Packets of a file are numbered from the server's request on, and may reach 0 again.
            self.is_sending_file = self.client.message_bytes() > 0;
            return;
        }
        let awaited = self.pending.front().map(|answer| answer.command);
        if self.client.sequence() != 0 {
            if awaited != Some(Command::ChangeUser) {
                self.become_transparent();
            }
            return;
        }
        match Command::parse(self.client.prefix(), self.capabilities) {
            None => self.become_transparent(),
            Some(Command::Unanswered) => {}
            Some(_) if self.pending.len() == MAX_PIPELINED => self.become_transparent(),
            Some(command) => self.pending.push_back(Answer::to(command)),
        }
    }

    fn on_server_message(&mut self, errors: &mut Vec<SeenError>) {
        let prefix = self.server.prefix();
        if let [ERR_HEADER, low, high, message @ ..] = prefix {
            let code = u16::from_le_bytes([*low, *high]);
            if code == MARIADB_PROGRESS_REPORT {
                return;
            }
            let proof = proof(code, message);
            errors.push(SeenError { code, proof });
        }
        match self.phase {
            Phase::Greeting => self.on_greeting(),
            Phase::Response => {
                // Only an error (a timeout, a shutdown) can come before the client has spoken.
                if prefix.first() != Some(&ERR_HEADER) {
                    self.become_transparent();
                }
            }
            Phase::Authentication => self.on_authentication(),
            Phase::Commands => self.on_answer(),
            Phase::Transparent => {}
        }
    }

    fn on_greeting(&mut self) {
        match Greeting::parse(self.server.prefix()) {
            Ok(greeting) => {
                self.capabilities = greeting.capabilities;
                self.phase = Phase::Response;
                self.server.forget_prefix();
            }
            Err(_) if self.server.prefix().first() == Some(&ERR_HEADER) => {}
            Err(_) => self.become_transparent(),
        }
    }

    /// Servers escape authentication data that would look like an OK.
    fn on_authentication(&mut self) {
        if self.server.prefix().first() != Some(&OK_HEADER) {
            return;
        }
        match OkPacket::parse(self.server.prefix()) {
            Ok(ok) => self.begin_commands(ok.status),
            Err(_) => self.become_transparent(),
        }
    }

    fn begin_commands(&mut self, status: Status) {
        let framed_otherwise = [
            Capabilities::COMPRESS,
            Capabilities::ZSTD_COMPRESSION,
            // A result set may then start with a zero byte, like an OK.
            Capabilities::OPTIONAL_RESULTSET_METADATA,
        ];
        if framed_otherwise
            .into_iter()
            .any(|flag| self.capabilities.has(flag))
        {
            self.become_transparent();
            return;
        }
        self.status = Some(status);
        self.phase = Phase::Commands;
    }

    fn on_answer(&mut self) {
        let Some(answer) = self.pending.front_mut() else {
            // A server says why it closes an idle session (4031, 1053, 1927); anything else is a
            // sign that we have lost count.
            match self.server.prefix().first() {
                Some(&ERR_HEADER) => self.status = None,
                _ => self.become_transparent(),
            }
            return;
        };
        let command = answer.command;
        let may_load_files = answer.may_load_files(self.capabilities);
        match answer.on_message(&self.server, self.capabilities, self.status) {
            Outcome::Continues => {}
            Outcome::WantsFile if !may_load_files => {
                self.become_transparent();
                self.is_robbed = true;
            }
            Outcome::WantsFile if self.client.is_between_messages() => self.is_sending_file = true,
            Outcome::WantsFile | Outcome::Lost => self.become_transparent(),
            Outcome::Unchanged => {
                self.pending.pop_front();
            }
            Outcome::Doubtful => {
                self.status = None;
                self.pending.pop_front();
            }
            Outcome::Done(status) => {
                self.status = Some(status);
                self.count_cursors(command, status);
                self.pending.pop_front();
            }
        }
    }

    /// A cursor that is closed unread is never counted down: "unknown", but not wrongly "idle".
    fn count_cursors(&mut self, command: Command, status: Status) {
        match command {
            Command::ChangeUser | Command::Reset => self.cursors = 0,
            Command::Fetch if status.has(Status::LAST_ROW_SENT) => {
                self.cursors = self.cursors.saturating_sub(1);
            }
            Command::Execute if status.has(Status::CURSOR_EXISTS) => {
                self.cursors = self.cursors.saturating_add(1);
            }
            _ => {}
        }
    }

    fn become_transparent(&mut self) {
        *self = Self {
            phase: Phase::Transparent,
            ..Self::new()
        };
    }
}

fn server_prefix_bytes(first_byte: u8) -> usize {
    match first_byte {
        OK_HEADER | EOF_HEADER => STATUS_PREFIX_BYTES,
        ERR_HEADER => ERROR_PREFIX_BYTES,
        _ => HEAD_PREFIX_BYTES,
    }
}

/// Feeds `data` as chunks of both directions; how they are cut changes nothing.
pub(super) fn fuzz(data: &[u8]) {
    let Some((&setup, mut rest)) = data.split_first() else {
        return;
    };
    let fresh = || match setup % 4 {
        0 => SessionFollower::new(),
        1 => SessionFollower::after_login(Capabilities::DEPRECATE_EOF, Status::AUTOCOMMIT),
        2 => SessionFollower::after_login(Capabilities::MARIADB_CACHE_METADATA, Status::AUTOCOMMIT),
        _ => SessionFollower::after_login(Capabilities::default(), Status::AUTOCOMMIT),
    };
    let (mut whole, mut split) = (fresh(), fresh());
    while let Some((&head, after)) = rest.split_first() {
        let (chunk, after) = after.split_at(usize::from(head >> 1).min(after.len()));
        rest = after;
        if head & 1 == 0 {
            whole.on_client(chunk);
            chunk.chunks(1).for_each(|byte| split.on_client(byte));
        } else {
            let errors = whole.on_server(chunk);
            let split_errors: Vec<SeenError> = chunk
                .chunks(1)
                .flat_map(|byte| split.on_server(byte))
                .collect();
            assert_eq!(errors, split_errors);
        }
        assert_eq!(whole.state(), split.state());
        assert!(whole.pending.len() <= MAX_PIPELINED);
        if whole.is_transparent() {
            assert_eq!(whole.state(), SessionState::Unknown);
        }
    }
}

#[cfg(test)]
mod tests;
