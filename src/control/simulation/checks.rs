//! What must be true whatever happens.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::AdminState;
use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Role;
use crate::config::Intent;
use crate::config::MaxLag;
use crate::config::OnDead;
use crate::config::Panic;
use crate::control::backend::BackendState;
use crate::control::core::Core;
use crate::control::evidence::Evidence;
use crate::control::failover::simulation::Had;
use crate::control::failover::simulation::has_yielded;
use crate::control::failover::simulation::is_below;
use crate::control::health::is_proof;
use crate::control::simulation::Tally;
use crate::control::simulation::client::is_write;
use crate::control::simulation::setup::CLUSTER;
use crate::control::simulation::setup::Setup;
use crate::control::simulation::setup::WRITES;
use crate::control::simulation::setup::node_at;
use crate::control::simulation::world::MAX_PUBLISH_DELAY;
use crate::control::simulation::world::SWEEP;
use crate::routing::BackendEntry;
use crate::routing::Fate;
use crate::routing::RoutingTable;

/// A session that is held gets its turn this soon after somebody is there for it.
const MAX_RELEASE_DELAY: Duration = Duration::from_millis(300);

/// What was seen so far, as far as it binds what may come.
#[derive(Debug, Default)]
pub struct Checks {
    /// The highest timeline that was ever delivered, and since when …
    highest: Option<(u32, Instant)>,
    /// … and what of it outlives a restart.
    durable: Option<(u32, Instant)>,
    /// What each node has said last, and as which backend.
    heard: BTreeMap<usize, (BackendId, Evidence)>,
    target: Option<Target>,
    /// Who was written to last, whether or not anybody is now.
    established: Option<BackendId>,
    had: Had,
    /// It has not been gone since.
    is_live: bool,
    /// When the last table was published.
    published: Option<Instant>,
    /// Since when there has been somebody for each intent without a pause.
    served: Vec<(Intent, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Target {
    node: usize,
    id: BackendId,
    since: Instant,
}

impl Checks {
    pub fn target(&self) -> Option<usize> {
        self.target.map(|target| target.node)
    }

    pub fn restarted(&mut self) {
        *self = Self {
            highest: self.durable,
            durable: self.durable,
            ..Self::default()
        };
    }

    /// Everything that was decided is published.
    pub fn nothing_is_pending(&mut self, core: &Core) {
        let unsaved = core.clusters().find(|it| it.roles.unsaved);
        assert!(unsaved.is_none(), "a restart forgets what was seen");
        self.durable = self.highest;
    }

    pub fn delivered(
        &mut self,
        node: usize,
        id: BackendId,
        evidence: Option<Evidence>,
        now: Instant,
    ) {
        let Some(evidence) = evidence else {
            return;
        };
        if let Evidence::Postgres(it) = &evidence
            && self.highest.is_none_or(|(known, _)| it.timeline > known)
        {
            self.highest = Some((it.timeline, now));
        }
        self.heard.insert(node, (id, evidence));
    }

    /// The core has decided something; returns whether another is written to from now on.
    pub fn decided(&mut self, core: &Core) -> bool {
        let states = core.clusters().flat_map(|it| &it.backends);
        let states: Vec<&BackendState> = states.collect();
        let mut checked = states.iter().filter(|it| it.is_checked());
        let established = checked.find(|it| Some(it.handle.id) == self.established);
        self.is_live &= established.is_some_and(|it| !has_yielded(&it.candidate()));
        let Some(primary) = states.iter().find(|it| it.role == Role::Primary) else {
            return false;
        };
        let was_live = std::mem::replace(&mut self.is_live, true);
        let before = self.established.replace(primary.handle.id);
        let had = self.had.clone();
        self.had.note(before == self.established, &primary.evidence);
        let Some(before) = before.filter(|before| *before != primary.handle.id) else {
            return false;
        };
        let mut others = states.iter();
        let before = others.find(|it| it.handle.id == before && it.is_checked());
        if let Some(before) = before.map(|it| it.candidate()) {
            let highest = self.highest.map_or(0, |(timeline, _)| timeline);
            let is_outlived = !was_live && is_below(&before, highest);
            let may_go_on = has_yielded(&before) || is_outlived || had.is_missing_in(&before);
            assert!(may_go_on, "{} still writes", before.name);
        }
        true
    }

    /// A table was published.
    pub fn table(
        &mut self,
        core: &Core,
        table: &RoutingTable,
        setup: &Setup,
        now: Instant,
    ) -> Tally {
        let mut tally = Tally::default();
        let cluster = &table.clusters[CLUSTER];
        assert!(!cluster.backends.is_empty());
        self.published = Some(now);
        for entry in &cluster.backends {
            self.check_entry(entry, &cluster.backends, setup);
        }
        let primaries = cluster
            .backends
            .iter()
            .filter(|it| it.role == Role::Primary);
        let primaries: Vec<&BackendEntry> = primaries.collect();
        assert!(primaries.len() <= 1, "two write targets");
        let mut targets = cluster
            .backends
            .iter()
            .filter(|it| it.exclusion(WRITES).is_none());
        let target = targets.next();
        assert!(targets.next().is_none(), "two write targets");
        assert_eq!(cluster.eligible_for(WRITES), usize::from(target.is_some()));
        if let Some(primary) = primaries.first() {
            self.check_timeline(primary);
        }
        let known = self.target;
        self.target = target.map(|entry| {
            let (node, id) = (node_of(entry), entry.handle.id);
            let since = known.filter(|known| known.id == id);
            let since = since.map_or(now, |known| known.since);
            Target { node, id, since }
        });
        let served = std::mem::take(&mut self.served);
        for intent in &setup.intents {
            if cluster.eligible_for(*intent) > 0 {
                let known = served.iter().find(|(known, _)| known == intent);
                let since = known.map_or(now, |(_, since)| *since);
                self.served.push((*intent, since));
            }
        }
        let has = |role| cluster.backends.iter().any(|it| it.role == role);
        tally.fences += u64::from(has(Role::Fenced));
        tally.splits += core
            .clusters()
            .map(|it| u64::from(it.roles.is_split_brain))
            .sum::<u64>();
        tally.tables += 1;
        tally
    }

    fn check_timeline(&self, primary: &BackendEntry) {
        let Some((id, Evidence::Postgres(heard))) = self.heard.get(&node_of(primary)) else {
            return;
        };
        assert_eq!(*id, primary.handle.id, "written to before it was asked");
        let highest = self.highest.map(|(timeline, _)| timeline);
        assert!(Some(heard.timeline) >= highest, "a stale timeline");
    }

    /// Every state has a reason that explains it.
    fn check_entry(&self, entry: &BackendEntry, all: &[BackendEntry], setup: &Setup) {
        let is_known = match entry.health {
            Health::Up => entry.cause == Cause::CheckPassed,
            Health::Unknown => matches!(entry.cause, Cause::Started | Cause::AdminCommand),
            Health::Down => !matches!(
                entry.cause,
                Cause::Started | Cause::CheckPassed | Cause::OutOfResources
            ),
        };
        assert!(is_known, "{entry:?}");
        let cause = entry.role_cause;
        let is_known = match entry.role {
            Role::Primary => cause == Cause::ClaimsPrimary,
            Role::Replica => matches!(cause, Cause::ClaimsReplica | Cause::LostPrimary),
            Role::Fenced => is_proof(cause) || is_fence(cause),
            Role::Unknown if entry.admin == AdminState::Maintenance => true,
            Role::Unknown => match (entry.health, cause) {
                (Health::Up, Cause::Started) => all.iter().any(|it| it.health == Health::Unknown),
                (Health::Up, cause) => cause == Cause::AwaitingYield,
                (_, cause) => cause == entry.cause || cause == Cause::Started,
            },
        };
        assert!(is_known, "{entry:?}");
        assert!(entry.role != Role::Primary || entry.health == Health::Up);
        // In panic there is no rule for whom else the sessions should go to. Who is full may live.
        let dies = entry.health == Health::Down
            && entry.cause != Cause::TooManyConnections
            && setup.on_dead == OnDead::Sever
            && setup.panic == Panic::Fail;
        let is_severed = matches!(entry.handle.fate(Intent::ANY), Fate::Sever { .. });
        assert!(is_severed || !dies, "{entry:?}");
    }

    /// A session is connected to this backend from now on.
    pub fn connected(
        &self,
        table: &RoutingTable,
        setup: &Setup,
        intent: Intent,
        (node, id): (usize, BackendId),
        picked: Instant,
    ) {
        let cluster = &table.clusters[CLUSTER];
        let Some(entry) = cluster.backends.iter().find(|it| it.handle.id == id) else {
            return;
        };
        if !is_write(intent) {
            let limit = match intent.max_lag {
                Some(MaxLag::Bytes(limit)) if entry.role == Role::Replica => limit,
                _ => return,
            };
            // Another table may have come while it was connecting.
            if self.published <= Some(picked) {
                check_lag(entry, limit);
            }
            return;
        }
        let is_fenced = entry.role == Role::Fenced && is_fence(entry.role_cause);
        assert!(
            !(is_fenced && setup.severs_writes()),
            "connected to {node}: {entry:?}"
        );
    }

    /// A backend has taken a write of a session whose fate was this.
    pub fn written(&self, node: usize, timeline: u32, fate: Fate, now: Instant) {
        // Its end is set: an operator or a policy has given it the time.
        let has_time = matches!(fate, Fate::Drain { .. } | Fate::Grace { .. });
        let is_told = matches!(fate, Fate::Sever { .. })
            && self.published.is_some_and(|at| now <= at + SWEEP);
        // Until another takes the writes: then it has to end.
        let is_removed = matches!(
            fate,
            Fate::Drain {
                cause: Cause::BackendRemoved,
                ..
            }
        );
        if has_time && !is_removed || is_told {
            return;
        }
        let bound = MAX_PUBLISH_DELAY + SWEEP;
        let is_old = |since: Instant| now > since + bound;
        if let Some((highest, since)) = self.highest
            && self
                .heard
                .values()
                .any(|(_, it)| matches!(it, Evidence::Postgres(_)))
        {
            let is_stale = timeline < highest && is_old(since);
            assert!(!is_stale, "{node} takes writes at {timeline} < {highest}");
        }
        if let Some(target) = self.target.filter(|target| target.node != node) {
            let is_stale = is_old(target.since);
            assert!(!is_stale, "{node} takes writes beside {}", target.node);
        }
    }

    /// A session was refused after it had waited for somebody.
    pub fn refused(&self, intent: Intent, now: Instant) {
        let served = self.served.iter().find(|(served, _)| *served == intent);
        if let Some((_, since)) = served {
            let for_long = now.saturating_duration_since(*since);
            let is_late = for_long > MAX_RELEASE_DELAY;
            assert!(!is_late, "refused after {for_long:?} with somebody there");
        }
    }
}

/// Whom the table offers for this limit was within it when it was asked last.
fn check_lag(entry: &BackendEntry, limit: u64) {
    let bytes = entry.handle.lag().bytes();
    let is_within = bytes.is_some_and(|bytes| bytes <= limit);
    assert!(is_within, "{bytes:?} bytes behind: {entry:?}");
}

fn is_fence(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::StaleTimeline
            | Cause::ForeignSystem
            | Cause::Diverged
            | Cause::NotLeader
            | Cause::AwaitingYield
            | Cause::SplitBrain
    )
}

fn node_of(entry: &BackendEntry) -> usize {
    node_at(entry.address.expect("all have addresses"))
}
