//! One cluster's authority: how it is asked, and its word that counts.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tracing::debug;
use tracing::info;
use tracing::warn;

use crate::config::AuthorityConfig;
use crate::config::ClusterConfig;
use crate::config::Host;
use crate::control::authority::Question;
use crate::control::authority::Silence;
use crate::control::authority::patroni;
use crate::control::authority::sentinel;
use crate::control::discovery::Discovery;
use crate::control::evidence::Authority;
use crate::tls::TlsConnector;

/// An answer counts for this many intervals. Shorter, one lost packet would change who
/// decides; longer, a leader of the past would bar the one that the backends agree on.
const MAX_AGE_INTERVALS: u32 = 3;

#[derive(Debug)]
pub(super) struct Asked {
    pub(super) cluster: Arc<ClusterConfig>,
    pub(super) tls: Option<TlsConnector>,
    pub(super) in_flight: Option<Flight>,
    pub(super) last_started: Option<Instant>,
    pub(super) word: Word,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub(super) number: u64,
    pub(super) started: Instant,
}

/// What counts at present.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Nothing has come yet.
    Unheard,
    Said {
        authority: Authority,
        /// When that was asked.
        asked: Instant,
    },
    Silent,
}

impl Asked {
    pub(super) fn asks_the_same(&self, new: &ClusterConfig) -> bool {
        (&self.cluster.failover.authority, &self.cluster.backends)
            == (&new.failover.authority, &new.backends)
    }

    pub(super) fn fast_interval(&self) -> Duration {
        let check = &self.cluster.health_check;
        check.fast_interval.min(check.interval)
    }

    /// Whose addresses are needed.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Host> {
        let sentinels = match &self.cluster.failover.authority {
            Some(AuthorityConfig::Sentinel { sentinels, .. }) => Some(sentinels),
            _ => None,
        };
        let backends = match sentinels {
            Some(_) => None,
            None => Some(self.cluster.backends.iter().map(|backend| &backend.host)),
        };
        let sentinels = sentinels.into_iter().flatten().map(|(host, _)| host);
        sentinels.chain(backends.into_iter().flatten())
    }

    pub(super) fn question(&self, discovery: &Discovery) -> Option<Question> {
        match self.cluster.failover.authority.as_ref()? {
            AuthorityConfig::Patroni { port, tls } => {
                let nodes = self.cluster.backends.iter().map(|backend| patroni::Node {
                    backend: backend.clone(),
                    address: address(&backend.host, discovery),
                    port: *port,
                    source: Arc::clone(&self.cluster.connect.source),
                    tls: self.tls.clone().filter(|_| *tls),
                });
                Some(Question::Patroni {
                    nodes: nodes.collect(),
                    floor: self.timeline(),
                })
            }
            AuthorityConfig::Sentinel {
                sentinels,
                service,
                user,
                password,
            } => {
                let service: Arc<str> = service.as_str().into();
                let nodes = sentinels.iter().map(|(host, port)| sentinel::Node {
                    address: address(host, discovery),
                    port: *port,
                    source: Arc::clone(&self.cluster.connect.source),
                    service: Arc::clone(&service),
                    user: user.clone(),
                    password: password.clone(),
                });
                Some(Question::Sentinel(nodes.collect()))
            }
        }
    }

    /// Of the leader that counts.
    fn timeline(&self) -> Option<u32> {
        match &self.word {
            Word::Said {
                authority: Authority::Leader { timeline, .. },
                ..
            } => *timeline,
            _ => None,
        }
    }

    pub(super) fn hear(&mut self, authority: Authority, asked: Instant) {
        let cluster = &self.cluster.name;
        match (&self.word, &authority) {
            (
                Word::Said {
                    authority: known, ..
                },
                new,
            ) if known == new => {}
            (_, Authority::Leader { host, port, .. }) => {
                let leader = format!("{host}:{port}");
                info!(%cluster, %leader, "the authority names a leader");
            }
            (_, Authority::NoLeader) => warn!(%cluster, "the authority knows no leader"),
        }
        self.word = Word::Said { authority, asked };
    }

    pub(super) fn miss(&mut self, silence: Silence, now: Instant) {
        let cluster = &self.cluster.name;
        debug!(%cluster, error = %silence, "the authority said nothing that counts");
        let max_age = self.cluster.health_check.interval * MAX_AGE_INTERVALS;
        match self.word {
            Word::Silent => return,
            Word::Said { asked, .. } if now.saturating_duration_since(asked) < max_age => return,
            Word::Said { .. } | Word::Unheard => {}
        }
        warn!(
            %cluster, error = %silence,
            "the authority is silent: what the backends say themselves decides"
        );
        self.word = Word::Silent;
    }
}

fn address(host: &Host, discovery: &Discovery) -> Option<IpAddr> {
    match host {
        Host::Ip(address) => Some(*address),
        Host::Name(name) => discovery.address(name),
    }
}

pub(super) fn is_pending(host: &Host, discovery: &Discovery) -> bool {
    match host {
        Host::Ip(_) => false,
        Host::Name(name) => discovery.is_pending(name),
    }
}
