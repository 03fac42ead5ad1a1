//! What the HTTP library's errors and a backend's answers say.

use std::io;
use std::time::Duration;

use http::Response;
use http::header;

use crate::cluster::Cause;
use crate::net;
use crate::proxy::http::body::BodyError;
use crate::proxy::http::upstream::SendError;

/// What hyper's error means for the request.
pub fn of_hyper(error: &hyper::Error) -> SendError {
    let cause = cause_of(error);
    match (is_of_client(error), is_refusal(error)) {
        (true, _) => SendError::Client(cause),
        (_, true) => SendError::Refused(cause),
        _ => SendError::Backend(cause),
    }
}

/// What it means for the backend, or for the client whose body it was.
fn cause_of(error: &hyper::Error) -> Cause {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(body) = inner.downcast_ref::<BodyError>() {
            return body.0;
        }
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return net::cause_of(io);
        }
        source = inner.source();
    }
    if error.is_parse() {
        return Cause::BadProtocol;
    }
    Cause::Reset
}

/// Whether it was the client's body that failed.
fn is_of_client(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<BodyError>() {
            return true;
        }
        source = inner.source();
    }
    false
}

/// `Retry-After` in seconds (RFC 9110, 10.2.3); one that names a date is not heeded.
pub fn retry_after<T>(response: &Response<T>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?;
    let seconds = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// An HTTP/2 backend that has not processed a request says so (RFC 9113, 8.7).
fn is_refusal(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let Some(error) = source.and_then(|source| source.downcast_ref::<h2::Error>()) else {
        return false;
    };
    let reason = error.reason();
    error.is_remote() && (reason == Some(h2::Reason::REFUSED_STREAM) || error.is_go_away())
}
