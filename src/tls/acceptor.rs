//! TLS from the clients: a listener's side.

use std::io;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpStream;

use crate::config::ListenerTlsConfig;
use crate::tls::CertificateExpiry;
use crate::tls::ClientTls;
use crate::tls::TlsError;
use crate::tls::alpn;
use crate::tls::choose::CertificatesByName;
use crate::tls::collect;
use crate::tls::files::Files;
use crate::tls::printable;
use crate::tls::settings;
use crate::tls::stream::Socket;
use crate::tls::versions;

/// A listener's certificates and rules, loaded and checked. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TlsAcceptor {
    source: ListenerTlsConfig,
    fingerprint: u128,
    server: Arc<ServerConfig>,
    certificates: Arc<CertificatesByName>,
    expiries: Arc<[CertificateExpiry]>,
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
            .accept(Socket(client))
            .await
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
    pub(super) fn reload(
        config: &ListenerTlsConfig,
        previous: Option<&Self>,
    ) -> Result<Self, Vec<TlsError>> {
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

fn acceptor_files(config: &ListenerTlsConfig) -> Files {
    let pairs = config.certificates.iter();
    let paths = pairs.flat_map(|pair| [&pair.cert_file, &pair.key_file]);
    Files::read(paths.chain(&config.client_ca_file))
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
