//! One backend at one moment, and whether it may be picked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::cluster::AdminState;
use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Role;
use crate::cluster::WantedRole;
use crate::config::BackendConfig;
use crate::config::Intent;
use crate::config::MaxLag;
use crate::routing::handle::BackendHandle;

/// One backend at one moment.
#[derive(Debug, Clone)]
pub struct BackendEntry {
    pub config: BackendConfig,
    pub handle: Arc<BackendHandle>,
    /// `None` while its name is unresolved.
    pub address: Option<SocketAddr>,
    pub health: Health,
    pub admin: AdminState,
    /// Why `health` is what it is; of a backend that is down, why checks fail lately.
    pub cause: Cause,
    pub role: Role,
    /// Why `role` is what it is.
    pub role_cause: Cause,
    /// The listeners' limits that its replication lag is over.
    pub over: Vec<MaxLag>,
    /// When health or admin state changed last (monotonic, for slow start) …
    pub since: Instant,
    /// … and the same as a wall clock for people, in seconds since the epoch.
    pub since_epoch: f64,
    /// When it came back from Down; drives slow start. `None` = at full weight.
    pub warming_since: Option<Instant>,
    /// Passive health: it gets new requests only when nobody else may.
    pub ejected: Option<Ejection>,
}

/// What its own answers have brought a backend; neither health nor admin state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    pub cause: Cause,
    pub until: Instant,
}

/// Why a backend gets no new sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    /// Its weight is 0, and it is not the primary that the listener wants.
    Weightless,
    /// Its name is not resolved.
    Unresolved,
    Admin(AdminState),
    Health(Health, Cause),
    Role(Role, Cause),
    /// It is over the listener's `max_lag`.
    Lagging,
    /// Its answers are bad. The last of all reasons: where it is the only one, the backend is
    /// better than none.
    Ejected(Ejection),
}

impl BackendEntry {
    /// Why it gets no new sessions of this intent; `None` = it may be picked.
    pub fn exclusion(&self, intent: Intent) -> Option<Exclusion> {
        // There is nobody to share writes with: without it there would be no writes at all.
        let is_wanted = intent.role == WantedRole::Primary && self.role == Role::Primary;
        if self.config.weight == 0 && !is_wanted {
            return Some(Exclusion::Weightless);
        }
        if self.address.is_none() {
            return Some(Exclusion::Unresolved);
        }
        if self.admin != AdminState::Ready {
            return Some(Exclusion::Admin(self.admin));
        }
        if self.health != Health::Up {
            return Some(Exclusion::Health(self.health, self.cause));
        }
        let fits = match intent.role {
            // What a fenced backend has is not what the cluster has.
            WantedRole::Any => self.role != Role::Fenced,
            WantedRole::Primary => self.role == Role::Primary,
            WantedRole::Replica => self.role == Role::Replica,
        };
        if !fits {
            return Some(Exclusion::Role(self.role, self.role_cause));
        }
        let lags = intent.max_lag.is_some_and(|max| self.over.contains(&max));
        if lags {
            return Some(Exclusion::Lagging);
        }
        self.ejected.map(Exclusion::Ejected)
    }
}
