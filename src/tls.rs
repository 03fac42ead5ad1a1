//! TLS on both sides. The only file that names rustls.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpStream;

use crate::cluster::Name;
use crate::config::BackendConfig;
use crate::config::BackendTlsConfig;
use crate::config::Config;
use crate::config::ListenerTlsConfig;

/// A listener's certificates and rules, loaded and checked.
#[derive(Debug, Clone)]
pub struct TlsAcceptor {}

/// A cluster's rules for TLS to its backends, loaded and checked.
#[derive(Debug, Clone)]
pub struct TlsConnector {}

/// TLS with a client; reads and writes plain bytes.
#[derive(Debug)]
pub struct ClientTls(tokio_rustls::server::TlsStream<TcpStream>);

/// TLS with a backend; reads and writes plain bytes.
#[derive(Debug)]
pub struct BackendTls(tokio_rustls::client::TlsStream<TcpStream>);

/// What is wrong with a certificate, key or CA file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {problem}", path = .path.display())]
    File { path: PathBuf, problem: String },
}

/// One loaded certificate's end of validity, for the metric.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateExpiry {
    pub path: PathBuf,
    /// Seconds since the epoch.
    pub not_after: i64,
}

impl TlsAcceptor {
    /// Reads all files; refuses an expired certificate, a key that does not match, an empty CA file.
    pub fn load(_config: &ListenerTlsConfig) -> Result<Self, TlsError> {
        todo!()
    }

    /// The handshake with a client. The caller limits its time.
    pub async fn accept(&self, _client: TcpStream) -> std::io::Result<ClientTls> {
        todo!()
    }

    pub fn expiries(&self) -> &[CertificateExpiry] {
        todo!()
    }
}

impl TlsConnector {
    pub fn load(_config: &BackendTlsConfig) -> Result<Self, TlsError> {
        todo!()
    }

    /// The handshake with a backend. The caller limits its time.
    pub async fn connect(
        &self,
        _backend: &BackendConfig,
        _address: SocketAddr,
        _stream: TcpStream,
    ) -> std::io::Result<BackendTls> {
        todo!()
    }

    pub fn expiries(&self) -> &[CertificateExpiry] {
        todo!()
    }
}

impl ClientTls {
    /// The server name the client asked for, lower case.
    pub fn sni(&self) -> Option<&str> {
        self.0.get_ref().1.server_name()
    }

    pub fn tcp(&self) -> &TcpStream {
        self.0.get_ref().0
    }
}

impl BackendTls {
    pub fn tcp(&self) -> &TcpStream {
        self.0.get_ref().0
    }
}

/// Everything TLS that one configuration needs.
#[derive(Debug, Clone, Default)]
pub struct TlsMaterial {
    /// By listener.
    pub acceptors: HashMap<Name, TlsAcceptor>,
    /// By cluster.
    pub connectors: HashMap<Name, TlsConnector>,
}

impl TlsMaterial {
    /// Loads all certificates of a configuration.
    ///
    /// # Errors
    /// Every file that is wrong, at once; a listener's or cluster's name leads each message.
    pub fn load(_config: &Config) -> Result<Self, Vec<TlsError>> {
        todo!()
    }
}

// AsyncRead and AsyncWrite for ClientTls and BackendTls delegate to the inner stream.
