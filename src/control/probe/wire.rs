//! The bytes of a conversation with a database, in the clear or over TLS.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Target;
use super::cause_of;
use super::tls;
use crate::cluster::Cause;
use crate::tls::BackendTls;

/// What is read at once, and what a resting connection keeps: an answer fits.
const CHUNK_BYTES: usize = 4 * 1024;

/// A connection, and what was received and not yet read.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    received: Vec<u8>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<BackendTls>),
}

impl Wire {
    pub fn plain(stream: TcpStream) -> Self {
        Self {
            stream: Stream::Plain(stream),
            received: Vec::new(),
        }
    }

    /// A connection that is encrypted from its first byte.
    pub async fn encrypted(
        target: &Target,
        address: SocketAddr,
        stream: TcpStream,
    ) -> Result<Self, Cause> {
        let stream = tls::handshake(target, address, stream).await?;
        Ok(Self {
            stream: Stream::Tls(Box::new(stream)),
            received: Vec::new(),
        })
    }

    /// Goes on encrypted, as both sides have agreed.
    ///
    /// Bytes that came in the clear behind the agreement must not be read as if they had been
    /// encrypted (the class of CVE-2021-23222).
    pub async fn encrypt(self, target: &Target, address: SocketAddr) -> Result<Self, Cause> {
        match self.stream {
            Stream::Plain(stream) if self.received.is_empty() => {
                Self::encrypted(target, address, stream).await
            }
            Stream::Plain(_) => Err(Cause::UnexpectedAnswer),
            Stream::Tls(_) => Ok(self),
        }
    }

    pub fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        let sent = async {
            match &mut self.stream {
                Stream::Plain(stream) => stream.write_all(bytes).await,
                Stream::Tls(stream) => {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                }
            }
        };
        sent.await.map_err(|error| cause_of(&error))
    }

    /// Waits for at least one more byte. Cancel safe.
    pub async fn receive(&mut self) -> Result<(), Cause> {
        self.received.reserve(CHUNK_BYTES);
        let count = match &mut self.stream {
            Stream::Plain(stream) => stream.read_buf(&mut self.received).await,
            Stream::Tls(stream) => stream.read_buf(&mut self.received).await,
        };
        match count {
            Ok(0) => Err(Cause::EarlyClose),
            Ok(_) => Ok(()),
            // An end without TLS's own goodbye is an end; nobody could have cut an answer in two
            // without us noticing.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Cause::EarlyClose),
            Err(error) => Err(cause_of(&error)),
        }
    }

    /// What was received and not read.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// The first `count` bytes were read.
    pub fn consume(&mut self, count: usize) {
        self.received.drain(..count);
        if self.received.is_empty() {
            self.received.shrink_to(CHUNK_BYTES);
        }
    }

    /// Sends a goodbye and closes with FIN.
    pub async fn close(mut self, goodbye: &[u8]) {
        // The peer may have gone first; then there is nobody to say it to.
        let _ = tokio::time::timeout(super::LINGER, self.send(goodbye)).await;
        match self.stream {
            Stream::Plain(stream) => super::close(stream).await,
            Stream::Tls(stream) => super::close(*stream).await,
        }
    }
}
