//! TLS to the backends: a cluster's side.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;

use crate::config::BackendConfig;
use crate::config::BackendTlsConfig;
use crate::config::Host;
use crate::config::TlsVersion;
use crate::config::VerifyMode;
use crate::tls::BackendTls;
use crate::tls::CertificateExpiry;
use crate::tls::TlsError;
use crate::tls::alpn;
use crate::tls::choose::BackendVerifier;
use crate::tls::choose::Trust;
use crate::tls::choose::TrustedChain;
use crate::tls::collect;
use crate::tls::files::Files;
use crate::tls::printable;
use crate::tls::settings;
use crate::tls::stream::Socket;
use crate::tls::versions;

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

impl TlsConnector {
    /// Reads and checks all files.
    ///
    /// # Errors
    /// Every file that is wrong, as for [`TlsAcceptor::load`](crate::tls::TlsAcceptor::load), and a server name that is none.
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
            .connect(name, Socket(stream))
            .await
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

    pub(super) fn reload(
        config: &BackendTlsConfig,
        previous: Option<&Self>,
    ) -> Result<Self, Vec<TlsError>> {
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

fn connector_files(config: &BackendTlsConfig) -> Files {
    let pairs = config.client_pair.iter();
    let paths = pairs.flat_map(|pair| [&pair.cert_file, &pair.key_file]);
    Files::read(paths.chain(&config.ca_file))
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
