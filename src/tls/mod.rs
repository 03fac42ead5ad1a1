//! TLS on both sides. The only module that names rustls.

mod choose;
mod files;
mod material;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::SupportedProtocolVersion;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use tokio::net::TcpStream;

use crate::cluster::Name;
use crate::config::BackendConfig;
use crate::config::BackendTlsConfig;
use crate::config::Host;
use crate::config::ListenerTlsConfig;
use crate::config::TlsVersion;
use crate::config::VerifyMode;

use self::choose::BackendVerifier;
use self::choose::CertificatesByName;
use self::choose::Trust;
use self::choose::TrustedChain;
use self::files::Files;

pub use self::material::TlsMaterial;
pub use self::stream::BackendTls;
pub use self::stream::ClientTls;
pub use self::stream::Tls;

/// A certificate may carry hundreds of names, and the error text quotes them.
const MAX_ERROR_CHARS: usize = 300;

static TLS13_ONLY: [&SupportedProtocolVersion; 1] = [&TLS13];

/// A listener's certificates and rules, loaded and checked. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TlsAcceptor {
    source: ListenerTlsConfig,
    fingerprint: u128,
    server: Arc<ServerConfig>,
    certificates: Arc<CertificatesByName>,
    expiries: Arc<[CertificateExpiry]>,
}

/// A cluster's rules for TLS to its backends, loaded and checked. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TlsConnector {
    source: BackendTlsConfig,
    fingerprint: u128,
    client: Arc<ClientConfig>,
    /// The same, for those who speak HTTP/1.1 where others speak HTTP/2.
    http1: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    expiries: Arc<[CertificateExpiry]>,
}

/// One loaded certificate's end of validity, for the metric.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateExpiry {
    pub path: PathBuf,
    /// Seconds since the epoch.
    pub not_after: i64,
}

/// What is wrong with the TLS settings or the files they name.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {problem}", path = .path.display())]
    File { path: PathBuf, problem: String },
    #[error("{0}")]
    Settings(String),
    #[error("listener `{name}`: {problem}")]
    Listener { name: Name, problem: Box<TlsError> },
    #[error("cluster `{name}`: {problem}")]
    Cluster { name: Name, problem: Box<TlsError> },
}

impl TlsError {
    /// The file that is wrong, if it is one.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::File { path, .. } => Some(path.clone()),
            Self::Settings(_) => None,
            Self::Listener { problem, .. } | Self::Cluster { problem, .. } => problem.path(),
        }
    }
}

impl TlsAcceptor {
    /// Reads and checks all files.
    ///
    /// # Errors
    /// Every file that is wrong: unreadable, no certificate, no key or an encrypted one, a key of another
    /// certificate, a certificate that has expired or is not valid yet, an empty CA file.
    pub fn load(config: &ListenerTlsConfig) -> Result<Self, Vec<TlsError>> {
        Self::from_files(config, &acceptor_files(config))
    }

    /// The handshake with a client. The caller limits its time.
    ///
    /// # Errors
    /// The client's side of the connection, or what is wrong with its handshake or certificate.
    pub async fn accept(&self, client: TcpStream) -> io::Result<ClientTls> {
        tokio_rustls::TlsAcceptor::from(Arc::clone(&self.server))
            .accept(client)
            .await
            .map(Tls)
            .map_err(printable)
    }

    /// Whether a client that asked for `sni` saw the certificate that it would see for `host`.
    pub fn shows_the_same(&self, sni: Option<&str>, host: &str) -> bool {
        self.certificates.are_one(sni, host)
    }

    /// Of the certificates shown to clients, in the configuration's order.
    pub fn expiries(&self) -> &[CertificateExpiry] {
        &self.expiries
    }

    /// With identical settings and files the old value goes on: tickets stay good, and a
    /// certificate that expired meanwhile does not stop an unrelated change.
    fn reload(config: &ListenerTlsConfig, previous: Option<&Self>) -> Result<Self, Vec<TlsError>> {
        let files = acceptor_files(config);
        let unchanged =
            |old: &&Self| old.source == *config && old.fingerprint == files.fingerprint();
        match previous.filter(unchanged) {
            Some(previous) => Ok(previous.clone()),
            None => Self::from_files(config, &files),
        }
    }

    fn from_files(config: &ListenerTlsConfig, files: &Files) -> Result<Self, Vec<TlsError>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut errors = Vec::new();
        let pairs: Vec<_> = config
            .certificates
            .iter()
            .filter_map(|pair| collect(files.pair(pair, &provider), &mut errors))
            .collect();
        let client_roots = config
            .client_ca_file
            .as_ref()
            .and_then(|path| collect(files.roots(path), &mut errors));
        if !errors.is_empty() {
            return Err(errors);
        }
        let certificates = CertificatesByName::new(&pairs)
            .ok_or_else(|| vec![TlsError::Settings("no certificate".to_owned())])?;
        let certificates = Arc::new(certificates);
        let server = server_config(config, provider, client_roots, Arc::clone(&certificates))
            .map_err(|error| vec![error])?;
        Ok(Self {
            source: config.clone(),
            fingerprint: files.fingerprint(),
            server: Arc::new(server),
            certificates,
            expiries: pairs.into_iter().map(|pair| pair.expiry).collect(),
        })
    }
}

impl TlsConnector {
    /// Reads and checks all files.
    ///
    /// # Errors
    /// Every file that is wrong, as for [`TlsAcceptor::load`], and a server name that is none.
    pub fn load(config: &BackendTlsConfig) -> Result<Self, Vec<TlsError>> {
        Self::from_files(config, &connector_files(config))
    }

    /// The handshake with a backend. The caller limits its time.
    ///
    /// # Errors
    /// The backend's side of the connection, or what is wrong with its handshake or certificate.
    pub async fn connect(
        &self,
        backend: &BackendConfig,
        address: SocketAddr,
        stream: TcpStream,
    ) -> io::Result<BackendTls> {
        self.connect_by(&self.client, backend, address, stream)
            .await
    }

    /// The same for somebody who speaks HTTP/1.1, whatever the settings offer.
    ///
    /// # Errors
    /// As for [`TlsConnector::connect`].
    pub async fn connect_http1(
        &self,
        backend: &BackendConfig,
        address: SocketAddr,
        stream: TcpStream,
    ) -> io::Result<BackendTls> {
        self.connect_by(&self.http1, backend, address, stream).await
    }

    async fn connect_by(
        &self,
        client: &Arc<ClientConfig>,
        backend: &BackendConfig,
        address: SocketAddr,
        stream: TcpStream,
    ) -> io::Result<BackendTls> {
        let name = match (&self.server_name, &backend.host) {
            (Some(name), _) => name.clone(),
            (None, Host::Ip(ip)) => ServerName::from(*ip),
            (None, Host::Name(host)) => {
                ServerName::try_from(host.to_string()).map_err(|error| {
                    let text = format!("no TLS with {address}: `{host}`: {error}");
                    io::Error::new(io::ErrorKind::InvalidInput, text)
                })?
            }
        };
        tokio_rustls::TlsConnector::from(Arc::clone(client))
            .connect(name, stream)
            .await
            .map(Tls)
            .map_err(printable)
    }

    /// The same settings and files: a reload that changes neither keeps the value.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.client, &other.client)
    }

    /// Of the certificate shown to the backends, if there is one.
    pub fn expiries(&self) -> &[CertificateExpiry] {
        &self.expiries
    }

    fn reload(config: &BackendTlsConfig, previous: Option<&Self>) -> Result<Self, Vec<TlsError>> {
        let files = connector_files(config);
        let unchanged =
            |old: &&Self| old.source == *config && old.fingerprint == files.fingerprint();
        match previous.filter(unchanged) {
            Some(previous) => Ok(previous.clone()),
            None => Self::from_files(config, &files),
        }
    }

    fn from_files(config: &BackendTlsConfig, files: &Files) -> Result<Self, Vec<TlsError>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut errors = Vec::new();
        let (roots, listed) = match &config.ca_file {
            Some(path) => (files.roots(path), files.certificates(path)),
            None => {
                let anchors = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
                (Ok(RootCertStore::from_iter(anchors)), Ok(Vec::new()))
            }
        };
        let roots = collect(roots, &mut errors);
        // Read from the same file: what is wrong with it is among the errors already.
        let listed = listed.unwrap_or_default();
        let pair = config
            .client_pair
            .as_ref()
            .and_then(|pair| collect(files.pair(pair, &provider), &mut errors));
        let server_name = config.server_name.clone().and_then(|name| {
            let parsed = ServerName::try_from(name);
            let wrong = |error| TlsError::Settings(format!("server_name: {error}"));
            collect(parsed.map_err(wrong), &mut errors)
        });
        let Some(roots) = roots.filter(|_| errors.is_empty()) else {
            return Err(errors);
        };
        let certified = pair.as_ref().map(|pair| Arc::clone(&pair.certified));
        let client = client_config(config, provider, (roots, listed), certified)
            .map_err(|error| vec![error])?;
        Ok(Self {
            source: config.clone(),
            fingerprint: files.fingerprint(),
            http1: Arc::new(without_http2(&client)),
            client: Arc::new(client),
            server_name,
            expiries: pair.into_iter().map(|pair| pair.expiry).collect(),
        })
    }
}

/// Keeps the error for later, so that the next file is looked at too.
fn collect<T>(result: Result<T, TlsError>, errors: &mut Vec<TlsError>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}

fn acceptor_files(config: &ListenerTlsConfig) -> Files {
    let pairs = config.certificates.iter();
    let paths = pairs.flat_map(|pair| [&pair.cert_file, &pair.key_file]);
    Files::read(paths.chain(&config.client_ca_file))
}

fn connector_files(config: &BackendTlsConfig) -> Files {
    let pairs = config.client_pair.iter();
    let paths = pairs.flat_map(|pair| [&pair.cert_file, &pair.key_file]);
    Files::read(paths.chain(&config.ca_file))
}

fn server_config(
    config: &ListenerTlsConfig,
    provider: Arc<CryptoProvider>,
    client_roots: Option<RootCertStore>,
    certificates: Arc<CertificatesByName>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(config.min_version))
        .map_err(settings)?;
    let builder = match client_roots {
        Some(roots) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(settings)?,
        ),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_cert_resolver(certificates);
    server.alpn_protocols = alpn(&config.alpn);
    // Its keys are this listener's own: a ticket from a listener that asks for
    // no client certificate must not open one that does.
    server.ticketer = aws_lc_rs::Ticketer::new().map_err(settings)?;
    // Early data can be replayed, and a replayed statement may be executed twice.
    server.max_early_data_size = 0;
    Ok(server)
}

fn client_config(
    config: &BackendTlsConfig,
    provider: Arc<CryptoProvider>,
    (roots, listed): (RootCertStore, Vec<CertificateDer<'static>>),
    certified: Option<Arc<CertifiedKey>>,
) -> Result<ClientConfig, TlsError> {
    let verifier = server_verifier(config.mode, roots, listed, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(TlsVersion::V1_2))
        .map_err(settings)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut client = match certified {
        Some(certified) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        None => builder.with_no_client_auth(),
    };
    client.alpn_protocols = alpn(&config.alpn);
    Ok(client)
}

/// A backend that was offered HTTP/2 would choose it.
fn without_http2(client: &ClientConfig) -> ClientConfig {
    let mut http1 = client.clone();
    http1.alpn_protocols.retain(|name| name != b"h2");
    http1
}

fn server_verifier(
    mode: VerifyMode,
    roots: RootCertStore,
    listed: Vec<CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let trust = match mode {
        VerifyMode::Insecure => Trust::Anything,
        VerifyMode::VerifyFull | VerifyMode::VerifyCa => {
            let roots = Arc::new(roots);
            let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
                .build()
                .map_err(settings)?;
            Trust::Chain(TrustedChain {
                chain,
                listed,
                verify_name: mode == VerifyMode::VerifyFull,
            })
        }
    };
    Ok(Arc::new(BackendVerifier {
        trust,
        algorithms: provider.signature_verification_algorithms,
    }))
}

fn versions(minimum: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match minimum {
        TlsVersion::V1_2 => rustls::ALL_VERSIONS,
        TlsVersion::V1_3 => &TLS13_ONLY,
    }
}

fn alpn(protocols: &[String]) -> Vec<Vec<u8>> {
    protocols
        .iter()
        .map(|protocol| protocol.clone().into_bytes())
        .collect()
}

fn settings(error: impl std::fmt::Display) -> TlsError {
    TlsError::Settings(error.to_string())
}

/// The same error with a text that is safe to log: parts of it come from the peer.
fn printable(error: io::Error) -> io::Error {
    let mut text = String::new();
    for character in error.to_string().chars().take(MAX_ERROR_CHARS) {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    io::Error::new(error.kind(), text)
}
