//! Connects a session to its backend: pick, connect, TLS; another backend when
//! nothing was sent yet.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::time::Instant as TokioInstant;
use tokio::time::timeout_at;

use crate::cluster::Cause;
use crate::config::BackendConfig;
use crate::net;
use crate::proxy::transport::Transport;
use crate::tls::TlsConnector;

/// What one attempt needs to know about its backend; taken from the table, so
/// that no table is pinned while the attempt runs.
#[derive(Debug)]
pub struct Target {
    pub address: SocketAddr,
    /// With the backend's settings, which say what name to verify.
    pub tls: Option<(TlsConnector, BackendConfig)>,
    pub timeout: Duration,
    /// Bytes that come before everything else: a PROXY header.
    pub preamble: Vec<u8>,
}

/// A failed attempt. Nothing of the client's was sent, so another may follow.
#[derive(Debug)]
pub struct DialError {
    pub cause: Cause,
    pub error: io::Error,
}

/// Connects within the target's timeout, TLS handshake included.
///
/// # Errors
/// Why the attempt failed; redispatch is always safe.
pub async fn dial(target: &Target) -> Result<Transport, DialError> {
    let deadline = TokioInstant::now() + target.timeout;
    match timeout_at(deadline, connect(target)).await {
        Ok(result) => result,
        Err(_) => Err(DialError {
            cause: Cause::ConnectTimeout,
            error: io::ErrorKind::TimedOut.into(),
        }),
    }
}

async fn connect(target: &Target) -> Result<Transport, DialError> {
    let tcp = connect_tcp(target.address)
        .await
        .map_err(|error| DialError {
            cause: match net::cause_of(&error) {
                // The kernel gave up on its SYNs.
                Cause::SendTimeout => Cause::ConnectTimeout,
                cause => cause,
            },
            error,
        })?;
    let tcp = send_preamble(tcp, &target.preamble).await?;
    let Some((tls, config)) = &target.tls else {
        return Ok(Transport::Plain(tcp));
    };
    match tls.connect(config, target.address, tcp).await {
        Ok(stream) => Ok(Transport::Backend(Box::new(stream))),
        Err(error) => Err(DialError {
            cause: match net::cause_of(&error) {
                Cause::Reset => Cause::Reset,
                _ => Cause::TlsFailed,
            },
            error,
        }),
    }
}

async fn connect_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

async fn send_preamble(tcp: TcpStream, preamble: &[u8]) -> Result<TcpStream, DialError> {
    use tokio::io::AsyncWriteExt;
    let mut tcp = tcp;
    if !preamble.is_empty() {
        tcp.write_all(preamble).await.map_err(|error| DialError {
            cause: net::cause_of(&error),
            error,
        })?;
    }
    Ok(tcp)
}
