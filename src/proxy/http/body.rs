//! Bodies on their way: streamed, never held; bounded in time and length.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use tokio::time::Instant;
use tokio::time::Sleep;

use crate::cluster::Cause;
use crate::protocol::http::hop;
use crate::proxy::http::lease::Lease;
use crate::proxy::http::link::Link;
use crate::proxy::http::record::Record;
use crate::proxy::http::turn;
use crate::proxy::http::upload::Upload;
use crate::proxy::http::upstream::Arriving;

/// Why a body came to no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyError(pub Cause);

impl fmt::Display for BodyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.as_str())
    }
}

impl std::error::Error for BodyError {}

/// Ends a body that stands still. Costs nothing while bytes are at hand.
#[derive(Debug)]
struct Stall {
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            timer: None,
        }
    }

    fn progress(&mut self) {
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(Instant::now() + self.timeout);
        }
    }

    fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> bool {
        let timeout = self.timeout;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        timer.as_mut().poll(cx).is_ready()
    }
}

/// What a backend is sent.
#[derive(Debug)]
pub enum RequestBody {
    /// May be sent again.
    Empty,
    Client(Box<ClientBody>),
}

/// A client's body.
#[derive(Debug)]
pub struct ClientBody {
    incoming: Incoming,
    stall: Stall,
    /// What may still come.
    left: u64,
    upload: Arc<Upload>,
    link: Arc<Link>,
    /// Of HTTP/2.
    is_stream: bool,
}

impl RequestBody {
    pub fn new(
        (incoming, is_stream): (Incoming, bool),
        (timeout, max_bytes): (Duration, Option<u64>),
        record: &Record,
    ) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        Self::Client(Box::new(ClientBody {
            incoming,
            stall: Stall::new(timeout),
            left: max_bytes.unwrap_or(u64::MAX),
            upload: record.upload(),
            link: Arc::clone(record.link()),
            is_stream,
        }))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Client(client) => client.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(client) => client.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(client) => client.incoming.size_hint(),
        }
    }
}

impl ClientBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.upload.take_back();
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    hop::strip_trailers(trailers);
                }
                self.stall.progress();
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = self.left.checked_sub(bytes) else {
                    return Poll::Ready(Some(Err(BodyError(Cause::BodyTooLarge))));
                };
                self.left = left;
                self.upload.give(bytes, self.link.cell.started.elapsed());
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => {
                let cause = self.link.cause_of_cut_body();
                Poll::Ready(Some(Err(BodyError(cause))))
            }
            Poll::Ready(None) if self.is_cut() => {
                let cause = self.link.cause_of_cut_body();
                Poll::Ready(Some(Err(BodyError(cause))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if self.stall.poll_elapsed(cx) => {
                Poll::Ready(Some(Err(BodyError(Cause::BodyTimeout))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether its end is none. hyper says the same of a stream that its client has reset without
    /// an error, and of a connection that was given up.
    fn is_cut(&self) -> bool {
        match self.is_stream {
            true => !self.incoming.is_end_stream(),
            false => self.link.is_gone(),
        }
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        self.upload.take_back();
    }
}

/// What a client is sent.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    /// The exchange lasts as long as its body.
    record: Record,
    has_ended: bool,
    /// Other answers share the connection.
    is_stream: bool,
    /// Nothing is asked of the backend until the client takes something.
    is_held_back: bool,
}

#[derive(Debug)]
pub enum Source {
    Own(Full<Bytes>),
    Backend(Box<BackendBody>),
}

impl ResponseBody {
    pub fn new(source: Source, record: Record, is_stream: bool) -> Self {
        turn::pass_to_client();
        Self {
            source,
            record,
            has_ended: false,
            is_stream,
            is_held_back: false,
        }
    }
}

/// A backend's body, with everything that its exchange occupies.
#[derive(Debug)]
pub struct BackendBody {
    arriving: Arriving,
    stall: Stall,
    lease: Lease,
    /// Why it has come to no end.
    cut: Option<Cause>,
}

impl BackendBody {
    pub fn new(arriving: Arriving, timeout: Duration, lease: Lease) -> Self {
        Self {
            arriving,
            stall: Stall::new(timeout),
            lease,
            cut: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(cause) = self.cut {
            return Poll::Ready(Some(Err(BodyError(cause))));
        }
        match self.poll_arriving(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    hop::strip_trailers(trailers);
                }
                self.stall.progress();
                if self.is_over() {
                    self.lease.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(cause))) => {
                self.cut = Some(self.lease.severed().unwrap_or(cause));
                // hyper forgets what it has not written when a body fails: first the client gets
                // what there is.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.lease.give_back();
                Poll::Ready(None)
            }
            Poll::Pending if self.stall.poll_elapsed(cx) => {
                Poll::Ready(Some(Err(BodyError(Cause::BodyTimeout))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_arriving(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        match &mut self.arriving {
            // Without a connection it was given back: the answer is over.
            Arriving::OnWire => match self.lease.wire() {
                None => Poll::Ready(None),
                Some(wire) => wire.poll_frame(cx),
            },
            Arriving::Early(pieces) => pieces.poll_recv(cx),
            Arriving::Stream(incoming) => {
                let polled = Pin::new(incoming).poll_frame(cx);
                polled.map_err(|_| Cause::Reset)
            }
        }
    }

    fn is_over(&self) -> bool {
        match &self.arriving {
            Arriving::OnWire => self.lease.left() == Some(0),
            Arriving::Early(_) => false,
            Arriving::Stream(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.arriving {
            Arriving::OnWire => self
                .lease
                .left()
                .map(SizeHint::with_exact)
                .unwrap_or_default(),
            Arriving::Early(_) => SizeHint::default(),
            Arriving::Stream(incoming) => incoming.size_hint(),
        }
    }
}

impl Drop for BackendBody {
    fn drop(&mut self) {
        // hyper does not ask a body for its end that has none.
        if self.is_over() {
            self.lease.give_back();
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if turn::is_over() {
            self.record.set_cause(Cause::BodyTimeout);
        }
        if !self.is_end_stream() {
            self.record.set_cut();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.source {
            Source::Own(own) => Pin::new(own).poll_frame(cx).map_err(|never| match never {}),
            Source::Backend(_) if this.is_stream && !this.record.link().may_take(cx) => {
                this.is_held_back = true;
                return Poll::Pending;
            }
            Source::Backend(backend) => {
                if std::mem::take(&mut this.is_held_back) {
                    // The time was the client's.
                    backend.stall.progress();
                }
                backend.poll(cx)
            }
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.record.sent_bytes += bytes as u64;
                turn::pass_to_client();
            }
            Poll::Ready(Some(Err(BodyError(cause)))) => this.record.set_cause(*cause),
            Poll::Ready(None) => this.has_ended = true,
            Poll::Pending => turn::take_back(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
            || match &self.source {
                Source::Own(own) => own.is_end_stream(),
                Source::Backend(backend) => backend.is_over(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(own) => own.size_hint(),
            Source::Backend(backend) => backend.size_hint(),
        }
    }
}
