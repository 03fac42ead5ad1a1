//! B14: replicas that are behind.

use std::thread;

use super::stage::EAGER;
use super::stage::LIMIT;
use super::stage::Plan;
use super::stage::Stage;
use super::stage::is_on;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::client::Session;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::pg_server::PgServer;
use crate::support::wait_until;

const SECONDS: &str = "evergate_backend_replication_lag_seconds";
pub const BYTES: &str = "evergate_backend_replication_lag_bytes";
/// About 4 MiB of log.
pub const MUCH: &str =
    "create table much as select i, repeat('x', 100) from generate_series(1, 25000) i";

#[track_caller]
pub fn wait_for_lag(stage: &Stage, node: &PgServer, metric: &str, at_least: f64) {
    let what = format!("{metric} of {} is {at_least}", node.name());
    wait_until(PATIENCE, &what, || {
        let lag = stage.evergate.metric(metric, &[("backend", node.name())]);
        lag.is_some_and(|lag| lag >= at_least)
    });
}

/// New sessions by node, as many as would not all go to one of two by chance.
fn readers(stage: &Stage) -> Vec<Session> {
    (0..6).map(|_| stage.reader().unwrap()).collect()
}

#[track_caller]
fn expect_all_on(stage: &Stage, node: &PgServer) {
    // Another one may be over the limit for a moment, too, or back below it.
    wait_until(
        PATIENCE,
        &format!("{} gets all readers", node.name()),
        || {
            let mut sessions = readers(stage);
            sessions.iter_mut().all(|session| is_on(session, node))
        },
    );
}

#[track_caller]
fn wait_until_it_gets_readers(stage: &Stage, node: &PgServer) {
    wait_until(PATIENCE, &format!("{} gets readers", node.name()), || {
        readers(stage)
            .iter_mut()
            .any(|session| is_on(session, node))
    });
}

#[test]
fn a_replica_that_is_seconds_behind_gets_no_new_session_and_keeps_the_old() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .check(EAGER)
        .read("max_lag: 1s")
        .start(PostgresCluster::start(2));
    let (behind, other) = (stage.cluster.node(1), stage.cluster.node(2));
    wait_until_it_gets_readers(&stage, behind);
    // The one alone: others kept open would count against the replica when it is back.
    let mut old = readers(&stage)
        .into_iter()
        .find_map(|mut session| is_on(&mut session, behind).then_some(session))
        .expect("one of them is on it");

    behind.pause_replay();
    let load = stage.load();
    wait_for_lag(&stage, behind, SECONDS, 1.1);
    expect_all_on(&stage, other);
    assert!(is_on(&mut old, behind), "a session that lags is kept");

    behind.resume_replay();
    wait_until_it_gets_readers(&stage, behind);
    let verdict = load.finish().verdict(stage.cluster.node(0).addr());
    verdict.expect_intact();
    assert_eq!(verdict.failed_statements, 0, "{verdict}");
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
}

#[test]
fn readers_of_lagging_replicas_go_to_the_primary_or_wait_as_the_file_says() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let plan = |fallback| {
        Plan::default()
            .check(EAGER)
            .read(&format!("max_lag: 1MiB, fallback: {fallback}"))
    };
    let stage = plan("primary").start(PostgresCluster::start(2));
    let primary = stage.cluster.node(0);
    let replicas = [stage.cluster.node(1), stage.cluster.node(2)];
    wait_until_it_gets_readers(&stage, replicas[0]);
    replicas[0].pause_replay();
    primary.sql(MUCH);
    wait_for_lag(&stage, replicas[0], BYTES, 1_048_577.0);
    expect_all_on(&stage, replicas[1]);

    replicas[1].pause_replay();
    primary.sql("drop table much");
    primary.sql(MUCH);
    wait_for_lag(&stage, replicas[1], BYTES, 1_048_577.0);
    expect_all_on(&stage, primary);

    stage.reload(&plan("none"));
    thread::scope(|scope| {
        let held = scope.spawn(|| stage.reader());
        stage.wait_until_held(1);
        replicas[0].resume_replay();
        let mut held = held.join().unwrap().expect("it was held");
        assert!(is_on(&mut held, replicas[0]));
    });
    expect_all_on(&stage, replicas[0]);
}

#[test]
fn replicas_of_an_idle_primary_do_not_lag() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .check("interval: 100ms")
        .read("max_lag: 500ms")
        .start(PostgresCluster::start(1));
    let (primary, replica) = (stage.cluster.node(0), stage.cluster.node(1));
    primary.sql("create table t (x int)");
    replica.wait_until_it_caught_up_with(primary);
    let since_replay = "select extract(epoch from now() - pg_last_xact_replay_timestamp()) > 3";
    wait_until(PATIENCE, "three idle seconds", || {
        replica.sql(since_replay) == "t"
    });
    stage.wait_for_checks(replica, "passed", 2);
    let lag = stage.evergate.metric(SECONDS, &[("backend", "n2")]);
    assert_eq!(lag, Some(0.0));
    let bytes = stage.evergate.metric(BYTES, &[("backend", "n2")]);
    assert_eq!(bytes, Some(0.0));
    assert!(stage.reader().is_ok());
}
