//! The core is told what an authority says.

use super::*;
use crate::cluster::Role;
use crate::config::AuthorityConfig;
use crate::config::CheckKind;
use crate::config::DatabaseCheck;
use crate::control::evidence::Authority;
use crate::control::fixtures::postgres;
use crate::control::fixtures::redis;
use std::num::NonZeroU16;

fn orders(authority: bool) -> ClusterConfig {
    let mut cluster = cluster("a", &["db1", "db2"]);
    cluster.health_check.kind = CheckKind::Postgres(DatabaseCheck {
        user: None,
        password: None,
        database: None,
    });
    let port = NonZeroU16::new(8008).unwrap();
    let patroni = AuthorityConfig::Patroni { port, tls: false };
    cluster.failover.authority = authority.then_some(patroni);
    cluster
}

/// Each backend answers its probe; a number is the timeline of one that says it is primary.
fn hear(world: &mut World, timelines: [Option<u32>; 2]) {
    world.now += SECOND * 2;
    let orders = world.orders();
    assert_eq!(orders.len(), 2);
    for order in orders {
        let position = usize::from(*order.target.backend.name == *"db2");
        let observation = Observation {
            result: Ok(postgres(timelines[position])),
            duration: Duration::from_millis(1),
        };
        let now = world.moment();
        world.core.observe(order.id, order.number, observation, now);
    }
    world.core.settle();
}

fn leader(digit: u8) -> Authority {
    Authority::Leader {
        host: format!("10.0.0.{digit}"),
        port: 5432,
        timeline: None,
    }
}

fn told(world: &mut World, authority: Option<&Authority>) {
    let now = world.moment();
    world.core.told(&Name::from("a"), authority, now);
    world.core.settle();
}

fn roles(world: &World) -> [Role; 2] {
    ["db1", "db2"].map(|name| world.entry(name).role)
}

#[test]
fn nobody_is_primary_before_the_authority_has_had_its_say() {
    let mut world = World::new(vec![orders(true)]);
    for _ in 0..5 {
        hear(&mut world, [Some(1), None]);
        assert_eq!(roles(&world), [Role::Unknown; 2]);
    }
    told(&mut world, Some(&leader(1)));
    assert_eq!(roles(&world), [Role::Primary, Role::Replica]);
}

#[test]
fn the_silence_of_the_authority_ends_the_wait() {
    let mut world = World::new(vec![orders(true)]);
    hear(&mut world, [Some(1), None]);
    told(&mut world, None);
    assert_eq!(roles(&world), [Role::Primary, Role::Replica]);
}

#[test]
fn what_the_authority_says_is_acted_on_at_once() {
    let mut world = World::new(vec![orders(true)]);
    told(&mut world, Some(&leader(1)));
    hear(&mut world, [Some(1), Some(1)]);
    assert_eq!(roles(&world), [Role::Primary, Role::Fenced]);
    told(&mut world, Some(&leader(2)));
    assert_eq!(roles(&world), [Role::Fenced, Role::Primary]);
}

#[test]
fn a_cluster_whose_authority_goes_with_a_reload_decides_by_itself() {
    let mut world = World::new(vec![orders(true)]);
    told(&mut world, Some(&Authority::NoLeader));
    hear(&mut world, [Some(1), None]);
    assert_eq!(roles(&world), [Role::Fenced, Role::Replica]);
    world.apply(vec![orders(false)]);
    assert_eq!(roles(&world), [Role::Primary, Role::Replica]);
}

#[test]
fn a_cluster_that_gets_an_authority_with_a_reload_goes_on_meanwhile() {
    let mut world = World::new(vec![orders(false)]);
    hear(&mut world, [Some(1), None]);
    world.apply(vec![orders(true)]);
    assert_eq!(roles(&world), [Role::Primary, Role::Replica]);
    told(&mut world, Some(&leader(2)));
    assert_eq!(roles(&world), [Role::Fenced, Role::Replica]);
}

#[test]
fn the_authority_is_needed_at_once_while_backends_contradict_it() {
    let mut world = World::new(vec![orders(true)]);
    let needs = |world: &World| world.core.needs_authority(&Name::from("a"), world.now);
    hear(&mut world, [Some(1), None]);
    told(&mut world, Some(&leader(1)));
    assert!(!needs(&world));
    hear(&mut world, [Some(1), Some(2)]);
    assert!(needs(&world), "split brain");
    told(&mut world, Some(&leader(2)));
    assert_eq!(roles(&world), [Role::Fenced, Role::Primary]);
    assert!(!needs(&world), "the old primary is out of the question");
}

#[test]
fn a_stray_that_claims_to_be_primary_is_reason_for_haste_only_for_a_while() {
    let mut world = World::new(vec![orders(true)]);
    let needs = |world: &World| world.core.needs_authority(&Name::from("a"), world.now);
    told(&mut world, Some(&leader(1)));
    hear(&mut world, [Some(1), Some(1)]);
    assert_eq!(roles(&world), [Role::Primary, Role::Fenced]);
    assert!(needs(&world), "it may have been promoted");
    for _ in 0..3 {
        hear(&mut world, [Some(1), Some(1)]);
    }
    assert!(!needs(&world));
}

#[test]
fn an_outgrown_leader_is_doubted_for_a_bounded_time() {
    let mut config = orders(true);
    config.health_check.kind = CheckKind::Redis(DatabaseCheck {
        user: None,
        password: None,
        database: None,
    });
    let mut world = World::new(vec![config]);
    let now = world.moment();
    world.core.told(&"a".into(), Some(&leader(1)), now);
    let hear = |world: &mut World, second: Evidence| {
        world.now += SECOND * 2;
        for order in world.orders() {
            let evidence = match &*order.target.backend.name {
                "db1" => redis("A", None, true),
                _ => second.clone(),
            };
            let observation = Observation {
                result: Ok(evidence),
                duration: Duration::from_millis(1),
            };
            let now = world.moment();
            world.core.observe(order.id, order.number, observation, now);
        }
        world.core.settle();
    };
    hear(&mut world, redis("A", None, false));
    assert_eq!(world.entry("db1").role, Role::Primary);
    hear(&mut world, redis("B", Some("A"), true));
    assert_eq!(world.entry("db1").role, Role::Fenced);
    hear(&mut world, redis("B", Some("A"), true));
    assert_eq!(world.entry("db1").role, Role::Fenced);
    for _ in 0..3 {
        hear(&mut world, redis("B", Some("A"), true));
    }
    assert_eq!(world.entry("db1").role, Role::Primary);
    hear(&mut world, redis("B", Some("A"), true));
    assert_eq!(world.entry("db1").role, Role::Primary, "and stays so");
}
