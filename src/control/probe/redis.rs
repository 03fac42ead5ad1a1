//! Redis: one connection, on which the same questions are asked over and over.
//!
//! An ACL user needs `+ping +info`, and `+client|setname` to be seen in CLIENT LIST by name.

use std::net::SocketAddr;

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
use crate::control::evidence::RedisEvidence;
use crate::protocol::redis::command;
use crate::protocol::redis::command::Login;
use crate::protocol::redis::replication::InfoRole;
use crate::protocol::redis::replication::Replication;
use crate::protocol::redis::resp::ReplyReader;
use crate::protocol::redis::resp::Value;

/// INFO replication has a line for each replica.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A logged-in connection.
#[derive(Debug)]
pub struct RedisLink {
    wire: Wire,
}

/// Asks over the link, or over a new one if there is none or it has died.
pub(super) async fn ask(
    target: &Target,
    check: &DatabaseCheck,
    address: SocketAddr,
    link: Option<RedisLink>,
    deadline: Instant,
) -> Result<(Evidence, Leftover), Failure> {
    if let Some(mut link) = link
        && let Some(evidence) = over_kept(deadline, link.evidence()).await?
    {
        return Ok(heard(evidence, link));
    }
    let stream = connect(target, address, deadline).await?;
    within(deadline, Cause::CheckTimeout, async {
        let wire = match target.tls {
            Some(_) => Wire::encrypted(target, address, stream).await?,
            None => Wire::plain(stream),
        };
        let mut link = RedisLink { wire };
        link.log_in(check).await?;
        Ok(heard(link.evidence().await?, link))
    })
    .await
}

/// Whether the connection is kept.
fn heard(evidence: RedisEvidence, link: RedisLink) -> (Evidence, Leftover) {
    let (used, allowed) = (evidence.connections_used, evidence.connections_allowed);
    let leftover = Leftover::kept_or_ended(Link::Redis(link), used, allowed);
    (Evidence::Redis(evidence), leftover)
}

impl RedisLink {
    async fn log_in(&mut self, check: &DatabaseCheck) -> Result<(), Failure> {
        if let Some(password) = &check.password {
            let login = Login {
                user: check.user.as_deref(),
                password: password.expose(),
            };
            let [answer] = self.exchange([command::auth(login)]).await?;
            if let Some(words) = answer.error() {
                return Err(match cause_of(&words) {
                    // "AUTH called without any password configured" and others without a code.
                    Cause::UnexpectedAnswer => Failure::login(&words),
                    cause => Failure::refused(cause, &words),
                });
            }
        }
        let name = command::command(&["CLIENT", "SETNAME", "evergate"]);
        // It is for people who look; whoever may not set it is heard all the same.
        let [_] = self.exchange([name]).await?;
        Ok(())
    }

    /// PING says why it would not serve; INFO, which is answered even then, tells the rest.
    async fn evidence(&mut self) -> Result<RedisEvidence, Failure> {
        let questions = [
            command::ping(),
            command::info("clients"),
            command::info("replication"),
        ];
        let answers = self.exchange(questions).await?;
        for answer in &answers {
            if let Some(words) = answer.error() {
                let cause = cause_of(&words);
                debug!(%cause, "the server refuses");
                return Err(Failure::refused(cause, &words));
            }
        }
        let [_, clients, replication] = answers;
        let evidence = evidence(&clients, &replication);
        Ok(evidence.ok_or(Cause::UnexpectedAnswer)?)
    }

    /// Sends all, then reads all.
    async fn exchange<const N: usize>(
        &mut self,
        questions: [Vec<u8>; N],
    ) -> Result<[Value; N], Cause> {
        // A full server says so and closes before it has read anything: its words count and not
        // the reset that follows.
        let sent = self.wire.send(&questions.concat()).await;
        let mut answers = questions.map(|_| Value::Null);
        for answer in &mut answers {
            *answer = self
                .answer()
                .await
                .map_err(|late| sent.err().unwrap_or(late))?;
            if answer.error().is_some_and(|words| is_full(&words)) {
                return Err(Cause::TooManyConnections);
            }
        }
        Ok(answers)
    }

    async fn answer(&mut self) -> Result<Value, Cause> {
        let mut reader = ReplyReader::new(MAX_ANSWER_BYTES);
        loop {
            let mut rest = self.wire.received();
            let answer = reader.read(&mut rest);
            let used = self.wire.received().len() - rest.len();
            self.wire.consume(used);
            match answer {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => self.wire.receive().await?,
                Err(error) => {
                    debug!(%error, "no answer");
                    return Err(Cause::UnexpectedAnswer);
                }
            }
        }
    }

    /// Resolves when the server closes, or says anything at all. Cancel safe.
    pub async fn disturbed(&mut self) -> Cause {
        while self.wire.received().is_empty() {
            if self.wire.receive().await.is_err() {
                return Cause::Reset;
            }
        }
        Cause::UnexpectedAnswer
    }

    /// QUIT is out of use: the end of the stream is all that is wanted.
    pub async fn close(self) {
        self.wire.close(&[]).await;
    }
}

/// `None`: a line is missing or is not what it is in any server.
fn evidence(clients: &Value, replication: &Value) -> Option<RedisEvidence> {
    let replication = Replication::parse(replication).ok()?;
    let is_primary = replication.role? == InfoRole::Primary;
    let limit = line(clients, "maxclients");
    Some(RedisEvidence {
        is_primary,
        is_linked: is_primary || replication.is_link_up?,
        replication_id: replication.replication_id?,
        previous_id: replication.previous_replication_id,
        offset: replication.offset?,
        connections_used: line(clients, "connected_clients")?.parse().ok()?,
        // Told since 6.2; without it nobody knows of a limit.
        connections_allowed: limit.map_or(Some(u32::MAX), |limit| limit.parse().ok())?,
    })
}

fn line<'a>(info: &'a Value, key: &str) -> Option<&'a str> {
    let lines = info.text()?.lines().filter_map(|line| line.split_once(':'));
    let mut values = lines.filter_map(|(name, value)| (name == key).then_some(value));
    values.next()
}

fn is_full(words: &str) -> bool {
    words.starts_with("ERR max number of clients")
}

/// <https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors>
fn cause_of(words: &str) -> Cause {
    match words.split(' ').next().unwrap_or_default() {
        "LOADING" => Cause::StartingUp,
        "MASTERDOWN" => Cause::LostPrimary,
        // A script that does not end: it may have stopped or not.
        "BUSY" => Cause::CheckTimeout,
        // It cannot save and takes no writes; Sentinel does not count that as an answer either.
        "MISCONF" => Cause::ReadOnly,
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => Cause::LoginFailed,
        _ if is_full(words) => Cause::TooManyConnections,
        _ => Cause::UnexpectedAnswer,
    }
}
