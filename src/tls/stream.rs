//! An established TLS connection, used like the TCP connection under it.
//!
//! Half-close works as with TCP: `shutdown` sends close_notify and a FIN, and reading may go on. A peer's close_notify
//! reads as the end (0 bytes); a FIN without it is `UnexpectedEof`, because
//! anyone on the path can send one and what was read may be cut off.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// TLS with one peer; reads and writes plain bytes.
#[derive(Debug)]
pub struct Tls<S>(pub(super) S);

/// TLS with a client.
pub type ClientTls = Tls<tokio_rustls::server::TlsStream<Socket>>;

/// TLS with a backend.
pub type BackendTls = Tls<tokio_rustls::client::TlsStream<Socket>>;

/// The socket under TLS. One record is written as plain bytes: rustls offers records in a list,
/// nearly always of one, and that way costs the kernel more.
#[derive(Debug)]
pub struct Socket(pub(super) TcpStream);

impl ClientTls {
    /// The server name the client asked for, lower case.
    pub fn sni(&self) -> Option<&str> {
        self.0.get_ref().1.server_name()
    }

    /// The application protocol agreed on (RFC 7301), if any.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.get_ref().1.alpn_protocol()
    }

    /// The connection underneath, for its addresses and options.
    pub fn tcp(&self) -> &TcpStream {
        &self.0.get_ref().0.0
    }

    /// Whether TLS itself has something for the peer: an alert, a key update.
    pub fn wants_write(&self) -> bool {
        self.0.get_ref().1.wants_write()
    }
}

impl BackendTls {
    /// The connection underneath, for its addresses and options.
    pub fn tcp(&self) -> &TcpStream {
        &self.0.get_ref().0.0
    }

    /// Whether TLS itself has something for the peer: an alert, a key update.
    pub fn wants_write(&self) -> bool {
        self.0.get_ref().1.wants_write()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tls<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tls<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tcp = Pin::new(&mut self.get_mut().0);
        match slices {
            [only] => tcp.poll_write(cx, only),
            slices => tcp.poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
