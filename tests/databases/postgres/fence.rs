//! Who may be written to: never a loser, never one of two, never a stranger.

use std::thread;

use tempfile::TempDir;

use super::stage::LIMIT;
use super::stage::Plan;
use super::stage::SOME;
use super::stage::Stage;
use super::stage::WRITERS;
use super::stage::expect_an_error_each;
use super::stage::is_on;
use super::stage::rows_of;
use crate::support::Watchdog;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::pg_node::Shutdown;
use crate::support::pg_server::PgServer;
use crate::support::postgres::Postgres;

fn state_dir() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let line = format!("state_dir: {}", dir.path().display());
    (dir, line)
}

/// The old primary comes back before anybody else answers, and before Evergate has seen anything.
#[test]
fn an_old_primary_that_is_first_after_a_restart_is_fenced() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (_dir, line) = state_dir();
    let stage = Plan::default().line(&line).start(PostgresCluster::start(1));
    let load = stage.load();
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    new.wait_until_it_caught_up_with(old);
    old.kill_9();
    new.promote();
    let known = stage.wait_for_primary(new);
    load.wait_for_every_writer();
    let record = load.finish();
    let verdict = record.verdict(new.addr());
    verdict.expect_none_doubled();
    record.expect_none_lost_after(&verdict, known);

    let stage = stage.kill_evergate_and_restart(|cluster| {
        cluster.node(1).kill_9();
        cluster.node(0).start();
    });
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    stage.wait_for_role(old, "fenced", "stale_timeline");
    stage.wait_for_health(new, "down");
    let before = rows_of(old);
    assert!(!before.is_empty());
    thread::scope(|scope| {
        let held = scope.spawn(|| stage.writer());
        stage.wait_until_held(1);
        new.start();
        let mut held = held.join().unwrap().expect("it was held");
        assert!(is_on(&mut held, new));
        held.query("insert into writes values (-1)").unwrap();
    });
    assert_eq!(rows_of(old), before);
}

/// Evergate is killed between the death of the primary and the promotion.
#[test]
fn a_failover_goes_on_when_evergate_is_killed_in_its_midst() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (_dir, line) = state_dir();
    let stage = Plan::default().line(&line).start(PostgresCluster::start(1));
    let load = stage.load();
    stage.cluster.node(0).kill_9();
    stage.wait_until_held(WRITERS);
    let stage = stage.kill_evergate_and_restart(|cluster| cluster.node(1).promote());
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    let known = stage.wait_for_primary(new);
    load.wait_for_every_writer();
    old.start();
    stage.wait_for_role(old, "fenced", "stale_timeline");
    let before = rows_of(old);
    load.wait_for_writes(SOME);
    let record = load.finish();
    let verdict = record.verdict(new.addr());
    println!("{verdict}");
    assert_eq!(verdict.read_only_errors, 0, "{verdict}");
    assert_eq!(rows_of(old), before);
    verdict.expect_none_doubled();
    record.expect_none_lost_after(&verdict, known);
}

/// What docs/configuration.md says of `state_dir`: why it exists.
#[test]
fn without_a_state_dir_an_old_primary_alone_after_a_restart_is_believed_until_the_new_one_answers()
{
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    new.wait_until_it_caught_up_with(old);
    old.kill_9();
    new.promote();
    stage.wait_for_role(new, "primary", "claims_primary");
    let stage = stage.kill_evergate_and_restart(|cluster| {
        cluster.node(1).kill_9();
        cluster.node(0).start();
    });
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    stage.wait_for_role(old, "primary", "claims_primary");
    new.start();
    // Two that claim, and the lower one is established: nobody is written to until it yields.
    stage.wait_for_role(new, "fenced", "split_brain");
    assert_eq!(stage.role(old).0, "fenced");
    old.stop(Shutdown::Fast);
    stage.wait_for_role(new, "primary", "claims_primary");
}

/// B15
#[test]
fn of_two_primaries_neither_is_written_to_until_one_yields() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let load = stage.load();
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    new.promote();
    stage.evergate.wait_for_metric(
        "evergate_cluster_split_brain",
        &[("cluster", "orders")],
        1.0,
    );
    stage.wait_until_held(WRITERS);
    let view = stage.view();
    assert_eq!(view["split_brain"], true, "{view}");
    assert!(view["primary"].is_null(), "{view}");
    for node in [old, new] {
        assert_eq!(stage.role(node), ("fenced".into(), "split_brain".into()));
    }
    let has_primary = |stage: &Stage| {
        let cluster = [("cluster", "orders")];
        stage
            .evergate
            .metric("evergate_cluster_has_primary", &cluster)
    };
    assert_eq!(has_primary(&stage), Some(0.0));
    let before = [old, new].map(|node| rows_of(node));
    stage.wait_for_checks(old, "passed", 5);
    assert_eq!([old, new].map(|node| rows_of(node)), before);

    old.stop(Shutdown::Fast);
    let known = stage.wait_for_primary(new);
    load.wait_for_every_writer();
    assert_eq!(has_primary(&stage), Some(1.0));
    let record = load.finish();
    let verdict = record.verdict(new.addr());
    expect_an_error_each(&verdict);
    assert_eq!(verdict.read_only_errors, 0, "{verdict}");
    verdict.expect_none_doubled();
    record.expect_none_lost_after(&verdict, known);
}

#[test]
fn a_stranger_among_the_backends_gets_nobody() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stranger = Postgres::start();
    stranger.sql("create role app login");
    let server = PgServer::new("stranger", stranger.addr());
    let stage = Stage::with_replicas(1);
    stage.reload(&Plan::default().backend(server.clone()));
    stage.wait_for_role(&server, "fenced", "foreign_system");
    stage.wait_for_role(stage.cluster.node(0), "primary", "claims_primary");
    stage.cluster.node(0).kill_9();
    stage.cluster.node(1).kill_9();
    stage.wait_for_health(stage.cluster.node(1), "down");
    stage.wait_for_health(stage.cluster.node(0), "down");
    assert_eq!(stage.role(&server).0, "fenced");
    assert_eq!(stage.view()["primary"], serde_json::Value::Null);
}
