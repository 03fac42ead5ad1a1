//! Orderly stops: the three shutdowns of PostgreSQL, and the switchover by hand.

use std::thread;

use super::stage::LIMIT;
use super::stage::Stage;
use super::stage::WRITERS;
use super::stage::expect_an_error_each_at_most;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::pg_node::Shutdown;
use crate::support::wait_for;

/// B16 without Patroni: stop the primary, promote, let the old one follow.
#[test]
fn a_switchover_by_hand_costs_each_session_one_error() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let load = stage.load();
    let oracle = stage.oracle();
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    // Waits until the replica has received everything: nothing is lost.
    old.stop(Shutdown::Fast);
    new.promote();
    let known = stage.wait_for_primary(new);
    load.wait_for_every_writer();
    old.rejoin_as_replica_of(new);
    stage.wait_for_role(old, "replica", "claims_replica");
    assert!(stage.reader().is_ok());

    expect_an_error_each_at_most(load, oracle, new, known).expect_intact();
}

/// B5
#[test]
fn a_fast_stop_and_an_immediate_one_cost_each_session_one_error() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(0);
    let primary = stage.cluster.node(0);
    for how in [Shutdown::Fast, Shutdown::Immediate] {
        let load = stage.load();
        primary.stop(how);
        stage.wait_until_held(WRITERS);
        primary.start();
        load.wait_for_every_writer();
        let verdict = load.finish().verdict(primary.addr());
        println!("{how:?}: {verdict}");
        assert_eq!(verdict.failed_connections, 0, "{how:?}: {verdict}");
        assert_eq!(verdict.failed_statements, WRITERS, "{how:?}: {verdict}");
        verdict.expect_intact();
        primary.sql("drop table writes");
    }
}

/// B5: sessions may go on for as long as they like, and who comes anew is held.
#[test]
fn a_smart_stop_lets_old_sessions_work_and_holds_new_ones() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    let mut working = stage.writer().unwrap();
    working.query("create table t (x int)").unwrap();
    thread::scope(|scope| {
        let stop = scope.spawn(|| old.stop(Shutdown::Smart));
        wait_for(PATIENCE, "the primary refuses", || {
            old.try_sql("select 1").err()
        });
        let held = scope.spawn(|| stage.writer());
        stage.wait_until_held(1);
        working.query("insert into t values (1)").unwrap();
        // Its last session ends: the check's own must not keep it.
        drop(working);
        stop.join().unwrap();
        new.promote();
        let mut held = held.join().unwrap().expect("it was held");
        assert_eq!(held.query("select x from t").unwrap(), [["1"]]);
    });
}
