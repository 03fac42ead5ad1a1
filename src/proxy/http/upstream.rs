//! Connections to backends: hyper's client on top of a dialed transport.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Instant;

use http::Request;
use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1;
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::sync::Notify;

use crate::cluster::Cause;
use crate::config::HttpVersion;
use crate::config::Intent;
use crate::proxy::dial::DialError;
use crate::proxy::http::body::RequestBody;
use crate::proxy::transport::Transport;
use crate::routing::BackendHandle;
use crate::routing::Fate;

/// Largest head of an answer, and largest piece of one. A client with many streams has so many
/// pieces here while it takes none.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 256;
/// What one HTTP/2 connection may hold for one stream, and for all.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// One connection as the worker's sweep sees it, whoever uses it.
#[derive(Debug)]
pub struct UpstreamCell {
    pub backend: Arc<BackendHandle>,
    /// What its exchanges need of the backend.
    pub intent: Intent,
    pub opened: Instant,
    busy: AtomicU32,
    requests: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    counted_received: AtomicU64,
    counted_sent: AtomicU64,
    severed: OnceLock<Cause>,
    wake: Notify,
}

/// Sends requests over one connection.
#[derive(Debug)]
pub enum Sender {
    One(http1::SendRequest<RequestBody>),
    Two(http2::SendRequest<RequestBody>),
}

/// A connection that an exchange may use.
#[derive(Debug)]
pub struct Upstream {
    pub sender: Sender,
    pub cell: Arc<UpstreamCell>,
}

/// A backend's bytes, counted.
#[derive(Debug)]
pub struct BackendIo {
    transport: Transport,
    cell: Arc<UpstreamCell>,
    /// The backend has closed, and may have said why before: what it does not hear any more is not
    /// sent, and what it has said is read.
    is_deaf: bool,
}

impl UpstreamCell {
    fn new(backend: Arc<BackendHandle>, intent: Intent, now: Instant) -> Self {
        Self {
            backend,
            intent,
            opened: now,
            busy: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            counted_received: AtomicU64::new(0),
            counted_sent: AtomicU64::new(0),
            severed: OnceLock::new(),
            wake: Notify::new(),
        }
    }

    /// Counts a request; returns how many there were with it.
    pub fn count_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// An exchange begins on it.
    pub fn take(&self) {
        if self.busy.fetch_add(1, Ordering::AcqRel) == 0 {
            self.backend.http().take();
        }
    }

    /// An exchange on it is over.
    pub fn rest(&self) {
        if self.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.backend.http().rest();
        }
    }

    /// Exchanges under way.
    pub fn busy(&self) -> u32 {
        self.busy.load(Ordering::Acquire)
    }

    /// Why its exchanges were ended, if they were.
    pub fn severed(&self) -> Option<Cause> {
        self.severed.get().copied()
    }

    /// Applies the backend's fate and counts the bytes so far.
    pub fn sweep(&self, now: Instant) {
        self.count();
        let cause = match self.backend.fate(self.intent) {
            Fate::Serve => return,
            Fate::Sever { cause } => cause,
            Fate::Drain { deadline, cause } | Fate::Grace { deadline, cause } => {
                if self.busy() > 0 && now < deadline {
                    return;
                }
                cause
            }
        };
        self.sever(cause);
    }

    fn sever(&self, cause: Cause) {
        // The first cause stays.
        let _ = self.severed.set(cause);
        self.wake.notify_one();
    }

    /// Adds new bytes to the backend's counters.
    pub fn count(&self) {
        let news = |now: &AtomicU64, counted: &AtomicU64| {
            let now = now.load(Ordering::Relaxed);
            now - counted.swap(now, Ordering::Relaxed)
        };
        let received = news(&self.received, &self.counted_received);
        let sent = news(&self.sent, &self.counted_sent);
        if received > 0 || sent > 0 {
            self.backend.count_bytes(received, sent);
        }
    }
}

impl Sender {
    /// Whether a request may be sent now.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_ready(),
            Self::Two(sender) => sender.is_ready(),
        }
    }

    /// Resolves when the next request may be sent.
    pub async fn ready(&mut self) -> bool {
        match self {
            Self::One(sender) => sender.ready().await.is_ok(),
            Self::Two(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends one request.
    ///
    /// # Errors
    /// The message comes back when nothing of it was sent.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::One(sender) => sender.try_send_request(request).await,
            Self::Two(sender) => sender.try_send_request(request).await,
        }
    }
}

/// Begins HTTP on a dialed connection and drives it on this worker.
///
/// # Errors
/// The backend does not speak this version.
pub async fn open(
    transport: Transport,
    version: HttpVersion,
    (backend, intent): (Arc<BackendHandle>, Intent),
) -> Result<Upstream, DialError> {
    let cell = Arc::new(UpstreamCell::new(backend, intent, Instant::now()));
    let io = TokioIo::new(BackendIo {
        transport,
        cell: Arc::clone(&cell),
        is_deaf: false,
    });
    let sender = match version {
        HttpVersion::One => {
            let mut builder = http1::Builder::new();
            builder
                .max_headers(MAX_HEADERS)
                .max_header_size(MAX_HEAD_BYTES)
                .max_buf_size(MAX_HEAD_BYTES);
            let (sender, connection) = builder.handshake(io).await.map_err(bad_protocol)?;
            drive(Arc::clone(&cell), connection.with_upgrades());
            Sender::One(sender)
        }
        HttpVersion::Two => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_header_list_size(MAX_HEAD_BYTES as u32);
            let (sender, connection) = builder.handshake(io).await.map_err(bad_protocol)?;
            drive(Arc::clone(&cell), connection);
            Sender::Two(sender)
        }
    };
    cell.backend.http().open();
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
            () = cell.wake.notified() => {}
        }
        cell.count();
        cell.backend.http().close();
    });
}

impl BackendIo {
    /// The connection itself, for bytes that are no HTTP any more.
    pub fn into_transport(self) -> Transport {
        self.transport
    }

    /// Counts what was written of `bytes`. hyper would give up an answer that is there already for
    /// a request that cannot be finished: the end is left to the reading side.
    fn note_write(&mut self, written: io::Result<usize>, bytes: usize) -> io::Result<usize> {
        match written {
            Ok(written) => {
                add(&self.cell.sent, written);
                Ok(written)
            }
            Err(error) if is_end(&error) => {
                self.is_deaf = true;
                Ok(bytes)
            }
            Err(error) => Err(error),
        }
    }
}

/// The peer has closed, and takes nothing any more.
fn is_end(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    kinds.contains(&error.kind())
}

impl AsyncRead for BackendIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.transport).poll_read(cx, buffer))?;
        add(&this.cell.received, buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BackendIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut this.transport).poll_write(cx, bytes));
        Poll::Ready(this.note_write(written, bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        if this.is_deaf {
            return Poll::Ready(Ok(bytes));
        }
        let written = ready!(Pin::new(&mut this.transport).poll_write_vectored(cx, slices));
        Poll::Ready(this.note_write(written, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.is_deaf {
            true => Poll::Ready(Ok(())),
            false => Pin::new(&mut this.transport).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}

/// Right with one writer.
fn add(counter: &AtomicU64, bytes: usize) {
    counter.store(
        counter.load(Ordering::Relaxed) + bytes as u64,
        Ordering::Relaxed,
    );
}
