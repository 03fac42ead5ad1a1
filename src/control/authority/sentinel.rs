//! One Sentinel's view: who is the primary of its service.
//!
//! Source: <https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/>

use std::net::IpAddr;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio::time::timeout_at;

use crate::cluster::Cause;
use crate::config::Secret;
use crate::control::evidence::Authority;
use crate::control::probe;
use crate::protocol::redis::command;
use crate::protocol::redis::command::Login;
use crate::protocol::redis::replication::ReplyError;
use crate::protocol::redis::resp::ReplyReader;
use crate::protocol::redis::resp::Value;
use crate::protocol::redis::sentinel;

/// A host and a port, or an error: longer is nothing that a Sentinel answers.
const MAX_REPLY_BYTES: usize = 4096;

/// One Sentinel.
#[derive(Debug, Clone)]
pub struct Node {
    /// `None` while its name is unresolved.
    pub address: Option<IpAddr>,
    pub port: NonZeroU16,
    /// Where it is asked from; empty: the system chooses.
    pub source: Arc<[IpAddr]>,
    pub service: Arc<str>,
    pub user: Option<String>,
    pub password: Option<Secret>,
}

/// What the Sentinel says by the deadline. One that does not know the service is of no help:
/// it may watch something else, or have just started.
///
/// # Errors
/// It cannot be reached, is late, refuses the login or does not know the service.
pub(super) async fn view(node: &Node, deadline: Instant) -> Result<Authority, Cause> {
    let address = node.address.ok_or(Cause::Unresolved)?;
    let address = SocketAddr::new(address, node.port.get());
    let stream = probe::connect_from(&node.source, address, deadline).await?;
    let asked = timeout_at(deadline, talk(stream, node)).await;
    asked.unwrap_or(Err(Cause::CheckTimeout))
}

async fn talk(mut stream: TcpStream, node: &Node) -> Result<Authority, Cause> {
    let mut replies = ReplyReader::new(MAX_REPLY_BYTES);
    if let Some(password) = &node.password {
        let login = command::auth(Login {
            user: node.user.as_deref(),
            password: password.expose(),
        });
        if ask(&mut stream, &mut replies, &login)
            .await?
            .error()
            .is_some()
        {
            return Err(Cause::LoginFailed);
        }
    }
    let question = command::sentinel_primary_address(&node.service);
    let reply = ask(&mut stream, &mut replies, &question).await?;
    let (host, port) = sentinel::primary_address(&reply)
        .map_err(|error| refusal(&error))?
        .ok_or(Cause::UnexpectedAnswer)?;
    Ok(Authority::Leader {
        host,
        port,
        timeline: None,
    })
}

async fn ask(
    stream: &mut TcpStream,
    replies: &mut ReplyReader,
    command: &[u8],
) -> Result<Value, Cause> {
    let sent = stream.write_all(command).await;
    sent.map_err(|error| probe::cause_of(&error))?;
    let mut buffer = [0; MAX_REPLY_BYTES];
    loop {
        let read = stream.read(&mut buffer).await;
        let count = read.map_err(|error| probe::cause_of(&error))?;
        if count == 0 {
            return Err(Cause::EarlyClose);
        }
        let mut bytes = &buffer[..count];
        let reply = replies.read(&mut bytes);
        match reply.map_err(|_| Cause::UnexpectedAnswer)? {
            // Nothing else was asked.
            Some(_) if !bytes.is_empty() => return Err(Cause::UnexpectedAnswer),
            Some(reply) => return Ok(reply),
            None => {}
        }
    }
}

fn refusal(error: &ReplyError) -> Cause {
    match error {
        ReplyError::Refused(text) if ["NOAUTH", "NOPERM"].iter().any(|it| text.starts_with(it)) => {
            Cause::LoginFailed
        }
        _ => Cause::UnexpectedAnswer,
    }
}
