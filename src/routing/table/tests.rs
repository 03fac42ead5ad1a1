//! Which backend a cluster's table picks, and what it says when there is none.

mod explain;
mod hashing;

use std::num::NonZeroU16;
use std::num::NonZeroU32;
use std::time::Duration;

use std::net::SocketAddr;

use super::*;
use crate::cluster::AdminState;
use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Role;
use crate::cluster::WantedRole;
use crate::config::BackendConfig;
use crate::config::BalanceConfig;
use crate::config::CheckKind;
use crate::config::ConnectConfig;
use crate::config::FailoverConfig;
use crate::config::Fallback;
use crate::config::HashAlgorithm;
use crate::config::HashConfig;
use crate::config::HashKey;
use crate::config::HealthCheckConfig;
use crate::config::Host;
use crate::config::OnDead;
use crate::config::Panic;
use crate::config::Protocol;
use crate::config::SessionPolicy;
use crate::config::WaitLimit;
use crate::routing::BackendHandle;
use crate::routing::Ejection;
use crate::routing::LoginKeys;

const SECOND: Duration = Duration::from_secs(1);
const NO_WAIT: WaitLimit = WaitLimit {
    max_wait: Duration::ZERO,
    max_sessions: 0,
};

fn config(policy: Policy) -> ClusterConfig {
    ClusterConfig {
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
            key: HashKey::ClientIp,
        },
        failover: FailoverConfig {
            hold: NO_WAIT,
            queue: NO_WAIT,
            on_dead: OnDead::Sever,
            on_demoted: SessionPolicy::Grace(Duration::from_secs(5)),
            on_fenced: SessionPolicy::Sever,
            on_lagging: SessionPolicy::Keep,
            authority: None,
            hooks: Vec::new(),
            panic: Panic::Fail,
            slow_start: Duration::ZERO,
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
    }
}

/// A healthy backend of tier 0 without a zone or a limit.
fn backend(number: u16) -> BackendEntry {
    let name: Name = format!("backend-{number}").into();
    let id = BackendId(number.into());
    BackendEntry {
        config: BackendConfig {
            name: Name::clone(&name),
            host: Host::Name("backend.test".into()),
            port: NonZeroU16::MIN,
            weight: 100,
            zone: None,
            tier: 0,
            max_connections: None,
        },
        handle: Arc::new(BackendHandle::new(id, "orders".into(), name)),
        address: Some(SocketAddr::from(([10, 0, 0, 1], number))),
        health: Health::Up,
        admin: AdminState::Ready,
        cause: Cause::CheckPassed,
        role: Role::Unknown,
        role_cause: Cause::Started,
        over: Vec::new(),
        since: Instant::now(),
        since_epoch: 0.0,
        warming_since: None,
        ejected: None,
    }
}

fn with(number: u16, change: impl FnOnce(&mut BackendEntry)) -> BackendEntry {
    let mut entry = backend(number);
    change(&mut entry);
    entry
}

fn limited(number: u16, max_connections: u32) -> BackendEntry {
    with(number, |entry| {
        entry.config.max_connections = NonZeroU32::new(max_connections);
    })
}

fn table_of(
    config: ClusterConfig,
    backends: Vec<BackendEntry>,
    zone: Option<&str>,
) -> ClusterTable {
    let handle = Arc::new(ClusterHandle::new("orders".into()));
    let zone: Option<Name> = zone.map(Into::into);
    ClusterTable::new(Arc::new(config), handle, backends, zone.as_ref(), None, &[])
}

fn table(backends: Vec<BackendEntry>) -> ClusterTable {
    table_of(config(Policy::RoundRobin), backends, None)
}

fn request(tried: &[BackendId]) -> PickRequest<'_> {
    PickRequest {
        intent: Intent::ANY,
        source: KeySource {
            client: SocketAddr::from(([192, 0, 2, 1], 1)),
            sni: None,
            login: LoginKeys::default(),
        },
        tried,
        now: Instant::now(),
    }
}

/// The backends of `count` sessions that stay, sorted.
fn place(
    table: &ClusterTable,
    tried: &[BackendId],
    count: usize,
) -> Result<(Vec<u64>, Vec<ConnectionGuard>), PickError> {
    let mut random = fastrand::Rng::with_seed(1);
    let (mut picked, mut guards) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (entry, guard) = table.pick(&request(tried), &mut random)?;
        picked.push(entry.handle.id.0);
        guards.push(guard);
    }
    picked.sort_unstable();
    Ok((picked, guards))
}

fn picks(table: &ClusterTable, tried: &[BackendId], count: usize) -> Result<Vec<u64>, PickError> {
    place(table, tried, count).map(|(picked, _)| picked)
}

fn ejected(number: u16) -> BackendEntry {
    with(number, |entry| {
        entry.ejected = Some(Ejection {
            cause: Cause::SuccessRate,
            until: Instant::now() + SECOND,
        });
    })
}

#[test]
fn one_that_is_ejected_is_picked_only_when_nobody_else_is_there() {
    let down = |number| with(number, |entry| entry.health = Health::Down);
    let others = table(vec![ejected(1), backend(2), backend(3)]);
    assert_eq!(picks(&others, &[], 4).unwrap(), [2, 2, 3, 3]);
    assert_eq!(others.eligible(), 2);
    let spare = with(2, |entry| entry.config.tier = 1);
    let spared = table(vec![ejected(1), spare]);
    assert_eq!(picks(&spared, &[], 2).unwrap(), [2, 2]);
    let alone = table(vec![ejected(1), down(2)]);
    assert_eq!(picks(&alone, &[], 2).unwrap(), [1, 1]);
    assert_eq!(alone.eligible(), 1);
}

#[test]
fn one_that_is_suspected_gets_no_session_that_another_of_its_tier_can_have() {
    for policy in [
        Policy::RoundRobin,
        Policy::RandomTwo,
        Policy::LeastConnections,
        Policy::LeastLatency,
    ] {
        let spare = with(3, |entry| entry.config.tier = 1);
        let table = table_of(config(policy), vec![backend(1), limited(2, 3), spare], None);
        let suspect = |position: usize, is| table.backends[position].handle.set_suspected(is);
        suspect(0, true);
        let (picked, guards) = place(&table, &[], 3).unwrap();
        assert_eq!(picked, [2, 2, 2], "{policy:?}");
        // The other one is full: no reason to go farther.
        assert_eq!(picks(&table, &[], 1).unwrap(), [1], "{policy:?}");
        drop(guards);
        assert_eq!(picks(&table, &[BackendId(2)], 1).unwrap(), [1]);
        assert_eq!(
            picks(&table, &[BackendId(1), BackendId(2)], 1).unwrap(),
            [3]
        );
        suspect(1, true);
        assert!(picks(&table, &[], 6).unwrap().iter().all(|it| *it < 3));
        suspect(0, false);
        assert_eq!(picks(&table, &[], 3).unwrap(), [1, 1, 1], "{policy:?}");
    }
}

#[test]
fn better_one_that_is_ejected_than_all_in_a_panic() {
    let down = with(2, |entry| entry.health = Health::Down);
    let mut config = config(Policy::RoundRobin);
    config.failover.panic = Panic::TryAll;
    let table = table_of(config, vec![ejected(1), down], None);
    assert_eq!(picks(&table, &[], 3).unwrap(), [1, 1, 1]);
}

#[test]
fn ejection_brings_back_nobody_who_is_drained() {
    let drained = with(1, |entry| {
        entry.admin = AdminState::Drain;
        entry.ejected = ejected(1).ejected;
    });
    let table = table(vec![drained]);
    assert_eq!(picks(&table, &[], 1), Err(PickError::NoneEligible));
}

#[test]
fn only_healthy_ready_weighted_resolved_backends_are_picked() {
    let table = table(vec![
        with(1, |entry| entry.health = Health::Down),
        with(2, |entry| entry.health = Health::Unknown),
        with(3, |entry| entry.admin = AdminState::Drain),
        with(4, |entry| entry.admin = AdminState::Maintenance),
        with(5, |entry| entry.config.weight = 0),
        with(6, |entry| entry.address = None),
        backend(7),
    ]);
    assert_eq!(picks(&table, &[], 5), Ok(vec![7; 5]));
    assert_eq!(table.eligible(), 1);
}

/// Went wrong once: it was promoted, and writes stopped without a word.
#[test]
fn a_primary_without_weight_is_written_to_and_gets_no_share_of_the_reads() {
    let weightless = |role| {
        with(1, |entry| {
            entry.config.weight = 0;
            entry.role = role;
        })
    };
    let replica = with(2, |entry| entry.role = Role::Replica);
    let reads = |fallback| Intent {
        role: WantedRole::Replica,
        max_lag: None,
        fallback,
    };
    let writes = Intent {
        role: WantedRole::Primary,
        ..reads(Fallback::Nobody)
    };
    for policy in [
        Policy::RoundRobin,
        Policy::LeastConnections,
        Policy::ConsistentHash(HashConfig {
            algorithm: HashAlgorithm::Ring,
            bounded_load: None,
        }),
    ] {
        let table = table_of(
            config(policy),
            vec![weightless(Role::Primary), replica.clone()],
            None,
        );
        let eligible = |intent| table.eligible_for(intent);
        assert_eq!(eligible(writes), 1);
        assert_eq!(eligible(Intent::ANY), 1);
        assert_eq!(eligible(reads(Fallback::Nobody)), 1);
        assert_eq!(eligible(reads(Fallback::Primary)), 2);
        let request = PickRequest {
            intent: writes,
            ..request(&[])
        };
        let (picked, _place) = table.pick(&request, &mut fastrand::Rng::new()).unwrap();
        assert_eq!(picked.handle.id, BackendId(1));
    }
    let table = table(vec![weightless(Role::Replica), replica]);
    assert_eq!(table.eligible_for(reads(Fallback::Nobody)), 1);
}

#[test]
fn without_an_eligible_backend_there_is_nothing_to_pick() {
    let table = table(vec![with(1, |entry| entry.health = Health::Down)]);
    assert_eq!(picks(&table, &[], 1), Err(PickError::NoneEligible));
    assert_eq!((table.eligible(), table.headroom()), (0, 0));
}

#[test]
fn a_panicking_cluster_tries_every_ready_backend() {
    let mut config = config(Policy::RoundRobin);
    config.failover.panic = Panic::TryAll;
    let backends = vec![
        with(1, |entry| entry.health = Health::Down),
        with(2, |entry| entry.health = Health::Unknown),
        with(3, |entry| {
            entry.health = Health::Down;
            entry.admin = AdminState::Drain;
        }),
        with(4, |entry| {
            entry.health = Health::Down;
            entry.config.weight = 0;
        }),
    ];
    let table = table_of(config, backends, None);
    assert_eq!(picks(&table, &[], 4), Ok(vec![1, 1, 2, 2]));
    assert_eq!(table.eligible(), 2);
}

#[test]
fn a_tried_backend_is_not_picked_again() {
    let table = table(vec![backend(1), backend(2)]);
    assert_eq!(picks(&table, &[BackendId(1)], 3), Ok(vec![2; 3]));
    let both = [BackendId(2), BackendId(1)];
    assert_eq!(picks(&table, &both, 1), Err(PickError::AllTried));
}

#[test]
fn a_full_backend_gets_no_session_until_one_ends() {
    let table = table(vec![limited(1, 2), limited(2, 1)]);
    let (picked, guards) = place(&table, &[], 3).expect("three places");
    assert_eq!(picked, [1, 1, 2]);
    assert_eq!(picks(&table, &[], 1), Err(PickError::AllFull));
    assert_eq!(picks(&table, &[BackendId(2)], 1), Err(PickError::AllFull));
    drop(guards);
    assert_eq!(picks(&table, &[], 3).map(|picked| picked.len()), Ok(3));
}

#[test]
fn a_place_is_free_until_as_many_sessions_are_there() {
    let table = table(vec![limited(1, 2), with(2, |entry| entry.config.tier = 1)]);
    assert!(table.has_free_place(Intent::ANY));
    let first = table.backends[0].handle.acquire(None).unwrap();
    assert!(table.has_free_place(Intent::ANY));
    let _second = table.backends[0].handle.acquire(None).unwrap();
    assert!(!table.has_free_place(Intent::ANY), "a spare is no overflow");
    let _third = table.backends[0].handle.acquire(None).unwrap();
    assert!(!table.has_free_place(Intent::ANY), "the limit was lowered");
    drop(first);
    assert!(!table.has_free_place(Intent::ANY));
}

#[test]
fn spares_serve_only_when_the_lower_tier_is_gone_or_tried() {
    let spare = |number| with(number, |entry| entry.config.tier = 1);
    let full = table(vec![limited(1, 1), spare(2)]);
    let (picked, _guards) = place(&full, &[], 1).expect("a place");
    assert_eq!(picked, [1]);
    assert_eq!(picks(&full, &[], 1), Err(PickError::AllFull));
    assert_eq!(picks(&full, &[BackendId(1)], 1), Ok(vec![2]));

    let dead = table(vec![
        with(1, |entry| entry.health = Health::Down),
        spare(2),
        with(3, |entry| entry.config.tier = 2),
    ]);
    assert_eq!(picks(&dead, &[], 3), Ok(vec![2; 3]));
}

#[test]
fn the_own_zone_comes_first_and_others_help_out_when_it_is_full() {
    let zoned = |number, zone: &str| {
        with(number, |entry| {
            entry.config.zone = Some(zone.into());
            entry.config.max_connections = NonZeroU32::new(2);
        })
    };
    let backends = || vec![zoned(1, "a"), zoned(2, "b"), limited(3, 2)];
    let here = table_of(config(Policy::LeastConnections), backends(), Some("b"));
    let (picked, _guards) = place(&here, &[], 6).expect("six places");
    assert_eq!(picked, [1, 1, 2, 2, 3, 3]);

    let first = table_of(config(Policy::LeastConnections), backends(), Some("b"));
    assert_eq!(picks(&first, &[], 2), Ok(vec![2, 2]));
    assert_eq!(picks(&first, &[BackendId(2)], 4), Ok(vec![1, 1, 3, 3]));
}

#[test]
fn a_tier_is_stronger_than_a_zone() {
    let near_spare = with(1, |entry| {
        entry.config.zone = Some("a".into());
        entry.config.tier = 1;
    });
    let table = table_of(
        config(Policy::RoundRobin),
        vec![near_spare, backend(2)],
        Some("a"),
    );
    assert_eq!(picks(&table, &[], 2), Ok(vec![2, 2]));
}

#[test]
fn a_returning_backend_gets_its_weight_back_step_by_step() {
    let mut config = config(Policy::LeastConnections);
    config.failover.slow_start = 100 * SECOND;
    let now = Instant::now();
    for (elapsed, expected) in [(0, 10), (50, 50), (100, 100), (1000, 100)] {
        let warming = with(1, |entry| entry.warming_since = Some(now));
        let table = table_of(config.clone(), vec![warming, backend(2)], None);
        let mut random = fastrand::Rng::with_seed(1);
        let request = PickRequest {
            now: now + elapsed * SECOND,
            ..request(&[])
        };
        let guards: Vec<_> = (0..100 + expected)
            .filter_map(|_| table.pick(&request, &mut random).ok())
            .collect();
        assert_eq!(guards.len(), 100 + expected as usize);
        assert!(table.backends[0].handle.active().abs_diff(expected) <= 1);
    }
}

#[test]
fn a_client_stays_on_its_backend_while_others_come_and_go() {
    let policy = Policy::ConsistentHash(HashConfig {
        algorithm: HashAlgorithm::Maglev,
        bounded_load: None,
    });
    let all = table_of(config(policy), (1..=4).map(backend).collect(), None);
    let home = picks(&all, &[], 20).expect("all are open");
    assert!(home.iter().all(|picked| picked == &home[0]));
    let other = BackendId(home[0] % 4 + 1);
    assert_eq!(picks(&all, &[other], 20), Ok(home));
}

#[test]
fn headroom_is_what_may_fail_before_the_rest_are_full() {
    assert_eq!(table((1..=3).map(backend).collect()).headroom(), 2);

    let table = table((1..=3).map(|number| limited(number, 4)).collect());
    assert_eq!(table.headroom(), 2);
    let (_, _guards) = place(&table, &[], 5).expect("five places");
    assert_eq!(table.headroom(), 1);
    let (_, _more) = place(&table, &[], 7).expect("seven places");
    assert_eq!(table.headroom(), 0);
}

#[test]
fn a_backend_without_a_limit_is_the_worst_to_lose() {
    let table = table(vec![backend(1), limited(2, 4), limited(3, 4)]);
    let (_, _guards) = place(&table, &[], 6).expect("six places");
    assert_eq!(table.headroom(), 1);
}

#[test]
fn workers_that_race_for_the_last_places_take_each_once() {
    let table = table((1..=4).map(|number| limited(number, 5)).collect());
    let taken: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|seed| {
                let table = &table;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let place = || table.pick(&request(&[]), &mut random).ok();
                    std::iter::repeat_with(place).take(50).flatten().collect()
                })
            })
            .collect();
        let guards: Vec<Vec<_>> = workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker does not panic"))
            .collect();
        guards.iter().map(Vec::len).sum()
    });
    assert_eq!(taken, 20);
}

#[test]
fn a_published_table_has_the_next_number_and_wakes_who_follows() {
    let shared = SharedTable::default();
    let mut followed = shared.follow();
    assert!(!followed.has_changed().unwrap());
    shared.publish(RoutingTable::default());
    assert!(followed.has_changed().unwrap());
    assert_eq!(*followed.borrow_and_update(), 1);
    shared.publish(RoutingTable::default());
    assert_eq!(*followed.borrow_and_update(), 2);
    assert_eq!(shared.load().generation, 2);
}
