//! The running control plane against real sockets.

use super::*;
use crate::cluster::Cause;
use crate::cluster::Health;
use crate::config::CheckKind;
use crate::config::Host;
use crate::config::Intent;
use crate::control::fixtures::backend;
use crate::control::fixtures::cluster;
use crate::control::fixtures::config;
use crate::control::probe::MAX_COMMANDS;
use crate::report;
use crate::routing::Admission;
use crate::routing::Fate;
use crate::routing::RoutingTable;
use std::net::IpAddr;
use std::net::TcpListener;
use std::num::NonZeroU16;
use std::time::Duration;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(10);

struct Running {
    control: ControlHandle,
    reporter: report::Reporter,
    table: SharedTable,
}

fn running() -> Running {
    let table = SharedTable::default();
    let (reporter, reports) = report::channel();
    let control = start(table.clone(), reports, Arc::default(), None).unwrap();
    Running {
        control,
        reporter,
        table,
    }
}

impl Running {
    async fn apply(&self, config: Config) {
        let desired = Desired {
            config: Arc::new(config),
            tls: TlsMaterial::default(),
        };
        self.control.apply(desired).await.unwrap();
    }

    /// Waits for a table of which this is true.
    async fn until(&self, what: &str, condition: impl Fn(&RoutingTable) -> bool) {
        let mut follow = self.table.follow();
        let deadline = Instant::now() + PATIENCE;
        while !condition(&self.table.load()) {
            let changed = tokio::time::timeout_at(deadline.into(), follow.changed()).await;
            assert!(changed.is_ok(), "never: {what}");
        }
    }
}

fn health(table: &RoutingTable, backend: usize) -> Health {
    table.clusters["a"].backends[backend].health
}

/// A cluster of these ports on loopback.
fn on_loopback(ports: &[u16]) -> Config {
    let mut cluster = cluster("a", &["db1"]);
    cluster.backends = ports
        .iter()
        .map(|port| {
            let mut backend = backend("db1");
            backend.name = format!("db{port}").into();
            backend.host = Host::Ip(IpAddr::from([127, 0, 0, 1]));
            backend.port = NonZeroU16::new(*port).unwrap();
            backend
        })
        .collect();
    config(vec![cluster])
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn a_backend_that_dies_and_returns_is_followed() {
    let (_first, first) = listener();
    let (second, second_port) = listener();
    let running = running();
    running.apply(on_loopback(&[first, second_port])).await;
    running
        .until("both up", |table| {
            health(table, 0) == Health::Up && health(table, 1) == Health::Up
        })
        .await;

    drop(second);
    let handle = Arc::clone(&running.table.load().clusters["a"].backends[1].handle);
    running.reporter.send(Report {
        backend: handle.id,
        cause: Cause::ConnectRefused,
    });
    running
        .until("down", |table| health(table, 1) == Health::Down)
        .await;
    let cause = Cause::BackendDead;
    assert_eq!(handle.fate(Intent::ANY), Fate::Sever { cause });

    let _second = TcpListener::bind(("127.0.0.1", second_port)).unwrap();
    running
        .until("up again", |table| health(table, 1) == Health::Up)
        .await;
    assert_eq!(handle.fate(Intent::ANY), Fate::Serve);
    let (passed, failed) = handle.checks();
    assert!(passed >= 2 && failed >= 1, "{passed} {failed}");
}

#[tokio::test]
async fn a_name_is_resolved_and_then_probed() {
    let (_listener, port) = listener();
    let running = running();
    let mut config = on_loopback(&[port]);
    config.clusters[0].backends[0].host = Host::Name("localhost".into());
    running.apply(config).await;
    running
        .until("up", |table| health(table, 0) == Health::Up)
        .await;
    let address = running.table.load().clusters["a"].backends[0].address;
    assert_eq!(address, Some(([127, 0, 0, 1], port).into()));
}

#[tokio::test]
async fn an_unresolvable_name_neither_stops_the_start_nor_the_other_backends() {
    let (_listener, port) = listener();
    let running = running();
    let mut config = on_loopback(&[port, 1]);
    config.clusters[0].backends[1].host = Host::Name("no-such-host.invalid".into());
    running.apply(config).await;
    running
        .until("one up, one unresolved", |table| {
            let unresolved = &table.clusters["a"].backends[1];
            health(table, 0) == Health::Up && unresolved.cause == Cause::Unresolved
        })
        .await;
}

/// Each is a process: backends by the hundred must not fill the machine.
#[tokio::test]
async fn checks_that_are_commands_run_only_so_many_at_once() {
    const BACKENDS: u16 = 40;
    const RARE: Duration = Duration::from_secs(3600);
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    std::fs::create_dir(place.join("running")).unwrap();
    // Each counts itself and those beside it.
    let script = format!(
        "cd {} && : > running/$EVERGATE_BACKEND && set -- running/* && echo $# >> counts && \
         sleep 0.5; rm running/$EVERGATE_BACKEND",
        place.display()
    );
    let ports: Vec<u16> = (1..=BACKENDS).collect();
    let mut config = on_loopback(&ports);
    let check = &mut config.clusters[0].health_check;
    check.kind = CheckKind::Exec {
        command: ["/bin/sh", "-c", &script].map(String::from).into(),
    };
    (check.interval, check.fast_interval) = (RARE, RARE);
    check.timeout = Duration::from_secs(60);
    let running = running();

    running.apply(config).await;

    running
        .until("all up", |table| {
            let mut backends = table.clusters["a"].backends.iter();
            backends.all(|backend| backend.health == Health::Up)
        })
        .await;
    let counts = std::fs::read_to_string(place.join("counts")).unwrap();
    let counts: Vec<usize> = counts.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(counts.len(), usize::from(BACKENDS));
    let most = *counts.iter().max().unwrap();
    assert!((2..=MAX_COMMANDS).contains(&most), "{most} at once");
}

#[tokio::test]
async fn a_command_is_in_the_table_when_it_returns() {
    let (_listener, port) = listener();
    let running = running();
    running.apply(on_loopback(&[port])).await;
    assert!(running.table.load().generation > 0);
    let name = format!("db{port}");
    let drained = running
        .control
        .set_admin_state("a", &name, AdminState::Drain);
    drained.await.unwrap();
    let admin = running.table.load().clusters["a"].backends[0].admin;
    assert_eq!(admin, AdminState::Drain);
    let unknown = running
        .control
        .set_admin_state("b", &name, AdminState::Drain);
    assert!(matches!(unknown.await, Err(CommandError::Unknown(_))));
}

#[tokio::test]
async fn a_reload_shares_the_tables_of_unchanged_clusters() {
    let (_listener, port) = listener();
    let running = running();
    running.apply(on_loopback(&[port])).await;
    running
        .until("up", |table| health(table, 0) == Health::Up)
        .await;
    let before = running.table.load_full();
    let mut more = on_loopback(&[port]);
    more.clusters.push(cluster("b", &["db1"]));
    running.apply(more).await;
    let after = running.table.load_full();
    assert!(after.generation > before.generation);
    assert!(Arc::ptr_eq(&before.clusters["a"], &after.clusters["a"]));
    assert!(after.clusters.contains_key("b"));
}

#[tokio::test]
async fn the_thread_ends_when_every_handle_is_dropped() {
    let (_listener, port) = listener();
    let running = running();
    running.apply(on_loopback(&[port])).await;
    let metrics = {
        let metrics = Arc::new(Metrics::default());
        let (_reporter, reports) = report::channel();
        let control = start(SharedTable::default(), reports, Arc::clone(&metrics), None).unwrap();
        drop(control);
        metrics
    };
    let deadline = Instant::now() + PATIENCE;
    while Arc::strong_count(&metrics) > 1 {
        assert!(Instant::now() < deadline, "the thread still holds them");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// With a new zone in the same file, sessions of a removed cluster waited on one by one.
#[tokio::test]
async fn who_is_held_by_a_removed_cluster_is_let_go_at_once() {
    let running = running();
    let clusters = vec![cluster("a", &["db1"]), cluster("b", &["db2"])];
    running.apply(config(clusters)).await;
    let hold = running.table.load().clusters["b"].handle.hold(Intent::ANY);
    let mut tickets: Vec<_> = (0..3)
        .map(|_| match hold.enter(10) {
            Admission::Waiting(ticket) => ticket,
            Admission::Full => panic!("the room has places"),
        })
        .collect();

    let mut without = config(vec![cluster("a", &["db1"])]);
    without.zone = Some("z1".into());
    running.apply(without).await;

    for ticket in &mut tickets {
        let released = tokio::time::timeout(PATIENCE, ticket.turn()).await;
        assert!(released.is_ok(), "nobody lets it go");
    }
}
