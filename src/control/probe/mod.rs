//! One probe: ask one backend one question, once, within a deadline.

mod exec;
mod failure;
mod http;
mod link;
mod mysql;
mod postgres;
mod redis;
mod tcp;
mod tls;
mod wire;

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::cluster::Cause;
use crate::config::BackendConfig;
use crate::config::CheckKind;
use crate::config::ClusterConfig;
use crate::control::evidence::Evidence;
use crate::net;
use crate::tls::BackendTls;
use crate::tls::TlsConnector;

pub use exec::Group;
pub use exec::MAX_COMMANDS;
pub use failure::Failure;
pub(super) use http::exchange;
pub use link::Link;
pub use link::Recall;
pub use link::Rest;
pub use link::Resting;
pub use link::recall;

/// An answer is read up to here; no status page or banner needs more.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// With fewer free connections than this a database gets the health check's own back.
const MIN_FREE_CONNECTIONS: u32 = 3;
/// How long the peer may take to close after us, so that its last bytes do not
/// meet a closed socket. Nobody waits for it.
const LINGER: Duration = Duration::from_millis(250);

/// Who is asked, and how.
#[derive(Debug, Clone)]
pub struct Target {
    pub cluster: Arc<ClusterConfig>,
    pub backend: BackendConfig,
    pub tls: Option<TlsConnector>,
}

impl Target {
    /// A link that was opened for one of them serves the other: a reload that changes neither
    /// costs the database no login.
    fn connects_like(&self, other: &Self) -> bool {
        let (one, two) = (&self.cluster, &other.cluster);
        let has_same_tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some(one), Some(two)) => one.is_same(two),
            _ => false,
        };
        has_same_tls
            && (&self.backend.host, self.backend.port) == (&other.backend.host, other.backend.port)
            && one.health_check.port == two.health_check.port
            && one.health_check.kind == two.health_check.kind
            && one.connect.source == two.connect.source
            && one.tls == two.tls
    }
}

/// What one probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub result: Result<Evidence, Cause>,
    pub duration: Duration,
}

/// A connection whose question is answered and that has to be closed politely.
#[derive(Debug)]
pub enum Leftover {
    Nothing,
    Tcp(TcpStream),
    Tls(Box<BackendTls>),
    /// Kept for the next probe.
    Kept(Link),
    /// Not kept: the server is short of connections.
    Ended(Link),
}

/// Everything that a probe leaves behind.
#[derive(Debug)]
pub struct Outcome {
    pub observation: Observation,
    /// Closed by [`Leftover::close`], after the observation was passed on.
    pub leftover: Leftover,
    /// What a person has to put right before a probe can pass.
    pub complaint: Option<String>,
}

/// Asks. `link` is what the probe before has left; `commands` bounds how many commands
/// run at once.
pub async fn probe(
    target: &Target,
    address: SocketAddr,
    link: Option<Link>,
    commands: &Semaphore,
) -> Outcome {
    let started = Instant::now();
    let timeout = target.cluster.health_check.timeout;
    let deadline = started + timeout;
    let answer = ask(target, address, link, commands, deadline).await;
    let duration = started.elapsed();
    let (result, leftover, complaint) = match answer {
        Ok((evidence, leftover)) => (Ok(evidence), leftover, None),
        Err(Failure { cause, complaint }) => (Err(cause), Leftover::Nothing, complaint),
    };
    Outcome {
        observation: Observation { result, duration },
        leftover,
        complaint,
    }
}

async fn ask(
    target: &Target,
    address: SocketAddr,
    link: Option<Link>,
    commands: &Semaphore,
    deadline: Instant,
) -> Result<(Evidence, Leftover), Failure> {
    match &target.cluster.health_check.kind {
        CheckKind::Tcp { send, expect } => {
            let asked = tcp::ask(target, address, (send, expect.as_deref()), deadline);
            Ok(silent(Leftover::Tcp(asked.await?)))
        }
        CheckKind::Tls => {
            let stream = tls::ask(target, address, deadline).await?;
            Ok(silent(Leftover::Tls(Box::new(stream))))
        }
        CheckKind::Http(check) => {
            let evidence = http::ask(target, check, address, deadline).await?;
            Ok((evidence, Leftover::Nothing))
        }
        CheckKind::Postgres(check) => {
            let link = match link {
                Some(Link::Postgres(link)) => Some(link),
                Some(_) | None => None,
            };
            postgres::ask(target, check, address, link, deadline).await
        }
        CheckKind::MySql(check) => {
            let link = match link {
                Some(Link::MySql(link)) => Some(link),
                Some(_) | None => None,
            };
            mysql::ask(target, check, address, link, deadline).await
        }
        CheckKind::Redis(check) => {
            let link = match link {
                Some(Link::Redis(link)) => Some(link),
                Some(_) | None => None,
            };
            redis::ask(target, check, address, link, deadline).await
        }
        CheckKind::Exec { command } => {
            let timeout = target.cluster.health_check.timeout;
            exec::ask(target, command, address, timeout, commands).await?;
            Ok(silent(Leftover::Nothing))
        }
    }
}

/// An answer that tells no role.
fn silent(leftover: Leftover) -> (Evidence, Leftover) {
    (Evidence::Silent, leftover)
}

impl Leftover {
    /// A connection that the application could use is not kept from it.
    fn kept_or_ended(link: Link, used: u32, allowed: u32) -> Self {
        match allowed.saturating_sub(used) < MIN_FREE_CONNECTIONS {
            true => Self::Ended(link),
            false => Self::Kept(link),
        }
    }

    /// Closes with FIN, never with RST: a reset is an alarming line in some databases' logs.
    pub async fn close(self) {
        match self {
            Self::Nothing => {}
            Self::Tcp(stream) => close(stream).await,
            Self::Tls(stream) => close(*stream).await,
            Self::Kept(link) | Self::Ended(link) => link.close().await,
        }
    }
}

async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let goodbye = async {
        stream.shutdown().await?;
        // Unread bytes would turn our close into a reset.
        let mut rest = [0; 1024];
        let mut budget_bytes = MAX_ANSWER_BYTES;
        loop {
            let count = stream.read(&mut rest).await?;
            budget_bytes = budget_bytes.saturating_sub(count);
            if count == 0 || budget_bytes == 0 {
                return Ok::<_, io::Error>(());
            }
        }
    };
    // The question is answered: how the peer takes the goodbye is of no interest.
    let _ = tokio::time::timeout(LINGER, goodbye).await;
}

/// Connects by the deadline, from where sessions do.
async fn connect(
    target: &Target,
    address: SocketAddr,
    deadline: Instant,
) -> Result<TcpStream, Cause> {
    connect_from(&target.cluster.connect.source, address, deadline).await
}

/// Connects by the deadline, with a second try beside the first from the middle on: the
/// kernel repeats a lost SYN only after a second (RFC 6298), and one lost packet must not
/// look like a failure.
pub(super) async fn connect_from(
    source: &[IpAddr],
    address: SocketAddr,
    deadline: Instant,
) -> Result<TcpStream, Cause> {
    let now = Instant::now();
    let middle = now + deadline.saturating_duration_since(now) / 2;
    within(deadline, Cause::ConnectTimeout, async {
        let mut first = pin!(net::connect(address, source));
        let connected = match tokio::time::timeout_at(middle, &mut first).await {
            Ok(connected) => connected,
            Err(_) => tokio::select! {
                connected = first => connected,
                connected = net::connect(address, source) => connected,
            },
        };
        connected.map_err(|e| cause_of(&e))
    })
    .await
}

/// Runs a step of a probe; `late` is the cause when it takes too long.
async fn within<T, E: From<Cause>>(
    deadline: Instant,
    late: Cause,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::time::timeout_at(deadline, step)
        .await
        .unwrap_or_else(|_| Err(late.into()))
}

/// What an input or output error says about a backend: the same as in a session, but
/// here nobody sends for long, and an end is before the answer.
pub(super) fn cause_of(error: &io::Error) -> Cause {
    match net::cause_of(error) {
        Cause::SendTimeout => Cause::ConnectTimeout,
        Cause::Closed => Cause::EarlyClose,
        cause => cause,
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|part| part == needle)
}

#[cfg(test)]
mod tests;
