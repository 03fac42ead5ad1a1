//! One session's packets as they pass: its transaction, proof that its backend is not what it was,
//! and the sequence numbers of a login whose legs differ.

use std::sync::Arc;

use crate::cluster::Cause;
use crate::protocol::mysql::follower::SessionFollower;
use crate::protocol::mysql::follower::SessionState;
use crate::protocol::mysql::response::ER_SERVER_SHUTDOWN;
use crate::protocol::mysql::response::Proof;
use crate::protocol::mysql::sequence::SequenceShift;
use crate::proxy::Shared;
use crate::proxy::dialect::Peer;
use crate::proxy::dialect::Verdict;
use crate::proxy::mysql::login::LoggingIn;
use crate::proxy::mysql::refuse;
use crate::proxy::registry::Transaction;
use crate::proxy::transport::Transport;
use crate::proxy::witness::Witness;

/// Follows both directions from the login on.
#[derive(Debug)]
pub struct Follow {
    session: SessionFollower,
    to_client: SequenceShift,
    to_server: SequenceShift,
    witness: Witness,
    shared: Arc<Shared>,
    /// The session came to write, and its server has said that it takes no writes.
    is_refused: bool,
}

impl Follow {
    /// Takes the legs of a login apart.
    pub fn new(login: LoggingIn, peer: Peer, shared: Arc<Shared>) -> (Transport, Transport, Self) {
        let follow = Self {
            session: login.session,
            to_client: SequenceShift::to_client(login.shift),
            to_server: SequenceShift::to_server(login.shift),
            witness: Witness::new(peer, shared.reporter.clone()),
            shared,
            is_refused: false,
        };
        (login.client, login.backend, follow)
    }

    pub fn see_answer(&mut self, bytes: &mut [u8]) -> Verdict {
        self.to_client.apply(bytes);
        let is_new = self.session.is_between_answers();
        for error in self.session.on_server(bytes) {
            let cause = match error.proof {
                Some(Proof::ReadOnly) if self.witness.came_to_write() => Cause::ReadOnly,
                // A client may have asked for a read-only transaction: worth a look.
                Some(Proof::MaybeReadOnly) if self.witness.came_to_write() => Cause::EarlyClose,
                Some(Proof::ShuttingDown) if error.code == ER_SERVER_SHUTDOWN => {
                    Cause::ShuttingDown
                }
                _ => continue,
            };
            self.is_refused |= cause == Cause::ReadOnly;
            self.witness.report(cause);
        }
        if !self.session.is_robbed() {
            return Verdict::Pass;
        }
        let warnings = &self.shared.refusal_warnings;
        self.witness.accuse_of_robbery(warnings);
        // What would land in the midst of the server's words would become part of them.
        let words = is_new.then(refuse::robbery);
        Verdict::Refuse(words.unwrap_or_default())
    }

    pub fn watches_requests(&self) -> bool {
        !self.session.is_transparent() || !self.to_server.is_over()
    }

    pub fn see_request(&mut self, bytes: &mut [u8]) {
        self.to_server.apply(bytes);
        self.session.on_client(bytes);
    }

    pub fn transaction(&self) -> Transaction {
        match self.session.state() {
            SessionState::Login | SessionState::Unknown => Transaction::Unknown,
            SessionState::Idle => Transaction::Idle,
            SessionState::InTransaction | SessionState::Busy => Transaction::Open,
        }
    }

    /// Its next write would be refused, too.
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Only to a client that waits for nothing: of a command that is under way nobody knows the
    /// outcome, and an error would name one.
    pub fn farewell(&self, cause: Cause) -> Option<Vec<u8>> {
        match self.session.state() {
            SessionState::Idle | SessionState::InTransaction => Some(refuse::farewell(cause)),
            SessionState::Login | SessionState::Busy | SessionState::Unknown => None,
        }
    }
}
