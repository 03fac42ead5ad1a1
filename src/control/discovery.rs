//! Names -> addresses. A literal address needs nothing of this.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::cluster::Name;
use crate::config::AuthorityConfig;
use crate::config::ClusterConfig;
use crate::config::Config;
use crate::config::Host;
use crate::control::schedule::Schedule;
use crate::net;

/// An address that works is looked up again this often: the system's resolver
/// does not tell how long its answer is valid.
const REFRESH: Duration = Duration::from_secs(30);
/// A name without an address is looked up again this soon.
const RETRY: Duration = Duration::from_secs(1);
/// A failed probe asks for a lookup, but not more often than this.
const MIN_PAUSE: Duration = Duration::from_secs(3);
/// Longer than one try of the usual resolver (5 s), shorter than anyone's patience.
const TIMEOUT: Duration = Duration::from_secs(6);
/// Threads that may hang in the resolver at once.
pub const MAX_LOOKUPS: usize = 8;

/// The names that are used, and what they resolved to last.
#[derive(Debug, Default)]
pub struct Discovery {
    names: HashMap<Name, Resolution>,
    schedule: Schedule<Name>,
}

#[derive(Debug, Default)]
struct Resolution {
    address: Option<IpAddr>,
    last_started: Option<Instant>,
    in_flight: bool,
    /// One lookup has ended, with or without an address.
    was_answered: bool,
}

impl Discovery {
    /// Follows the names of this configuration and no others.
    pub fn apply(&mut self, config: &Config, now: Instant) {
        let mut old = std::mem::take(&mut self.names);
        let hosts = config.clusters.iter().flat_map(hosts);
        for host in hosts {
            let Host::Name(name) = host else {
                continue;
            };
            let known = old.remove(name);
            if known.is_none() && !self.names.contains_key(name) {
                self.schedule.set(Arc::clone(name), now);
            }
            let entry = self.names.entry(Arc::clone(name)).or_default();
            if let Some(known) = known {
                *entry = known;
            }
        }
        for name in old.keys() {
            self.schedule.remove(name);
        }
    }

    /// The last good address of a name.
    pub fn address(&self, name: &Name) -> Option<IpAddr> {
        self.names.get(name)?.address
    }

    /// It is not known yet whether the name has an address.
    pub fn is_pending(&self, name: &Name) -> bool {
        let resolution = self.names.get(name);
        resolution.is_some_and(|resolution| !resolution.was_answered)
    }

    pub fn next_due(&mut self) -> Option<Instant> {
        self.schedule.next()
    }

    /// Takes the next name that has to be looked up.
    pub fn start_due(&mut self, now: Instant) -> Option<Name> {
        while let Some(name) = self.schedule.pop(now) {
            if let Some(resolution) = self.names.get_mut(&name)
                && !resolution.in_flight
            {
                resolution.in_flight = true;
                resolution.last_started = Some(now);
                return Some(name);
            }
        }
        None
    }

    /// Notes an answer; returns the address that counts from now on: the last
    /// good one when this lookup failed.
    pub fn finish(&mut self, name: &Name, answer: Option<IpAddr>, now: Instant) -> Option<IpAddr> {
        let resolution = self.names.get_mut(name)?;
        resolution.in_flight = false;
        resolution.was_answered = true;
        resolution.address = answer.or(resolution.address);
        let pause = if answer.is_some() { REFRESH } else { RETRY };
        self.schedule.set(Arc::clone(name), now + pause);
        resolution.address
    }

    /// A probe failed: perhaps the name points somewhere else by now.
    pub fn doubt(&mut self, name: &Name, now: Instant) {
        if let Some(resolution) = self.names.get(name)
            && !resolution.in_flight
        {
            let earliest = resolution.last_started.map_or(now, |last| last + MIN_PAUSE);
            self.schedule.pull(Arc::clone(name), earliest.max(now));
        }
    }
}

/// Everybody who is reached: backends and Sentinels.
fn hosts(cluster: &ClusterConfig) -> impl Iterator<Item = &Host> {
    let sentinels = match &cluster.failover.authority {
        Some(AuthorityConfig::Sentinel { sentinels, .. }) => &sentinels[..],
        Some(AuthorityConfig::Patroni { .. }) | None => &[],
    };
    let backends = cluster.backends.iter().map(|backend| &backend.host);
    backends.chain(sentinels.iter().map(|(host, _)| host))
}

/// Asks the system's resolver, which blocks, on a thread of its own. `current` stays for as
/// long as it is among the answers.
///
/// # Errors
/// What the resolver says, or that it took too long.
pub async fn lookup(
    name: &Name,
    current: Option<IpAddr>,
    permits: Arc<Semaphore>,
) -> io::Result<IpAddr> {
    let host = Arc::clone(name);
    let answer = async move {
        let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
        // The permit moves into the thread: a hanging one counts until it ends,
        // long after we have stopped waiting for it.
        net::on_own_thread("lookup", move || {
            let _permit = permit;
            (&*host, 0).to_socket_addrs().map(Vec::from_iter)
        })
        .await?
    };
    let found = tokio::time::timeout(TIMEOUT, answer).await??;
    let addresses: Vec<_> = found.into_iter().map(|address| address.ip()).collect();
    choose(&addresses, current)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// Resolvers rotate their answers and leave some out; a stable choice keeps sessions and
/// instances on the same server. IPv4 first: `localhost` has both, servers often only that.
fn choose(addresses: &[IpAddr], current: Option<IpAddr>) -> Option<IpAddr> {
    let known = current.filter(|current| addresses.contains(current));
    let first = addresses
        .iter()
        .min_by_key(|address| (address.is_ipv6(), **address));
    known.or(first.copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery(now: Instant) -> (Discovery, Name) {
        let name = Name::from("db.example");
        let mut discovery = Discovery::default();
        discovery
            .names
            .insert(Arc::clone(&name), Resolution::default());
        discovery.schedule.set(Arc::clone(&name), now);
        (discovery, name)
    }

    #[test]
    fn a_failed_lookup_keeps_the_last_good_address() {
        let now = Instant::now();
        let (mut discovery, name) = discovery(now);
        let good = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(discovery.start_due(now), Some(Arc::clone(&name)));
        assert_eq!(discovery.finish(&name, Some(good), now), Some(good));
        assert_eq!(discovery.next_due(), Some(now + REFRESH));
        let later = now + REFRESH;
        assert_eq!(discovery.start_due(later), Some(Arc::clone(&name)));
        assert_eq!(discovery.finish(&name, None, later), Some(good));
        assert_eq!(discovery.next_due(), Some(later + RETRY));
    }

    #[test]
    fn failed_probes_ask_for_a_lookup_but_not_for_many() {
        let now = Instant::now();
        let (mut discovery, name) = discovery(now);
        discovery.start_due(now);
        discovery.doubt(&name, now);
        assert_eq!(discovery.next_due(), None, "one lookup at a time");
        discovery.finish(&name, None, now);
        discovery.finish(&name, Some(IpAddr::from([10, 0, 0, 1])), now);
        for _ in 0..1000 {
            discovery.doubt(&name, now + Duration::from_secs(1));
        }
        assert_eq!(discovery.next_due(), Some(now + MIN_PAUSE));
    }

    #[test]
    fn an_address_stays_while_it_is_among_the_answers() {
        let [one, two, three] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        assert_eq!(choose(&[three, two], None), Some(two));
        assert_eq!(choose(&[one, three], Some(three)), Some(three));
        assert_eq!(choose(&[two, one], Some(three)), Some(one));
        assert_eq!(choose(&[], Some(three)), None);
    }

    #[tokio::test]
    async fn localhost_is_the_ipv4_loopback() {
        let permits = Arc::new(Semaphore::new(1));
        let found = lookup(&Name::from("localhost"), None, permits)
            .await
            .unwrap();
        assert_eq!(found, IpAddr::from([127, 0, 0, 1]));
    }

    #[tokio::test]
    async fn a_name_that_cannot_exist_is_an_error() {
        let permits = Arc::new(Semaphore::new(1));
        let found = lookup(&Name::from("no-such-host.invalid"), None, permits).await;
        assert!(found.is_err());
    }
}
