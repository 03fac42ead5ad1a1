//! All certificates of one configuration, loaded all or nothing.

use std::collections::HashMap;

use crate::cluster::Name;
use crate::config::Config;

use super::TlsAcceptor;
use super::TlsConnector;
use super::TlsError;

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
    pub fn load(config: &Config) -> Result<Self, Vec<TlsError>> {
        Self::reload(config, &Self::default())
    }

    /// As [`Self::load`], but a listener or cluster whose settings and files are the same
    /// as in `previous` keeps its value, and with it the tickets of its clients.
    ///
    /// # Errors
    /// As [`Self::load`]; `previous` goes on unharmed.
    pub fn reload(config: &Config, previous: &Self) -> Result<Self, Vec<TlsError>> {
        let mut material = Self::default();
        let mut errors = Vec::new();
        for listener in &config.listeners {
            let Some(tls) = &listener.tls else { continue };
            let name = &listener.name;
            match TlsAcceptor::reload(tls, previous.acceptors.get(name)) {
                Ok(acceptor) => {
                    material.acceptors.insert(Name::clone(name), acceptor);
                }
                Err(problems) => errors.extend(problems.into_iter().map(|problem| {
                    let (name, problem) = (Name::clone(name), Box::new(problem));
                    TlsError::Listener { name, problem }
                })),
            }
        }
        for cluster in &config.clusters {
            let Some(tls) = &cluster.tls else { continue };
            let name = &cluster.name;
            match TlsConnector::reload(tls, previous.connectors.get(name)) {
                Ok(connector) => {
                    material.connectors.insert(Name::clone(name), connector);
                }
                Err(problems) => errors.extend(problems.into_iter().map(|problem| {
                    let (name, problem) = (Name::clone(name), Box::new(problem));
                    TlsError::Cluster { name, problem }
                })),
            }
        }
        if errors.is_empty() {
            Ok(material)
        } else {
            Err(errors)
        }
    }
}
