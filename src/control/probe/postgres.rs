//! PostgreSQL: log in once, then ask the same question over and over.
//!
//! Any user who may log in can ask it; nothing has to be granted. (With `pg_monitor` a replica also
//! tells the timeline that it receives at this moment and not only that of its last restart point.)

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::Leftover;
use super::Target;
use super::connect;
use super::failure::Failure;
use super::link::Link;
use super::link::over_kept;
use super::wire::Wire;
use super::within;
use crate::cluster::Cause;
use crate::config::DatabaseCheck;
use crate::config::VerifyMode;
use crate::control::evidence::Evidence;
use crate::control::evidence::PostgresEvidence;
use crate::protocol::postgres::error::ServerError;
use crate::protocol::postgres::frame;
use crate::protocol::postgres::frame::MAX_PROBE_MESSAGE_BYTES;
use crate::protocol::postgres::frontend;
use crate::protocol::postgres::login::ChannelBinding;
use crate::protocol::postgres::login::Cleartext;
use crate::protocol::postgres::login::Credentials;
use crate::protocol::postgres::login::Login;
use crate::protocol::postgres::login::LoginError;
use crate::protocol::postgres::login::LoginStep;
use crate::protocol::postgres::login::ServerParameters;
use crate::protocol::postgres::rows::Answer;
use crate::protocol::postgres::rows::AnswerError;
use crate::protocol::postgres::rows::AnswerStep;
use crate::protocol::postgres::rows::Rows;
use crate::protocol::postgres::sqlstate::SqlState;
use crate::protocol::postgres::wal::parse_lsn;
use crate::protocol::postgres::wal::wal_file_timeline;

/// Versions 10 to 18. All names are qualified: a user's `search_path` decides nothing.
///
/// - Recovery is asked for once and first: a server that is promoted meanwhile gives a replica's
///   row or a primary's, never half of each.
/// - `default_transaction_read_only` set for the check's own user says nothing about others.
/// - A primary's timeline comes from the WAL that it writes: the control file keeps the old one for
///   a while after a promotion. A replica cannot name a WAL file; what it knows is the largest of
///   its last restart point's, its least recovery point's and, if it may be seen, what it receives.
/// - After a restart a replica may have replayed from its archive what it has not received again.
/// - Connections: those with a database. `pg_stat_activity` tells an ordinary user no more.
const QUESTION: &str = "\
SELECT r.in_recovery, \
CASE pg_catalog.current_setting('default_transaction_read_only') WHEN 'off' THEN true \
ELSE (SELECT s.source IN ('user', 'database user') FROM pg_catalog.pg_settings AS s \
WHERE s.name = 'default_transaction_read_only') END AS writable, \
(SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c) AS system_identifier, \
CASE WHEN NOT r.in_recovery THEN \
pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END AS wal_file, \
CASE WHEN r.in_recovery THEN (SELECT GREATEST(c.timeline_id, m.min_recovery_end_timeline, \
(SELECT w.received_tli FROM pg_catalog.pg_stat_get_wal_receiver() AS w)) \
FROM pg_catalog.pg_control_checkpoint() AS c, pg_catalog.pg_control_recovery() AS m) \
END AS timeline, \
CASE WHEN r.in_recovery THEN GREATEST(pg_catalog.pg_last_wal_receive_lsn(), \
pg_catalog.pg_last_wal_replay_lsn()) ELSE pg_catalog.pg_current_wal_lsn() END AS received_lsn, \
CASE WHEN r.in_recovery THEN pg_catalog.pg_last_wal_replay_lsn() END AS replayed_lsn, \
(SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_get_backend_idset() AS b \
WHERE pg_catalog.pg_stat_get_backend_dbid(b) > 0) AS connections_used, \
pg_catalog.current_setting('max_connections')::pg_catalog.int4 \
- pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4 \
- COALESCE(pg_catalog.current_setting('reserved_connections', true)::pg_catalog.int4, 0) \
AS connections_allowed \
FROM (SELECT pg_catalog.pg_is_in_recovery() AS in_recovery OFFSET 0) AS r";

/// A logged-in connection.
#[derive(Debug)]
pub struct PostgresLink {
    wire: Wire,
}

/// Asks over the link, or over a new one if there is none or it has died.
pub(super) async fn ask(
    target: &Target,
    check: &DatabaseCheck,
    address: SocketAddr,
    link: Option<PostgresLink>,
    deadline: Instant,
) -> Result<(Evidence, Leftover), Failure> {
    if let Some(mut link) = link
        && let Some(rows) = over_kept(deadline, link.question(QUESTION)).await?
    {
        return heard(&rows, link);
    }
    let stream = connect(target, address, deadline).await?;
    let timeout = target.cluster.health_check.timeout;
    within(deadline, Cause::CheckTimeout, async {
        let wire = encrypt(target, address, Wire::plain(stream)).await?;
        let mut link = log_in(target, check, wire).await?;
        let rows = link.question(&first_question(timeout)).await?;
        heard(&rows, link)
    })
    .await
}

/// The question, and how it is to be asked from then on: both in one packet.
fn first_question(timeout: Duration) -> String {
    // Zero would be no limit at all.
    let timeout_ms = timeout.as_millis().max(1);
    format!("SET statement_timeout = {timeout_ms}; SET search_path = pg_catalog; {QUESTION}")
}

async fn encrypt(target: &Target, address: SocketAddr, mut wire: Wire) -> Result<Wire, Failure> {
    if target.tls.is_none() {
        return Ok(wire);
    }
    wire.send(&frontend::ssl_request()).await?;
    while wire.received().is_empty() {
        wire.receive().await?;
    }
    match wire.received()[0] {
        b'S' => {
            wire.consume(1);
            Ok(wire.encrypt(target, address).await?)
        }
        b'N' => {
            let words = "the server has no TLS (`ssl = off`)";
            Err(Failure::complaining(Cause::TlsFailed, words))
        }
        // One that cannot start a process for us says so before it knows what we speak.
        b'E' => Err(refusal(wire).await),
        _ => Err(Cause::UnexpectedAnswer.into()),
    }
}

/// An error in answer to SSLRequest. Nobody has proved who sent it: its words go nowhere.
async fn refusal(mut wire: Wire) -> Failure {
    loop {
        match frame::next_message(wire.received(), MAX_PROBE_MESSAGE_BYTES) {
            Err(_) => return Cause::UnexpectedAnswer.into(),
            Ok(Some(message)) => {
                return cause_of(&ServerError::parse(message.body)).into();
            }
            Ok(None) => {}
        }
        if let Err(cause) = wire.receive().await {
            return cause.into();
        }
    }
}

async fn log_in(
    target: &Target,
    check: &DatabaseCheck,
    mut wire: Wire,
) -> Result<PostgresLink, Failure> {
    let mode = target.cluster.tls.as_ref().map(|tls| tls.mode);
    let is_verified = mode.is_some_and(|mode| mode != VerifyMode::Insecure);
    let (mut login, startup) = Login::new(&Credentials {
        user: check.user.as_deref().unwrap_or("evergate"),
        database: check.database.as_deref().unwrap_or("postgres"),
        password: check.password.as_ref().map(|password| password.expose()),
        application_name: "evergate",
        cleartext: match wire.is_encrypted() && is_verified {
            true => Cleartext::Send,
            false => Cleartext::Refuse,
        },
        binding: ChannelBinding::Unavailable,
    });
    wire.send(&startup).await?;
    loop {
        let message = next_message(&mut wire).await?;
        let step = login.on_message(message.tag, &message.body);
        match step.map_err(|error| login_failure(target, &error))? {
            LoginStep::Wait => {}
            LoginStep::Send(bytes) => wire.send(&bytes).await?,
            LoginStep::Ready(_) => return Ok(PostgresLink { wire }),
        }
    }
}

/// A whole message, out of the buffer.
struct Message {
    tag: u8,
    body: Vec<u8>,
}

async fn next_message(wire: &mut Wire) -> Result<Message, Cause> {
    loop {
        if let Some(message) = buffered_message(wire)? {
            return Ok(message);
        }
        wire.receive().await?;
    }
}

fn buffered_message(wire: &mut Wire) -> Result<Option<Message>, Cause> {
    let message = frame::next_message(wire.received(), MAX_PROBE_MESSAGE_BYTES);
    let Some(message) = message.map_err(|_| Cause::UnexpectedAnswer)? else {
        return Ok(None);
    };
    let length = message.length;
    let message = Message {
        tag: message.tag,
        body: message.body.to_vec(),
    };
    wire.consume(length);
    Ok(Some(message))
}

impl PostgresLink {
    async fn question(&mut self, sql: &str) -> Result<Rows, Failure> {
        self.wire.send(&frontend::query(sql)).await?;
        let mut answer = Answer::new();
        loop {
            let message = next_message(&mut self.wire).await?;
            let step = answer.on_message(message.tag, &message.body);
            match step.map_err(|error| answer_failure(&error))? {
                AnswerStep::Wait => {}
                AnswerStep::Done(rows) => return rows.map_err(|error| server_failure(&error)),
            }
        }
    }

    /// Resolves when the server closes, ends the session or changes its role. Cancel safe.
    pub async fn disturbed(&mut self) -> Cause {
        loop {
            match buffered_message(&mut self.wire) {
                Err(_) => return Cause::UnexpectedAnswer,
                Ok(Some(message)) => match message.tag {
                    b'E' => return cause_of(&ServerError::parse(&message.body)),
                    b'S' if tells_role(&message.body) => return Cause::UnexpectedAnswer,
                    // Notices, notifications and other parameters may come at any time.
                    b'A' | b'N' | b'S' => {}
                    _ => return Cause::UnexpectedAnswer,
                },
                Ok(None) => {
                    if self.wire.receive().await.is_err() {
                        return Cause::Reset;
                    }
                }
            }
        }
    }

    /// A connection that is just closed may leave a line in the server's log.
    pub async fn close(self) {
        self.wire.close(&frontend::terminate()).await;
    }
}

/// A ParameterStatus about the server's role.
fn tells_role(body: &[u8]) -> bool {
    let mut parameters = ServerParameters::default();
    parameters.note(body);
    parameters.in_hot_standby.is_some() || parameters.default_transaction_read_only.is_some()
}

/// What the answer says, and whether the connection is kept.
fn heard(rows: &Rows, link: PostgresLink) -> Result<(Evidence, Leftover), Failure> {
    let evidence = evidence(rows).ok_or(Cause::UnexpectedAnswer)?;
    let (used, allowed) = (evidence.connections_used, evidence.connections_allowed);
    let leftover = Leftover::kept_or_ended(Link::Postgres(link), used, allowed);
    Ok((Evidence::Postgres(evidence), leftover))
}

/// `None`: a column is missing or is not what it is in any PostgreSQL.
fn evidence(rows: &Rows) -> Option<PostgresEvidence> {
    let is_in_recovery = boolean(rows.first("in_recovery")?)?;
    let timeline = match is_in_recovery {
        true => rows.first("timeline")?.parse().ok().filter(|it| *it > 0)?,
        false => wal_file_timeline(rows.first("wal_file")?)?,
    };
    let received_lsn = parse_lsn(rows.first("received_lsn")?)?;
    let replayed_lsn = match is_in_recovery {
        true => parse_lsn(rows.first("replayed_lsn")?)?,
        false => received_lsn,
    };
    // It is a signed number there, and an identifier may have its highest bit set.
    let system_identifier: i64 = rows.first("system_identifier")?.parse().ok()?;
    Some(PostgresEvidence {
        is_in_recovery,
        is_writable: boolean(rows.first("writable")?)?,
        system_identifier: system_identifier.cast_unsigned(),
        timeline,
        received_lsn,
        replayed_lsn,
        connections_used: rows.first("connections_used")?.parse().ok()?,
        connections_allowed: rows.first("connections_allowed")?.parse().ok()?,
    })
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    }
}

fn login_failure(target: &Target, error: &LoginError) -> Failure {
    let cause = match error {
        LoginError::Server(error) => return server_failure(error),
        LoginError::NoPassword
        | LoginError::CleartextRefused
        | LoginError::Method(_)
        | LoginError::Mechanism
        | LoginError::Scram(_) => return Failure::login(&error.to_string()),
        LoginError::Malformed(_) | LoginError::Unexpected(_) | LoginError::TooManyMessages => {
            Cause::UnexpectedAnswer
        }
    };
    debug!(backend = %target.backend.name, %error, "no login");
    cause.into()
}

fn answer_failure(error: &AnswerError) -> Failure {
    match error {
        AnswerError::Ended(error) => server_failure(error),
        AnswerError::Malformed(_) | AnswerError::Unexpected(_) | AnswerError::TooLong => {
            debug!(%error, "no answer");
            Cause::UnexpectedAnswer.into()
        }
    }
}

fn server_failure(error: &ServerError) -> Failure {
    debug!(%error, "the server refuses");
    Failure::refused(cause_of(error), &error.to_string())
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn cause_of(error: &ServerError) -> Cause {
    let Some(sqlstate) = error.sqlstate else {
        return Cause::UnexpectedAnswer;
    };
    match sqlstate {
        SqlState::TOO_MANY_CONNECTIONS => Cause::TooManyConnections,
        // "The database system is shutting down" has the code of one that is starting up.
        SqlState::CANNOT_CONNECT_NOW if error.message.ends_with("shutting down") => {
            Cause::ShuttingDown
        }
        SqlState::CANNOT_CONNECT_NOW => Cause::StartingUp,
        SqlState::ADMIN_SHUTDOWN if error.is_orphaned() => Cause::Crashed,
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => Cause::ShuttingDown,
        SqlState::QUERY_CANCELED => Cause::CheckTimeout,
        _ => match sqlstate.as_str() {
            // Invalid authorization; no such database; no privilege to connect or to ask.
            code if code.starts_with("28") => Cause::LoginFailed,
            "3D000" | "42501" => Cause::LoginFailed,
            _ => Cause::UnexpectedAnswer,
        },
    }
}
