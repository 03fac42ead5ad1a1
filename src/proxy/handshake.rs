//! What a client says before its first byte goes anywhere: the PROXY header, the
//! ClientHello, the TLS handshake, the login as far as its protocol is understood.
//! Together they have `handshake_timeout`.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::Cause;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::config::HashKey;
use crate::config::Protocol;
use crate::net;
use crate::protocol::client_hello;
use crate::protocol::client_hello::ClientHello;
use crate::protocol::client_hello::MAX_CLIENT_HELLO_BYTES;
use crate::protocol::proxy_header;
use crate::protocol::proxy_header::MAX_V2_BYTES;
use crate::protocol::proxy_header::ProxyHeader;
use crate::protocol::proxy_header::Source;
use crate::proxy::Shared;
use crate::proxy::access::permits;
use crate::proxy::dialect::Dialect;
use crate::proxy::postgres;
use crate::proxy::postgres::CancelErrand;
use crate::proxy::registry::SessionCell;
use crate::proxy::transport::Transport;
use crate::routing::ListenerEntry;
use crate::routing::LoginKeys;
use crate::tls::ClientHandshake;

/// A client before its first byte has gone anywhere.
#[derive(Debug)]
pub struct Greeted {
    pub client: Transport,
    /// Read ahead from the client; the backend gets it first.
    pub first_bytes: Vec<u8>,
    pub origin: Origin,
    pub dialect: Dialect,
}

/// What a client has come for.
#[derive(Debug)]
pub enum Errand {
    Session(Greeted),
    /// To end a query of another session.
    Cancel(CancelErrand),
}

/// What is known of a client: all that a pick and a PROXY header need.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The socket's peer, or the address in a trusted PROXY header.
    pub client: SocketAddr,
    /// Where the client connected to, when a PROXY header says so.
    pub server: Option<SocketAddr>,
    pub sni: Option<String>,
    pub login: Login,
}

/// Who a client says it is, where its protocol is understood.
#[derive(Debug, Clone, Default)]
pub struct Login {
    pub user: Option<String>,
    pub database: Option<String>,
}

impl Login {
    /// What a hash may use of it.
    pub fn keys<'a>(&'a self, parameter: Option<&'a str>) -> LoginKeys<'a> {
        LoginKeys {
            user: self.user.as_deref(),
            database: self.database.as_deref(),
            parameter,
        }
    }
}

impl Origin {
    /// The PROXY header for a backend that wants one.
    pub fn preamble(&self, client: &TcpStream) -> Vec<u8> {
        let local = || client.local_addr().ok();
        // A socket that has lost its address has lost its client, too.
        let server = self.server.or_else(local).unwrap_or(self.client);
        proxy_header::encode_v2(self.client, server)
    }
}

impl Greeted {
    /// The value that `key` hashes, where it is a parameter of the login.
    pub fn parameter(&self, key: &HashKey) -> Option<String> {
        match (key, self.dialect) {
            (HashKey::StartupParameter(name), Dialect::Postgres) => {
                postgres::parameter(&self.first_bytes, name)
            }
            _ => None,
        }
    }
}

/// Does all that the listener asks for.
///
/// # Errors
/// Who failed and how; the client was told where its protocol has words for it.
pub async fn greet(
    tcp: TcpStream,
    peer: SocketAddr,
    entry: &ListenerEntry,
    shared: &Shared,
    cell: &SessionCell,
) -> Result<Greeted, SessionEnd> {
    let config = &entry.config;
    let is_silent = match config.protocol {
        // TLS, too, comes after the server's greeting.
        Protocol::MySql => true,
        Protocol::Tcp | Protocol::Redis => entry.tls.is_none() && config.routes.is_empty(),
        Protocol::Http => entry.tls.is_none(),
        Protocol::Postgres => false,
    };
    if config.proxy_protocol.is_none() && is_silent {
        return Ok(Greeted {
            client: Transport::Plain(tcp),
            first_bytes: Vec::new(),
            origin: Origin {
                client: peer,
                server: None,
                sni: None,
                login: Login::default(),
            },
            dialect: silent_dialect(config.protocol),
        });
    }
    cell.set_phase(Phase::Handshake);
    let negotiation = negotiate(tcp, peer, entry);
    match timeout(config.handshake_timeout, negotiation).await {
        Ok(Ok(Errand::Session(greeted))) => Ok(greeted),
        // The client has said all that it has to say: what is slow now is a server.
        Ok(Ok(Errand::Cancel(errand))) => Err(Box::pin(errand.run(config, shared)).await),
        Ok(Err(end)) => Err(end),
        Err(_) => Err(refused(Side::Client, Cause::HandshakeTimeout)),
    }
}

/// As [`greet`], without its limit of time.
///
/// # Errors
/// As for [`greet`].
pub async fn negotiate(
    mut tcp: TcpStream,
    peer: SocketAddr,
    entry: &ListenerEntry,
) -> Result<Errand, SessionEnd> {
    let mut origin = Origin {
        client: peer,
        server: None,
        sni: None,
        login: Login::default(),
    };
    if entry.config.proxy_protocol.is_some() {
        let source = Box::pin(read_proxy_header(&mut tcp)).await?;
        if let Source::Addresses { client, server } = source {
            origin.client = client;
            origin.server = Some(server);
        }
        if !permits(entry, origin.client.ip()) {
            return Err(refused(Side::Proxy, Cause::Denied));
        }
    }
    match entry.config.protocol {
        Protocol::Tcp | Protocol::Redis | Protocol::Http => {
            open_opaque(tcp, origin, entry).await.map(Errand::Session)
        }
        Protocol::MySql => Ok(Errand::Session(Greeted {
            client: Transport::Plain(tcp),
            first_bytes: Vec::new(),
            origin,
            dialect: Dialect::MySql,
        })),
        // Boxed, as all that few sessions need: every one is as large as the largest.
        Protocol::Postgres => Box::pin(postgres::greet(tcp, origin, entry)).await,
    }
}

/// What follows a beginning in which the client need not say anything.
fn silent_dialect(protocol: Protocol) -> Dialect {
    match protocol {
        Protocol::Redis => Dialect::Redis,
        Protocol::MySql => Dialect::MySql,
        Protocol::Tcp | Protocol::Postgres | Protocol::Http => Dialect::Opaque,
    }
}

/// TLS and the server name in it: all that can be known of bytes nobody understands.
async fn open_opaque(
    tcp: TcpStream,
    origin: Origin,
    entry: &ListenerEntry,
) -> Result<Greeted, SessionEnd> {
    let mut greeted = Greeted {
        client: Transport::Plain(tcp),
        first_bytes: Vec::new(),
        origin,
        dialect: silent_dialect(entry.config.protocol),
    };
    let peeks = !entry.config.routes.is_empty();
    match (&entry.tls, greeted.client) {
        (Some(acceptor), Transport::Plain(tcp)) => {
            let tls = Box::pin(acceptor.accept(tcp)).await.map_err(tls_failed)?;
            greeted.origin.sni = tls.sni().map(str::to_ascii_lowercase);
            greeted.client = Transport::Client(Box::new(tls));
        }
        (None, Transport::Plain(mut tcp)) if peeks => {
            (greeted.origin.sni, greeted.first_bytes) =
                Box::pin(read_client_hello(&mut tcp)).await?;
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

pub fn tls_failed(error: io::Error) -> SessionEnd {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => refused(Side::Client, Cause::Closed),
        io::ErrorKind::ConnectionReset => refused(Side::Client, Cause::Reset),
        _ => {
            tracing::debug!(%error, "TLS handshake with a client failed");
            refused(Side::Client, Cause::TlsFailed)
        }
    }
}

pub fn client_failed(error: &io::Error) -> SessionEnd {
    refused(Side::Client, net::cause_of(error))
}

pub fn refused(side: Side, cause: Cause) -> SessionEnd {
    SessionEnd {
        side,
        phase: Phase::Handshake,
        cause,
    }
}
