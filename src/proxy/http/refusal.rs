//! The answer to a request that was refused before it was one.

use std::fmt::Write;

use http::StatusCode;

use crate::protocol::http1::Violation;

/// A whole HTTP/1.1 answer, after which the connection is closed; `None`: the client does not speak
/// HTTP/1. A wrong preface of HTTP/2 is answered by the end alone (RFC 9113, 3.4).
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
