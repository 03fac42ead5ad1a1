//! The backend's side of a beginning: TLS in its own way, and the first answer to a startup.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::Cause;
use crate::net;
use crate::protocol::postgres::error::ServerError;
use crate::protocol::postgres::frame::next_message;
use crate::protocol::postgres::frontend;
use crate::protocol::postgres::frontend::SslAnswer;
use crate::protocol::postgres::sqlstate::SqlState;
use crate::proxy::dial::DialError;
use crate::proxy::transport::Transport;

/// An error with its context is shorter. What is longer is the client's to judge.
const MAX_FIRST_ANSWER_BYTES: usize = 16 * 1024;
/// A server that trusts its clients answers with all of its parameters, about 400 bytes.
const USUAL_ANSWER_BYTES: usize = 1024;
/// Its answer to SSLRequest is one byte; a second one must not come with it.
const SSL_ANSWER_BYTES: usize = 2;
/// The body of AuthenticationOk.
const AUTHENTICATION_OK: [u8; 4] = [0; 4];

/// What the beginning of a backend's answer amounts to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Incomplete,
    /// For the client, whatever it is.
    Pass,
    /// It takes no session now; another backend might.
    Unavailable(Cause, ServerError),
}

/// SSLRequest and its answer; the TLS handshake may begin then.
///
/// # Errors
/// The backend has no TLS, or sent more than its answer.
pub async fn ask_for_tls(tcp: &mut TcpStream) -> Result<(), DialError> {
    let answer = async {
        tcp.write_all(&frontend::ssl_request()).await?;
        let mut answer = [0; SSL_ANSWER_BYTES];
        let read = tcp.read(&mut answer).await?;
        Ok(answer[..read].to_vec())
    };
    let answer = answer.await.map_err(failed)?;
    let refused = |text: String| DialError {
        cause: Cause::TlsFailed,
        error: io::Error::other(text),
    };
    match frontend::ssl_answer(&answer) {
        Ok(Some(SslAnswer::Accepted)) => Ok(()),
        Ok(Some(SslAnswer::Refused)) => Err(refused("server does not support SSL".to_owned())),
        Ok(None) => Err(failed(io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// Sends what begins a session and returns what the backend says to it, at least a byte.
///
/// # Errors
/// It is gone, silent for `patience`, or says that it takes no session now.
pub async fn first_answer(
    backend: &mut Transport,
    opening: &[u8],
    patience: Duration,
) -> Result<Vec<u8>, DialError> {
    let answer = async {
        backend.write_all(opening).await?;
        backend.flush().await?;
        let mut bytes = Vec::with_capacity(USUAL_ANSWER_BYTES);
        loop {
            if backend.read_buf(&mut bytes).await? == 0 {
                return match bytes.is_empty() {
                    true => Err(io::ErrorKind::UnexpectedEof.into()),
                    false => Ok((bytes, Verdict::Pass)),
                };
            }
            match judge(&bytes) {
                Verdict::Incomplete if bytes.len() < MAX_FIRST_ANSWER_BYTES => {}
                verdict => return Ok((bytes, verdict)),
            }
        }
    };
    match timeout(patience, answer).await {
        Ok(Ok((_, Verdict::Unavailable(cause, error)))) => Err(DialError {
            cause,
            error: io::Error::other(error.to_string()),
        }),
        Ok(Ok((bytes, Verdict::Pass | Verdict::Incomplete))) => Ok(bytes),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(DialError {
            cause: Cause::ConnectTimeout,
            error: io::Error::new(io::ErrorKind::TimedOut, "no answer to the startup message"),
        }),
    }
}

fn failed(error: io::Error) -> DialError {
    let cause = match net::cause_of(&error) {
        Cause::Closed => Cause::EarlyClose,
        _ if error.kind() == io::ErrorKind::UnexpectedEof => Cause::EarlyClose,
        cause => cause,
    };
    DialError { cause, error }
}

fn judge(mut bytes: &[u8]) -> Verdict {
    loop {
        let Some(tag) = bytes.first() else {
            return Verdict::Incomplete;
        };
        let message = match tag {
            b'v' | b'R' | b'E' => next_message(bytes, MAX_FIRST_ANSWER_BYTES),
            _ => return Verdict::Pass,
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Verdict::Incomplete,
            // A length that cannot be: no server of ours, and no reason to hide it.
            Err(_) => return Verdict::Pass,
        };
        match message.tag {
            // NegotiateProtocolVersion says nothing of whether there will be a session.
            b'v' => {}
            // Nor does AuthenticationOk at once: a server that trusts its clients looks for a
            // free connection afterwards. It goes on without another word of the client.
            b'R' if message.body == AUTHENTICATION_OK => {}
            b'R' => return Verdict::Pass,
            _ => return judge_error(message.body),
        }
        bytes = &bytes[message.length..];
    }
}

fn judge_error(body: &[u8]) -> Verdict {
    let error = ServerError::parse(body);
    match error.sqlstate.and_then(unavailable) {
        Some(cause) => Verdict::Unavailable(cause, error),
        None => Verdict::Pass,
    }
}

/// What a server says that cannot take a session just now.
fn unavailable(sqlstate: SqlState) -> Option<Cause> {
    match sqlstate {
        SqlState::CANNOT_CONNECT_NOW => Some(Cause::StartingUp),
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => Some(Cause::ShuttingDown),
        SqlState::TOO_MANY_CONNECTIONS => Some(Cause::TooManyConnections),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::error::ErrorResponse;

    const LET_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0";
    const VERSION: &[u8] = b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0";

    fn cause(bytes: &[u8]) -> Option<Cause> {
        match judge(bytes) {
            Verdict::Unavailable(cause, _) => Some(cause),
            Verdict::Incomplete | Verdict::Pass => None,
        }
    }

    #[test]
    fn only_a_server_that_cannot_take_the_session_is_left() {
        for (sqlstate, expected) in [
            (SqlState::CANNOT_CONNECT_NOW, Some(Cause::StartingUp)),
            (SqlState::ADMIN_SHUTDOWN, Some(Cause::ShuttingDown)),
            (SqlState::CRASH_SHUTDOWN, Some(Cause::ShuttingDown)),
            (
                SqlState::TOO_MANY_CONNECTIONS,
                Some(Cause::TooManyConnections),
            ),
            (SqlState::INVALID_PASSWORD, None),
            (SqlState::INVALID_CATALOG_NAME, None),
        ] {
            let error = ErrorResponse::fatal(sqlstate, "x").encode();
            for before in [&b""[..], VERSION, LET_IN, &[VERSION, LET_IN].concat()] {
                let bytes = [before, &error].concat();
                assert_eq!(cause(&bytes), expected, "{sqlstate}");
                // Nothing is decided by a part of it.
                for cut in 0..bytes.len() {
                    assert_eq!(judge(&bytes[..cut]), Verdict::Incomplete);
                }
            }
        }
    }

    #[test]
    fn whatever_else_a_server_says_is_for_the_client() {
        let asks = b"R\0\0\0\x08\0\0\0\x03";
        let goes_on = [LET_IN, b"S"].concat();
        for bytes in [
            &asks[..],
            &goes_on,
            b"S",
            b"\0",
            b"E\0\0\0\0",
            b"R\xff\xff\xff\xff",
        ] {
            assert_eq!(judge(bytes), Verdict::Pass, "{}", bytes.escape_ascii());
        }
    }
}
