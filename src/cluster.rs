//! The nouns everything else is built from: names, states and causes.
//!
//! Pure: nothing here sees a socket, a clock or a random source. The spelling
//! of a word in `as_str` is the one used in logs, metric labels and the API.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use foldhash::fast::FixedState;

/// A cluster's, backend's or listener's name as written in the configuration.
pub type Name = Arc<str>;

/// A map that is looked into for every session or request. Its keys are names and numbers of the
/// configuration, which no client can choose: nobody can make them collide.
pub type FastMap<K, V> = HashMap<K, V, FixedState>;

/// Identifies one backend for the life of this process.
///
/// Never reused: a backend that is removed and later added again with the same
/// cluster, name and address keeps its id only while sessions still hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub u64);

/// The first digit of an HTTP status (RFC 9110, 15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatusClass {
    /// The client got no answer.
    None,
    Informational,
    Successful,
    Redirection,
    ClientError,
    ServerError,
}

impl StatusClass {
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Informational,
        Self::Successful,
        Self::Redirection,
        Self::ClientError,
        Self::ServerError,
    ];

    /// Statuses over 599 count as errors of the server, as RFC 9110 wants it.
    pub fn of(status: Option<u16>) -> Self {
        match status {
            None => Self::None,
            Some(..200) => Self::Informational,
            Some(200..300) => Self::Successful,
            Some(300..400) => Self::Redirection,
            Some(400..500) => Self::ClientError,
            Some(500..) => Self::ServerError,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Informational => "1xx",
            Self::Successful => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}

/// What the health checks say about a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// No verdict yet. Never routed to.
    Unknown,
    Up,
    Down,
}

impl Health {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What a backend is to its cluster: discovered, never typed by the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Nobody knows: not asked yet, not healthy, or its protocol has no roles.
    Unknown,
    /// The one backend that may be written to.
    Primary,
    Replica,
    /// It claims to be primary but may not be written to.
    Fenced,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Primary, Self::Replica, Self::Fenced];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Fenced => "fenced",
        }
    }
}

/// Which role a listener's sessions need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WantedRole {
    Any,
    Primary,
    Replica,
}

impl WantedRole {
    pub const ALL: [Self; 3] = [Self::Any, Self::Primary, Self::Replica];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// What the operator wants of a backend, independent of its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdminState {
    /// Takes new sessions.
    Ready,
    /// Takes no new sessions; the old ones may finish until the drain deadline.
    Drain,
    /// As `Drain`, and its health checks are not acted on.
    Maintenance,
}

impl AdminState {
    pub const ALL: [Self; 3] = [Self::Ready, Self::Drain, Self::Maintenance];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

/// Whether new sessions may be routed to a backend: the one place where health
/// and admin state are combined.
pub fn takes_new_sessions(health: Health, admin: AdminState) -> bool {
    health == Health::Up && admin == AdminState::Ready
}

/// Which party ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Client,
    Backend,
    Proxy,
}

impl Side {
    pub const ALL: [Self; 3] = [Self::Client, Self::Backend, Self::Proxy];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Proxy => "proxy",
        }
    }
}

/// How far a session had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Accepted; limits and access lists are being checked.
    Accept,
    /// Reading the PROXY header, the ClientHello or doing the TLS handshake.
    Handshake,
    /// Waiting for an eligible backend (`failover.hold`).
    Hold,
    /// Waiting for a place on a full backend (`failover.queue`).
    Queue,
    /// Connecting to a backend, including its TLS handshake.
    Connect,
    /// Bytes flow.
    Relay,
}

impl Phase {
    pub const ALL: [Self; 6] = [
        Self::Accept,
        Self::Handshake,
        Self::Hold,
        Self::Queue,
        Self::Connect,
        Self::Relay,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Handshake => "handshake",
            Self::Hold => "hold",
            Self::Queue => "queue",
            Self::Connect => "connect",
            Self::Relay => "relay",
        }
    }
}

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident => $text:literal,)+) => {
        /// Why something changed or ended. One closed list for health changes,
        /// admin changes, rejected connections and session ends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $variant,)+ }

        impl Cause {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

causes! {
    /// The process has just started or the backend is new.
    Started => "started",
    /// A health check passed.
    CheckPassed => "check_passed",
    /// The backend refused the connection.
    ConnectRefused => "connect_refused",
    /// The connection was not established in time.
    ConnectTimeout => "connect_timeout",
    /// No route, network or host unreachable.
    Unreachable => "unreachable",
    /// The backend's name could not be resolved.
    Unresolved => "unresolved",
    /// We are out of ports, descriptors or memory: says nothing about the backend.
    OutOfResources => "out_of_resources",
    /// The peer reset the connection.
    Reset => "reset",
    /// A health check was connected but had no answer in time.
    CheckTimeout => "check_timeout",
    /// The TLS handshake failed or the certificate was not accepted.
    TlsFailed => "tls_failed",
    /// The answer to a health check was not the expected one.
    UnexpectedAnswer => "unexpected_answer",
    /// The backend closed before its first byte.
    EarlyClose => "early_close",
    /// The health check's command failed.
    CommandFailed => "command_failed",
    /// It is not ready yet: starting up or loading (SQLSTATE 57P03, LOADING).
    StartingUp => "starting_up",
    /// It is shutting down (SQLSTATE 57P01, 57P02; MySQL 1053).
    ShuttingDown => "shutting_down",
    /// A process of it says that the server has died (SQLSTATE 57P01 without a command).
    Crashed => "crashed",
    /// It refuses the health check's user or password.
    LoginFailed => "login_failed",
    /// It has no connection left for a health check (SQLSTATE 53300, MySQL 1040).
    TooManyConnections => "too_many_connections",
    /// It refuses writes (SQLSTATE 25006, MySQL 1290 and 1836, READONLY).
    ReadOnly => "read_only",
    /// A replica that has lost its primary and says so (MASTERDOWN).
    LostPrimary => "lost_primary",
    /// Its timeline is lower than the highest ever seen in the cluster.
    StaleTimeline => "stale_timeline",
    /// It holds another database than the rest of the cluster.
    ForeignSystem => "foreign_system",
    /// Its history lacks writes that the cluster's primary had, or has others.
    Diverged => "diverged",
    /// The authority (Patroni, Sentinel) names another primary.
    NotLeader => "not_leader",
    /// The primary before it has not been seen to step down yet.
    AwaitingYield => "awaiting_yield",
    /// Several backends claim to be primary and nothing decides between them.
    SplitBrain => "split_brain",
    /// It says that it is primary, and nothing speaks against it.
    ClaimsPrimary => "claims_primary",
    /// It says that it follows a primary.
    ClaimsReplica => "claims_replica",
    /// Its replication lag is over the listener's `max_lag`.
    Lagging => "lagging",
    /// It answered too many requests in a row with 5xx or not at all.
    ServerErrors => "server_errors",
    /// Too many requests in a row had 502, 503, 504 or no answer from it.
    GatewayErrors => "gateway_errors",
    /// It fails more of its requests than the other backends do of theirs.
    SuccessRate => "success_rate",
    /// It takes much longer to answer than the other backends.
    SlowAnswers => "slow_answers",
    /// It answered 503 and said when to come again (Retry-After).
    RetryAfter => "retry_after",
    /// The time of its ejection is over.
    EjectionOver => "ejection_over",
    /// An operator asked for it.
    AdminCommand => "admin_command",
    /// A reload of the configuration changed it.
    Reload => "reload",
    /// The peer closed in the orderly way.
    Closed => "closed",
    /// No byte in either direction for `idle_timeout`.
    IdleTimeout => "idle_timeout",
    /// The peer stopped reading for too long (TCP user timeout).
    SendTimeout => "send_timeout",
    /// The PROXY header, ClientHello or TLS handshake took too long.
    HandshakeTimeout => "handshake_timeout",
    /// The PROXY header was missing or malformed.
    BadProxyHeader => "bad_proxy_header",
    /// The bytes are not the protocol that the listener speaks.
    BadProtocol => "bad_protocol",
    /// The connection only brought a CancelRequest, which its session's backend has taken.
    CancelForwarded => "cancel_forwarded",
    /// A CancelRequest that did not get to its session's backend, or that it did not take in time.
    CancelFailed => "cancel_failed",
    /// A CancelRequest whose key no session has, or from an address that has guessed too often.
    CancelUnknown => "cancel_unknown",
    /// A request that breaks the rules of HTTP.
    BadRequest => "bad_request",
    /// A request's body is longer than `max_body`.
    BodyTooLarge => "body_too_large",
    /// A body stood still for `body_timeout`.
    BodyTimeout => "body_timeout",
    /// The connection is older than the listener's `http.max_age`.
    MaxAge => "max_age",
    /// The answer did not begin within the route's `timeout`.
    AnswerTimeout => "answer_timeout",
    /// The client is over its route's `rate_limit`.
    RateLimited => "rate_limited",
    /// HTTP/2 frames that cost more than they ask for.
    Flood => "flood",
    /// The access list denies this client.
    Denied => "denied",
    /// No route matches the requested server name.
    NoRoute => "no_route",
    /// The listener's `max_connections` is reached.
    ListenerFull => "listener_full",
    /// The process's `max_connections` is reached.
    ProcessFull => "process_full",
    /// No eligible backend within `hold.for`.
    HoldTimeout => "hold_timeout",
    /// `hold.max_sessions` are waiting already.
    HoldFull => "hold_full",
    /// All eligible backends stayed full for `queue.for`.
    QueueTimeout => "queue_timeout",
    /// `queue.max_sessions` are waiting already.
    QueueFull => "queue_full",
    /// The session's backend is dead (`on_dead: sever`).
    BackendDead => "backend_dead",
    /// The session's backend is no longer primary, and the session needs one.
    BackendDemoted => "backend_demoted",
    /// The session's backend may not be written to any more.
    BackendFenced => "backend_fenced",
    /// The session's backend is too far behind (`on_lagging`).
    BackendLagging => "backend_lagging",
    /// The drain deadline of the session's backend has passed.
    BackendDrained => "backend_drained",
    /// The session's backend was removed and its drain deadline has passed.
    BackendRemoved => "backend_removed",
    /// The listener was removed and its drain deadline has passed.
    ListenerRemoved => "listener_removed",
    /// The process is ending.
    Shutdown => "shutdown",
    /// An input or output error that has no name of its own.
    IoError => "io_error",
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// How one session ended: who, in which phase, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionEnd {
    pub side: Side,
    pub phase: Phase,
    pub cause: Cause,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn only_a_healthy_ready_backend_takes_new_sessions() {
        for health in [Health::Unknown, Health::Up, Health::Down] {
            for admin in AdminState::ALL {
                let expected = health == Health::Up && admin == AdminState::Ready;
                assert_eq!(takes_new_sessions(health, admin), expected);
            }
        }
    }

    #[test]
    fn every_cause_has_its_own_spelling() {
        let spellings: HashSet<_> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(spellings.len(), Cause::ALL.len());
        assert!(!spellings.is_empty());
    }
}
