//! When each cluster's authority is asked, and for how long its answer counts.

mod asked;

use crate::control::authority::polls::asked::Asked;
use crate::control::authority::polls::asked::Flight;
use crate::control::authority::polls::asked::Word;
use crate::control::authority::polls::asked::is_pending;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::Name;
use crate::config::Config;
use crate::control::authority::Question;
use crate::control::authority::Silence;
use crate::control::discovery::Discovery;
use crate::control::evidence::Authority;
use crate::control::schedule::Schedule;
use crate::tls::TlsConnector;

/// While a name is looked up for the first time, its poll waits in steps of this.
const LOOKUP_PAUSE: Duration = Duration::from_millis(10);

/// The clusters that have an authority.
#[derive(Debug, Default)]
pub struct Authorities {
    asked: HashMap<Name, Asked>,
    schedule: Schedule<Name>,
    next_number: u64,
    random: fastrand::Rng,
}

/// One poll to send now.
#[derive(Debug)]
pub struct Poll {
    pub cluster: Name,
    pub number: u64,
    pub question: Question,
    pub timeout: Duration,
}

impl Authorities {
    /// With a seed of its own, for jitter.
    pub fn seeded(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            ..Self::default()
        }
    }

    /// Asks for the clusters of this configuration and no others. What is known of one that
    /// stays counts on, although it may be asked in another way from now on.
    pub fn apply(
        &mut self,
        config: &Config,
        connectors: &HashMap<Name, TlsConnector>,
        now: Instant,
    ) {
        let mut old = std::mem::take(&mut self.asked);
        for cluster in &config.clusters {
            if cluster.failover.authority.is_none() {
                continue;
            }
            let mut asked = Asked {
                cluster: Arc::new(cluster.clone()),
                tls: connectors.get(&cluster.name).cloned(),
                in_flight: None,
                last_started: None,
                word: Word::Unheard,
            };
            match old.remove(&cluster.name) {
                Some(known) if known.asks_the_same(cluster) => {
                    asked.in_flight = known.in_flight;
                    asked.last_started = known.last_started;
                    asked.word = known.word;
                }
                known => {
                    asked.word = known.map_or(Word::Unheard, |known| known.word);
                    self.schedule.set(Arc::clone(&cluster.name), now);
                }
            }
            self.asked.insert(Arc::clone(&cluster.name), asked);
        }
        for name in old.keys() {
            self.schedule.remove(name);
        }
    }

    /// What the authority says, as far as it counts at present.
    pub fn current(&self, cluster: &Name) -> Option<&Authority> {
        match &self.asked.get(cluster)?.word {
            Word::Said { authority, .. } => Some(authority),
            Word::Unheard | Word::Silent => None,
        }
    }

    pub fn next_due(&mut self) -> Option<Instant> {
        self.schedule.next()
    }

    /// Asks every fast interval for as long as this says so of a cluster, in each round.
    pub fn hurry(&mut self, is_urgent: impl Fn(&Name) -> bool) {
        for (name, asked) in &self.asked {
            // One that is under way, or has never been, is as soon as can be.
            if let (None, Some(started)) = (asked.in_flight, asked.last_started)
                && is_urgent(name)
            {
                let due = started + asked.fast_interval();
                self.schedule.pull(Arc::clone(name), due);
            }
        }
    }

    /// Takes the next poll that is due.
    pub fn start_due(&mut self, now: Instant, discovery: &Discovery) -> Option<Poll> {
        while let Some(name) = self.schedule.pop(now) {
            let Some(asked) = self.asked.get_mut(&name) else {
                continue;
            };
            if asked.in_flight.is_some() {
                continue;
            }
            if asked.hosts().any(|host| is_pending(host, discovery)) {
                self.schedule.set(name, now + LOOKUP_PAUSE);
                continue;
            }
            let Some(question) = asked.question(discovery) else {
                continue;
            };
            self.next_number += 1;
            let number = self.next_number;
            asked.in_flight = Some(Flight {
                number,
                started: now,
            });
            asked.last_started = Some(now);
            let timeout = asked.cluster.health_check.timeout;
            return Some(Poll {
                cluster: name,
                number,
                question,
                timeout,
            });
        }
        None
    }

    /// Notes an answer; `false` when nobody waits for it any more.
    pub fn finish(
        &mut self,
        cluster: &Name,
        number: u64,
        answer: Result<Authority, Silence>,
        now: Instant,
    ) -> bool {
        // ±10 %, so that the polls of many instances drift apart.
        let jitter = 0.9 + 0.2 * self.random.f64();
        let Some(asked) = self.asked.get_mut(cluster) else {
            return false;
        };
        let Some(flight) = asked.in_flight.filter(|flight| flight.number == number) else {
            return false;
        };
        asked.in_flight = None;
        let pause = match answer {
            // It is changing just now.
            Err(Silence::Disagreement) => asked.fast_interval(),
            _ => asked.cluster.health_check.interval,
        };
        let due = flight.started + pause.mul_f64(jitter);
        match answer {
            Ok(authority) => asked.hear(authority, flight.started),
            Err(silence) => asked.miss(silence, now),
        }
        self.schedule.set(Arc::clone(cluster), due.max(now));
        true
    }
}

#[cfg(test)]
mod tests;
