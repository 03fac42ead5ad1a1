//! Roles at the edges: proofs that cross probes, reloads, names that are looked up.

use super::*;
use crate::cluster::Role;
use crate::cluster::WantedRole;
use crate::config::CheckKind;
use crate::config::DatabaseCheck;
use crate::config::Fallback;
use crate::config::Intent;
use crate::config::MaxLag;
use crate::control::evidence::PostgresEvidence;
use crate::control::fixtures::postgres;

fn asks_roles(mut cluster: ClusterConfig) -> ClusterConfig {
    cluster.health_check.kind = CheckKind::Postgres(DatabaseCheck {
        user: None,
        password: None,
        database: None,
    });
    cluster
}

fn answer(world: &mut World, order: &Order, evidence: Evidence) {
    let observation = Observation {
        result: Ok(evidence),
        duration: Duration::from_millis(1),
    };
    let now = world.moment();
    let awaited = world.core.observe(order.id, order.number, observation, now);
    assert!(awaited);
    world.core.settle();
}

/// Those that are due now answer; by name.
fn hear(world: &mut World, says: impl Fn(&str) -> Evidence) -> usize {
    let orders = world.orders();
    for order in &orders {
        answer(world, order, says(&order.target.backend.name));
    }
    orders.len()
}

fn first_is_primary(name: &str) -> Evidence {
    postgres((name == "db1").then_some(1))
}

fn order_for(orders: Vec<Order>, name: &str) -> Order {
    let mut orders = orders.into_iter();
    orders.find(|it| *it.target.backend.name == *name).unwrap()
}

/// Went wrong once: a probe that was asked before the demotion answered what traffic proved after it.
#[test]
fn an_answer_that_was_under_way_refutes_no_proof() {
    let mut world = World::new(vec![asks_roles(cluster("a", &["db1", "db2"]))]);
    assert_eq!(hear(&mut world, first_is_primary), 2);
    world.now += SECOND * 2;
    let order = order_for(world.orders(), "db1");
    let now = world.moment();
    world.core.report(order.id, Cause::ReadOnly, now);
    assert_eq!(world.entry("db1").role, Role::Fenced);

    answer(&mut world, &order, postgres(Some(1)));
    assert_eq!(world.entry("db1").role, Role::Fenced, "it may be older");
    world.now += Duration::from_millis(60);
    assert!(
        hear(&mut world, first_is_primary) > 0,
        "asked again at once"
    );
    assert_eq!(world.entry("db1").role, Role::Primary);
}

/// Went wrong once: with `try_all`, sessions stayed on a dead primary while its replicas were up.
#[test]
fn a_missing_primary_is_no_panic() {
    let mut config = asks_roles(cluster("a", &["db1", "db2"]));
    config.failover.panic = Panic::TryAll;
    let mut world = World::new(vec![config]);
    let writes = Intent {
        role: WantedRole::Primary,
        ..Intent::ANY
    };
    let now = world.moment();
    let known = world.core.clusters.get_mut("a").unwrap();
    known.set_intents(vec![writes], now);
    hear(&mut world, first_is_primary);
    for _ in 0..20 {
        world.now += SECOND;
        for order in world.orders() {
            if *order.target.backend.name == *"db1" {
                world.answer(&order, Err(Cause::ConnectRefused));
            } else {
                answer(&mut world, &order, postgres(None));
            }
        }
        world.core.settle();
    }
    assert_eq!(world.health("db1"), Health::Down);
    assert_eq!(world.health("db2"), Health::Up);
    let cause = Cause::BackendDead;
    assert_eq!(
        world.entry("db1").handle.fate(writes),
        Fate::Sever { cause }
    );
}

/// Went wrong once: the alarm went on for ever.
#[test]
fn a_split_brain_ends_with_a_check_that_tells_no_roles() {
    let plain = cluster("a", &["db1", "db2"]);
    let mut world = World::new(vec![asks_roles(plain.clone())]);
    hear(&mut world, |_| postgres(Some(1)));
    let is_split = |world: &World| world.core.cluster("a").unwrap().roles.is_split_brain;
    assert!(is_split(&world));
    world.apply(vec![plain]);
    assert!(!is_split(&world));
}

/// Went wrong once: who was up by an earlier kind of check counted as heard, and the first that
/// claimed was written to.
#[test]
fn a_check_that_begins_to_tell_roles_waits_for_everybody() {
    let plain = cluster("a", &["db1", "db2"]);
    let mut world = World::new(vec![plain.clone()]);
    world.run(SECOND, up);
    world.apply(vec![asks_roles(plain)]);
    assert_eq!(world.health("db1"), Health::Up, "its readers go on");
    let orders = world.orders();
    assert_eq!(orders.len(), 2);
    let stale = order_for(orders, "db1");
    answer(&mut world, &stale, postgres(Some(1)));
    assert_eq!(world.entry("db1").role, Role::Unknown);
}

/// Went wrong once: a stale primary with an address was written to while the other was looked up.
#[test]
fn a_name_that_is_looked_up_may_be_the_better_primary() {
    let mut world = World::new(vec![asks_roles(cluster("a", &["db1", "db.x"]))]);
    assert_eq!(hear(&mut world, first_is_primary), 1);
    assert_eq!(world.entry("db1").role, Role::Unknown);
    world.resolve("db.x", 2);
    assert_eq!(hear(&mut world, |_| postgres(Some(2))), 1);
    assert_eq!(world.entry("db1").role, Role::Fenced);
    assert_eq!(world.entry("db.x").role, Role::Primary);
}

#[test]
fn a_name_that_cannot_be_looked_up_stops_nobody() {
    let mut world = World::new(vec![asks_roles(cluster("a", &["db1", "db.x"]))]);
    hear(&mut world, first_is_primary);
    let now = world.moment();
    world.core.resolved(&Name::from("db.x"), None, now);
    assert_eq!(world.entry("db1").role, Role::Primary);
}

/// Went wrong once: until the next probe, nobody was over a limit that came with a reload.
#[test]
fn a_new_limit_of_lag_counts_at_once() {
    let mut world = World::new(vec![asks_roles(cluster("a", &["db1", "db2"]))]);
    let ahead = |name: &str| match first_is_primary(name) {
        Evidence::Postgres(it) if name == "db1" => Evidence::Postgres(PostgresEvidence {
            replayed_lsn: 5000,
            ..it
        }),
        other => other,
    };
    for _ in 0..3 {
        assert_eq!(hear(&mut world, ahead), 2);
        world.now += SECOND * 2;
    }
    let limited = |bytes| Intent {
        role: WantedRole::Replica,
        max_lag: Some(MaxLag::Bytes(bytes)),
        fallback: Fallback::Nobody,
    };
    let now = world.moment();
    let known = world.core.clusters.get_mut("a").unwrap();
    known.set_intents(vec![limited(1000), limited(100_000)], now);
    assert_eq!(world.entry("db2").over, [MaxLag::Bytes(1000)]);
    assert_eq!(world.entry("db1").over, []);
}

/// The place of one session on a backend; it stays until dropped.
fn session(world: &World, backend: &str) -> ConnectionGuard {
    world.entry(backend).handle.acquire(None).unwrap()
}

const WRITES: Intent = Intent {
    role: WantedRole::Primary,
    max_lag: None,
    fallback: Fallback::Nobody,
};

fn is_drained(fate: Fate) -> bool {
    matches!(fate, Fate::Drain { .. })
}

fn fenced() -> Fate {
    Fate::Sever {
        cause: Cause::BackendFenced,
    }
}

/// Went wrong once: who was there could write at the old address until drain_timeout.
#[test]
fn sessions_that_write_at_an_old_address_end_once_another_is_primary() {
    let mut world = World::new(vec![asks_roles(cluster("a", &["db.x"]))]);
    world.resolve("db.x", 1);
    hear(&mut world, |_| postgres(Some(1)));
    let place = session(&world, "db.x");
    let old = Arc::clone(&world.entry("db.x").handle);
    world.resolve("db.x", 2);
    assert!(is_drained(old.fate(WRITES)), "nobody else takes writes yet");
    hear(&mut world, |_| postgres(Some(2)));
    assert_eq!(world.entry("db.x").role, Role::Primary);
    assert_eq!(old.fate(WRITES), fenced());
    assert!(is_drained(old.fate(Intent::ANY)), "who reads may go on");
    // The name points there again: what is decided now is about the present primary.
    world.resolve("db.x", 1);
    hear(&mut world, |_| postgres(Some(3)));
    assert_eq!(old.fate(WRITES), Fate::Serve);
    drop(place);
}

#[test]
fn sessions_of_a_removed_primary_end_once_another_is_primary() {
    let mut world = World::new(vec![asks_roles(cluster("a", &["db1", "db2"]))]);
    hear(&mut world, first_is_primary);
    let place = session(&world, "db1");
    let old = Arc::clone(&world.entry("db1").handle);
    world.apply(vec![asks_roles(cluster("a", &["db2"]))]);
    assert!(is_drained(old.fate(WRITES)));
    world.now += SECOND * 2;
    hear(&mut world, |_| postgres(Some(2)));
    assert_eq!(old.fate(WRITES), fenced());
    drop(place);
}

#[test]
fn sessions_of_a_primary_that_only_has_another_name_go_on() {
    let renamed = |name: &str| {
        let mut cluster = asks_roles(cluster("a", &["db1"]));
        cluster.backends[0].name = Name::from(name);
        cluster
    };
    let mut world = World::new(vec![renamed("one")]);
    hear(&mut world, |_| postgres(Some(1)));
    let place = session(&world, "one");
    let old = Arc::clone(&world.entry("one").handle);
    world.apply(vec![renamed("two")]);
    hear(&mut world, |_| postgres(Some(1)));
    assert_eq!(world.entry("two").role, Role::Primary);
    assert!(is_drained(old.fate(WRITES)));
    drop(place);
}

#[test]
fn a_reload_changes_how_many_failures_it_takes_to_fall() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND * 10, up);
    let mut strict = cluster("a", &["db1", "db2"]);
    strict.health_check.fall = nz(1);
    world.apply(vec![strict]);
    let silent = |name: &str| match name {
        "db1" => Err(Cause::CheckTimeout),
        _ => Ok(()),
    };
    assert!(world.run(SECOND / 2, silent) > 0);
    assert_eq!(world.health("db1"), Health::Down);
    assert_eq!(world.health("db2"), Health::Up);
}

/// Others are up, so that nothing but the suspicion makes haste.
#[test]
fn a_refusal_is_confirmed_or_refuted_at_the_fast_interval() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND * 10, up);
    world.happened.clear();
    world.run(SECOND * 5, refuses("db1"));
    let told: Vec<_> = world.happened.iter().collect();
    let [error, down] = told[..] else {
        panic!("{told:#?}");
    };
    assert_eq!(
        (error.cause, down.cause),
        (Cause::ConnectRefused, Cause::ConnectRefused)
    );
    let fast = cluster("a", &[]).health_check.fast_interval;
    let waited = down.at.instant - error.at.instant;
    assert!(waited <= fast.mul_f64(1.1), "{waited:?}");
}
