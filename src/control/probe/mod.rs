//! One probe: ask one backend one question, once, within a deadline.

mod exec;
mod http;
mod tcp;
mod tls;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
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
use crate::net;
use crate::tls::BackendTls;
use crate::tls::TlsConnector;

pub use exec::MAX_COMMANDS;

/// An answer is read up to here; no status page or banner needs more.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
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

/// What one probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    pub result: Result<(), Cause>,
    pub duration: Duration,
}

/// A connection whose question is answered and that has to be closed politely.
#[derive(Debug)]
pub enum Leftover {
    Nothing,
    Tcp(TcpStream),
    Tls(Box<BackendTls>),
}

/// Asks. The leftover is closed by [`Leftover::close`], after the observation was
/// passed on. `commands` bounds how many commands run at once.
pub async fn probe(
    target: &Target,
    address: SocketAddr,
    commands: &Semaphore,
) -> (Observation, Leftover) {
    let started = Instant::now();
    let timeout = target.cluster.health_check.timeout;
    let deadline = started + timeout;
    let answer = match &target.cluster.health_check.kind {
        CheckKind::Tcp { send, expect } => {
            let asked = tcp::ask(address, send, expect.as_deref(), deadline);
            asked.await.map(Leftover::Tcp)
        }
        CheckKind::Tls => {
            let asked = tls::ask(target, address, deadline);
            asked.await.map(|stream| Leftover::Tls(Box::new(stream)))
        }
        CheckKind::Http(check) => {
            let asked = http::ask(target, check, address, deadline);
            asked.await.map(|()| Leftover::Nothing)
        }
        CheckKind::Exec { command } => {
            let asked = exec::ask(target, command, address, timeout, commands);
            asked.await.map(|()| Leftover::Nothing)
        }
    };
    let observation = Observation {
        result: answer.as_ref().map(|_| ()).map_err(|cause| *cause),
        duration: started.elapsed(),
    };
    (observation, answer.unwrap_or(Leftover::Nothing))
}

impl Leftover {
    /// Closes with FIN, never with RST: a reset is an alarming line in some databases' logs.
    pub async fn close(self) {
        match self {
            Self::Nothing => {}
            Self::Tcp(stream) => close(stream).await,
            Self::Tls(stream) => close(*stream).await,
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

/// Connects by the deadline.
async fn connect(address: SocketAddr, deadline: Instant) -> Result<TcpStream, Cause> {
    within(deadline, Cause::ConnectTimeout, async {
        TcpStream::connect(address).await.map_err(|e| cause_of(&e))
    })
    .await
}

/// Runs a step of a probe; `late` is the cause when it takes too long.
async fn within<T>(
    deadline: Instant,
    late: Cause,
    step: impl Future<Output = Result<T, Cause>>,
) -> Result<T, Cause> {
    tokio::time::timeout_at(deadline, step)
        .await
        .unwrap_or(Err(late))
}

/// What an input or output error says about a backend: the same as in a session, but
/// here nobody sends for long, and an end is before the answer.
fn cause_of(error: &io::Error) -> Cause {
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
