//! A backend's bytes below HTTP, counted.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::task::unconstrained;

use crate::proxy::http::upstream_cell::UpstreamCell;
use crate::proxy::transport::Transport;

/// A backend's bytes, counted.
#[derive(Debug)]
pub struct BackendIo {
    transport: Transport,
    cell: Arc<UpstreamCell>,
    /// The backend has closed, and may have said why before: what it does not hear any more is not
    /// sent, and what it has said is read.
    is_deaf: bool,
}

impl BackendIo {
    pub fn new(transport: Transport, cell: Arc<UpstreamCell>) -> Self {
        Self {
            transport,
            cell,
            is_deaf: false,
        }
    }

    /// Whether the backend takes nothing any more.
    pub fn is_deaf(&self) -> bool {
        self.is_deaf
    }

    /// Whether a backend of which nothing is expected is still there, and silent.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        let mut this = Pin::new(self);
        let read = poll_fn(|cx| this.as_mut().poll_read(cx, &mut ReadBuf::new(&mut byte)));
        // A task whose share is used up is told that nothing has come, whatever has.
        pin!(unconstrained(read)).poll(&mut cx).is_pending()
    }

    /// Says the end in TLS, as far as that needs no waiting.
    pub fn say_end(&mut self) {
        if self.transport.plain().is_none() {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut self.transport).poll_shutdown(&mut cx);
        }
    }

    /// The connection itself, for bytes that are no HTTP any more.
    pub fn into_transport(self) -> Transport {
        self.transport
    }

    /// Counts what was written of `bytes`. hyper would give up an answer that is there already for
    /// a request that cannot be finished: the end is left to the reading side.
    fn note_write(&mut self, written: io::Result<usize>, bytes: usize) -> io::Result<usize> {
        match written {
            Ok(written) => {
                self.cell.note_sent(written);
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
        this.cell.note_received(buffer.filled().len() - before);
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
