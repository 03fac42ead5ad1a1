//! What traffic proves of a primary, and what becomes of its sessions.

use super::*;
use crate::cluster::Role;
use crate::cluster::WantedRole;
use crate::config::CheckKind;
use crate::config::DatabaseCheck;
use crate::config::Fallback;
use crate::control::evidence::PostgresEvidence;
use crate::control::happening::What;

const WRITES: Intent = Intent {
    role: WantedRole::Primary,
    max_lag: None,
    fallback: Fallback::Nobody,
};

fn primary() -> PostgresEvidence {
    PostgresEvidence {
        is_in_recovery: false,
        is_writable: true,
        system_identifier: 7,
        timeline: 1,
        received_lsn: 100,
        replayed_lsn: 100,
        connections_used: 1,
        connections_allowed: 100,
    }
}

fn world() -> World {
    let mut config = cluster("a", &["db1"]);
    config.health_check.kind = CheckKind::Postgres(DatabaseCheck {
        user: None,
        password: None,
        database: None,
    });
    let mut world = World::new(vec![config]);
    assert!(hear(&mut world, &primary()));
    assert_eq!(world.entry("db1").role, Role::Primary);
    world
}

/// Answers the next probe; whether there was one.
fn hear(world: &mut World, evidence: &PostgresEvidence) -> bool {
    world.now += SECOND;
    let orders = world.orders();
    let now = world.moment();
    for order in &orders {
        let observation = Observation {
            result: Ok(Evidence::Postgres(evidence.clone())),
            duration: Duration::from_millis(1),
        };
        world.core.observe(order.id, order.number, observation, now);
    }
    world.core.settle();
    !orders.is_empty()
}

fn report(world: &mut World, cause: Cause) {
    let (id, now) = (world.entry("db1").handle.id, world.moment());
    world.core.report(id, cause, now);
    world.core.settle();
}

fn fate_of_writes(world: &World) -> Fate {
    world.entry("db1").handle.fate(WRITES)
}

/// Went wrong once: until a probe had found that a server was being killed, sessions at layer 4
/// went there, and came to nothing.
#[test]
fn who_resets_a_session_is_shunned_until_it_was_asked() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND * 2, up);
    let is_suspected = |world: &World| world.entry("db1").handle.is_suspected();
    report(&mut world, Cause::EarlyClose);
    assert!(!is_suspected(&world), "that is no hard evidence");
    report(&mut world, Cause::Reset);
    assert!(is_suspected(&world));
    world.run(SECOND / 10, up);
    assert!(!is_suspected(&world));
    // Whoever makes it reset sessions all the time keeps nobody away.
    report(&mut world, Cause::Reset);
    assert!(!is_suspected(&world));
    world.run(SECOND, up);
    report(&mut world, Cause::Reset);
    assert!(is_suspected(&world));
    world.run(SECOND / 10, refuses("db1"));
    assert_eq!(world.health("db1"), Health::Down);
    assert!(!is_suspected(&world));
}

/// The answer to a question that is older than the evidence refutes nothing.
#[test]
fn who_resets_a_session_while_it_is_asked_is_asked_once_more() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND * 2, up);
    world.now += SECOND * 2;
    let orders = world.orders();
    report(&mut world, Cause::Reset);
    for order in &orders {
        world.answer(order, Ok(()));
    }
    assert!(world.entry("db1").handle.is_suspected());
    world.run(SECOND / 10, up);
    assert!(!world.entry("db1").handle.is_suspected());
}

/// Went wrong once: role and cause were the same before and after the probe, so the sessions were
/// not told, and failed at every write for as long as they lived.
#[test]
fn sessions_are_severed_when_a_probe_confirms_what_traffic_said() {
    let mut world = world();
    report(&mut world, Cause::ReadOnly);
    assert_eq!(world.entry("db1").role, Role::Fenced);
    assert_eq!(fate_of_writes(&world), Fate::Serve, "one session's word");
    let read_only = PostgresEvidence {
        is_writable: false,
        ..primary()
    };
    assert!(hear(&mut world, &read_only));
    let severed = Fate::Sever {
        cause: Cause::BackendFenced,
    };
    assert_eq!(fate_of_writes(&world), severed);
}

#[test]
fn sessions_go_on_when_a_probe_refutes_what_traffic_said() {
    let mut world = world();
    report(&mut world, Cause::ReadOnly);
    assert!(hear(&mut world, &primary()));
    assert_eq!(world.entry("db1").role, Role::Primary);
    assert_eq!(fate_of_writes(&world), Fate::Serve);
}

#[test]
fn it_is_told_on_which_timeline_a_primary_was_seen() {
    let mut world = world();
    let now = world.moment();
    let mut told = world.core.take_happenings(now).into_iter();
    let seen = told.find_map(|it| match it.what {
        What::PrimarySeen { timeline, .. } => timeline,
        _ => None,
    });
    assert_eq!(seen, Some(1));
}

#[test]
fn what_says_nothing_of_writes_leaves_the_primary_in_place() {
    for cause in [
        Cause::ConnectRefused,
        Cause::ConnectTimeout,
        Cause::Reset,
        Cause::EarlyClose,
        Cause::TooManyConnections,
    ] {
        let mut world = world();
        report(&mut world, cause);
        assert_eq!(world.entry("db1").role, Role::Primary, "{cause:?}");
    }
}

/// A smart shutdown of PostgreSQL lets sessions finish and nobody in.
#[test]
fn sessions_of_a_backend_that_shuts_down_are_left_to_it() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    world.run(SECOND, up);
    world.run(SECOND * 5, |_| Err(Cause::ShuttingDown));
    assert_eq!(world.health("db1"), Health::Down);
    assert_eq!(world.fate("db1"), Fate::Serve);
    world.run(SECOND * 5, refuses("db1"));
    let severed = Fate::Sever {
        cause: Cause::BackendDead,
    };
    assert_eq!(world.fate("db1"), severed);
}
