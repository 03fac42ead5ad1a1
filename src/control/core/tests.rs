//! The core, driven by hand and by a seeded simulation.

use crate::control::probe::Observation;
use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::cluster::Health;
use crate::config::BackendConfig;
use crate::config::ClusterConfig;
use crate::config::Intent;
use crate::config::OnDead;
use crate::config::Panic;
use crate::control::evidence::Evidence;
use crate::control::fixtures::DRAIN;
use crate::control::fixtures::SECOND;
use crate::control::fixtures::backend;
use crate::control::fixtures::cluster;
use crate::control::fixtures::config;
use crate::control::fixtures::nz;
use crate::control::happening::Happening;
use crate::routing::BackendEntry;
use crate::routing::ConnectionGuard;
use crate::routing::Fate;

/// The core with a clock that only moves when told to.
struct World {
    core: Core,
    start: Instant,
    now: Instant,
    happened: Vec<Happening>,
}

impl World {
    fn new(clusters: Vec<ClusterConfig>) -> Self {
        let start = Instant::now();
        let mut world = Self {
            core: Core::seeded(7),
            start,
            now: start,
            happened: Vec::new(),
        };
        world.apply(clusters);
        world
    }

    fn moment(&self) -> Moment {
        Moment {
            instant: self.now,
            epoch_seconds: (self.now - self.start).as_secs_f64(),
        }
    }

    fn apply(&mut self, clusters: Vec<ClusterConfig>) -> Vec<Name> {
        let now = self.moment();
        self.core
            .apply(&config(clusters), &HashMap::new(), HashMap::new(), now);
        self.settle()
    }

    /// As the plane does: what has happened is taken before the table that follows.
    fn settle(&mut self) -> Vec<Name> {
        let now = self.moment();
        self.happened.extend(self.core.take_happenings(now));
        self.core.settle()
    }

    fn orders(&mut self) -> Vec<Order> {
        std::iter::from_fn(|| self.core.start_due(self.now)).collect()
    }

    fn answer(&mut self, order: &Order, result: Result<(), Cause>) {
        let observation = Observation {
            result: result.map(|()| Evidence::Silent),
            duration: Duration::from_millis(1),
        };
        let now = self.moment();
        self.core.observe(order.id, order.number, observation, now);
    }

    /// Sends every probe that is due; `result` answers by the backend's name.
    fn probe(&mut self, result: impl Fn(&str) -> Result<(), Cause>) -> usize {
        let orders = self.orders();
        for order in &orders {
            self.answer(order, result(&order.target.backend.name));
        }
        orders.len()
    }

    /// Moves the clock, probe by probe, and settles after each.
    fn run(&mut self, time: Duration, result: impl Fn(&str) -> Result<(), Cause>) -> usize {
        let end = self.now + time;
        let mut probes = 0;
        loop {
            probes += self.probe(&result);
            self.settle();
            match self.core.next_due().filter(|due| *due <= end) {
                Some(due) => self.now = self.now.max(due),
                None => break,
            }
        }
        self.now = end;
        probes
    }

    /// The name points to 10.0.0.`digit` from now on.
    fn resolve(&mut self, name: &str, digit: u8) {
        let address = IpAddr::from([10, 0, 0, digit]);
        let now = self.moment();
        self.core.resolved(&Name::from(name), Some(address), now);
        self.settle();
    }

    fn admin(&mut self, backend: &str, state: AdminState) {
        let now = self.moment();
        self.core.set_admin_state("a", backend, state, now).unwrap();
        self.settle();
    }

    fn entry(&self, backend: &str) -> BackendEntry {
        let entries = self.core.clusters().flat_map(ClusterState::entries);
        entries
            .into_iter()
            .find(|entry| *entry.config.name == *backend)
            .unwrap()
    }

    fn health(&self, backend: &str) -> Health {
        self.entry(backend).health
    }

    fn fate(&self, backend: &str) -> Fate {
        self.entry(backend).handle.fate(Intent::ANY)
    }

    fn session(&self, backend: &str) -> ConnectionGuard {
        self.entry(backend).handle.acquire(None).unwrap()
    }
}

fn up(_: &str) -> Result<(), Cause> {
    Ok(())
}

/// One backend refuses, the others are up.
fn refuses(dead: &str) -> impl Fn(&str) -> Result<(), Cause> {
    move |name| {
        if name == dead {
            Err(Cause::ConnectRefused)
        } else {
            Ok(())
        }
    }
}

#[test]
fn a_few_backends_are_all_probed_at_once_at_the_start() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    assert_eq!(world.probe(up), 2);
    assert_eq!(world.core.settle(), [Name::from("a")]);
    assert_eq!(world.health("db1"), Health::Up);
    assert_eq!(world.entry("db1").warming_since, None);
    assert!(world.core.settle().is_empty(), "nothing has changed since");
}

#[test]
fn many_backends_are_first_probed_over_a_while() {
    let mut many = cluster("a", &["db1"]);
    many.backends = (0..1000)
        .map(|index| BackendConfig {
            name: Name::from(index.to_string()),
            ..backend("db1")
        })
        .collect();
    let mut world = World::new(vec![many]);
    let first = world.orders().len();
    assert!(first < 100, "{first} at once");
    world.now += SECOND;
    assert_eq!(first + world.orders().len(), 1000);
}

#[test]
fn sessions_of_a_dead_backend_are_severed_and_served_again_when_it_is_back() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND, up);
    world.run(SECOND * 2, refuses("db1"));
    assert_eq!(world.health("db1"), Health::Down);
    assert_eq!(world.entry("db1").cause, Cause::ConnectRefused);
    let cause = Cause::BackendDead;
    assert_eq!(world.fate("db1"), Fate::Sever { cause });
    assert_eq!(world.fate("db2"), Fate::Serve);
    world.run(SECOND * 4, up);
    assert_eq!(world.health("db1"), Health::Up);
    assert_eq!(world.fate("db1"), Fate::Serve);
    assert!(world.entry("db1").warming_since.is_some());
}

#[test]
fn on_dead_keep_leaves_the_sessions_alone() {
    let mut keep = cluster("a", &["db1", "db2"]);
    keep.failover.on_dead = OnDead::Keep;
    let mut world = World::new(vec![keep]);
    world.run(SECOND, up);
    world.run(SECOND * 2, refuses("db1"));
    assert_eq!(world.health("db1"), Health::Down);
    assert_eq!(world.fate("db1"), Fate::Serve);
}

#[test]
fn in_panic_sessions_are_not_severed_from_the_backends_they_are_routed_to() {
    let mut panic = cluster("a", &["db1", "db2"]);
    panic.failover.panic = Panic::TryAll;
    let mut world = World::new(vec![panic]);
    world.run(SECOND, up);
    world.run(SECOND * 2, refuses("db1"));
    assert!(matches!(world.fate("db1"), Fate::Sever { .. }));
    world.run(SECOND * 2, |_| Err(Cause::ConnectRefused));
    assert_eq!(world.health("db2"), Health::Down);
    assert_eq!(world.fate("db1"), Fate::Serve);
    assert_eq!(world.fate("db2"), Fate::Serve);
    world.run(SECOND * 2, refuses("db1"));
    assert!(matches!(world.fate("db1"), Fate::Sever { .. }));
}

#[test]
fn a_report_from_a_session_is_confirmed_by_one_probe_at_once() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND / 2, up);
    let id = world.entry("db1").handle.id;
    for _ in 0..5000 {
        let now = world.moment();
        world.core.report(id, Cause::ConnectRefused, now);
    }
    assert_eq!(
        world.probe(refuses("db1")),
        1,
        "thousands of reports, one probe"
    );
    assert_eq!(world.health("db1"), Health::Down);
}

#[test]
fn a_report_during_a_probe_asks_for_another_one() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND * 3 / 2, up);
    world.now += SECOND;
    let orders = world.orders();
    let order = orders
        .iter()
        .find(|order| *order.target.backend.name == *"db1")
        .unwrap();
    let now = world.moment();
    world.core.report(order.id, Cause::ConnectRefused, now);
    world.answer(order, Ok(()));
    world.run(Duration::from_millis(60), refuses("db1"));
    assert_eq!(world.health("db1"), Health::Down);
}

#[test]
fn an_early_close_is_only_a_reason_to_look() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND / 2, up);
    let id = world.entry("db1").handle.id;
    let now = world.moment();
    world.core.report(id, Cause::EarlyClose, now);
    assert_eq!(world.probe(|_| Err(Cause::CheckTimeout)), 1);
    assert_eq!(world.health("db1"), Health::Up);
}

/// Went wrong once: the status told of a timeout when the certificate was refused for hours.
#[test]
fn a_backend_that_stays_down_shows_why_it_fails_now() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    world.run(SECOND, up);
    world.run(SECOND * 4, |_| Err(Cause::CheckTimeout));
    let before = world.entry("db1");
    assert_eq!(before.cause, Cause::CheckTimeout);
    world.run(SECOND * 2, |_| Err(Cause::TlsFailed));
    let after = world.entry("db1");
    assert_eq!(after.cause, Cause::TlsFailed);
    assert_eq!(after.health, Health::Down);
    assert_eq!(after.since, before.since);
}

#[test]
fn changing_causes_publish_at_most_one_table_a_second() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    world.run(SECOND, |_| Err(Cause::CheckTimeout));
    let (mut probes, mut tables) = (0, 0);
    let end = world.now + SECOND * 10;
    while world.now < end {
        world.now += Duration::from_millis(10);
        let causes = [Cause::ConnectRefused, Cause::TlsFailed, Cause::Reset];
        let cause = causes[probes % causes.len()];
        probes += world.probe(|_| Err(cause));
        tables += world.core.settle().len();
    }
    assert!(probes > 100, "{probes} probes");
    assert!((5..=11).contains(&tables), "{tables} tables");
    world.run(SECOND * 2, |_| Err(Cause::Reset));
    world.run(SECOND * 2, |_| Err(Cause::OutOfResources));
    assert_eq!(world.entry("db1").cause, Cause::Reset);
}

#[test]
fn our_own_shortage_changes_no_health_and_counts_no_check() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    world.run(SECOND, up);
    let checks = world.entry("db1").handle.checks();
    world.run(SECOND * 10, |_| Err(Cause::OutOfResources));
    assert_eq!(world.health("db1"), Health::Up);
    assert_eq!(world.entry("db1").handle.checks(), checks);
}

#[test]
fn a_drained_backend_keeps_its_first_deadline_and_its_health() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND, up);
    let drained = Fate::Drain {
        deadline: world.now + DRAIN,
        cause: Cause::BackendDrained,
    };
    world.admin("db1", AdminState::Drain);
    assert_eq!(world.fate("db1"), drained);
    world.run(SECOND, up);
    world.admin("db1", AdminState::Maintenance);
    assert_eq!(world.fate("db1"), drained);
    assert_eq!(world.health("db1"), Health::Up);
    world.admin("db1", AdminState::Ready);
    assert_eq!(world.fate("db1"), Fate::Serve);
}

#[test]
fn a_drained_backend_that_dies_is_severed() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND, up);
    world.admin("db1", AdminState::Drain);
    world.run(SECOND * 2, refuses("db1"));
    assert!(matches!(world.fate("db1"), Fate::Sever { .. }));
}

#[test]
fn a_backend_in_maintenance_is_left_alone_and_asked_again_afterwards() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND, up);
    world.admin("db1", AdminState::Maintenance);
    world.run(SECOND * 5, refuses("db1"));
    assert_eq!(world.health("db1"), Health::Up);
    world.admin("db1", AdminState::Ready);
    assert_eq!(world.health("db1"), Health::Unknown);
    assert_eq!(world.entry("db1").cause, Cause::AdminCommand);
    world.probe(refuses("db1"));
    assert_eq!(world.health("db1"), Health::Down);
}

#[test]
fn a_reload_keeps_the_handle_health_and_admin_state_of_an_unchanged_backend() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"]), cluster("b", &["db3"])]);
    world.run(SECOND, up);
    world.admin("db1", AdminState::Drain);
    let before = world.entry("db1");
    let mut changed = cluster("a", &["db1", "db2"]);
    changed.backends[0].weight = 7;
    changed.health_check.fall = nz(1);
    let tables = world.apply(vec![changed, cluster("b", &["db3"])]);
    assert_eq!(tables, [Name::from("a")], "`b` has not changed");
    let after = world.entry("db1");
    assert!(Arc::ptr_eq(&before.handle, &after.handle));
    assert_eq!(after.health, Health::Up);
    assert_eq!(after.admin, AdminState::Drain);
    assert_eq!(after.since, before.since);
    assert_eq!(after.config.weight, 7);
    assert_eq!(world.probe(up), 2, "the new question is asked soon");
}

#[test]
fn a_removed_backend_drains_and_is_revived_while_sessions_hold_it() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND, up);
    let before = world.entry("db1").handle;
    let session = world.session("db1");
    world.apply(vec![cluster("a", &["db2"])]);
    let drained = Fate::Drain {
        deadline: world.now + DRAIN,
        cause: Cause::BackendRemoved,
    };
    assert_eq!(before.fate(Intent::ANY), drained);
    world.apply(vec![cluster("a", &["db1", "db2"])]);
    assert!(Arc::ptr_eq(&before, &world.entry("db1").handle));
    assert_eq!(before.fate(Intent::ANY), Fate::Serve);

    drop(session);
    world.apply(vec![cluster("a", &["db2"])]);
    world.apply(vec![cluster("a", &["db1", "db2"])]);
    assert_ne!(before.id, world.entry("db1").handle.id, "nobody held it");
}

#[test]
fn a_backend_with_another_address_is_another_backend() {
    let mut world = World::new(vec![cluster("a", &["db1"])]);
    world.run(SECOND, up);
    let before = world.entry("db1").handle.id;
    let mut moved = cluster("a", &["db1"]);
    moved.backends[0].host = Host::Ip(IpAddr::from([10, 0, 0, 9]));
    world.apply(vec![moved]);
    assert_ne!(world.entry("db1").handle.id, before);
    assert_eq!(world.health("db1"), Health::Unknown);
}

/// Went wrong once: an operator moved a server in maintenance, and clients were sent to it.
#[test]
fn an_admin_state_and_its_deadline_survive_a_change_of_address() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    world.run(SECOND, up);
    let before = world.entry("db1").handle;
    before.count_connected();
    world.admin("db1", AdminState::Maintenance);
    let deadline = world.now + DRAIN;
    world.run(SECOND, up);
    let mut moved = cluster("a", &["db1", "db2"]);
    moved.backends[0].host = Host::Ip(IpAddr::from([10, 0, 0, 9]));
    world.apply(vec![moved]);
    let after = world.entry("db1");
    assert_eq!(after.admin, AdminState::Maintenance);
    let cause = Cause::BackendDrained;
    assert_eq!(
        after.handle.fate(Intent::ANY),
        Fate::Drain { deadline, cause }
    );
    let cause = Cause::BackendRemoved;
    assert_eq!(before.fate(Intent::ANY), Fate::Drain { deadline, cause });
    assert_eq!(after.handle.total(), 1, "the series goes on");
    world.run(SECOND * 3, up);
    assert_eq!(world.health("db1"), Health::Unknown, "nobody asks it");
}

/// Went wrong once: sessions at the old address were severed when the server at the new one died.
#[test]
fn sessions_at_an_old_address_do_not_follow_the_health_of_the_new_one() {
    let mut world = World::new(vec![cluster("a", &["db.x", "db2"])]);
    world.resolve("db.x", 1);
    world.run(SECOND, up);
    world.admin("db.x", AdminState::Drain);
    world.admin("db.x", AdminState::Ready);
    let (old, session) = (world.entry("db.x").handle, world.session("db.x"));
    old.count_connected();
    let checks = old.checks();

    world.resolve("db.x", 9);
    let new = world.entry("db.x").handle;
    assert_ne!(old.id, new.id);
    assert_eq!(world.health("db.x"), Health::Unknown);
    assert_eq!((new.total(), new.checks()), (1, checks), "the series go on");
    let drained = Fate::Drain {
        deadline: world.now + DRAIN,
        cause: Cause::BackendRemoved,
    };
    let orders = world.orders();
    assert_eq!(orders.len(), 1, "the new one is asked at once");
    assert_eq!(orders[0].address.ip(), IpAddr::from([10, 0, 0, 9]));
    world.answer(&orders[0], Err(Cause::ConnectRefused));
    world.core.settle();
    assert!(matches!(new.fate(Intent::ANY), Fate::Sever { .. }));
    assert_eq!(old.fate(Intent::ANY), drained);

    world.resolve("db.x", 1);
    assert_eq!(world.entry("db.x").handle.id, old.id, "it has returned");
    assert_eq!(old.fate(Intent::ANY), Fate::Serve);
    drop(session);
}

#[test]
fn a_removed_name_is_revived_once_it_resolves_to_where_its_sessions_are() {
    let mut world = World::new(vec![cluster("a", &["db.x", "db2"])]);
    world.resolve("db.x", 1);
    world.run(SECOND, up);
    let (before, session) = (world.entry("db.x").handle, world.session("db.x"));
    world.apply(vec![cluster("a", &["db2"])]);
    world.apply(vec![cluster("a", &["db.x", "db2"])]);
    assert_ne!(world.entry("db.x").handle.id, before.id);
    world.resolve("db.x", 1);
    assert_eq!(world.entry("db.x").handle.id, before.id);
    assert_eq!(before.fate(Intent::ANY), Fate::Serve);
    assert_eq!(world.probe(up), 1);
    assert_eq!(world.health("db.x"), Health::Up);
    drop(session);
}

#[test]
fn a_drained_backend_stays_drained_when_its_name_moves() {
    let mut world = World::new(vec![cluster("a", &["db.x", "db2"])]);
    world.resolve("db.x", 1);
    world.run(SECOND, up);
    world.admin("db.x", AdminState::Drain);
    let drained = world.fate("db.x");
    world.run(SECOND, up);
    world.resolve("db.x", 9);
    assert_eq!(world.entry("db.x").admin, AdminState::Drain);
    assert_eq!(world.fate("db.x"), drained);
}

#[test]
fn an_answer_from_the_old_address_says_nothing_of_the_new_one() {
    let mut world = World::new(vec![cluster("a", &["db.x"])]);
    world.resolve("db.x", 1);
    let orders = world.orders();
    assert_eq!(orders.len(), 1);
    world.resolve("db.x", 9);
    world.answer(&orders[0], Ok(()));
    assert_eq!(world.health("db.x"), Health::Unknown);
}

#[test]
fn an_answer_for_a_removed_backend_is_ignored() {
    let mut world = World::new(vec![cluster("a", &["db1", "db2"])]);
    let orders = world.orders();
    world.apply(vec![cluster("a", &["db2"])]);
    for order in &orders {
        world.answer(order, Err(Cause::ConnectRefused));
    }
    assert_eq!(world.health("db2"), Health::Down);
}

#[test]
fn a_name_that_does_not_resolve_is_down_until_it_does() {
    let mut world = World::new(vec![cluster("a", &["db.x"])]);
    let name = Name::from("db.x");
    assert_eq!(world.probe(up), 0);
    let now = world.moment();
    world.core.resolved(&name, None, now);
    assert_eq!(world.health("db.x"), Health::Down);
    assert_eq!(world.entry("db.x").cause, Cause::Unresolved);
    let address = IpAddr::from([10, 0, 0, 1]);
    world.core.resolved(&name, Some(address), now);
    assert_eq!(world.probe(up), 1);
    assert_eq!(world.health("db.x"), Health::Up);
    world.core.resolved(&name, None, now);
    assert_eq!(
        world.health("db.x"),
        Health::Up,
        "the last good address stays"
    );
    assert_eq!(world.entry("db.x").address.unwrap().ip(), address);
}

#[test]
fn unknown_names_are_refused_with_a_near_miss() {
    let mut world = World::new(vec![cluster("orders", &["db1", "db2"])]);
    let now = world.moment();
    let mut refuse = |cluster, backend| {
        let result = world
            .core
            .set_admin_state(cluster, backend, AdminState::Drain, now);
        result.unwrap_err().to_string()
    };
    assert_eq!(
        refuse("ordrs", "db1"),
        "no cluster \"ordrs\"; did you mean \"orders\"?"
    );
    assert_eq!(refuse("payments", "db1"), "no cluster \"payments\"");
    assert_eq!(
        refuse("orders", "db11"),
        "no backend \"db11\"; did you mean \"db1\"?"
    );
}

mod authority;
mod edges;
mod happenings;
mod outliers;
mod pace;
mod proof;
mod roles;
mod simulation;
