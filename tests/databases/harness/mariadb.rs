//! MariaDB's pair in the harness, and the checker in its dialect.

use std::time::Duration;

use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::client::Failure;
use crate::support::client::Session;
use crate::support::client::USER;
use crate::support::mariadb::MariaDbPair;
use crate::support::workload::OracleWriter;
use crate::support::workload::Workload;

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn the_roles_of_a_pair_are_exchanged() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let pair = MariaDbPair::start();
    let (first, second) = (pair.node(0), pair.node(1));
    assert_eq!(pair.primary().name(), "m1");
    first.sql("create table app.t (x int)");
    let workload = Workload::through(Dialect::MariaDb, first.addr()).start();
    let oracle = OracleWriter::start(Dialect::MariaDb, &[first.addr(), second.addr()]);
    workload.wait_for_writes(100);

    pair.swap();
    assert_eq!(pair.primary().name(), "m2");
    assert_eq!(pair.replica().name(), "m1");
    workload.wait_for_failures(4, Failure::is_read_only);
    second.wait_for_sql(
        "select count(*) > 0 from app.oracle_writes where id >> 32 = 1",
        "1",
    );

    // Back again: the applications, which know one address, write again.
    pair.swap();
    workload.wait_for_every_writer();
    let (record, baseline) = (workload.finish(), oracle.finish());
    let verdict = record.verdict(first.addr());
    verdict.expect_intact();
    assert!(verdict.errors["1290"] >= 4, "{verdict}");
    baseline.verdict(first.addr()).expect_intact();
    second.wait_until_it_caught_up_with(first);
    record.verdict(second.addr()).expect_intact();
}

#[test]
fn a_killed_primary_is_replaced_and_a_frozen_one_is_silent() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let pair = MariaDbPair::start();
    let (old, new) = (pair.node(0), pair.node(1));
    old.sql("create table app.t (x int)");
    new.wait_until_it_caught_up_with(old);
    let short = Duration::from_millis(300);
    old.freeze();
    let silent = Session::open(Dialect::MariaDb, old.addr(), USER, short).unwrap_err();
    assert_eq!(silent, Failure::Login("timeout".to_owned()));
    old.thaw();

    old.kill_9();
    new.promote();
    new.sql("insert into app.t values (1)");
    // Both believe that they are primary.
    old.start_writable();
    assert!(!old.is_read_only() && !new.is_read_only());
    old.rejoin_as_replica_of(new);
    old.wait_for_sql("select x from app.t", "1");
    old.pause_replay();
    new.sql("update app.t set x = 2");
    assert_eq!(old.sql("select x from app.t"), "1");
    assert_eq!(
        old.replica_status("Slave_SQL_Running").as_deref(),
        Some("No")
    );
    old.resume_replay();
    old.wait_for_sql("select x from app.t", "2");
}
