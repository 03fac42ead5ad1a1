//! What a client says before its first byte goes anywhere: the PROXY header, the
//! ClientHello, the TLS handshake. Together they have `handshake_timeout`.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::Cause;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::net;
use crate::protocol::client_hello;
use crate::protocol::client_hello::ClientHello;
use crate::protocol::client_hello::MAX_CLIENT_HELLO_BYTES;
use crate::protocol::proxy_header;
use crate::protocol::proxy_header::MAX_V2_BYTES;
use crate::protocol::proxy_header::ProxyHeader;
use crate::protocol::proxy_header::Source;
use crate::proxy::access::permits;
use crate::proxy::registry::SessionCell;
use crate::proxy::transport::Transport;
use crate::routing::ListenerEntry;

/// A client before its first byte has gone anywhere.
#[derive(Debug)]
pub struct Greeted {
    pub client: Transport,
    /// Read ahead from the client; the backend gets it first.
    pub first_bytes: Vec<u8>,
    pub origin: Origin,
}

/// What is known of a client: all that a pick and a PROXY header need.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The socket's peer, or the address in a trusted PROXY header.
    pub client: SocketAddr,
    /// Where the client connected to, when a PROXY header says so.
    pub server: Option<SocketAddr>,
    pub sni: Option<String>,
}

/// Does all that the listener asks for.
///
/// # Errors
/// Who failed and how; the client has seen nothing but a close.
pub async fn greet(
    tcp: TcpStream,
    peer: SocketAddr,
    entry: &ListenerEntry,
    cell: &SessionCell,
) -> Result<Greeted, SessionEnd> {
    let config = &entry.config;
    let peeks = entry.tls.is_none() && !config.routes.is_empty();
    if config.proxy_protocol.is_none() && entry.tls.is_none() && !peeks {
        return Ok(Greeted {
            client: Transport::Plain(tcp),
            first_bytes: Vec::new(),
            origin: Origin {
                client: peer,
                server: None,
                sni: None,
            },
        });
    }
    cell.set_phase(Phase::Handshake);
    match timeout(config.handshake_timeout, negotiate(tcp, peer, entry, peeks)).await {
        Ok(result) => result,
        Err(_) => Err(refused(Side::Client, Cause::HandshakeTimeout)),
    }
}

async fn negotiate(
    mut tcp: TcpStream,
    peer: SocketAddr,
    entry: &ListenerEntry,
    peeks: bool,
) -> Result<Greeted, SessionEnd> {
    let mut origin = Origin {
        client: peer,
        server: None,
        sni: None,
    };
    if entry.config.proxy_protocol.is_some() {
        let source = read_proxy_header(&mut tcp).await?;
        if let Source::Addresses { client, server } = source {
            origin.client = client;
            origin.server = Some(server);
        }
        if !permits(entry, origin.client.ip()) {
            return Err(refused(Side::Proxy, Cause::Denied));
        }
    }
    let mut greeted = Greeted {
        client: Transport::Plain(tcp),
        first_bytes: Vec::new(),
        origin,
    };
    match (&entry.tls, greeted.client) {
        (Some(acceptor), Transport::Plain(tcp)) => {
            let tls = acceptor.accept(tcp).await.map_err(tls_failed)?;
            greeted.origin.sni = tls.sni().map(str::to_ascii_lowercase);
            greeted.client = Transport::Client(Box::new(tls));
        }
        (None, Transport::Plain(mut tcp)) if peeks => {
            (greeted.origin.sni, greeted.first_bytes) = read_client_hello(&mut tcp).await?;
            greeted.client = Transport::Plain(tcp);
        }
        (_, client) => greeted.client = client,
    }
    Ok(greeted)
}

/// Reads exactly the header and not a byte more: what follows may be a TLS handshake.
async fn read_proxy_header(tcp: &mut TcpStream) -> Result<Source, SessionEnd> {
    let mut bytes = Vec::new();
    loop {
        match proxy_header::parse(&bytes) {
            Ok(ProxyHeader::Complete { source, .. }) => return Ok(source),
            Ok(ProxyHeader::Incomplete { needed }) if needed <= MAX_V2_BYTES => {
                let known = bytes.len();
                bytes.resize(needed.max(known + 1), 0);
                let read = tcp.read(&mut bytes[known..]).await;
                let read = read.map_err(|error| client_failed(&error))?;
                if read == 0 {
                    return Err(refused(Side::Client, Cause::Closed));
                }
                bytes.truncate(known + read);
            }
            Ok(ProxyHeader::Incomplete { .. }) | Err(_) => {
                return Err(refused(Side::Client, Cause::BadProxyHeader));
            }
        }
    }
}

async fn read_client_hello(tcp: &mut TcpStream) -> Result<(Option<String>, Vec<u8>), SessionEnd> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let read = tcp.read_buf(&mut bytes).await;
        let read = read.map_err(|error| client_failed(&error))?;
        if read == 0 {
            return Err(refused(Side::Client, Cause::Closed));
        }
        match client_hello::parse(&bytes) {
            Ok(ClientHello::Complete { sni }) => return Ok((sni, bytes)),
            Ok(ClientHello::Incomplete) if bytes.len() <= MAX_CLIENT_HELLO_BYTES => {}
            Ok(ClientHello::Incomplete) | Err(_) => {
                return Err(refused(Side::Client, Cause::BadProtocol));
            }
        }
    }
}

fn tls_failed(error: io::Error) -> SessionEnd {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => refused(Side::Client, Cause::Closed),
        io::ErrorKind::ConnectionReset => refused(Side::Client, Cause::Reset),
        _ => {
            tracing::debug!(%error, "TLS handshake with a client failed");
            refused(Side::Client, Cause::TlsFailed)
        }
    }
}

fn client_failed(error: &io::Error) -> SessionEnd {
    refused(Side::Client, net::cause_of(error))
}

fn refused(side: Side, cause: Cause) -> SessionEnd {
    SessionEnd {
        side,
        phase: Phase::Handshake,
        cause,
    }
}
