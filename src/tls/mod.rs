//! TLS on both sides. The only module that names rustls.

mod acceptor;
mod choose;
mod connector;
mod files;
mod material;
mod stream;

use std::io;
use std::path::PathBuf;

use rustls::SupportedProtocolVersion;
use rustls::version::TLS13;

use crate::cluster::Name;
use crate::config::TlsVersion;

pub use self::acceptor::TlsAcceptor;
pub use self::connector::TlsConnector;
pub use self::material::TlsMaterial;
pub use self::stream::BackendTls;
pub use self::stream::ClientHandshake;
pub use self::stream::ClientTls;
pub use self::stream::Secured;

/// A certificate may carry hundreds of names, and the error text quotes them.
const MAX_ERROR_CHARS: usize = 300;

static TLS13_ONLY: [&SupportedProtocolVersion; 1] = [&TLS13];

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

/// Keeps the error for later, so that the next file is looked at too.
fn collect<T>(result: Result<T, TlsError>, errors: &mut Vec<TlsError>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
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
