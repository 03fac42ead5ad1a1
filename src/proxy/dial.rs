//! Connects a session to its backend: pick, connect, TLS; another backend when
//! nothing was sent yet.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant as TokioInstant;
use tokio::time::timeout_at;

use crate::cluster::Cause;
use crate::config::BackendConfig;
use crate::config::Protocol;
use crate::net;
use crate::proxy::postgres;
use crate::proxy::transport::Transport;
use crate::routing::ClusterTable;
use crate::tls::TlsConnector;

/// What one attempt needs to know about its backend; taken from the table, so
/// that no table is pinned while the attempt runs.
#[derive(Debug)]
pub struct Target {
    pub address: SocketAddr,
    /// Local addresses to connect from; empty = the system chooses.
    pub source: Arc<[IpAddr]>,
    /// Says how TLS begins.
    pub protocol: Protocol,
    pub tls: Option<Arc<TlsToBackend>>,
    pub timeout: Duration,
    /// Bytes that come before everything else: a PROXY header.
    pub preamble: Vec<u8>,
}

/// TLS to one backend; shared with the session, which may outlive the backend's place in the table.
#[derive(Debug, Clone)]
pub struct TlsToBackend {
    pub connector: TlsConnector,
    /// Its settings say what name to verify.
    pub config: BackendConfig,
}

/// A failed attempt. Nothing of the client's was sent, so another may follow.
#[derive(Debug)]
pub struct DialError {
    pub cause: Cause,
    pub error: io::Error,
}

impl Target {
    /// A backend of this cluster. The preamble is made only for a cluster that wants one.
    pub fn new(
        cluster: &ClusterTable,
        backend: &BackendConfig,
        address: SocketAddr,
        preamble: impl FnOnce() -> Vec<u8>,
    ) -> Self {
        let tls = cluster.tls.clone().map(|connector| {
            Arc::new(TlsToBackend {
                connector,
                config: backend.clone(),
            })
        });
        Self::with_tls(cluster, tls, address, preamble)
    }

    /// As [`Self::new`], for a server that had its place in the cluster, and TLS as it was then.
    pub fn with_tls(
        cluster: &ClusterTable,
        tls: Option<Arc<TlsToBackend>>,
        address: SocketAddr,
        preamble: impl FnOnce() -> Vec<u8>,
    ) -> Self {
        Self {
            address,
            source: Arc::clone(&cluster.config.connect.source),
            protocol: cluster.config.protocol,
            tls,
            timeout: cluster.config.connect.timeout,
            preamble: if cluster.config.send_proxy_protocol {
                preamble()
            } else {
                Vec::new()
            },
        }
    }
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
    let mut tcp = net::connect(target.address, &target.source)
        .await
        .map_err(|error| DialError {
            cause: match net::cause_of(&error) {
                // The kernel gave up on its SYNs.
                Cause::SendTimeout => Cause::ConnectTimeout,
                cause => cause,
            },
            error,
        })?;
    // Boxed, as all that few connects need: every one is as large as the largest.
    if !target.preamble.is_empty() {
        let sent = Box::pin(tcp.write_all(&target.preamble)).await;
        sent.map_err(|error| DialError {
            cause: net::cause_of(&error),
            error,
        })?;
    }
    match &target.tls {
        None => Ok(Transport::Plain(tcp)),
        Some(tls) => Box::pin(encrypt(tcp, tls, target)).await,
    }
}

async fn encrypt(
    mut tcp: TcpStream,
    tls: &TlsToBackend,
    target: &Target,
) -> Result<Transport, DialError> {
    match target.protocol {
        Protocol::Postgres => postgres::ask_for_tls(&mut tcp).await?,
        Protocol::Tcp | Protocol::MySql | Protocol::Redis | Protocol::Http => {}
    }
    let TlsToBackend { connector, config } = tls;
    match connector.connect(config, target.address, tcp).await {
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
