//! Requests that no backend answers: why, and what of that is told to whom.

use std::fmt::Write;
use std::time::Duration;

use http::StatusCode;

use crate::cluster::Cause;
use crate::protocol::http::problem::Problem;
use crate::protocol::http1::Violation;

/// Why there is no backend's answer: for the client, and for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub problem: Problem,
    pub cause: Cause,
    pub retry_after: Option<Duration>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let cause = match problem {
            Problem::NoRoute => Cause::NoRoute,
            Problem::TooLarge => Cause::BodyTooLarge,
            Problem::RateLimited => Cause::RateLimited,
            Problem::Shutdown => Cause::Shutdown,
            Problem::BackendTimeout => Cause::AnswerTimeout,
            _ => Cause::BadRequest,
        };
        Self {
            problem,
            cause,
            retry_after: None,
        }
    }
}

impl From<Cause> for Refusal {
    fn from(cause: Cause) -> Self {
        Self {
            problem: problem_of(cause),
            cause,
            retry_after: None,
        }
    }
}

/// The answer to a request that was refused before it was one: a whole one of HTTP/1.1, after which
/// the connection is closed. `None`: the client does not speak HTTP/1. A wrong preface of HTTP/2 is
/// answered by the end alone (RFC 9113, 3.4).
pub fn answer(violation: Violation) -> Option<Vec<u8>> {
    if violation == Violation::NotHttp {
        return None;
    }
    let status = StatusCode::from_u16(violation.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let reason = status.canonical_reason().unwrap_or("Bad Request");
    let body = format!("{}: {reason}\n", violation.as_str());
    let mut answer = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16());
    // A `String` takes everything.
    let _ = write!(
        answer,
        "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    Some(answer.into_bytes())
}

/// The answer to a request that no backend has answered.
fn problem_of(cause: Cause) -> Problem {
    match cause {
        Cause::NoRoute => Problem::NoRoute,
        Cause::HoldTimeout => Problem::HoldTimeout,
        Cause::HoldFull => Problem::HoldFull,
        Cause::QueueTimeout => Problem::QueueTimeout,
        Cause::QueueFull => Problem::QueueFull,
        Cause::AnswerTimeout | Cause::SendTimeout => Problem::BackendTimeout,
        Cause::BodyTimeout => Problem::RequestTimeout,
        Cause::BodyTooLarge => Problem::TooLarge,
        Cause::OutOfResources => Problem::OutOfResources,
        Cause::BadProtocol => Problem::BadProtocol,
        Cause::BadRequest => Problem::BadRequest,
        Cause::ConnectRefused
        | Cause::ConnectTimeout
        | Cause::Unreachable
        | Cause::Unresolved
        | Cause::TlsFailed
        | Cause::EarlyClose => Problem::ConnectFailed,
        Cause::Shutdown | Cause::ListenerRemoved => Problem::Shutdown,
        _ => Problem::Reset,
    }
}
