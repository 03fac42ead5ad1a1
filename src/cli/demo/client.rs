//! A small PostgreSQL client: logs in without a password and asks simple queries.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

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
use crate::protocol::postgres::rows::Answer;
use crate::protocol::postgres::rows::AnswerError;
use crate::protocol::postgres::rows::AnswerStep;
use crate::protocol::postgres::rows::Rows;
use crate::protocol::postgres::sqlstate::SqlState;

/// Longer than any hold: a hang becomes a failure, and the demo goes on.
const PATIENCE: Duration = Duration::from_secs(20);
/// An answer has a few hundred bytes, but for the final look at all rows.
const READ_BYTES: usize = 16 * 1024;

/// A session that is logged in.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The connection is gone: whether the statement was done, nobody knows.
    #[error("the connection was lost")]
    Lost,
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// The server, or the proxy in its place, said no.
    #[error("{0}")]
    Refused(ServerError),
    #[error("the server broke the protocol")]
    Garbled,
}

impl Trouble {
    /// Whether a write was sent to a server that may not be written to.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Refused(error)
            if error.sqlstate == Some(SqlState::READ_ONLY_SQL_TRANSACTION))
    }
}

impl Client {
    /// Connects and logs in.
    pub async fn connect(address: SocketAddr) -> Result<Self, Trouble> {
        let connecting = async {
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|_| Trouble::Lost)?;
            stream.set_nodelay(true).map_err(|_| Trouble::Lost)?;
            let mut client = Self {
                stream,
                received: Vec::new(),
            };
            client.log_in().await?;
            Ok(client)
        };
        timeout(PATIENCE, connecting)
            .await
            .unwrap_or(Err(Trouble::Silent))
    }

    async fn log_in(&mut self) -> Result<(), Trouble> {
        let (mut login, startup) = Login::new(&Credentials {
            user: "postgres",
            database: "postgres",
            password: None,
            application_name: "evergate demo",
            cleartext: Cleartext::Refuse,
            binding: ChannelBinding::Unavailable,
        });
        self.send(&startup).await?;
        loop {
            let (tag, body) = self.message().await?;
            match login.on_message(tag, &body) {
                Ok(LoginStep::Wait) => {}
                Ok(LoginStep::Send(bytes)) => self.send(&bytes).await?,
                Ok(LoginStep::Ready(_)) => return Ok(()),
                Err(LoginError::Server(error)) => return Err(Trouble::Refused(error)),
                Err(_) => return Err(Trouble::Garbled),
            }
        }
    }

    /// Asks and reads the whole answer.
    pub async fn query(&mut self, sql: &str) -> Result<Rows, Trouble> {
        let asking = async {
            self.send(&frontend::query(sql)).await?;
            let mut answer = Answer::new();
            loop {
                let (tag, body) = self.message().await?;
                match answer.on_message(tag, &body) {
                    Ok(AnswerStep::Wait) => {}
                    Ok(AnswerStep::Done(rows)) => return rows.map_err(Trouble::Refused),
                    Err(AnswerError::Ended(error)) => return Err(Trouble::Refused(error)),
                    Err(_) => return Err(Trouble::Garbled),
                }
            }
        };
        timeout(PATIENCE, asking)
            .await
            .unwrap_or(Err(Trouble::Silent))
    }

    /// Waits, and watches: `Err` when the session ends meanwhile.
    pub async fn idle(&mut self, time: Duration) -> Result<(), Trouble> {
        match timeout(time, self.message()).await {
            Err(_) => Ok(()),
            // Notices may come at any time; nobody else speaks unasked.
            Ok(Ok((b'N' | b'S', _))) => Ok(()),
            Ok(Ok((b'E', body))) => Err(Trouble::Refused(ServerError::parse(&body))),
            Ok(Ok(_)) => Err(Trouble::Garbled),
            Ok(Err(trouble)) => Err(trouble),
        }
    }

    /// Ends in the orderly way.
    pub async fn leave(mut self) {
        // The session is over, however the other side takes it.
        let _ = self.send(&frontend::terminate()).await;
        let _ = self.stream.shutdown().await;
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let sent = self.stream.write_all(bytes).await;
        sent.map_err(|_| Trouble::Lost)
    }

    /// Cancel safe: what has been received stays.
    async fn message(&mut self) -> Result<(u8, Vec<u8>), Trouble> {
        loop {
            let next = frame::next_message(&self.received, MAX_PROBE_MESSAGE_BYTES);
            if let Some(message) = next.map_err(|_| Trouble::Garbled)? {
                let (tag, body, length) = (message.tag, message.body.to_vec(), message.length);
                self.received.drain(..length);
                return Ok((tag, body));
            }
            self.received.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.received).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(Trouble::Lost),
            }
        }
    }
}
