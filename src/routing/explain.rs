//! A pick without taking a place, with what was weighed: for people who ask why.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::config::HashKey;
use crate::config::Policy;
use crate::routing::entry::Exclusion;
use crate::routing::group::Group;
use crate::routing::key::KeySource;
use crate::routing::key::hash_key;
use crate::routing::table::ClusterTable;
use crate::routing::table::PickError;
use crate::routing::table::PickRequest;

/// Chance breaks ties: so many picks show, for all practical numbers of equals, who may be
/// drawn.
const DRAWS: u64 = 64;

/// Where a session would go now, and why.
#[derive(Debug)]
pub struct Explanation {
    /// In the order of [`ClusterTable::backends`].
    pub standings: Vec<Standing>,
    /// What consistent hashing goes by.
    pub key: Option<Key>,
    /// Positions of those that may be picked: several when chance decides.
    pub picks: Result<BTreeSet<usize>, PickError>,
}

/// How one backend stands when somebody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is picked, or one of those among which chance decides.
    Picked,
    /// Eligible, but the policy prefers another.
    Eligible,
    /// Eligible, but in another zone, and the own zone has room.
    OtherZone,
    /// Eligible, but a spare: a lower tier (or, by fallback, a replica) is there.
    Spare,
    /// Eligible, but at its `max_connections`.
    Full,
    /// The session has tried it.
    Tried,
    Excluded(Exclusion),
}

/// The hash key of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What is hashed: as configured, or `client_ip` for want of it.
    pub source: &'static str,
    pub value: String,
    pub hash: u64,
}

impl ClusterTable {
    /// What [`ClusterTable::pick`] would do now.
    pub fn explain(&self, request: &PickRequest<'_>) -> Explanation {
        let mut standings: Vec<Standing> = self
            .backends
            .iter()
            .map(|entry| {
                let exclusion = entry.exclusion(request.intent);
                exclusion.map_or(Standing::Eligible, Standing::Excluded)
            })
            .collect();
        let key = match self.config.balance.policy {
            Policy::ConsistentHash(_) => Some(key(&self.config.balance.key, request.source)),
            _ => None,
        };
        let picks = self.with_tiers(request.intent, |tiers| {
            let chosen = tiers.iter().position(|tier| tier.has_untried(request));
            for (at, tier) in tiers.iter().enumerate() {
                for place in tier.backends() {
                    let standing = match chosen {
                        Some(chosen) if at > chosen => Standing::Spare,
                        _ => Standing::Eligible,
                    };
                    standings[place] = self.refine(place, standing, request);
                }
            }
            let Some(tier) = chosen.and_then(|chosen| tiers.get(chosen)) else {
                return Err(match tiers.is_empty() {
                    true => PickError::NoneEligible,
                    false => PickError::AllTried,
                });
            };
            let mut groups = tier.groups.iter();
            let found = groups.find_map(|group| self.draw(group, key.as_ref(), request));
            for place in groups.flat_map(|group| &group.places) {
                if standings[place.backend] == Standing::Eligible {
                    standings[place.backend] = Standing::OtherZone;
                }
            }
            found.ok_or(PickError::AllFull)
        });
        for pick in picks.iter().flatten() {
            standings[*pick] = Standing::Picked;
        }
        Explanation {
            standings,
            key,
            picks,
        }
    }

    fn refine(&self, backend: usize, standing: Standing, request: &PickRequest<'_>) -> Standing {
        let entry = &self.backends[backend];
        let max = entry.config.max_connections;
        if request.tried.contains(&entry.handle.id) {
            Standing::Tried
        } else if max.is_some_and(|max| entry.handle.active() >= max.get()) {
            Standing::Full
        } else {
            standing
        }
    }

    /// Whom the group's balancer may pick; `None` when nobody is open.
    fn draw(
        &self,
        group: &Group,
        key: Option<&Key>,
        request: &PickRequest<'_>,
    ) -> Option<BTreeSet<usize>> {
        let slow_start = self.config.failover.slow_start;
        let key = key.map_or(0, |key| key.hash);
        let now = self.handle.cursor.load(Ordering::Relaxed);
        let picks = (0..DRAWS).filter_map(|seed| {
            // Of its own: nobody's turn is taken by asking.
            let cursor = AtomicU64::new(now);
            let mut random = fastrand::Rng::with_seed(seed);
            group.choose(key, &cursor, &mut random, request, slow_start)
        });
        let picks: BTreeSet<usize> = picks.collect();
        (!picks.is_empty()).then_some(picks)
    }
}

fn key(key: &HashKey, source: KeySource<'_>) -> Key {
    let client = source.client.ip().to_canonical().to_string();
    let named = match key {
        HashKey::ClientIp => None,
        HashKey::ClientIpPort => {
            let port = source.client.port();
            Some(("client_ip_port", format!("{client} port {port}")))
        }
        HashKey::Sni => source.sni.map(|it| ("sni", it.to_owned())),
        HashKey::User => source.login.user.map(|it| ("user", it.to_owned())),
        HashKey::Database => source.login.database.map(|it| ("database", it.to_owned())),
        HashKey::StartupParameter(_) => {
            let parameter = source.login.parameter;
            parameter.map(|it| ("startup_parameter", it.to_owned()))
        }
        HashKey::Header(_) => source.login.parameter.map(|it| ("header", it.to_owned())),
        HashKey::Cookie(_) => source.login.parameter.map(|it| ("cookie", it.to_owned())),
        HashKey::Query(_) => source.login.parameter.map(|it| ("query", it.to_owned())),
        HashKey::Path => source.login.parameter.map(|it| ("path", it.to_owned())),
    };
    let (name, value) = named.unwrap_or(("client_ip", client));
    Key {
        source: name,
        value,
        hash: hash_key(key, source),
    }
}
