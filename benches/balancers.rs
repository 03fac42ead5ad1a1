//! What a routing decision costs: a pick by each policy, building the table
//! after a change of health, publishing it and loading it.

use std::hint::black_box;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use criterion::BatchSize;
use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use evergate::cluster::AdminState;
use evergate::cluster::BackendId;
use evergate::cluster::Cause;
use evergate::cluster::Health;
use evergate::cluster::Name;
use evergate::cluster::Role;
use evergate::config::BackendConfig;
use evergate::config::BalanceConfig;
use evergate::config::CheckKind;
use evergate::config::ClusterConfig;
use evergate::config::ConnectConfig;
use evergate::config::DEFAULT_WEIGHT;
use evergate::config::FailoverConfig;
use evergate::config::HashAlgorithm;
use evergate::config::HashConfig;
use evergate::config::HashKey;
use evergate::config::HealthCheckConfig;
use evergate::config::Host;
use evergate::config::Intent;
use evergate::config::OnDead;
use evergate::config::Panic;
use evergate::config::Policy;
use evergate::config::Protocol;
use evergate::config::SessionPolicy;
use evergate::config::WaitLimit;
use evergate::routing::BackendEntry;
use evergate::routing::BackendHandle;
use evergate::routing::ClusterHandle;
use evergate::routing::ClusterTable;
use evergate::routing::KeySource;
use evergate::routing::LoginKeys;
use evergate::routing::PickRequest;
use evergate::routing::RoutingTable;
use evergate::routing::SharedTable;

const SECOND: Duration = Duration::from_secs(1);
const SIZES: [u16; 3] = [3, 100, 10_000];

fn policies() -> Vec<(&'static str, Policy)> {
    let hashed = |algorithm, bounded_load| {
        Policy::ConsistentHash(HashConfig {
            algorithm,
            bounded_load,
        })
    };
    vec![
        ("round_robin", Policy::RoundRobin),
        ("least_connections", Policy::LeastConnections),
        ("random_two", Policy::RandomTwo),
        ("least_latency", Policy::LeastLatency),
        ("maglev", hashed(HashAlgorithm::Maglev, None)),
        ("maglev_bounded", hashed(HashAlgorithm::Maglev, Some(1.25))),
        ("ring", hashed(HashAlgorithm::Ring, None)),
        ("rendezvous", hashed(HashAlgorithm::Rendezvous, None)),
    ]
}

fn config(policy: Policy) -> Arc<ClusterConfig> {
    let wait = WaitLimit {
        max_wait: SECOND,
        max_sessions: 1,
    };
    Arc::new(ClusterConfig {
        name: "orders".into(),
        protocol: Protocol::Tcp,
        backends: Vec::new(),
        health_check: HealthCheckConfig {
            kind: CheckKind::Tls,
            interval: SECOND,
            fast_interval: SECOND,
            timeout: SECOND,
            rise: NonZeroU32::MIN,
            fall: NonZeroU32::MIN,
            port: None,
            max_damping: Duration::ZERO,
        },
        balance: BalanceConfig {
            policy,
            key: HashKey::ClientIpPort,
        },
        failover: FailoverConfig {
            hold: wait,
            queue: wait,
            on_dead: OnDead::Sever,
            on_demoted: SessionPolicy::Keep,
            on_fenced: SessionPolicy::Sever,
            on_lagging: SessionPolicy::Keep,
            authority: None,
            hooks: Vec::new(),
            panic: Panic::Fail,
            slow_start: 30 * SECOND,
            drain_timeout: SECOND,
        },
        connect: ConnectConfig {
            timeout: SECOND,
            attempts: NonZeroU32::MIN,
            source: [].into(),
        },
        tls: None,
        send_proxy_protocol: false,
        http: None,
    })
}

/// Busy backends with a limit, all measured.
fn backends(count: u16) -> Vec<BackendEntry> {
    let now = Instant::now();
    let backend = |number: u16| {
        let name: Name = format!("backend-{number}.example.com:5432").into();
        let handle = BackendHandle::new(BackendId(number.into()), "orders".into(), name.clone());
        handle.record_latency(Duration::from_micros(500 + u64::from(number)), now);
        BackendEntry {
            config: BackendConfig {
                host: Host::Name(name.clone()),
                name,
                port: NonZeroU16::MIN,
                weight: DEFAULT_WEIGHT,
                zone: None,
                tier: 0,
                max_connections: NonZeroU32::new(1000),
            },
            handle: Arc::new(handle),
            address: Some(SocketAddr::from(([10, 0, 0, 1], number))),
            health: Health::Up,
            admin: AdminState::Ready,
            cause: Cause::CheckPassed,
            role: Role::Unknown,
            role_cause: Cause::Started,
            over: Vec::new(),
            since: now,
            since_epoch: 0.0,
            warming_since: None,
            ejected: None,
        }
    };
    (0..count).map(backend).collect()
}

fn table(policy: Policy, backends: Vec<BackendEntry>) -> ClusterTable {
    let handle = Arc::new(ClusterHandle::new("orders".into()));
    ClusterTable::new(config(policy), handle, backends, None, None, &[])
}

fn pick(criterion: &mut Criterion) {
    for (name, policy) in policies() {
        let mut group = criterion.benchmark_group(format!("pick/{name}"));
        for size in SIZES {
            let table = table(policy, backends(size));
            let mut random = fastrand::Rng::with_seed(1);
            let now = Instant::now();
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                bencher.iter(|| {
                    let client = SocketAddr::from((random.u32(..).to_be_bytes(), 1));
                    let request = PickRequest {
                        intent: Intent::ANY,
                        source: KeySource {
                            client,
                            sni: None,
                            login: LoginKeys::default(),
                        },
                        tried: &[],
                        now,
                    };
                    let picked = table.pick(&request, &mut random);
                    black_box(picked.is_ok())
                });
            });
        }
    }
}

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build/10000");
    group.sample_size(10);
    let backends = backends(10_000);
    for (name, policy) in policies() {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || backends.clone(),
                |backends| table(policy, backends),
                BatchSize::LargeInput,
            );
        });
    }
}

/// One change of health among 1,000 clusters: the others are shared, not rebuilt.
fn swap(criterion: &mut Criterion) {
    let shared = SharedTable::default();
    let clusters: Vec<_> = (0..1000)
        .map(|number| {
            let name: Name = format!("cluster-{number}").into();
            (name, Arc::new(table(Policy::RoundRobin, backends(10))))
        })
        .collect();
    let next = || RoutingTable {
        clusters: clusters.iter().cloned().collect(),
        ..RoutingTable::default()
    };
    shared.publish(next());
    criterion.bench_function("swap/load", |bencher| {
        bencher.iter(|| black_box(shared.load().generation));
    });
    criterion.bench_function("swap/load_and_find_cluster", |bencher| {
        bencher.iter(|| black_box(shared.load().clusters.contains_key("cluster-500")));
    });
    criterion.bench_function("swap/publish_1000_clusters_of_10", |bencher| {
        bencher.iter_batched(next, |table| shared.publish(table), BatchSize::LargeInput);
    });
    criterion.bench_function("swap/collect_and_publish_1000_clusters_of_10", |bencher| {
        bencher.iter(|| shared.publish(next()));
    });
}

criterion_group!(benches, pick, build, swap);
criterion_main!(benches);
