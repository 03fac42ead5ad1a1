//! One cluster as the control plane knows it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tracing::error;
use tracing::info;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Role;
use crate::cluster::WantedRole;
use crate::cluster::takes_new_sessions;
use crate::config::ClusterConfig;
use crate::config::Fallback;
use crate::config::Intent;
use crate::config::MaxLag;
use crate::config::Panic;
use crate::control::backend::BUSY_SHARE;
use crate::control::backend::BackendState;
use crate::control::backend::Identity;
use crate::control::backend::Moment;
use crate::control::backend::fate;
use crate::control::failover::AppointError;
use crate::control::failover::Candidate;
use crate::control::failover::Memory;
use crate::control::happening::Scene;
use crate::control::happening::Sight;
use crate::control::happening::Watch;
use crate::control::lag::Lag;
use crate::control::lag::LagClock;
use crate::control::outlier::Outliers;
use crate::control::roles::MAX_CONTRADICTION;
use crate::control::roles::Roles;
use crate::routing::BackendEntry;
use crate::routing::BackendHandle;
use crate::routing::ClusterHandle;
use crate::tls::TlsConnector;

/// Spreading of the first probes and bound on fast probing: 2,000 a second and
/// cluster cost a fraction of a core.
const PROBE_SPACING: Duration = Duration::from_micros(500);

/// One cluster and its backends, in the order of the configuration.
#[derive(Debug)]
pub struct ClusterState {
    pub config: Arc<ClusterConfig>,
    pub handle: Arc<ClusterHandle>,
    pub tls: Option<TlsConnector>,
    pub backends: Vec<BackendState>,
    /// A fact that routing reads is newer than the last table.
    pub changed: bool,
    /// Somebody was eligible when this was last looked at.
    pub served: bool,
    /// The cluster is served, and a listener has nobody all the same.
    unserved_since: Option<Instant>,
    /// What the listeners want of it.
    pub intents: Vec<Intent>,
    pub roles: Roles,
    clock: LagClock,
    pub outliers: Outliers,
    /// Its backends count what becomes of requests.
    pub is_watched: bool,
    /// What has happened to it.
    pub watch: Watch,
}

impl ClusterState {
    /// A cluster of which nothing is known yet.
    pub fn new(config: Arc<ClusterConfig>, memory: Memory) -> Self {
        let mut roles = Roles::new(memory);
        roles.awaits_authority = config.failover.authority.is_some();
        Self {
            handle: Arc::new(ClusterHandle::new(Arc::clone(&config.name))),
            config,
            tls: None,
            backends: Vec::new(),
            changed: true,
            served: true,
            unserved_since: None,
            intents: Vec::new(),
            roles,
            clock: LagClock::default(),
            outliers: Outliers::default(),
            is_watched: false,
            watch: Watch::default(),
        }
    }

    /// Its health check tells roles.
    pub fn tells_roles(&self) -> bool {
        self.config.health_check.kind.tells_roles()
    }

    /// Judges everybody's role anew. Returns who has to be probed at once for it.
    pub fn decide(&mut self, last_started: u64, now: Moment) -> Vec<BackendId> {
        if !self.tells_roles() {
            // Nearly always so already.
            for state in &mut self.backends {
                self.changed |= state.set_role(Role::Unknown, Cause::Started, now);
                state.note_replaced(None);
            }
            self.note_split_brain(false);
            return Vec::new();
        }
        if self.config.failover.authority.is_none() {
            // It may have had one before a reload.
            self.roles.hear(None);
        }
        if self.roles.awaits_authority {
            return Vec::new();
        }
        let judged = self.backends.iter().filter(|state| state.is_judged());
        let candidates: Vec<Candidate> = judged.map(BackendState::candidate).collect();
        let decision = self.roles.decide(&candidates, last_started, now.instant);
        // Also when nobody's role changes: a restart must not forget what was seen.
        self.changed |= decision.memory_changed;
        self.note_split_brain(decision.is_split_brain);

        let mut roles = decision.roles.into_iter();
        let mut ids = Vec::new();
        for state in &mut self.backends {
            let unchecked = (Role::Unknown, state.tracker.cause());
            let role = if state.is_judged() {
                ids.push(state.handle.id);
                roles.next()
            } else {
                None
            };
            let (role, cause) = role.unwrap_or(unchecked);
            self.changed |= state.set_role(role, cause, now);
            state.note_replaced(self.roles.replaced_since(&state.handle.name));
        }
        let fresh = decision.wants_fresh.into_iter();
        fresh.filter_map(|index| ids.get(index).copied()).collect()
    }

    /// An operator decides for this backend.
    ///
    /// # Errors
    /// It cannot be the primary.
    pub fn appoint(&mut self, backend: &str, now: Instant) -> Result<(), AppointError> {
        let judged = self.backends.iter().filter(|state| state.is_judged());
        let candidates: Vec<Candidate> = judged.map(BackendState::candidate).collect();
        self.roles.appoint(backend, &candidates, now)
    }

    fn note_split_brain(&mut self, is_split_brain: bool) {
        let was = std::mem::replace(&mut self.roles.is_split_brain, is_split_brain);
        self.changed |= was != is_split_brain;
        let cluster = &self.config.name;
        match (was, is_split_brain) {
            (false, true) => error!(
                %cluster,
                "split brain: several backends claim to be primary, nobody is written to"
            ),
            (true, false) => info!(%cluster, "the split brain is over"),
            _ => {}
        }
    }

    /// Notes what has happened to it.
    pub fn look_around(&mut self, now: Moment) {
        if self.changed {
            let sights: Vec<Sight> = self.backends.iter().map(BackendState::sight).collect();
            let scene = Scene {
                cluster: &self.config.name,
                backends: &sights,
                tells_roles: self.config.health_check.kind.tells_roles(),
                is_split_brain: self.roles.is_split_brain,
            };
            self.watch.look(scene, now);
        }
    }

    /// Measures how far the backend that was just heard is behind the primary.
    pub fn measure_lag(&mut self, position: usize, now: Moment) {
        let primary = self
            .backends
            .iter()
            .find(|state| state.role == Role::Primary);
        let history = primary.and_then(|state| state.evidence.history());
        let limits = self.limits();
        let state = &mut self.backends[position];
        let lag = match (state.role, state.evidence.position()) {
            // Also one that tells no positions.
            (Role::Primary, at) => {
                if let (Some(history), Some(at)) = (&history, at) {
                    self.clock.record(history, at, now.instant);
                }
                Lag {
                    time: Some(Duration::ZERO),
                    bytes: Some(0),
                }
            }
            // Positions of another history cannot be compared.
            (Role::Replica, Some(at))
                if history.is_none() || history == state.evidence.history() =>
            {
                self.clock.lag_of(at)
            }
            (Role::Replica, None) => Lag {
                time: state.evidence.told_lag(),
                bytes: None,
            },
            _ => Lag::default(),
        };
        self.changed |= state.set_lag(lag, &limits, now);
    }

    /// The backends at this moment, as the routing table shows them.
    pub fn entries(&self) -> Vec<BackendEntry> {
        self.backends.iter().map(BackendState::entry).collect()
    }

    /// What the listeners want of it from now on.
    pub fn set_intents(&mut self, intents: Vec<Intent>, now: Moment) {
        if self.intents == intents {
            return;
        }
        self.intents = intents;
        self.changed = true;
        let limits = self.limits();
        for state in &mut self.backends {
            state.set_limits(&limits, now);
        }
    }

    /// The limits of lag that its listeners have.
    fn limits(&self) -> Vec<MaxLag> {
        let limits = self.intents.iter().filter_map(|intent| intent.max_lag);
        limits.collect()
    }

    /// Somebody is eligible, and the primary is if a listener wants it.
    pub fn is_served(&self) -> bool {
        let writes = self
            .intents
            .iter()
            .any(|intent| intent.role == WantedRole::Primary);
        let serves = |role| self.backends.iter().any(|state| state.is_eligible_as(role));
        serves(WantedRole::Any) && (!writes || serves(WantedRole::Primary))
    }

    /// Each listener has somebody to take its sessions, however far behind.
    pub fn serves_every_listener(&self) -> bool {
        self.is_served() && self.intents.iter().all(|intent| self.serves(*intent))
    }

    fn serves(&self, intent: Intent) -> bool {
        let has = |role| self.backends.iter().any(|state| state.is_eligible_as(role));
        let falls_back = intent.fallback == Fallback::Primary;
        has(intent.role) || falls_back && has(WantedRole::Primary)
    }

    /// Looks for listeners without anybody; whether one of them has just lost its last.
    pub fn note_unserved(&mut self, now: Instant) -> bool {
        let is_unserved = self.is_served() && !self.serves_every_listener();
        let was = self.unserved_since.is_some();
        self.unserved_since = is_unserved.then(|| self.unserved_since.unwrap_or(now));
        is_unserved && !was
    }

    /// The pause between two probes that are not urgent. Who could serve a listener that has nobody
    /// is asked soon, and less and less often: a replica may stay away for days.
    pub fn calm_pause(&self, state: &BackendState, now: Instant) -> Duration {
        let interval = self.config.health_check.interval;
        let waiting = self.unserved_since.filter(|_| !state.is_eligible());
        let waited = waiting.map(|since| now.saturating_duration_since(since));
        waited.map_or(interval, |waited| {
            let pause = self.fast_interval().max(waited / BUSY_SHARE);
            pause.min(interval)
        })
    }

    /// Nobody is eligible, but somebody could be.
    pub fn wants_somebody(&self) -> bool {
        !self.is_served() && self.backends.iter().any(BackendState::is_candidate)
    }

    /// What the authority says now could change who is written to.
    pub fn needs_authority(&self, now: Instant) -> bool {
        let contradicts =
            |state: &BackendState| state.contradicts_authority_within(MAX_CONTRADICTION, now);
        self.roles.is_split_brain || self.wants_somebody() || self.backends.iter().any(contradicts)
    }

    /// The pause between probes while they are urgent.
    pub fn fast_interval(&self) -> Duration {
        let check = &self.config.health_check;
        let fast = check.fast_interval.max(spacing(self.backends.len()));
        fast.min(check.interval)
    }

    /// Tells the sessions of each backend what becomes of them.
    pub fn settle_fates(&mut self) {
        // As the routing table has it: a primary that is missing is no panic.
        let takes = |it: &BackendState| takes_new_sessions(it.tracker.health(), it.admin);
        let nobody = !self.backends.iter().any(takes);
        let panicking = self.config.failover.panic == Panic::TryAll && nobody;
        for state in &mut self.backends {
            state.settle_fates(panicking && state.is_candidate());
        }
    }

    /// Another one is written to, or was promoted: nobody goes on to write where a removed backend
    /// was, or at the address that a name had before.
    pub fn settle_retired(&self, retired: &HashMap<Identity, Arc<BackendHandle>>) {
        let mut states = self.backends.iter();
        let primary = states.find(|it| it.role == Role::Primary);
        let identity = primary.and_then(BackendState::identity);
        let address = identity.map(|it| it.address);
        let cluster = &self.config.name;
        let others = retired.iter().filter(|(identity, _)| {
            // The same server may only have another name now.
            identity.cluster == *cluster && Some(identity.address) != address
        });
        for (identity, handle) in others {
            let since = primary.map(|primary| primary.role_since);
            if let Some(since) = since.or(self.roles.replaced_since(&identity.backend)) {
                let on_fenced = self.config.failover.on_fenced;
                handle.set_fate_of_writes(fate(on_fenced, since, Cause::BackendFenced));
            }
        }
    }
}

/// The time over which the probes of this many backends are spread.
pub fn spacing(backends: usize) -> Duration {
    PROBE_SPACING.saturating_mul(u32::try_from(backends).unwrap_or(u32::MAX))
}
