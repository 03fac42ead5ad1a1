//! MySQL and MariaDB: log in once, then ask the same questions over and over.
//!
//! The user needs the right to see whom the server follows and nothing else:
//! `GRANT REPLICATION CLIENT ON *.*` (MySQL, MariaDB before 10.5) or `GRANT SLAVE MONITOR ON *.*`.

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
use crate::control::evidence::Evidence;
use crate::control::evidence::MySqlDialect;
use crate::control::evidence::MySqlEvidence;
use crate::protocol::mysql::Capabilities;
use crate::protocol::mysql::greeting::Dialect;
use crate::protocol::mysql::greeting::Greeting;
use crate::protocol::mysql::login::Credentials;
use crate::protocol::mysql::login::LoggedIn;
use crate::protocol::mysql::login::Login;
use crate::protocol::mysql::login::LoginError;
use crate::protocol::mysql::login::ServerKey;
use crate::protocol::mysql::login::Step;
use crate::protocol::mysql::login::TlsUse;
use crate::protocol::mysql::packet::Message;
use crate::protocol::mysql::packet::MessageReader;
use crate::protocol::mysql::query;
use crate::protocol::mysql::query::Limits;
use crate::protocol::mysql::query::Reply;
use crate::protocol::mysql::query::ReplyReader;
use crate::protocol::mysql::query::Row;
use crate::protocol::mysql::query::Rows;
use crate::protocol::mysql::response::ServerError;

/// One message: GTID sets of servers with many sources have some kilobytes.
const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// `super_read_only` switches `read_only` on, and cannot be on without it.
const MARIADB_FACTS: &str = "SELECT @@global.read_only AS read_only, \
@@global.innodb_read_only AS innodb_read_only, @@global.gtid_current_pos AS gtid_set, \
@@global.max_connections AS max_connections";
const MYSQL_FACTS: &str = "SELECT @@global.read_only AS read_only, \
@@global.innodb_read_only AS innodb_read_only, @@global.gtid_executed AS gtid_set, \
@@global.max_connections AS max_connections";
/// Not from `performance_schema`, which may be off.
const CONNECTIONS: &str = "SHOW GLOBAL STATUS LIKE 'Threads_connected'";

const MARIADB_FOLLOWS: &str = "SHOW ALL SLAVES STATUS";
/// Since MySQL 8.0.22; the older spelling is gone since 8.4.
const MYSQL_FOLLOWS: &str = "SHOW REPLICA STATUS";
const OLD_MYSQL_FOLLOWS: &str = "SHOW SLAVE STATUS";
const REPLICA_STATUS_SINCE: (u16, u16, u16) = (8, 0, 22);

/// A logged-in connection.
#[derive(Debug)]
pub struct MySqlLink {
    wire: Wire,
    capabilities: Capabilities,
    dialect: Dialect,
    version: (u16, u16, u16),
}

/// Asks over the link, or over a new one if there is none or it has died.
pub(super) async fn ask(
    target: &Target,
    check: &DatabaseCheck,
    address: SocketAddr,
    link: Option<MySqlLink>,
    deadline: Instant,
) -> Result<(Evidence, Leftover), Failure> {
    if let Some(mut link) = link
        && let Some(evidence) = over_kept(deadline, link.evidence()).await?
    {
        return Ok(heard(evidence, link));
    }
    let stream = connect(target, address, deadline).await?;
    within(deadline, Cause::CheckTimeout, async {
        let mut link = log_in(target, check, address, Wire::plain(stream)).await?;
        match link.evidence().await {
            Ok(evidence) => Ok(heard(evidence, link)),
            // It has let us in and would count a connection that is just closed as aborted.
            Err(failure) if failure.complaint.is_some() => {
                link.close().await;
                Err(failure)
            }
            Err(failure) => Err(failure),
        }
    })
    .await
}

/// Whether the connection is kept.
fn heard(evidence: MySqlEvidence, link: MySqlLink) -> (Evidence, Leftover) {
    let (used, allowed) = (evidence.connections_used, evidence.connections_allowed);
    let leftover = Leftover::kept_or_ended(Link::MySql(link), used, allowed);
    (Evidence::MySql(evidence), leftover)
}

async fn log_in(
    target: &Target,
    check: &DatabaseCheck,
    address: SocketAddr,
    mut wire: Wire,
) -> Result<MySqlLink, Failure> {
    let mut login = login(target, check);
    loop {
        let message = next_message(&mut wire).await?;
        let mut step = login.on_message(&message);
        if let Ok(Step::StartTls(bytes)) = &step {
            wire.send(bytes).await?;
            wire = wire.encrypt(target, address).await?;
            step = login.tls_established();
        }
        match step.map_err(|error| login_failure(target, &error))? {
            Step::Send(bytes) => wire.send(&bytes).await?,
            Step::StartTls(_) => return Err(Cause::UnexpectedAnswer.into()),
            Step::Done(logged_in) => return Ok(MySqlLink::new(wire, &logged_in)),
        }
    }
}

fn login(target: &Target, check: &DatabaseCheck) -> Login {
    let password = check.password.as_ref().map(|it| it.expose().to_owned());
    let credentials = Credentials {
        user: check.user.clone().unwrap_or_default(),
        password: password.unwrap_or_default(),
        database: check.database.clone(),
    };
    let tls = match target.tls {
        Some(_) => TlsUse::Always,
        None => TlsUse::Never,
    };
    // Without it a server that has forgotten its cache (by a restart: after a failover!) would
    // refuse a check that it has passed for months.
    Login::new(credentials, tls, ServerKey::Trust)
}

async fn next_message(wire: &mut Wire) -> Result<Message, Cause> {
    let mut reader = MessageReader::new(MAX_MESSAGE_BYTES);
    loop {
        if let Some(message) = buffered_message(wire, &mut reader)? {
            return Ok(message);
        }
        wire.receive().await?;
    }
}

fn buffered_message(wire: &mut Wire, reader: &mut MessageReader) -> Result<Option<Message>, Cause> {
    let mut rest = wire.received();
    let message = reader.read(&mut rest);
    let used = wire.received().len() - rest.len();
    wire.consume(used);
    message.map_err(|_| Cause::UnexpectedAnswer)
}

impl MySqlLink {
    fn new(wire: Wire, logged_in: &LoggedIn) -> Self {
        let greeting: &Greeting = &logged_in.greeting;
        Self {
            wire,
            capabilities: logged_in.capabilities,
            dialect: greeting.dialect(),
            version: greeting.version(),
        }
    }

    /// First whom it follows, then whether it takes writes: one that is promoted in between looks
    /// like the replica that it was.
    async fn evidence(&mut self) -> Result<MySqlEvidence, Failure> {
        let follows = self.follows().await?;
        let facts = match self.dialect {
            Dialect::MySql => MYSQL_FACTS,
            Dialect::MariaDb => MARIADB_FACTS,
        };
        let facts = self.rows(facts).await?.map_err(|it| refusal(&it))?;
        let connections = self.rows(CONNECTIONS).await?.map_err(|it| refusal(&it))?;
        let evidence = evidence(self.dialect, &follows, &facts, &connections);
        Ok(evidence.ok_or(Cause::UnexpectedAnswer)?)
    }

    /// A row for each primary that it is configured to follow.
    async fn follows(&mut self) -> Result<Rows, Failure> {
        let statement = match self.dialect {
            Dialect::MariaDb => MARIADB_FOLLOWS,
            Dialect::MySql if self.version < REPLICA_STATUS_SINCE => OLD_MYSQL_FOLLOWS,
            Dialect::MySql => MYSQL_FOLLOWS,
        };
        self.rows(statement).await?.map_err(|error| {
            let mut failure = refusal(&error);
            if failure.cause == Cause::LoginFailed {
                let words = format!("{error} (GRANT REPLICATION CLIENT, in MariaDB SLAVE MONITOR)");
                failure = Failure::login(&words);
            }
            failure
        })
    }

    async fn rows(&mut self, statement: &str) -> Result<Result<Rows, ServerError>, Failure> {
        self.wire.send(&query::query(statement)).await?;
        let mut reader = ReplyReader::new(self.capabilities, Limits::default());
        loop {
            let message = next_message(&mut self.wire).await?;
            let reply = reader.on_message(&message).map_err(|error| {
                debug!(%error, "no answer");
                Cause::UnexpectedAnswer
            })?;
            match reply {
                None => {}
                Some(Reply::Rows(rows)) => return Ok(Ok(rows)),
                Some(Reply::Error(error)) => return Ok(Err(error)),
                Some(Reply::Ok(_)) => return Err(Cause::UnexpectedAnswer.into()),
            }
        }
    }

    /// Resolves when the server closes or says why it will. Cancel safe.
    pub async fn disturbed(&mut self) -> Cause {
        loop {
            let mut rest = self.wire.received();
            // Anew each time: nothing is consumed before it is whole.
            match MessageReader::new(MAX_MESSAGE_BYTES).read(&mut rest) {
                Ok(Some(message)) => {
                    let error = ServerError::parse(&message.payload);
                    return error.map_or(Cause::UnexpectedAnswer, |error| cause_of(&error));
                }
                Ok(None) => {}
                Err(_) => return Cause::UnexpectedAnswer,
            }
            if self.wire.receive().await.is_err() {
                return Cause::Reset;
            }
        }
    }

    /// A connection that is just closed is counted and logged as aborted.
    pub async fn close(self) {
        self.wire.close(&query::quit()).await;
    }
}

/// `None`: a column is missing or is not what it is in any server.
fn evidence(
    dialect: Dialect,
    follows: &Rows,
    facts: &Rows,
    connections: &Rows,
) -> Option<MySqlEvidence> {
    let facts = facts.first()?;
    let used = connections.first()?.text_at(1)?;
    Some(MySqlEvidence {
        is_read_only: !is_off(facts.text("read_only")?) || !is_off(facts.text("innodb_read_only")?),
        is_replica: !follows.is_empty(),
        // NULL or empty without GTIDs; MySQL breaks long sets into lines.
        gtid_set: facts.text("gtid_set").unwrap_or_default().replace('\n', ""),
        dialect: match dialect {
            Dialect::MySql => MySqlDialect::MySql,
            Dialect::MariaDb => MySqlDialect::MariaDb,
        },
        lag: lag(follows),
        connections_used: used.parse().ok()?,
        connections_allowed: facts.text("max_connections")?.parse().ok()?,
    })
}

/// A number, or in MariaDB 12 a word: `OFF`, `ON`, `NO_LOCK`, `NO_LOCK_NO_ADMIN`.
fn is_off(value: &str) -> bool {
    matches!(value, "0" | "OFF")
}

/// Behind the slowest of its primaries; `None` while one of them is not followed.
fn lag(follows: &Rows) -> Option<Duration> {
    let seconds = |row: Row| -> Option<u64> {
        let names = ["Seconds_Behind_Source", "Seconds_Behind_Master"];
        row.text_of_any(&names)?.parse().ok()
    };
    let each: Option<Vec<u64>> = follows.iter().map(seconds).collect();
    each?.into_iter().max().map(Duration::from_secs)
}

fn login_failure(target: &Target, error: &LoginError) -> Failure {
    let cause = match error {
        LoginError::Refused(error) => return refusal(error),
        LoginError::NoTls => {
            return Failure::complaining(Cause::TlsFailed, &error.to_string());
        }
        LoginError::UnsupportedPlugin(_) | LoginError::NeedsTls | LoginError::UnusableKey(_) => {
            return Failure::login(&error.to_string());
        }
        LoginError::TooManyMessages | LoginError::OutOfOrder | LoginError::Malformed(_) => {
            Cause::UnexpectedAnswer
        }
    };
    debug!(backend = %target.backend.name, %error, "no login");
    cause.into()
}

fn refusal(error: &ServerError) -> Failure {
    let failure = Failure::refused(cause_of(error), &error.to_string());
    debug!(cause = %failure.cause, "the server refuses");
    failure
}

/// <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>
fn cause_of(error: &ServerError) -> Cause {
    match error.code {
        // All connections, all of one user, a user's share of the hour.
        1040 | 1203 | 1226 => Cause::TooManyConnections,
        // No such user or password, database, host, privilege or method; locked, expired; TLS
        // required.
        1044 | 1045 | 1049 | 1129 | 1130 | 1142 | 1227 | 1251 | 1275 | 1698 | 1820 | 1862
        | 3118 | 3159 | 3955 | 4151 => Cause::LoginFailed,
        1053 | 1079 => Cause::ShuttingDown,
        // "The server is currently in offline mode".
        3032 => Cause::StartingUp,
        // Somebody has ended our connection, or it was idle for too long.
        1927 | 3169 | 4031 => Cause::Closed,
        1317 | 1969 | 3024 => Cause::CheckTimeout,
        _ => Cause::UnexpectedAnswer,
    }
}
