//! Which certificate a client gets, and which certificates of a backend are believed.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::CertificateError;
use rustls::DigitallySignedStruct;
use rustls::Error;
use rustls::SignatureScheme;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::verify_server_name;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::verify_tls12_signature;
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::server::ClientHello;
use rustls::server::ParsedCertificate;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::files::LoadedPair;

/// A listener's certificates by the names in them.
#[derive(Debug)]
pub(super) struct CertificatesByName {
    /// For clients that name nothing, or nothing we know.
    default: Arc<CertifiedKey>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// `*.example.com` under `example.com`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

impl CertificatesByName {
    /// The first pair is the default; of two with the same name the first wins. `None` without any.
    pub(super) fn new(pairs: &[LoadedPair]) -> Option<Self> {
        let mut by_name = Self {
            default: Arc::clone(&pairs.first()?.certified),
            exact: HashMap::new(),
            wildcard: HashMap::new(),
        };
        for pair in pairs {
            for name in &pair.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut by_name.wildcard, parent),
                    None => (&mut by_name.exact, name.as_str()),
                };
                names
                    .entry(name.to_owned())
                    .or_insert_with(|| Arc::clone(&pair.certified));
            }
        }
        Some(by_name)
    }

    /// Whether both names get the same certificate; without the first, the default.
    pub(super) fn are_one(&self, name: Option<&str>, other: &str) -> bool {
        let shown = name.map_or(&self.default, |name| self.choose(name));
        Arc::ptr_eq(shown, self.choose(other))
    }

    fn choose(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.to_ascii_lowercase();
        let wildcard = || {
            let (_, parent) = name.split_once('.')?;
            self.wildcard.get(parent)
        };
        self.exact
            .get(&name)
            .or_else(wildcard)
            .unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for CertificatesByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = hello
            .server_name()
            .map_or(&self.default, |name| self.choose(name));
        Some(Arc::clone(chosen))
    }
}

/// Decides whether a backend is believed, by the cluster's `tls` settings.
#[derive(Debug)]
pub(super) struct BackendVerifier {
    pub trust: Trust,
    /// Whoever sent a certificate must own its key, even where any certificate is good, so that the
    /// handshake stays one with them.
    pub algorithms: WebPkiSupportedAlgorithms,
}

/// Which certificates of a backend are good.
#[derive(Debug)]
pub(super) enum Trust {
    /// `verify_full` and `verify_ca`.
    Chain(TrustedChain),
    /// `insecure`.
    Anything,
}

/// The chain must be good; the name, as the mode says.
///
/// A certificate that itself stands in `ca_file` needs no chain: that is what
/// `openssl req -x509` makes for one server, and webpki takes no CA for a server.
#[derive(Debug)]
pub(super) struct TrustedChain {
    pub chain: Arc<WebPkiServerVerifier>,
    /// The certificates of `ca_file`.
    pub listed: Vec<CertificateDer<'static>>,
    pub verify_name: bool,
}

impl TrustedChain {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.listed.iter().any(|listed| listed == end_entity) {
            return self.verify_listed(end_entity, server_name, now);
        }
        let verified = self.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // The name is looked at last: whoever gets this far has a good chain.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.verify_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_listed(
        &self,
        certificate: &CertificateDer<'_>,
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let validity = parsed.validity();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if validity.not_before.timestamp() > now {
            return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
        }
        if validity.not_after.timestamp() < now {
            return Err(Error::InvalidCertificate(CertificateError::Expired));
        }
        if self.verify_name {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for BackendVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Anything => Ok(ServerCertVerified::assertion()),
            Trust::Chain(trusted) => {
                trusted.verify(end_entity, intermediates, server_name, ocsp_response, now)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
