//! One side of a session: plain TCP or TLS, a closed set.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::tls::BackendTls;
use crate::tls::ClientTls;
use crate::tls::Secured;

/// A refusal fits into an empty socket buffer. Whoever does not take it may go without.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A connected byte stream.
#[derive(Debug)]
pub enum Transport {
    Plain(TcpStream),
    // Boxed: TLS state is large and most sessions have none.
    Client(Box<ClientTls>),
    Backend(Box<BackendTls>),
}

impl Transport {
    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Client(tls) => tls.tcp(),
            Self::Backend(tls) => tls.tcp(),
        }
    }

    /// The socket, when bytes may bypass this process.
    pub fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Client(_) | Self::Backend(_) => None,
        }
    }

    /// Says this and closes in the orderly way. A peer that is gone cannot be told.
    pub async fn say_last(&mut self, bytes: &[u8]) {
        let said = async {
            self.write_all(bytes).await?;
            self.shutdown().await
        };
        let _ = timeout(LAST_WORDS, said).await;
    }

    /// As [`Self::say_last`], but at once or not at all.
    pub fn try_say_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> bool {
        let written = Pin::new(&mut *self).poll_write(cx, bytes);
        if !matches!(written, Poll::Ready(Ok(written)) if written == bytes.len()) {
            return false;
        }
        // Flushes what TLS holds back, too.
        matches!(Pin::new(self).poll_shutdown(cx), Poll::Ready(Ok(())))
    }

    /// Sends what TLS itself answers to what was read, such as the alert that refuses a
    /// renegotiation. Reading alone would leave it until the next bytes go that way.
    ///
    /// # Errors
    /// As a write.
    pub fn send_answers(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let has_answers = match self {
            Self::Plain(_) => false,
            Self::Client(tls) => tls.wants_write(),
            Self::Backend(tls) => tls.wants_write(),
        };
        if !has_answers {
            return Ok(());
        }
        match Pin::new(self).poll_flush(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Client(tls) => Pin::new(tls).poll_read(cx, buffer),
            Self::Backend(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Client(tls) => Pin::new(tls).poll_write(cx, bytes),
            Self::Backend(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Client(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
            Self::Backend(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Client(tls) => Pin::new(tls).poll_flush(cx),
            Self::Backend(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Client(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Backend(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
