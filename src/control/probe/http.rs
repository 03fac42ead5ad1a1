//! One HTTP/1.1 request; judge its status and, if asked for, its body. Or two that tell the role.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::Limited;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
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
use crate::control::evidence::Evidence;
use crate::control::evidence::ToldEvidence;

pub(super) async fn ask(
    target: &Target,
    check: &HttpCheck,
    address: SocketAddr,
    deadline: Instant,
) -> Result<Evidence, Cause> {
    let service = Service {
        target,
        check,
        address,
        deadline,
    };
    let Some(roles) = &check.roles else {
        let judge = |response| judge(response, check);
        service.ask(&check.path, judge).await?;
        return Ok(Evidence::Silent);
    };
    let told = |response| told(response, check);
    let primary = service.ask(&roles.primary, told);
    let replica = service.ask(&roles.replica, told);
    let (primary, replica) = tokio::try_join!(primary, replica)?;
    role(primary, replica)
}

/// Who is asked, how, and until when.
#[derive(Debug, Clone, Copy)]
struct Service<'a> {
    target: &'a Target,
    check: &'a HttpCheck,
    address: SocketAddr,
    deadline: Instant,
}

impl Service<'_> {
    async fn ask<T, F>(
        &self,
        path: &str,
        judge: impl FnOnce(Response<Incoming>) -> F,
    ) -> Result<T, Cause>
    where
        F: Future<Output = Result<T, Cause>>,
    {
        let (address, deadline) = (self.address, self.deadline);
        let request = request(self.target, self.check, path, address)?;
        if self.check.tls {
            let stream = tls::ask(self.target, address, deadline).await?;
            let asked = exchange(stream, request, judge);
            within(deadline, Cause::CheckTimeout, asked).await
        } else {
            let stream = connect(self.target, address, deadline).await?;
            let asked = exchange(stream, request, judge);
            within(deadline, Cause::CheckTimeout, asked).await
        }
    }
}

fn request(
    target: &Target,
    check: &HttpCheck,
    path: &str,
    address: SocketAddr,
) -> Result<Request<Empty<Bytes>>, Cause> {
    let host = match &check.host {
        Some(host) => host.clone(),
        None => format!("{}:{}", target.backend.host, address.port()),
    };
    Request::builder()
        .method(check.method.as_str())
        .uri(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "evergate")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        // The configuration was checked; what is wrong all the same is not the backend's fault.
        .map_err(|_| Cause::IoError)
}

/// Sends the request and judges the response while the connection is there.
pub(in crate::control) async fn exchange<T, F>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
    judge: impl FnOnce(Response<Incoming>) -> F,
) -> Result<T, Cause>
where
    F: Future<Output = Result<T, Cause>>,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_ANSWER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http_cause(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await;
        judge(response.map_err(|error| http_cause(&error))?).await
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        judged = &mut exchange => judged,
        // The connection ends first when the peer closes; what it has read is still to be judged.
        _ = connection => exchange.await,
    }
}

/// What a service answers when it is asked for a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Yes {
        timeline: Option<u32>,
    },
    /// 503, as Patroni and most others say it.
    No,
    Other,
}

/// Neither, said by both: it starts, stops or has lost its way, and nobody writes there.
/// Both, or an error in place of a "no", is an answer that cannot be true.
fn role(primary: Told, replica: Told) -> Result<Evidence, Cause> {
    let (is_primary, timeline) = match (primary, replica) {
        (Told::Yes { timeline }, Told::No | Told::Other) => (true, timeline),
        (Told::No | Told::Other, Told::Yes { timeline }) => (false, timeline),
        (Told::No, Told::No) => return Err(Cause::StartingUp),
        (Told::Yes { .. }, Told::Yes { .. })
        | (Told::Other, Told::No | Told::Other)
        | (Told::No, Told::Other) => return Err(Cause::UnexpectedAnswer),
    };
    Ok(Evidence::Told(ToldEvidence {
        is_primary,
        timeline,
    }))
}

async fn told(response: Response<Incoming>, check: &HttpCheck) -> Result<Told, Cause> {
    if !is_expected(&response, check) {
        return Ok(match response.status() {
            StatusCode::SERVICE_UNAVAILABLE => Told::No,
            _ => Told::Other,
        });
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    let body = body.collect().await.map_err(|error| {
        // Otherwise it is too long.
        let error = error.downcast_ref::<hyper::Error>();
        error.map_or(Cause::UnexpectedAnswer, http_cause)
    })?;
    Ok(Told::Yes {
        timeline: timeline(&body.to_bytes()),
    })
}

/// As Patroni tells it; other services have none.
fn timeline(body: &[u8]) -> Option<u32> {
    let node: serde_json::Value = serde_json::from_slice(body).ok()?;
    let timeline = u32::try_from(node.get("timeline")?.as_u64()?).ok()?;
    (timeline > 0).then_some(timeline)
}

fn is_expected(response: &Response<Incoming>, check: &HttpCheck) -> bool {
    let status = response.status().as_u16();
    let expected = |(first, last): &(u16, u16)| (*first..=*last).contains(&status);
    check.expect.iter().any(expected)
}

async fn judge(mut response: Response<Incoming>, check: &HttpCheck) -> Result<(), Cause> {
    if !is_expected(&response, check) {
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
