//! The backends of a cluster that may be picked, by preference: tier, then own zone.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::AdminState;
use crate::cluster::Name;
use crate::cluster::WantedRole;
use crate::cluster::takes_new_sessions;
use crate::config::ClusterConfig;
use crate::config::Fallback;
use crate::config::Intent;
use crate::config::Panic;
use crate::routing::balance::Balancer;
use crate::routing::balance::Member;
use crate::routing::balance::Pick;
use crate::routing::balance::View;
use crate::routing::entry::BackendEntry;
use crate::routing::entry::Exclusion;
use crate::routing::handle::BackendHandle;
use crate::routing::handle::ConnectionGuard;
use crate::routing::table::PickRequest;

/// The share of its weight that a returning backend has at once: with less, a cluster
/// of few sessions would hardly find out that it is well.
const MIN_WARMTH: f64 = 0.1;

/// Of a primary whose weight is 0: it has its group for itself.
const LONE_WEIGHT: u32 = 100;

/// Backends of one tier that may be picked. Never empty.
#[derive(Debug)]
pub(super) struct Tier {
    /// The own zone first; never empty.
    pub(super) groups: Vec<Group>,
}

/// Backends among which one balancer picks.
#[derive(Debug)]
pub(super) struct Group {
    balancer: Balancer,
    /// In the order of the balancer's members.
    pub(super) places: Vec<Place>,
}

/// What a pick reads of one backend, close together: a pick may look at thousands.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) handle: Arc<BackendHandle>,
    pub(super) max_connections: Option<NonZeroU32>,
    warming_since: Option<Instant>,
    /// Position in [`ClusterTable::backends`].
    pub(super) backend: usize,
}

impl Tier {
    pub(super) fn len(&self) -> usize {
        self.groups.iter().map(|group| group.places.len()).sum()
    }

    /// Positions in [`ClusterTable::backends`].
    pub(super) fn backends(&self) -> impl Iterator<Item = usize> + '_ {
        let places = self.groups.iter().flat_map(|group| &group.places);
        places.map(|place| place.backend)
    }

    pub(super) fn has_untried(&self, request: &PickRequest<'_>) -> bool {
        self.groups
            .iter()
            .flat_map(|group| &group.places)
            .any(|place| !place.was_tried(request))
    }
}

impl Group {
    /// Takes a place; returns the position among the cluster's backends.
    pub(super) fn pick(
        &self,
        key: u64,
        cursor: &AtomicU64,
        random: &mut fastrand::Rng,
        request: &PickRequest<'_>,
        slow_start: Duration,
    ) -> Option<(usize, ConnectionGuard)> {
        loop {
            let pick = self.select(key, cursor, random, request, slow_start)?;
            let place = &self.places[pick.member];
            let max = place.max_connections.into_iter().chain(pick.bound).min();
            // Else lost against another worker, whose session was served: the next pick sees it.
            // To give up would say that everybody is full, and only this backend was.
            if let Some(guard) = place.handle.acquire(max) {
                return Some((place.backend, guard));
            }
        }
    }

    /// As [`Self::pick`], but takes no place.
    pub(super) fn choose(
        &self,
        key: u64,
        cursor: &AtomicU64,
        random: &mut fastrand::Rng,
        request: &PickRequest<'_>,
        slow_start: Duration,
    ) -> Option<usize> {
        let pick = self.select(key, cursor, random, request, slow_start)?;
        Some(self.places[pick.member].backend)
    }

    fn select(
        &self,
        key: u64,
        cursor: &AtomicU64,
        random: &mut fastrand::Rng,
        request: &PickRequest<'_>,
        slow_start: Duration,
    ) -> Option<Pick> {
        let mut view = GroupView {
            places: &self.places,
            request,
            slow_start,
            takes_suspects: false,
        };
        let pick = self.balancer.pick(key, cursor, random, &view);
        if pick.is_some() || !self.places.iter().any(|it| it.handle.is_suspected()) {
            return pick;
        }
        // Perhaps it lives, and there is nobody else.
        view.takes_suspects = true;
        self.balancer.pick(key, cursor, random, &view)
    }
}

impl Place {
    fn was_tried(&self, request: &PickRequest<'_>) -> bool {
        // Nearly always empty: then the handle is not touched.
        !request.tried.is_empty() && request.tried.contains(&self.handle.id)
    }
}

/// A group as one request sees it.
struct GroupView<'a> {
    places: &'a [Place],
    request: &'a PickRequest<'a>,
    slow_start: Duration,
    takes_suspects: bool,
}

impl View for GroupView<'_> {
    fn active(&self, member: usize) -> u32 {
        self.places[member].handle.active()
    }

    fn latency(&self, member: usize) -> Duration {
        self.places[member].handle.latency(self.request.now)
    }

    fn open(&self, member: usize) -> bool {
        let place = &self.places[member];
        let has_room = match place.max_connections {
            Some(max) => place.handle.active() < max.get(),
            None => true,
        };
        let is_shunned = !self.takes_suspects && place.handle.is_suspected();
        has_room && !is_shunned && !place.was_tried(self.request)
    }

    fn warmth(&self, member: usize) -> f64 {
        let Some(since) = self.places[member].warming_since else {
            return 1.0;
        };
        if self.slow_start.is_zero() {
            return 1.0;
        }
        let elapsed = self.request.now.saturating_duration_since(since);
        let warmth = elapsed.as_secs_f64() / self.slow_start.as_secs_f64();
        warmth.clamp(MIN_WARMTH, 1.0)
    }
}

/// Groups the backends that may be picked for an intent by tier, then own zone.
pub(super) fn tiers(
    config: &ClusterConfig,
    backends: &[BackendEntry],
    own_zone: Option<&Name>,
    intent: Intent,
) -> Vec<Tier> {
    let mut tiers = tiers_of(config, backends, own_zone, intent);
    if intent.role == WantedRole::Replica && intent.fallback == Fallback::Primary {
        // Last of all: the primary has its own work.
        let primary = Intent {
            role: WantedRole::Primary,
            max_lag: None,
            fallback: Fallback::Nobody,
        };
        tiers.extend(tiers_of(config, backends, own_zone, primary));
    }
    tiers
}

fn tiers_of(
    config: &ClusterConfig,
    backends: &[BackendEntry],
    own_zone: Option<&Name>,
    intent: Intent,
) -> Vec<Tier> {
    let mut configured: BTreeMap<Rank, usize> = BTreeMap::new();
    for entry in backends.iter().filter(|entry| entry.config.weight > 0) {
        *configured.entry(rank(entry, own_zone)).or_default() += 1;
    }
    let mut ranked: BTreeMap<Rank, Vec<usize>> = BTreeMap::new();
    for position in eligible(config, backends, intent) {
        let rank = rank(&backends[position], own_zone);
        ranked.entry(rank).or_default().push(position);
    }
    let mut tiers: BTreeMap<u32, Tier> = BTreeMap::new();
    for (rank, positions) in ranked {
        let configured = configured.get(&rank).copied().unwrap_or_default();
        let tier = tiers
            .entry(rank.tier)
            .or_insert(Tier { groups: Vec::new() });
        tier.groups
            .push(group(config, backends, positions, configured));
    }
    tiers.into_values().collect()
}

/// Positions of the backends that may be picked.
fn eligible(config: &ClusterConfig, backends: &[BackendEntry], intent: Intent) -> Vec<usize> {
    let all = |takes: &dyn Fn(&BackendEntry) -> bool| -> Vec<usize> {
        (0..backends.len())
            .filter(|position| takes(&backends[*position]))
            .collect()
    };
    let healthy = all(&|entry| entry.exclusion(intent).is_none());
    if !healthy.is_empty() {
        return healthy;
    }
    // They are up, and bad answers are better than none.
    let ejected = all(&|entry| matches!(entry.exclusion(intent), Some(Exclusion::Ejected(_))));
    if !ejected.is_empty() {
        return ejected;
    }
    let takes = |entry: &BackendEntry| takes_new_sessions(entry.health, entry.admin);
    let nobody = !backends.iter().any(takes);
    // Writes never fail open.
    let reads = intent.role != WantedRole::Primary;
    if reads && nobody && config.failover.panic == Panic::TryAll {
        let routable = |entry: &BackendEntry| entry.config.weight > 0 && entry.address.is_some();
        return all(&|entry| entry.admin == AdminState::Ready && routable(entry));
    }
    healthy
}

/// Where a backend belongs; the lowest is preferred.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    tier: u32,
    is_remote: bool,
}

fn rank(entry: &BackendEntry, own_zone: Option<&Name>) -> Rank {
    Rank {
        tier: entry.config.tier,
        is_remote: own_zone.is_some() && entry.config.zone.as_ref() != own_zone,
    }
}

fn group(
    config: &ClusterConfig,
    backends: &[BackendEntry],
    positions: Vec<usize>,
    configured: usize,
) -> Group {
    let members = positions.iter().map(|position| Member {
        name: Name::clone(&backends[*position].config.name),
        weight: match backends[*position].config.weight {
            0 => LONE_WEIGHT,
            weight => weight,
        },
    });
    let balancer = Balancer::new(config.balance.policy, members.collect(), configured);
    let places = positions.into_iter().map(|backend| {
        let entry = &backends[backend];
        Place {
            handle: Arc::clone(&entry.handle),
            max_connections: entry.config.max_connections,
            warming_since: entry.warming_since,
            backend,
        }
    });
    Group {
        balancer,
        places: places.collect(),
    }
}
