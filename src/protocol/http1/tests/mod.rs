//! What passes, what is refused and as what, and that the HTTP library agrees.

mod answers;
mod library;
mod probes;
mod stories;

use std::num::NonZeroU64;

use super::*;

const LIMITS: Limits = Limits {
    max_head_bytes: 4096,
    max_headers: 50,
    max_uri_bytes: 1000,
    max_body_bytes: NonZeroU64::new(1_000_000),
    allow_connect: false,
};

/// The number of whole heads, or what is wrong.
fn requests(bytes: impl AsRef<[u8]>) -> Result<u64, Violation> {
    let bytes = bytes.as_ref();
    fuzz(bytes);
    let mut guard = Guard::new(LIMITS);
    let Inspection { pass, then } = guard.inspect(bytes);
    match then {
        Next::Refuse(violation) => Err(violation),
        Next::AwaitUpgrade => Ok(guard.requests()),
        Next::More => {
            assert_eq!(pass, bytes.len());
            Ok(guard.requests())
        }
    }
}

/// A GET with these lines after its Host.
fn with_fields(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n").into_bytes()
}

/// A POST with these lines after its Host, and what follows the head.
fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n{body}").into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    post("Transfer-Encoding: chunked\r\n", body)
}
