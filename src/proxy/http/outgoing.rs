//! A request on its way to a backend: its head, then its body as the client sends it.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf;
use bytes::Bytes;
use http::HeaderName;
use http::Request;
use hyper::body::Body;
use hyper::body::Frame;
use tokio::io::AsyncWrite;

use crate::cluster::Cause;
use crate::protocol::http::message;
use crate::protocol::http1::Framing;
use crate::protocol::http1::encode;
use crate::proxy::http::backend_io::BackendIo;
use crate::proxy::http::body::BodyError;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::upstream::SendError;

/// What is to be written, and where more comes from.
#[derive(Debug)]
pub struct Outgoing {
    /// What goes out first: a head, the size of a chunk.
    out: Vec<u8>,
    out_sent: usize,
    /// Then this.
    data: Bytes,
    /// And then this.
    tail: &'static [u8],
    upload: Option<Upload>,
    /// TLS may hold back what was written.
    is_flushed: bool,
}

/// A request's body under way.
#[derive(Debug)]
struct Upload {
    body: RequestBody,
    framing: Framing,
    announced: Vec<HeaderName>,
    /// The head waits for the first piece of the body, if there is one.
    has_begun: bool,
}

impl Outgoing {
    pub fn idle() -> Self {
        Self {
            out: Vec::new(),
            out_sent: 0,
            data: Bytes::new(),
            tail: &[],
            upload: None,
            is_flushed: true,
        }
    }

    /// Takes a request's body, and writes its head down.
    pub fn begin(&mut self, request: &mut Request<RequestBody>) {
        let body = std::mem::replace(request.body_mut(), RequestBody::Empty);
        let (method, headers) = (request.method(), request.headers());
        self.upload = match body {
            RequestBody::Empty => None,
            body @ RequestBody::Client(_) => Some(Upload {
                // The guards have seen that it is a length.
                framing: message::content_length(headers)
                    .ok()
                    .flatten()
                    .map_or(Framing::Chunked, Framing::Length),
                announced: encode::announced(headers),
                has_begun: false,
                body,
            }),
        };
        let framing = self.upload.as_ref().map(|upload| upload.framing);
        self.is_flushed = false;
        self.out.clear();
        self.out_sent = 0;
        encode::head(&mut self.out, (method, request.uri()), headers, framing);
    }

    /// Whether all of it was sent.
    pub fn is_over(&self) -> bool {
        self.upload.is_none() && self.is_flushed
    }

    /// Sends what there is. Ready when all of it was sent, or the backend takes no more.
    ///
    /// # Errors
    /// The connection is broken, or the client's body came to no end.
    pub fn poll(
        &mut self,
        io: &mut BackendIo,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        loop {
            let waits_for_body = self.upload.as_ref().is_some_and(|it| !it.has_begun);
            if !waits_for_body {
                ready!(self.poll_flush(io, cx)).map_err(|error| SendError::of(&error))?;
                if io.is_deaf() {
                    self.upload = None;
                }
            }
            let Some(upload) = &mut self.upload else {
                return Poll::Ready(Ok(()));
            };
            upload.has_begun = true;
            match Pin::new(&mut upload.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if !self.frame(frame) {
                        return Poll::Ready(Err(SendError::Client(Cause::BadRequest)));
                    }
                }
                Poll::Ready(Some(Err(BodyError(cause)))) => {
                    return Poll::Ready(Err(SendError::Client(cause)));
                }
                Poll::Ready(None) => {
                    match upload.framing {
                        Framing::Length(0) => {}
                        Framing::Length(_) => {
                            return Poll::Ready(Err(SendError::Client(Cause::BadRequest)));
                        }
                        Framing::Chunked => self.tail = encode::LAST_CHUNK,
                    }
                    self.is_flushed = false;
                    self.upload = None;
                }
                Poll::Pending if waits_for_body => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes a part of the request's body; `false`: there is more of it than the head says.
    fn frame(&mut self, frame: Frame<Bytes>) -> bool {
        let Some(upload) = &mut self.upload else {
            return true;
        };
        self.is_flushed = false;
        match frame.into_data() {
            // An empty chunk would be the last one.
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                match &mut upload.framing {
                    Framing::Chunked => {
                        encode::chunk_size(&mut self.out, data.len());
                        self.tail = encode::CHUNK_END;
                    }
                    Framing::Length(left) => match left.checked_sub(data.len() as u64) {
                        Some(rest) => *left = rest,
                        None => return false,
                    },
                }
                self.data = data;
            }
            Err(frame) => {
                let is_chunked = upload.framing == Framing::Chunked;
                if let (true, Ok(trailers)) = (is_chunked, frame.into_trailers()) {
                    encode::trailers(&mut self.out, &trailers, &upload.announced);
                    self.upload = None;
                }
            }
        }
        true
    }

    /// Writes everything that is to be written.
    fn poll_flush(&mut self, io: &mut BackendIo, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = Pin::new(io);
        loop {
            let out = &self.out[self.out_sent..];
            let left = [out, &self.data, self.tail];
            if left.iter().all(|it| it.is_empty()) {
                self.out.clear();
                self.out_sent = 0;
                if !self.is_flushed {
                    ready!(io.poll_flush(cx))?;
                    self.is_flushed = true;
                }
                return Poll::Ready(Ok(()));
            }
            let mut written = if left[1].is_empty() && left[2].is_empty() {
                ready!(io.as_mut().poll_write(cx, out))?
            } else {
                let slices = left.map(IoSlice::new);
                ready!(io.as_mut().poll_write_vectored(cx, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_out = written.min(out.len());
            self.out_sent += of_out;
            written -= of_out;
            let of_data = written.min(self.data.len());
            self.data.advance(of_data);
            written -= of_data;
            self.tail = &self.tail[written.min(self.tail.len())..];
        }
    }
}
