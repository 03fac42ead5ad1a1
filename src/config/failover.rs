//! What happens when backends fail, and who is told.

use std::num::NonZeroU16;
use std::time::Duration;

use crate::config::Host;
use crate::config::Secret;

#[derive(Debug, Clone, PartialEq)]
pub struct FailoverConfig {
    pub hold: WaitLimit,
    pub queue: WaitLimit,
    pub on_dead: OnDead,
    /// Sessions that need the primary, when their backend is no longer it.
    pub on_demoted: SessionPolicy,
    /// Sessions that need the primary, when their backend may not be written to.
    pub on_fenced: SessionPolicy,
    /// Sessions with `max_lag`, when their backend is over it.
    pub on_lagging: SessionPolicy,
    pub authority: Option<AuthorityConfig>,
    pub hooks: Vec<HookConfig>,
    pub panic: Panic,
    /// A returning backend gets its weight back over this time.
    pub slow_start: Duration,
    /// Overrides the process's `drain_timeout`.
    pub drain_timeout: Duration,
}

/// Bounded waiting: how long, and how many at once. `max_wait` zero = refuse at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitLimit {
    pub max_wait: Duration,
    pub max_sessions: usize,
}

/// What happens to live sessions of a backend that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDead {
    Sever,
    Keep,
}

/// What happens to live sessions whose backend may no longer serve them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPolicy {
    Keep,
    /// Now.
    Sever,
    /// When the current transaction ends, at most this much later.
    Grace(Duration),
}

/// Who knows better than the backends which of them is primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorityConfig {
    /// Every backend's Patroni, at this port of its host.
    Patroni { port: NonZeroU16, tls: bool },
    Sentinel {
        /// Asked all; a majority of them decides. Never empty.
        sentinels: Vec<(Host, NonZeroU16)>,
        /// The name that the Sentinels know the primary by.
        service: String,
        user: Option<String>,
        password: Option<Secret>,
    },
}

/// What is told to somebody else, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookConfig {
    /// Never empty.
    pub events: Vec<HookEvent>,
    pub action: HookAction,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookAction {
    /// First element is the program; the event is JSON on its stdin.
    Command(Vec<String>),
    /// The event is the JSON body of a POST.
    Post(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookEvent {
    PrimaryLost,
    PrimaryChanged,
    SplitBrain,
    BackendDown,
    BackendUp,
}

impl HookEvent {
    pub const ALL: [Self; 5] = [
        Self::PrimaryLost,
        Self::PrimaryChanged,
        Self::SplitBrain,
        Self::BackendDown,
        Self::BackendUp,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PrimaryLost => "primary_lost",
            Self::PrimaryChanged => "primary_changed",
            Self::SplitBrain => "split_brain",
            Self::BackendDown => "backend_down",
            Self::BackendUp => "backend_up",
        }
    }
}

/// What happens when every backend of a cluster is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panic {
    /// Hold, then refuse.
    Fail,
    /// Route as if all were up.
    TryAll,
}
