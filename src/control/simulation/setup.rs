//! What a simulated world is configured to be.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Name;
use crate::cluster::WantedRole;
use crate::config::BackendConfig;
use crate::config::CheckKind;
use crate::config::ClusterConfig;
use crate::config::Config;
use crate::config::DatabaseCheck;
use crate::config::Fallback;
use crate::config::Host;
use crate::config::Intent;
use crate::config::KeepaliveConfig;
use crate::config::ListenerConfig;
use crate::config::MaxLag;
use crate::config::OnDead;
use crate::config::Panic;
use crate::config::SessionPolicy;
use crate::config::WaitLimit;
use crate::control::Desired;
use crate::control::failover::simulation::truth::Family;
use crate::control::fixtures::backend;
use crate::control::fixtures::cluster;
use crate::control::fixtures::config;
use crate::control::fixtures::nz;
use crate::tls::TlsMaterial;

pub const CLUSTER: &str = "a";

pub const WRITES: Intent = Intent {
    role: WantedRole::Primary,
    max_lag: None,
    fallback: Fallback::Nobody,
};

/// Of reads that may be this many bytes behind.
pub const MAX_LAG_BYTES: u64 = 25;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One seed's configuration, as far as it stays the same.
#[derive(Debug)]
pub struct Setup {
    pub family: Family,
    pub interval: Duration,
    pub fast_interval: Duration,
    pub timeout: Duration,
    pub hold: WaitLimit,
    pub queue: WaitLimit,
    pub max_connections: Option<u32>,
    pub on_fenced: SessionPolicy,
    pub on_demoted: SessionPolicy,
    pub on_lagging: SessionPolicy,
    pub on_dead: OnDead,
    pub panic: Panic,
    /// One listener each.
    pub intents: Vec<Intent>,
}

impl Setup {
    pub fn random(random: &mut fastrand::Rng) -> Self {
        let reads = |max_lag, fallback| Intent {
            role: WantedRole::Replica,
            max_lag,
            fallback,
        };
        let family = Family::ALL[random.usize(..3)];
        // MySQL tells no positions.
        let max_lag = match random.bool() && family != Family::MySql {
            true => MaxLag::Bytes(MAX_LAG_BYTES),
            false => MaxLag::Time(ms(300)),
        };
        let mut intents = vec![WRITES, reads(Some(max_lag), Fallback::Nobody)];
        if random.bool() {
            intents.push(reads(None, Fallback::Primary));
        }
        if random.bool() {
            intents.push(Intent::ANY);
        }
        let unusual = random.u8(..6);
        Self {
            family,
            interval: ms(400),
            fast_interval: ms(80),
            timeout: ms(250),
            hold: WaitLimit {
                max_wait: ms(1200),
                max_sessions: random.usize(1..6),
            },
            queue: WaitLimit {
                max_wait: ms(500),
                max_sessions: 3,
            },
            max_connections: random.bool().then(|| random.u32(1..4)),
            on_fenced: match unusual {
                0 => SessionPolicy::Keep,
                1 => SessionPolicy::Grace(ms(300)),
                _ => SessionPolicy::Sever,
            },
            on_demoted: match random.u8(..4) {
                0 => SessionPolicy::Sever,
                1 => SessionPolicy::Keep,
                _ => SessionPolicy::Grace(ms(500)),
            },
            on_lagging: match random.u8(..4) {
                0 => SessionPolicy::Sever,
                1 => SessionPolicy::Grace(ms(300)),
                _ => SessionPolicy::Keep,
            },
            on_dead: match random.u8(..5) {
                0 => OnDead::Keep,
                _ => OnDead::Sever,
            },
            panic: match random.u8(..4) {
                0 => Panic::TryAll,
                _ => Panic::Fail,
            },
            intents,
        }
    }

    /// No policy leaves a session to a backend that may not be written to.
    pub fn severs_writes(&self) -> bool {
        self.on_fenced == SessionPolicy::Sever && self.on_demoted != SessionPolicy::Keep
    }

    pub fn desired(&self, members: &[Member], fall: u32) -> Desired {
        let listeners = self.intents.iter().enumerate();
        let config = Config {
            listeners: listeners.map(|(port, it)| listener(port, *it)).collect(),
            ..config(vec![self.cluster(members, fall)])
        };
        Desired {
            config: Arc::new(config),
            tls: TlsMaterial::default(),
        }
    }

    fn cluster(&self, members: &[Member], fall: u32) -> ClusterConfig {
        let check = DatabaseCheck {
            user: None,
            password: None,
            database: None,
        };
        let mut cluster = cluster(CLUSTER, &[]);
        cluster.backends = members.iter().map(|member| self.backend(member)).collect();
        cluster.health_check.kind = match self.family {
            Family::Postgres => CheckKind::Postgres(check),
            Family::MySql => CheckKind::MySql(check),
            Family::Redis => CheckKind::Redis(check),
        };
        cluster.health_check.interval = self.interval;
        cluster.health_check.fast_interval = self.fast_interval;
        cluster.health_check.timeout = self.timeout;
        cluster.health_check.fall = nz(fall);
        cluster.health_check.max_damping = ms(2000);
        cluster.failover.hold = self.hold;
        cluster.failover.queue = self.queue;
        cluster.failover.on_fenced = self.on_fenced;
        cluster.failover.on_demoted = self.on_demoted;
        cluster.failover.on_lagging = self.on_lagging;
        cluster.failover.on_dead = self.on_dead;
        cluster.failover.panic = self.panic;
        cluster.failover.drain_timeout = ms(2000);
        cluster.connect.timeout = ms(200);
        cluster
    }

    fn backend(&self, member: &Member) -> BackendConfig {
        let mut backend = backend("db1");
        backend.name = member.name();
        backend.host = Host::Ip(address(member.node));
        backend.max_connections = self.max_connections.map(nz);
        backend
    }
}

/// A node that is configured.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    pub node: usize,
    /// How often; each time it has another name.
    pub renamed: u32,
}

impl Member {
    fn name(self) -> Name {
        Name::from(format!("{}-{}", self.node, self.renamed))
    }

    pub fn named(name: &str) -> Option<Self> {
        let (node, renamed) = name.split_once('-')?;
        Some(Self {
            node: node.parse().ok()?,
            renamed: renamed.parse().ok()?,
        })
    }
}

fn address(node: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, u8::try_from(node).unwrap()])
}

pub fn node_at(address: SocketAddr) -> usize {
    match address.ip() {
        IpAddr::V4(ip) => ip.octets()[3].into(),
        IpAddr::V6(_) => panic!("{address}"),
    }
}

fn listener(port: usize, intent: Intent) -> ListenerConfig {
    let port = u16::try_from(port).unwrap();
    ListenerConfig {
        name: Name::from(port.to_string()),
        bind: SocketAddr::from(([127, 0, 0, 1], port)),
        cluster: Some(Name::from(CLUSTER)),
        routes: Vec::new(),
        protocol: crate::config::Protocol::Tcp,
        intent,
        tls: None,
        tls_passthrough: false,
        allow: Vec::new(),
        deny: Vec::new(),
        proxy_protocol: None,
        max_connections: 100,
        idle_timeout: Duration::ZERO,
        handshake_timeout: ms(1000),
        keepalive: KeepaliveConfig {
            idle: ms(1000),
            interval: ms(1000),
            probes: 3,
            user_timeout: Duration::ZERO,
        },
        backlog: 10,
        http: None,
    }
}
