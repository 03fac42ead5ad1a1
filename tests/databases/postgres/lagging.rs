//! What becomes of live sessions whose replica is over their limit of lag (`on_lagging`).

use std::time::Duration;
use std::time::Instant;

use super::four::Four;
use super::four::wait_for_sessions;
use super::lag::BYTES;
use super::lag::MUCH;
use super::lag::wait_for_lag;
use super::stage::EAGER;
use super::stage::LIMIT;
use super::stage::Plan;
use super::stage::Stage;
use crate::support::Watchdog;
use crate::support::pg_cluster::PostgresCluster;

const GRACE: Duration = Duration::from_secs(4);

/// One replica with a limit of lag; `policy` is a key of `failover`.
fn stage(policy: &str) -> Stage {
    Plan::default()
        .check(EAGER)
        .read("max_lag: 1MiB")
        .failover(policy)
        .start(PostgresCluster::start(1))
}

/// Puts the replica over the limit, and waits until Evergate knows.
#[track_caller]
fn fall_behind(stage: &Stage) {
    stage.cluster.node(1).pause_replay();
    stage.cluster.node(0).sql(MUCH);
    wait_for_lag(stage, stage.cluster.node(1), BYTES, 1_048_577.0);
}

#[test]
fn sessions_of_a_lagging_replica_are_kept() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = stage("");
    let mut four = Four::of_readers(&stage);
    fall_behind(&stage);
    stage.wait_for_checks(stage.cluster.node(1), "passed", 3);
    four.idle.query("select 1").unwrap();
    four.in_transaction.query("select 1").unwrap();
    assert!(four.busy.iter().all(|busy| !busy.is_finished()));
    stage.cluster.node(1).kill_9();
}

#[test]
fn sessions_of_a_lagging_replica_are_severed_where_the_file_says_so() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = stage("on_lagging: sever");
    let four = Four::of_readers(&stage);
    fall_behind(&stage);
    four.expect_severed(&stage, "backend_lagging");
    // Those of the primary, and those that came without a limit, are nobody's business here.
    assert!(stage.writer().is_ok());
}

#[test]
fn sessions_of_a_lagging_replica_may_end_their_transaction_within_the_grace() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = stage("on_lagging: {grace: 4s}");
    let replica = stage.cluster.node(1);
    let mut four = Four::of_readers(&stage);
    let began = Instant::now();
    fall_behind(&stage);
    // The idle one first; the transaction ends with its own end, the others with the grace.
    wait_for_sessions(replica, 3);
    four.in_transaction.query("select 1").unwrap();
    four.in_transaction.query("commit").unwrap();
    wait_for_sessions(replica, 2);
    assert!(four.busy.iter().all(|busy| !busy.is_finished()));
    let ends = four.expect_severed(&stage, "backend_lagging");
    for end in [ends.long_query, ends.copy] {
        assert!(end - began >= GRACE);
    }
}
