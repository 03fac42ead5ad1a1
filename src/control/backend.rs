//! One backend as the control plane knows it.

mod evidence;
mod fates;
mod log;

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use crate::cluster::AdminState;
use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Name;
use crate::cluster::Role;
use crate::cluster::WantedRole;
use crate::cluster::takes_new_sessions;
use crate::config::BackendConfig;
use crate::config::Host;
use crate::config::MaxLag;
use crate::control::backend::log::LogBudget;
use crate::control::evidence::Evidence;
use crate::control::failover::Candidate;
use crate::control::happening::Sight;
use crate::control::health::Rules;
use crate::control::health::Tracker;
use crate::control::health::Transition;
use crate::control::lag::Lag;
use crate::control::lag::LagGate;
use crate::control::probe::Target;
use crate::routing::BackendEntry;
use crate::routing::BackendHandle;
use crate::routing::Ejection;
use crate::routing::Fates;

pub use evidence::BUSY_SHARE;
pub use fates::fate;

/// One moment on both clocks. Decisions use `instant` only.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    pub instant: Instant,
    pub epoch_seconds: f64,
}

impl Moment {
    pub fn now() -> Self {
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            instant: Instant::now(),
            // Before 1970 only if the clock is unset; it is for people to read.
            epoch_seconds: epoch.map_or(0.0, |elapsed| elapsed.as_secs_f64()),
        }
    }

    /// An earlier instant on both clocks.
    pub fn back_at(self, instant: Instant) -> Self {
        let ago = self.instant.saturating_duration_since(instant);
        Self {
            instant: instant.min(self.instant),
            epoch_seconds: self.epoch_seconds - ago.as_secs_f64(),
        }
    }
}

/// What makes two backends the same one for the sessions that it has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    pub cluster: Name,
    pub backend: Name,
    pub address: SocketAddr,
}

/// A probe that is under way.
#[derive(Debug, Clone, Copy)]
pub struct Flight {
    pub number: u64,
    pub started: Instant,
}

/// Everything known of one configured backend.
#[derive(Debug)]
pub struct BackendState {
    pub target: Arc<Target>,
    pub handle: Arc<BackendHandle>,
    pub tracker: Tracker,
    pub admin: AdminState,
    pub address: Option<IpAddr>,
    pub flight: Option<Flight>,
    pub last_started: Option<Instant>,
    /// A session's report that came while a probe was under way: its answer may be older.
    pub reported: Option<Cause>,
    /// Until when sessions may go on; set while it is not ready.
    drain_deadline: Option<Instant>,
    pub warming_since: Option<Instant>,
    /// Its answers are bad.
    pub ejected: Option<Ejection>,
    since: Moment,
    /// What it said of itself last.
    pub evidence: Evidence,
    /// The number of the probe that heard it.
    pub observed: u64,
    /// Why a probe after that one failed.
    pub failed: Option<Cause>,
    /// The number of that probe, if it was told that there is no connection left.
    full: Option<u64>,
    /// Since when it has answered every probe with that, or that it starts or stops.
    busy_since: Option<Instant>,
    /// As configured.
    host: String,
    /// Traffic has proved since that it refuses writes.
    pub quarantined: Option<Cause>,
    /// The number of the probe that was under way then.
    quarantined_during: Option<u64>,
    /// When a probe found that traffic had proved nothing.
    refuted: Option<Instant>,
    /// When a probe found that it had been suspected wrongly.
    cleared: Option<Instant>,
    pub role: Role,
    pub role_cause: Cause,
    pub role_since: Instant,
    /// Since when it is known that another was promoted after it.
    replaced_since: Option<Instant>,
    /// One for each limit of the listeners, and since when it is as it is.
    gates: Vec<(LagGate, Instant)>,
    /// Its lag; unknown before the first measurement.
    measured: Lag,
    /// What the handle was told last.
    fates: Option<Fates>,
    pub log_budget: LogBudget,
}

impl BackendState {
    pub fn new(target: Arc<Target>, handle: Arc<BackendHandle>, now: Moment) -> Self {
        let rules = Rules::from(&target.cluster.health_check);
        let address = match target.backend.host {
            Host::Ip(address) => Some(address),
            Host::Name(_) => None,
        };
        let host = target.backend.host.to_string();
        Self {
            target,
            handle,
            tracker: Tracker::new(rules, now.instant),
            admin: AdminState::Ready,
            address,
            flight: None,
            last_started: None,
            reported: None,
            drain_deadline: None,
            warming_since: None,
            ejected: None,
            since: now,
            evidence: Evidence::Silent,
            observed: 0,
            failed: None,
            full: None,
            busy_since: None,
            host,
            quarantined: None,
            quarantined_during: None,
            refuted: None,
            cleared: None,
            role: Role::Unknown,
            role_cause: Cause::Started,
            role_since: now.instant,
            replaced_since: None,
            gates: Vec::new(),
            measured: Lag::default(),
            fates: None,
            log_budget: LogBudget::default(),
        }
    }

    /// This configuration leaves it where it is.
    pub fn is_at_home(&self, config: &BackendConfig) -> bool {
        let now = &self.target.backend;
        (&now.host, now.port) == (&config.host, config.port)
    }

    /// Who it is for its sessions; `None` while its name is unresolved.
    pub fn identity(&self) -> Option<Identity> {
        Some(Identity {
            cluster: Arc::clone(&self.handle.cluster),
            backend: Arc::clone(&self.handle.name),
            address: self.socket_address()?,
        })
    }

    fn socket_address(&self) -> Option<SocketAddr> {
        let port = self.target.backend.port.get();
        self.address.map(|address| SocketAddr::new(address, port))
    }

    /// Takes new sessions now.
    pub fn is_eligible(&self) -> bool {
        // A primary is written to whatever its weight: there is nobody to share that with.
        let has_share = self.target.backend.weight > 0 || self.role == Role::Primary;
        takes_new_sessions(self.tracker.health(), self.admin) && has_share
    }

    /// Takes new sessions that want this role now.
    pub fn is_eligible_as(&self, wanted: WantedRole) -> bool {
        let fits = match wanted {
            WantedRole::Any => true,
            WantedRole::Primary => self.role == Role::Primary,
            WantedRole::Replica => self.role == Role::Replica,
        };
        fits && self.is_eligible()
    }

    /// What a decision about roles has to know of it.
    pub fn candidate(&self) -> Candidate<'_> {
        Candidate {
            name: &self.handle.name,
            // Up as another kind of check had it: of roles nobody has asked it yet.
            health: match (self.tracker.health(), self.observed) {
                (Health::Up, 0) => Health::Unknown,
                (health, _) => health,
            },
            health_cause: self.tracker.cause(),
            evidence: &self.evidence,
            observed: self.observed,
            failed: self.failed,
            full: self.full,
            quarantine: self.quarantined,
            host: &self.host,
            address: self.address,
            port: self.target.backend.port.get(),
        }
    }

    /// What the flight recorder has to know of it.
    pub fn sight(&self) -> Sight<'_> {
        Sight {
            name: &self.handle.name,
            health: self.tracker.health(),
            health_cause: self.tracker.cause(),
            admin: self.admin,
            role: self.role,
            role_cause: self.role_cause,
            timeline: self.evidence.timeline(),
            is_eligible: self.is_eligible(),
            ejected: self.ejected.map(|ejection| ejection.cause),
        }
    }

    /// Would take new sessions if it were healthy.
    pub fn is_candidate(&self) -> bool {
        self.admin == AdminState::Ready && self.target.backend.weight > 0
    }

    /// Probes are sent: the address is known and the operator does not want it left alone.
    pub fn is_checked(&self) -> bool {
        self.address.is_some() && self.admin != AdminState::Maintenance
    }

    /// It counts when roles are decided. Also while its name is looked up for the first time:
    /// it may be the better primary.
    pub fn is_judged(&self) -> bool {
        self.admin != AdminState::Maintenance
    }

    /// Notes a change of health and logs it.
    pub fn changed(&mut self, transition: Transition, now: Moment) {
        self.log(transition, now.instant);
        self.since = now;
        // Only a return from Down starts slowly: after our own start every
        // backend is new, and nobody could take the load in the meantime.
        let returned = (transition.from, transition.to) == (Health::Down, Health::Up);
        self.warming_since = returned.then_some(now.instant);
    }

    /// Sets the admin state; returns what it was.
    pub fn set_admin(&mut self, admin: AdminState, now: Moment) -> AdminState {
        let was = std::mem::replace(&mut self.admin, admin);
        if was == admin {
            return was;
        }
        self.since = now;
        self.drain_deadline = match admin {
            AdminState::Ready => None,
            // From one to the other the clock goes on: sessions were promised the first deadline.
            AdminState::Drain | AdminState::Maintenance => self
                .drain_deadline
                .or_else(|| Some(now.instant + self.target.cluster.failover.drain_timeout)),
        };
        was
    }

    /// Notes its role; whether that is another one or for another reason.
    pub fn set_role(&mut self, role: Role, cause: Cause, now: Moment) -> bool {
        if (self.role, self.role_cause) == (role, cause) {
            return false;
        }
        if self.role != role {
            self.role_since = now.instant;
            self.log_role(role, cause, now.instant);
        }
        self.role = role;
        self.role_cause = cause;
        true
    }

    /// Notes whether another was promoted after it, and since when that is known.
    pub fn note_replaced(&mut self, since: Option<Instant>) {
        self.replaced_since = since.map(|since| self.replaced_since.unwrap_or(since));
    }

    /// It has claimed to be primary against the authority for less than this.
    pub fn contradicts_authority_within(&self, time: Duration, now: Instant) -> bool {
        let contradicts = (self.role, self.role_cause) == (Role::Fenced, Cause::NotLeader);
        contradicts && now.saturating_duration_since(self.role_since) < time
    }

    /// Notes its lag; whether it is over other limits than before.
    pub fn set_lag(&mut self, lag: Lag, limits: &[MaxLag], now: Moment) -> bool {
        self.handle.lag().set(lag.time, lag.bytes);
        self.measured = lag;
        self.set_limits(limits, now)
    }

    /// Judges its lag as measured last; whether it is over other limits than before.
    pub fn set_limits(&mut self, limits: &[MaxLag], now: Moment) -> bool {
        let lag = self.measured;
        let before = self.gates.len();
        self.gates
            .retain(|(gate, _)| limits.contains(&gate.limit()));
        for limit in limits {
            if !self.gates.iter().any(|(gate, _)| gate.limit() == *limit) {
                self.gates.push((LagGate::new(*limit), now.instant));
            }
        }
        let mut changed = before != self.gates.len();
        for (gate, since) in &mut self.gates {
            let was = gate.is_over();
            if gate.observe(lag) != was {
                *since = now.instant;
                changed = true;
            }
        }
        changed
    }

    /// The limits of lag that it is over, and since when.
    fn over(&self) -> impl Iterator<Item = (MaxLag, Instant)> + '_ {
        let over = self.gates.iter().filter(|(gate, _)| gate.is_over());
        over.map(|(gate, since)| (gate.limit(), *since))
    }

    /// Takes over what the operator wants of it from when it had another address.
    pub fn inherit_admin(&mut self, predecessor: &Self) {
        self.admin = predecessor.admin;
        self.drain_deadline = predecessor.drain_deadline;
    }

    /// Its name points to another server now: nobody has spoken to that one yet.
    /// The sessions of the handle before may go on for a while.
    pub fn relocate(&mut self, address: IpAddr, handle: Arc<BackendHandle>, now: Moment) {
        if self.handle.id != handle.id {
            self.leave(now);
            self.handle = handle;
            self.fates = None;
            self.ejected = None;
        }
        self.address = Some(address);
        self.flight = None;
        self.last_started = None;
        self.reported = None;
        self.busy_since = None;
        self.evidence = Evidence::Silent;
        self.quarantined = None;
        if let Some(transition) = self.tracker.reset(Cause::Started, now.instant) {
            self.changed(transition, now);
        }
        self.note_suspicion(now.instant);
    }

    /// The backend at this moment, as the routing table shows it.
    pub fn entry(&self) -> BackendEntry {
        BackendEntry {
            config: self.target.backend.clone(),
            handle: Arc::clone(&self.handle),
            address: self.socket_address(),
            health: self.tracker.health(),
            admin: self.admin,
            cause: self.tracker.cause(),
            role: self.role,
            role_cause: self.role_cause,
            over: self.over().map(|(max, _)| max).collect(),
            since: self.since.instant,
            since_epoch: self.since.epoch_seconds,
            warming_since: self.warming_since,
            ejected: self.ejected,
        }
    }
}
