//! One backend as the control plane knows it.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use tracing::info;

use crate::cluster::AdminState;
use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Name;
use crate::cluster::takes_new_sessions;
use crate::config::BackendConfig;
use crate::config::Host;
use crate::config::OnDead;
use crate::control::health::Rules;
use crate::control::health::Tracker;
use crate::control::health::Transition;
use crate::control::probe::Target;
use crate::routing::BackendEntry;
use crate::routing::BackendHandle;
use crate::routing::Fate;

/// One moment on both clocks. Decisions use `instant` only.
#[derive(Debug, Clone, Copy)]
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
    warming_since: Option<Instant>,
    since: Moment,
    /// What the handle was told last.
    fate: Option<Fate>,
    log_budget: LogBudget,
}

/// Changes of one backend's health that are logged per minute. Who sees twenty
/// knows that it flaps.
const MAX_CHANGES_LOGGED: u32 = 20;
const LOG_WINDOW: Duration = Duration::from_secs(60);

/// Keeps a flapping backend from flooding the log.
#[derive(Debug, Default)]
struct LogBudget {
    window_start: Option<Instant>,
    logged: u32,
    suppressed: u32,
}

impl LogBudget {
    /// How many lines were left out before this one; `None`: leave it out, too.
    fn admit(&mut self, now: Instant) -> Option<u32> {
        let within = |start| now.saturating_duration_since(start) < LOG_WINDOW;
        if !self.window_start.is_some_and(within) {
            self.window_start = Some(now);
            self.logged = 0;
        }
        if self.logged == MAX_CHANGES_LOGGED {
            self.suppressed += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl BackendState {
    pub fn new(target: Arc<Target>, handle: Arc<BackendHandle>, now: Moment) -> Self {
        let rules = Rules::from(&target.cluster.health_check);
        let address = match target.backend.host {
            Host::Ip(address) => Some(address),
            Host::Name(_) => None,
        };
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
            since: now,
            fate: None,
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
        takes_new_sessions(self.tracker.health(), self.admin) && self.target.backend.weight > 0
    }

    /// Would take new sessions if it were healthy.
    pub fn is_candidate(&self) -> bool {
        self.admin == AdminState::Ready && self.target.backend.weight > 0
    }

    /// Probes are sent: the address is known and the operator does not want it left alone.
    pub fn is_checked(&self) -> bool {
        self.address.is_some() && self.admin != AdminState::Maintenance
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

    /// Tells the sessions what becomes of them. `panicking`: nobody in the
    /// cluster is healthy and sessions are routed all the same.
    pub fn settle_fate(&mut self, panicking: bool) {
        let severs = self.target.cluster.failover.on_dead == OnDead::Sever;
        let fate = if self.tracker.health() == Health::Down && severs && !panicking {
            Fate::Sever {
                cause: Cause::BackendDead,
            }
        } else if let Some(deadline) = self.drain_deadline {
            Fate::Drain {
                deadline,
                cause: Cause::BackendDrained,
            }
        } else {
            Fate::Serve
        };
        self.tell(fate);
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
            self.fate = None;
        }
        self.address = Some(address);
        self.flight = None;
        self.last_started = None;
        self.reported = None;
        if let Some(transition) = self.tracker.reset(Cause::Started, now.instant) {
            self.changed(transition, now);
        }
    }

    /// There is nobody at its address any more: its sessions may go on for a while.
    pub fn leave(&mut self, now: Moment) {
        if !matches!(self.fate, Some(Fate::Sever { .. })) {
            let promised = now.instant + self.target.cluster.failover.drain_timeout;
            let deadline = self.drain_deadline.unwrap_or(promised);
            self.tell(Fate::Drain {
                deadline,
                cause: Cause::BackendRemoved,
            });
        }
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
            since: self.since.instant,
            since_epoch: self.since.epoch_seconds,
            warming_since: self.warming_since,
        }
    }

    fn log(&mut self, transition: Transition, now: Instant) {
        let Some(suppressed) = self.log_budget.admit(now) else {
            return;
        };
        info!(
            cluster = %self.handle.cluster,
            backend = %self.handle.name,
            from = transition.from.as_str(),
            to = transition.to.as_str(),
            cause = %transition.cause,
            after_seconds = transition.after.as_secs_f64(),
            suppressed,
            "health changed"
        );
    }

    fn tell(&mut self, fate: Fate) {
        if self.fate != Some(fate) {
            self.handle.set_fate(fate);
            self.fate = Some(fate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flapping_backend_does_not_flood_the_log() {
        let start = Instant::now();
        let mut budget = LogBudget::default();
        let admitted = (0..100).filter(|_| budget.admit(start).is_some()).count();
        assert_eq!(admitted, 20);
        assert_eq!(budget.admit(start + LOG_WINDOW), Some(80));
    }
}
