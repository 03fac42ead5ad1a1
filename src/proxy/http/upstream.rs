//! Connections to backends: HTTP on top of a dialed transport.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http::Response;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use crate::cluster::Cause;
use crate::config::HttpVersion;
use crate::config::Intent;
use crate::net;
use crate::protocol::http1::AnswerHead;
use crate::protocol::http1::MAX_HEAD_BYTES;
use crate::proxy::dial::DialError;
use crate::proxy::http::backend_io::BackendIo;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::early;
use crate::proxy::http::failure;
use crate::proxy::http::retries;
use crate::proxy::http::upstream_cell::UpstreamCell;
use crate::proxy::http::wire::Wire;
use crate::proxy::transport::Transport;
use crate::routing::BackendHandle;

/// What one HTTP/2 connection may hold for one stream, and for all.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Sends requests over one connection.
#[derive(Debug)]
pub enum Sender {
    /// `None`: it is not used again.
    One(Option<Box<Wire>>),
    Two(http2::SendRequest<RequestBody>),
}

/// A connection that an exchange may use.
#[derive(Debug)]
pub struct Upstream {
    pub sender: Sender,
    pub cell: Arc<UpstreamCell>,
}

/// Where the body of an answer comes from.
#[derive(Debug)]
pub enum Arriving {
    /// Over the connection that sent the request.
    OnWire,
    /// Over one that is still sending the request.
    Early(mpsc::Receiver<Result<Frame<Bytes>, Cause>>),
    Stream(Incoming),
}

/// Why a request has no answer.
#[derive(Debug)]
pub enum SendError {
    /// Nothing of it was sent.
    Unsent,
    /// The client's body came to no end.
    Client(Cause),
    /// The backend has not processed it, and says so.
    Refused(Cause),
    Backend(Cause),
}

impl SendError {
    /// What an error of the connection means.
    pub fn of(error: &io::Error) -> Self {
        Self::Backend(net::cause_of(error))
    }
}

impl Sender {
    /// Whether a request may be sent now.
    pub fn is_ready(&mut self) -> bool {
        match self {
            Self::One(wire) => wire.as_mut().is_some_and(|wire| wire.is_ready()),
            Self::Two(sender) => sender.is_ready(),
        }
    }

    /// Sends one request; returns the answer's head. What is sent of the body is taken.
    ///
    /// # Errors
    /// There is no answer; after [`SendError::Unsent`] the request is as it was.
    pub async fn send(
        &mut self,
        request: &mut Request<RequestBody>,
    ) -> Result<Response<Arriving>, SendError> {
        match self {
            Self::One(slot) => {
                let Some(wire) = slot else {
                    return Err(SendError::Unsent);
                };
                let head = wire.send(request).await?;
                let arriving = match wire.is_sending() {
                    false => Arriving::OnWire,
                    true => slot
                        .take()
                        .map_or(Arriving::OnWire, |wire| early::read(*wire)),
                };
                Ok(response(head, arriving))
            }
            Self::Two(sender) => {
                let body = std::mem::replace(request.body_mut(), RequestBody::Empty);
                let copy = retries::head_of(request).map(|()| body);
                let sent = sender.try_send_request(copy).await;
                sent.map(|it| it.map(Arriving::Stream))
                    .map_err(|mut error| match error.take_message() {
                        Some(unsent) => {
                            *request.body_mut() = unsent.into_body();
                            SendError::Unsent
                        }
                        None => failure::of_hyper(&error.into_error()),
                    })
            }
        }
    }
}

fn response(head: AnswerHead, arriving: Arriving) -> Response<Arriving> {
    let mut response = Response::new(arriving);
    *response.status_mut() = head.status;
    *response.version_mut() = head.version;
    *response.headers_mut() = head.headers;
    // A phrase with a control byte in it is not passed on.
    let reason = head.reason.map(ReasonPhrase::try_from);
    if let Some(Ok(reason)) = reason {
        response.extensions_mut().insert(reason);
    }
    response
}

/// Begins HTTP on a dialed connection.
///
/// # Errors
/// The backend does not speak this version.
pub async fn open(
    transport: Transport,
    version: HttpVersion,
    (backend, intent): (Arc<BackendHandle>, Intent),
) -> Result<Upstream, DialError> {
    let cell = Arc::new(UpstreamCell::new(backend, intent, Instant::now()));
    let sender = match version {
        HttpVersion::One => Sender::One(Some(Box::new(Wire::new(transport, Arc::clone(&cell))))),
        HttpVersion::Two => {
            let io = TokioIo::new(BackendIo::new(transport, Arc::clone(&cell)));
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_header_list_size(MAX_HEAD_BYTES as u32);
            let (sender, connection) = builder.handshake(io).await.map_err(bad_protocol)?;
            cell.backend.http().open();
            drive(Arc::clone(&cell), connection);
            Sender::Two(sender)
        }
    };
    Ok(Upstream { sender, cell })
}

fn bad_protocol(error: hyper::Error) -> DialError {
    DialError {
        cause: Cause::BadProtocol,
        error: io::Error::other(error),
    }
}

/// Runs a connection until it ends or is severed.
fn drive(
    cell: Arc<UpstreamCell>,
    connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static,
) {
    tokio::spawn(async move {
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    tracing::trace!(backend = %cell.backend.name, %error, "connection to a backend ended");
                }
            }
            _ = poll_fn(|cx| cell.poll_severed(cx)) => {}
        }
        cell.count();
        cell.backend.http().close();
    });
}
