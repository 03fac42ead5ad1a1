//! One HTTP/1.1 request; judge its status and, if asked for, its body.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper::Request;
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::MAX_ANSWER_BYTES;
use super::Target;
use super::cause_of;
use super::connect;
use super::contains;
use super::tls;
use super::within;
use crate::cluster::Cause;
use crate::config::HttpCheck;

pub(super) async fn ask(
    target: &Target,
    check: &HttpCheck,
    address: SocketAddr,
    deadline: Instant,
) -> Result<(), Cause> {
    let request = request(target, check, address)?;
    if check.tls {
        let stream = tls::ask(target, address, deadline).await?;
        within(deadline, Cause::CheckTimeout, talk(stream, request, check)).await
    } else {
        let stream = connect(address, deadline).await?;
        within(deadline, Cause::CheckTimeout, talk(stream, request, check)).await
    }
}

fn request(
    target: &Target,
    check: &HttpCheck,
    address: SocketAddr,
) -> Result<Request<Empty<Bytes>>, Cause> {
    let host = match &check.host {
        Some(host) => host.clone(),
        None => format!("{}:{}", target.backend.host, address.port()),
    };
    Request::builder()
        .method(check.method.as_str())
        .uri(check.path.as_str())
        .header(header::HOST, host)
        .header(header::USER_AGENT, "evergate")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        // The configuration was checked; what is wrong all the same is not the backend's fault.
        .map_err(|_| Cause::IoError)
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
    check: &HttpCheck,
) -> Result<(), Cause> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_ANSWER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http_cause(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await;
        judge(response.map_err(|error| http_cause(&error))?, check).await
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        judged = &mut exchange => judged,
        // The connection ends first when the peer closes; what it has read is still to be judged.
        _ = connection => exchange.await,
    }
}

async fn judge(mut response: Response<Incoming>, check: &HttpCheck) -> Result<(), Cause> {
    let status = response.status().as_u16();
    let expected = |(first, last): &(u16, u16)| (*first..=*last).contains(&status);
    if !check.expect.iter().any(expected) {
        return Err(Cause::UnexpectedAnswer);
    }
    let Some(wanted) = &check.body else {
        return Ok(());
    };
    let mut body = Vec::new();
    while let Some(frame) = response.frame().await {
        let frame = frame.map_err(|error| http_cause(&error))?;
        let Ok(part) = frame.into_data() else {
            continue;
        };
        // A match may begin in the part that has been searched.
        let from = body.len().saturating_sub(wanted.len());
        body.extend_from_slice(&part);
        if contains(&body[from..], wanted.as_bytes()) {
            return Ok(());
        }
        if body.len() >= MAX_ANSWER_BYTES {
            break;
        }
    }
    Err(Cause::UnexpectedAnswer)
}

fn http_cause(error: &hyper::Error) -> Cause {
    // A request that could not be sent is cancelled because of what came instead.
    let reason = error
        .source()
        .and_then(|s| s.downcast_ref::<hyper::Error>());
    if let Some(reason) = reason {
        return http_cause(reason);
    }
    let source = error.source().and_then(|s| s.downcast_ref::<io::Error>());
    match source {
        // hyper tells a malformed chunk as an I/O error that no system call returned.
        Some(source) if source.kind() == io::ErrorKind::InvalidInput => Cause::UnexpectedAnswer,
        Some(source) if source.kind() == io::ErrorKind::InvalidData => Cause::UnexpectedAnswer,
        Some(source) => cause_of(source),
        None if error.is_incomplete_message() || error.is_canceled() => Cause::EarlyClose,
        None => Cause::UnexpectedAnswer,
    }
}
