//! One side of a session: plain TCP or TLS, a closed set.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::tls::BackendTls;
use crate::tls::ClientTls;

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
