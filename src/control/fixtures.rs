//! Small configurations for the tests of the control plane.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::num::NonZeroU32;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::cluster::Name;
use crate::config::BackendConfig;
use crate::config::BalanceConfig;
use crate::config::CheckKind;
use crate::config::ClusterConfig;
use crate::config::Config;
use crate::config::ConnectConfig;
use crate::config::FailoverConfig;
use crate::config::HashKey;
use crate::config::HealthCheckConfig;
use crate::config::Host;
use crate::config::LogConfig;
use crate::config::LogFormat;
use crate::config::LogLevel;
use crate::config::OnDead;
use crate::config::OutlierConfig;
use crate::config::Panic;
use crate::config::Policy;
use crate::config::Protocol;
use crate::config::SessionPolicy;
use crate::config::WaitLimit;
use crate::control::evidence::Evidence;
use crate::control::evidence::PostgresEvidence;
use crate::control::evidence::RedisEvidence;

pub const SECOND: Duration = Duration::from_secs(1);
pub const DRAIN: Duration = Duration::from_secs(60);

pub fn nz(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

/// `db1` is 10.0.0.1:5432 and so on; a name with a dot is a host name.
pub fn backend(name: &str) -> BackendConfig {
    let digit = name.trim_start_matches("db").parse::<u8>();
    let host = digit.map_or_else(
        |_| Host::Name(Name::from(name)),
        |digit| Host::Ip(IpAddr::from([10, 0, 0, digit])),
    );
    BackendConfig {
        name: Name::from(name),
        host,
        port: NonZeroU16::new(5432).unwrap(),
        weight: 100,
        zone: None,
        tier: 0,
        max_connections: None,
    }
}

pub fn cluster(name: &str, backends: &[&str]) -> ClusterConfig {
    let wait = WaitLimit {
        max_wait: SECOND,
        max_sessions: 10,
    };
    ClusterConfig {
        name: Name::from(name),
        protocol: Protocol::Tcp,
        backends: backends.iter().map(|name| backend(name)).collect(),
        health_check: HealthCheckConfig {
            kind: CheckKind::Tcp {
                send: Vec::new(),
                expect: None,
            },
            interval: SECOND,
            fast_interval: Duration::from_millis(50),
            timeout: Duration::from_millis(800),
            rise: nz(2),
            fall: nz(3),
            port: None,
            max_damping: SECOND * 30,
        },
        balance: BalanceConfig {
            key: HashKey::ClientIp,
            policy: Policy::RoundRobin,
        },
        failover: FailoverConfig {
            hold: wait,
            queue: wait,
            on_dead: OnDead::Sever,
            on_demoted: SessionPolicy::Grace(Duration::from_secs(5)),
            on_fenced: SessionPolicy::Sever,
            on_lagging: SessionPolicy::Keep,
            authority: None,
            hooks: Vec::new(),
            panic: Panic::Fail,
            slow_start: Duration::ZERO,
            drain_timeout: DRAIN,
        },
        connect: ConnectConfig {
            timeout: SECOND,
            attempts: nz(3),
            source: [].into(),
        },
        tls: None,
        send_proxy_protocol: false,
        http: None,
    }
}

pub fn config(clusters: Vec<ClusterConfig>) -> Config {
    Config {
        state_dir: None,
        clusters,
        listeners: Vec::new(),
        admin: None,
        log: LogConfig {
            format: LogFormat::Text,
            level: LogLevel::Info,
        },
        workers: NonZeroUsize::MIN,
        zone: None,
        drain_timeout: DRAIN,
        shutdown_delay: Duration::ZERO,
        max_connections: 100,
    }
}

/// A primary on this timeline, or a replica.
pub fn postgres(timeline: Option<u32>) -> Evidence {
    Evidence::Postgres(PostgresEvidence {
        is_in_recovery: timeline.is_none(),
        is_writable: timeline.is_some(),
        system_identifier: 7,
        timeline: timeline.unwrap_or(1),
        received_lsn: 100,
        replayed_lsn: 100,
        connections_used: 1,
        connections_allowed: 100,
    })
}

/// A primary or replica with these replication ids.
pub fn redis(id: &str, previous: Option<&str>, is_primary: bool) -> Evidence {
    Evidence::Redis(RedisEvidence {
        is_primary,
        is_linked: true,
        replication_id: id.to_owned(),
        previous_id: previous.map(str::to_owned),
        offset: 100,
        connections_used: 1,
        connections_allowed: 10_000,
    })
}

pub fn outliers() -> OutlierConfig {
    OutlierConfig {
        consecutive_5xx: 5,
        consecutive_gateway: 3,
        success_rate_factor: 1.5,
        latency_factor: 3.0,
        min_requests: 100,
        min_backends: 4,
        interval: SECOND * 10,
        base_ejection: SECOND * 30,
        max_ejection: SECOND * 300,
        max_ejected: 0.5,
    }
}
