//! HTTP/1.1 on one connection to a backend: a request goes out while its answer comes in.
//!
//! It runs in the task of whoever asks. hyper's client has a task of its own for each connection,
//! and takes each request and its answer through channels: a quarter of what a request cost.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use bytes::BytesMut;
use http::Method;
use http::Request;
use http::StatusCode;
use hyper::body::Frame;
use tokio::io::AsyncReadExt;

use crate::cluster::Cause;
use crate::net;
use crate::protocol::http1::AnswerHead;
use crate::protocol::http1::Asked;
use crate::protocol::http1::BodyEnd;
use crate::protocol::http1::ChunkReader;
use crate::protocol::http1::HeadReader;
use crate::protocol::http1::Piece;
use crate::protocol::http1::Violation;
use crate::proxy::http::backend_io::BackendIo;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::outgoing::Outgoing;
use crate::proxy::http::upstream::SendError;
use crate::proxy::http::upstream_cell::UpstreamCell;
use crate::proxy::transport::Transport;

/// Nearly every head has come whole then, and small bodies, too.
const HEAD_READ_BYTES: usize = 8 << 10;
/// Largest piece of an answer. A client with many streams has so many pieces here while it takes
/// none.
const BODY_READ_BYTES: usize = 16 << 10;
/// Of these there are one or two, if any (RFC 9110, 15.2); some backends send one each second while
/// they work.
const MAX_INTERIM_ANSWERS: u32 = 1000;

/// One connection, for one exchange after the other.
#[derive(Debug)]
pub struct Wire {
    /// `None`: it is closed, or belongs to another protocol now.
    io: Option<BackendIo>,
    /// Why the request has come to no end.
    cut: Option<Cause>,
    cell: Arc<UpstreamCell>,
    /// What has come and was not looked at.
    buffer: BytesMut,
    head: HeadReader,
    asked: Asked,
    interim_answers: u32,
    outgoing: Outgoing,
    answer: Answer,
    is_kept: bool,
}

/// How far the answer has come.
#[derive(Debug)]
enum Answer {
    /// None is under way.
    None,
    Head,
    Length(u64),
    Chunks(Box<ChunkReader>),
    UntilClose,
}

impl Wire {
    pub fn new(transport: Transport, cell: Arc<UpstreamCell>) -> Self {
        cell.backend.http().open();
        Self {
            io: Some(BackendIo::new(transport, Arc::clone(&cell))),
            cut: None,
            cell,
            buffer: BytesMut::new(),
            head: HeadReader::default(),
            asked: Asked::default(),
            interim_answers: 0,
            outgoing: Outgoing::idle(),
            answer: Answer::None,
            is_kept: true,
        }
    }

    /// Whether the next request may be sent: the last answer is over, and the backend waits.
    pub fn is_ready(&mut self) -> bool {
        self.is_idle() && self.io.as_mut().is_some_and(BackendIo::is_quiet)
    }

    /// Whether the last exchange has left nothing behind.
    fn is_idle(&self) -> bool {
        self.is_kept
            && matches!(self.answer, Answer::None)
            && !self.is_sending()
            && !self.io.as_ref().is_none_or(BackendIo::is_deaf)
            && self.buffer.is_empty()
            && self.cell.severed().is_none()
    }

    /// Sends a request; returns the head of its answer. The rest of the request may still be on its
    /// way then, see [`Self::is_sending`].
    ///
    /// # Errors
    /// There is no answer; after [`SendError::Unsent`] the request is as it was.
    pub async fn send(
        &mut self,
        request: &mut Request<RequestBody>,
    ) -> Result<AnswerHead, SendError> {
        if !self.is_ready() {
            return Err(SendError::Unsent);
        }
        self.begin(request);
        poll_fn(|cx| {
            if let Poll::Ready(cause) = self.cell.poll_severed(cx) {
                return Poll::Ready(Err(SendError::Backend(cause)));
            }
            if let Poll::Ready(Err(error)) = self.poll_upload(cx) {
                return Poll::Ready(Err(error));
            }
            self.poll_head(cx)
        })
        .await
    }

    fn begin(&mut self, request: &mut Request<RequestBody>) {
        let method = request.method();
        self.asked = Asked {
            is_head: method == Method::HEAD,
            is_connect: method == Method::CONNECT,
        };
        self.outgoing.begin(request);
        self.answer = Answer::Head;
        self.interim_answers = 0;
        // Until the answer says so.
        self.is_kept = false;
    }

    /// Whether some of the request is still to be sent.
    pub fn is_sending(&self) -> bool {
        !self.outgoing.is_over()
    }

    /// Sends what there is of the request. Ready when all of it was sent, or the backend takes no
    /// more: its answer may be there all the same.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let Some(io) = &mut self.io else {
            return Poll::Ready(Ok(()));
        };
        let sent = ready!(self.outgoing.poll(io, cx));
        if let Err(SendError::Client(cause)) = sent {
            // The backend must not take what it has for the whole, nor the client what it gets.
            self.io = None;
            self.cut = Some(cause);
        }
        Poll::Ready(sent)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, SendError>> {
        loop {
            if !self.buffer.is_empty() {
                match self.head.read(&mut self.buffer, self.asked) {
                    Ok(None) => {}
                    Ok(Some(head)) if is_interim(head.status) => {
                        self.interim_answers += 1;
                        if self.interim_answers > MAX_INTERIM_ANSWERS {
                            return Poll::Ready(Err(SendError::Backend(Cause::BadProtocol)));
                        }
                        continue;
                    }
                    Ok(Some(head)) => {
                        self.begin_body(&head);
                        return Poll::Ready(Ok(head));
                    }
                    Err(violation) => return Poll::Ready(Err(self.refuse(violation))),
                }
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(SendError::Backend(Cause::Reset))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(SendError::of(&error))),
            }
        }
    }

    fn refuse(&mut self, violation: Violation) -> SendError {
        let backend = &self.cell.backend.name;
        tracing::trace!(%backend, %violation, "bad answer of a backend");
        SendError::Backend(Cause::BadProtocol)
    }

    fn begin_body(&mut self, head: &AnswerHead) {
        self.is_kept = head.is_kept;
        self.answer = match head.body {
            BodyEnd::Length(0) => Answer::None,
            BodyEnd::Length(length) => Answer::Length(length),
            BodyEnd::Chunked => Answer::Chunks(Box::default()),
            BodyEnd::Close => Answer::UntilClose,
        };
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(io) = &mut self.io else {
            return Poll::Ready(Ok(0));
        };
        let room = match self.answer {
            Answer::Head => HEAD_READ_BYTES,
            _ => BODY_READ_BYTES,
        };
        if self.buffer.capacity() - self.buffer.len() < room / 2 {
            self.buffer.reserve(room);
        }
        pin!(io.read_buf(&mut self.buffer)).poll(cx)
    }

    /// The next part of the answer's body.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        if let Some(cause) = self.cut {
            return Poll::Ready(Some(Err(cause)));
        }
        loop {
            match self.next_frame() {
                Err(violation) => {
                    self.refuse(violation);
                    return Poll::Ready(Some(Err(Cause::BadProtocol)));
                }
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.is_over() => return Poll::Ready(None),
                Ok(None) => {}
            }
            if let Poll::Ready(cause) = self.cell.poll_severed(cx) {
                return Poll::Ready(Some(Err(cause)));
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if matches!(self.answer, Answer::UntilClose) => self.answer = Answer::None,
                Ok(0) => return Poll::Ready(Some(Err(Cause::Reset))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(net::cause_of(&error)))),
            }
        }
    }

    /// What has come of the answer's body.
    fn next_frame(&mut self) -> Result<Option<Frame<Bytes>>, Violation> {
        let buffer = &mut self.buffer;
        match &mut self.answer {
            Answer::Length(left) if !buffer.is_empty() => {
                let taken = usize::try_from(*left).map_or(buffer.len(), |it| it.min(buffer.len()));
                let data = buffer.split_to(taken).freeze();
                *left -= taken as u64;
                if *left == 0 {
                    self.answer = Answer::None;
                }
                Ok(Some(Frame::data(data)))
            }
            Answer::Chunks(chunks) => {
                let piece = chunks.next(buffer)?;
                if chunks.is_over() {
                    self.answer = Answer::None;
                }
                Ok(match piece {
                    Some(Piece::Data(data)) => Some(Frame::data(data)),
                    Some(Piece::Trailers(trailers)) => Some(Frame::trailers(trailers)),
                    Some(Piece::End) | None => None,
                })
            }
            Answer::UntilClose if !buffer.is_empty() => {
                Ok(Some(Frame::data(buffer.split().freeze())))
            }
            _ => Ok(None),
        }
    }

    /// Whether the answer has ended.
    pub fn is_over(&self) -> bool {
        matches!(self.answer, Answer::None)
    }

    /// What is left of the answer, if its length is known.
    pub fn left(&self) -> Option<u64> {
        match self.answer {
            Answer::None => Some(0),
            Answer::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Why its exchanges were ended, as soon as they were.
    pub fn poll_severed(&self, cx: &mut Context<'_>) -> Poll<Cause> {
        self.cell.poll_severed(cx)
    }

    /// Bytes that went out so far.
    pub fn sent_bytes(&self) -> u64 {
        self.cell.sent_bytes()
    }

    /// The connection, and what has come on it, for another protocol.
    pub fn into_transport(mut self) -> Option<(Transport, Bytes)> {
        let io = self.io.take()?;
        let buffer = std::mem::take(&mut self.buffer);
        Some((io.into_transport(), buffer.freeze()))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let is_idle = self.is_idle();
        if let Some(io) = self.io.as_mut().filter(|_| is_idle) {
            io.say_end();
        }
        self.cell.count();
        self.cell.backend.http().close();
    }
}

/// An answer before the answer. One that changes the protocol is the last of HTTP.
fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
