//! Certificates, keys and CA bundles: from PEM files to values that cannot be wrong.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use rustls::Error;
use rustls::InconsistentKeys;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;
use xxhash_rust::xxh3::Xxh3;

use crate::config::CertificatePair;

use super::CertificateExpiry;
use super::TlsError;

/// A bundle of every public root is a quarter of a megabyte; what is larger is another kind of file.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The content of every file that one listener's or cluster's TLS names, read once.
#[derive(Debug)]
pub(super) struct Files(BTreeMap<PathBuf, Result<Vec<u8>, String>>);

/// A certificate chain with its key.
#[derive(Debug)]
pub(super) struct LoadedPair {
    pub certified: Arc<CertifiedKey>,
    /// DNS names in the certificate, lower case.
    pub names: Vec<String>,
    pub expiry: CertificateExpiry,
}

impl Files {
    pub(super) fn read<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        Self(
            paths
                .into_iter()
                .map(|path| (path.clone(), read(path)))
                .collect(),
        )
    }

    /// Equal when no file has changed. Operators write these files, so collisions are not
    /// sought, and no copy of a key has to be kept to compare with.
    pub(super) fn fingerprint(&self) -> u128 {
        let mut hasher = Xxh3::new();
        for content in self.0.values() {
            let bytes = match content {
                Ok(bytes) => bytes.as_slice(),
                Err(problem) => problem.as_bytes(),
            };
            hasher.update(&bytes.len().to_le_bytes());
            hasher.update(bytes);
        }
        hasher.digest128()
    }

    pub(super) fn pair(
        &self,
        pair: &CertificatePair,
        provider: &CryptoProvider,
    ) -> Result<LoadedPair, TlsError> {
        let chain = self.certificates(&pair.cert_file)?;
        let (names, not_after) =
            inspect(&chain[0]).map_err(|problem| wrong(&pair.cert_file, problem))?;
        let key = self.private_key(&pair.key_file)?;
        let certified =
            CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => wrong(
                    &pair.key_file,
                    format!(
                        "the key does not belong to the certificate in {}",
                        pair.cert_file.display()
                    ),
                ),
                Error::InvalidCertificate(error) => wrong(
                    &pair.cert_file,
                    format!("the certificate cannot be used: {error}"),
                ),
                error => wrong(&pair.key_file, format!("the key cannot be used: {error}")),
            })?;
        Ok(LoadedPair {
            certified: Arc::new(certified),
            names,
            expiry: CertificateExpiry {
                path: pair.cert_file.clone(),
                not_after,
            },
        })
    }

    pub(super) fn roots(&self, path: &Path) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(path)? {
            roots.add(certificate).map_err(|error| {
                wrong(path, format!("a CA certificate cannot be used: {error}"))
            })?;
        }
        Ok(roots)
    }

    /// Never empty.
    pub(super) fn certificates(
        &self,
        path: &Path,
    ) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates = CertificateDer::pem_slice_iter(self.content(path)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong(path, not_pem(&error)))?;
        if certificates.is_empty() {
            return Err(wrong(path, "contains no certificate (PEM expected)"));
        }
        Ok(certificates)
    }

    fn private_key(&self, path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
        let content = self.content(path)?;
        // Looked for first: the body of an old-style encrypted key is not even base64.
        if is_encrypted(content) {
            return Err(wrong(
                path,
                "the private key is encrypted; nobody is there to type its passphrase: store it \
                 decrypted, readable by Evergate only",
            ));
        }
        PrivateKeyDer::from_pem_slice(content).map_err(|error| match error {
            pem::Error::NoItemsFound => wrong(path, "contains no private key (PEM expected)"),
            error => wrong(path, not_pem(&error)),
        })
    }

    fn content(&self, path: &Path) -> Result<&[u8], TlsError> {
        match self.0.get(path) {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(problem)) => Err(wrong(path, problem)),
            None => Err(wrong(path, "was not read")),
        }
    }
}

fn wrong(path: &Path, problem: impl Into<String>) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    // Asked before opening: to open a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("is larger than {} MiB", MAX_FILE_BYTES >> 20));
    }
    Ok(bytes)
}

/// The error's own text would print what is between the markers, which may be a key.
fn not_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "is cut off: a PEM section has no END line",
        pem::Error::IllegalSectionStart { .. } => "is not PEM: a BEGIN line is malformed",
        _ => "is not PEM: a section is not base64",
    }
}

fn is_encrypted(content: &[u8]) -> bool {
    [
        &b"BEGIN ENCRYPTED PRIVATE KEY"[..],
        b"Proc-Type: 4,ENCRYPTED",
    ]
    .into_iter()
    .any(|mark| content.windows(mark.len()).any(|window| window == mark))
}

/// The names in a certificate and the end of its validity; refuses one that no client would take.
fn inspect(certificate: &CertificateDer<'_>) -> Result<(Vec<String>, i64), String> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|_| "the certificate is malformed".to_owned())?;
    let validity = certificate.validity();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64);
    if validity.not_after.timestamp() < now {
        return Err(format!("the certificate expired on {}", validity.not_after));
    }
    if validity.not_before.timestamp() > now {
        return Err(format!(
            "the certificate is not valid before {}",
            validity.not_before
        ));
    }
    let alternative = certificate
        .subject_alternative_name()
        .map_err(|_| "the certificate's names are malformed".to_owned())?;
    let names = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    Ok((names, validity.not_after.timestamp()))
}
