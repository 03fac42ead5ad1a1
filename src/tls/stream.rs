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

/// TLS with a client.
pub type ClientTls = tokio_rustls::server::TlsStream<Socket>;

/// TLS with a backend.
pub type BackendTls = tokio_rustls::client::TlsStream<Socket>;

/// The socket under TLS. One record is written as plain bytes: rustls offers records in a list,
/// nearly always of one, and that way costs the kernel more.
#[derive(Debug)]
pub struct Socket(pub(super) TcpStream);

/// What is known of TLS with either peer.
pub trait Secured {
    /// The connection underneath, for its addresses and options.
    fn tcp(&self) -> &TcpStream;

    /// Whether TLS itself has something for the peer: an alert, a key update.
    fn wants_write(&self) -> bool;
}

/// What a client has asked for in its handshake.
pub trait ClientHandshake {
    /// The server name, lower case.
    fn sni(&self) -> Option<&str>;

    /// The application protocol agreed on (RFC 7301), if any.
    fn alpn(&self) -> Option<&[u8]>;
}

impl Secured for ClientTls {
    fn tcp(&self) -> &TcpStream {
        &self.get_ref().0.0
    }

    fn wants_write(&self) -> bool {
        self.get_ref().1.wants_write()
    }
}

impl Secured for BackendTls {
    fn tcp(&self) -> &TcpStream {
        &self.get_ref().0.0
    }

    fn wants_write(&self) -> bool {
        self.get_ref().1.wants_write()
    }
}

impl ClientHandshake for ClientTls {
    fn sni(&self) -> Option<&str> {
        self.get_ref().1.server_name()
    }

    fn alpn(&self) -> Option<&[u8]> {
        self.get_ref().1.alpn_protocol()
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

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
