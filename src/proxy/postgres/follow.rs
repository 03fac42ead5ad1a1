//! One session's server messages as they pass: its transaction, its cancel key, proof that its
//! backend is not what it was.

use std::sync::Arc;

use crate::cluster::Cause;
use crate::protocol::postgres::Severity;
use crate::protocol::postgres::follow::Event;
use crate::protocol::postgres::follow::ServerFollower;
use crate::protocol::postgres::sqlstate::SqlState;
use crate::proxy::dialect::Peer;
use crate::proxy::postgres::cancel::CancelKeys;
use crate::proxy::postgres::cancel::Registered;
use crate::proxy::postgres::cancel::issue;
use crate::proxy::postgres::refuse;
use crate::proxy::registry::Transaction;
use crate::proxy::witness::Witness;
use crate::report::Reporter;

/// Follows what the server says, from its first answer on.
#[derive(Debug)]
pub struct Follow {
    server: ServerFollower,
    witness: Witness,
    keys: Arc<CancelKeys>,
    /// Kept for as long as the session: its key is worth nothing afterwards.
    registered: Option<Registered>,
    client: Client,
    /// The server has said why it ends the session.
    is_explained: bool,
}

/// What the client has done since the last ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Nothing,
    Asked,
    /// It says no more.
    Finished,
}

impl Follow {
    /// For a backend that has just been sent the startup message.
    pub fn new(peer: Peer, keys: Arc<CancelKeys>, reporter: Reporter) -> Self {
        Self {
            // Without random bytes the server's own key goes through, and cancels nothing here.
            server: issue().map_or_else(ServerFollower::new, ServerFollower::issuing),
            witness: Witness::new(peer, reporter),
            keys,
            registered: None,
            client: Client::Asked,
            is_explained: false,
        }
    }

    pub fn see_answer(&mut self, bytes: &mut [u8]) {
        let Self {
            server,
            witness,
            keys,
            registered,
            client,
            is_explained,
        } = self;
        let seen = server.feed(bytes, |event| match event {
            Event::CancelKey { issued, backend } => {
                *registered = Some(keys.register(issued, backend, witness.peer().clone()));
            }
            Event::ReadyForQuery(_) if *client == Client::Asked => *client = Client::Nothing,
            Event::Error {
                severity,
                sqlstate,
                is_orphaned,
            } => {
                *is_explained |= severity == Severity::Fatal;
                let proof = sqlstate.and_then(|sqlstate| match is_orphaned {
                    true => Some(Cause::Crashed),
                    false => proof(severity, sqlstate, witness.came_to_write()),
                });
                if let Some(cause) = proof {
                    witness.report(cause);
                }
            }
            Event::ReadyForQuery(_) | Event::AuthenticationOk | Event::CopyBoth => {}
        });
        if let Err(error) = seen {
            let backend = &witness.peer().backend.name;
            tracing::debug!(%backend, %error, "session is no longer followed");
        }
    }

    pub fn note_request(&mut self) {
        self.client = Client::Asked;
    }

    pub fn note_client_end(&mut self) {
        self.client = Client::Finished;
    }

    /// A client that sends its next query before the last one is answered counts as idle for
    /// the moment between two answers: its queries are not counted.
    pub fn transaction(&self) -> Transaction {
        if !self.server.is_following() || self.server.transaction_status().is_none() {
            Transaction::Unknown
        } else if self.server.is_idle() && self.client == Client::Nothing {
            Transaction::Idle
        } else {
            Transaction::Open
        }
    }

    pub fn farewell(&self, cause: Cause) -> Option<Vec<u8>> {
        self.can_add().then(|| refuse::farewell(cause))
    }

    pub fn epitaph(&self) -> Option<Vec<u8>> {
        let is_due = self.client != Client::Finished && self.can_add();
        is_due.then(refuse::epitaph)
    }

    fn can_add(&self) -> bool {
        self.server.is_between_messages() && !self.is_explained
    }
}

/// What an error of the server's proves; `writes`: to a session that came to write.
fn proof(severity: Severity, sqlstate: SqlState, writes: bool) -> Option<Cause> {
    match (severity, sqlstate) {
        (_, SqlState::READ_ONLY_SQL_TRANSACTION) if writes => Some(Cause::ReadOnly),
        (Severity::Fatal, SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN) => {
            Some(Cause::ShuttingDown)
        }
        (Severity::Fatal, SqlState::CANNOT_CONNECT_NOW) => Some(Cause::StartingUp),
        // A function can raise one of these: worth a look, proof of nothing.
        (Severity::Error, SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN) => {
            Some(Cause::EarlyClose)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::BackendId;
    use crate::cluster::WantedRole;
    use crate::protocol::postgres::TransactionStatus;
    use crate::protocol::postgres::backend::ready_for_query;
    use crate::protocol::postgres::error::ErrorResponse;
    use crate::report;
    use crate::report::Report;
    use crate::routing::BackendHandle;

    fn follow(role: WantedRole) -> (Follow, tokio::sync::mpsc::Receiver<Report>) {
        let (reporter, reports) = report::channel();
        let backend = Arc::new(BackendHandle::new(BackendId(7), "c".into(), "b".into()));
        let peer = Peer {
            backend,
            address: ([127, 0, 0, 1], 5432).into(),
            tls: None,
            role,
        };
        (Follow::new(peer, Arc::default(), reporter), reports)
    }

    fn ready(follow: &mut Follow, status: TransactionStatus) {
        follow.see_answer(&mut ready_for_query(status));
    }

    #[test]
    fn a_session_is_idle_when_the_server_is_and_the_client_has_not_asked() {
        let (mut follow, _reports) = follow(WantedRole::Any);
        assert_eq!(follow.transaction(), Transaction::Unknown);
        ready(&mut follow, TransactionStatus::Idle);
        assert_eq!(follow.transaction(), Transaction::Idle);
        follow.note_request();
        assert_eq!(follow.transaction(), Transaction::Open);
        ready(&mut follow, TransactionStatus::InTransaction);
        assert_eq!(follow.transaction(), Transaction::Open);
        follow.note_request();
        ready(&mut follow, TransactionStatus::Failed);
        assert_eq!(follow.transaction(), Transaction::Open);
        follow.note_request();
        ready(&mut follow, TransactionStatus::Idle);
        assert_eq!(follow.transaction(), Transaction::Idle);
        follow.see_answer(&mut [b'Z', 0, 0, 0, 0]);
        assert_eq!(follow.transaction(), Transaction::Unknown);
        assert_eq!(follow.farewell(Cause::Shutdown), None);
    }

    #[test]
    fn nothing_is_said_inside_a_message_nor_after_the_servers_last_word() {
        let (mut follow, _reports) = follow(WantedRole::Any);
        let mut message = ready_for_query(TransactionStatus::Idle);
        let (head, tail) = message.split_at_mut(3);
        assert!(follow.farewell(Cause::Shutdown).is_some());
        follow.see_answer(head);
        assert_eq!(follow.farewell(Cause::Shutdown), None);
        assert_eq!(follow.epitaph(), None);
        follow.see_answer(tail);
        assert!(follow.epitaph().is_some());
        let last = ErrorResponse::fatal(SqlState::ADMIN_SHUTDOWN, "bye").encode();
        follow.see_answer(&mut last.clone());
        assert_eq!(follow.farewell(Cause::Shutdown), None);
        assert_eq!(follow.epitaph(), None);
    }

    #[test]
    fn a_client_that_has_said_all_gets_no_epitaph() {
        let (mut follow, _reports) = follow(WantedRole::Any);
        ready(&mut follow, TransactionStatus::Idle);
        follow.note_client_end();
        assert_eq!(follow.epitaph(), None);
    }

    #[test]
    fn errors_are_proof_where_they_can_be() {
        use SqlState as S;
        let fatal = |sqlstate| ErrorResponse::fatal(sqlstate, "x").encode();
        let error = |sqlstate| ErrorResponse::error(sqlstate, "x").encode();
        let read_only = error(S::READ_ONLY_SQL_TRANSACTION);
        // The postmaster was killed: that is no orderly end.
        let orphaned = b"E\0\0\0\x20SFATAL\0C57P01\0Rsecure_read\0\0".to_vec();
        for (role, bytes, cause) in [
            (WantedRole::Any, orphaned, Some(Cause::Crashed)),
            (
                WantedRole::Primary,
                read_only.clone(),
                Some(Cause::ReadOnly),
            ),
            (WantedRole::Replica, read_only.clone(), None),
            (WantedRole::Any, read_only, None),
            (
                WantedRole::Primary,
                fatal(S::ADMIN_SHUTDOWN),
                Some(Cause::ShuttingDown),
            ),
            (
                WantedRole::Primary,
                fatal(S::CRASH_SHUTDOWN),
                Some(Cause::ShuttingDown),
            ),
            (
                WantedRole::Primary,
                fatal(S::CANNOT_CONNECT_NOW),
                Some(Cause::StartingUp),
            ),
            // Worth a look, proof of nothing.
            (
                WantedRole::Primary,
                error(S::ADMIN_SHUTDOWN),
                Some(Cause::EarlyClose),
            ),
            (WantedRole::Primary, error(S::QUERY_CANCELED), None),
            (WantedRole::Primary, fatal(S::INVALID_PASSWORD), None),
        ] {
            let (mut follow, mut reports) = follow(role);
            // However often it is said: once.
            follow.see_answer(&mut [bytes.clone(), bytes].concat());
            let report = reports.try_recv().ok();
            assert_eq!(report.map(|report| report.cause), cause);
            assert!(reports.try_recv().is_err());
        }
    }
}
