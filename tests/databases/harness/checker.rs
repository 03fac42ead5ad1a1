//! The data checker: it has to find what is planted, or it proves nothing.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::client::Failure;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::verdict::Verdict;
use crate::support::workload::OracleWriter;
use crate::support::workload::Workload;

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn a_quiet_run_is_intact() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(0);
    let verdict = verdict_of(cluster.primary().addr(), || {});
    verdict.expect_intact();
    assert_eq!(
        (verdict.failed_statements, verdict.failed_connections),
        (0, 0)
    );
}

#[test]
fn a_planted_lost_write_is_found() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(0);
    let primary = cluster.primary();
    let verdict = verdict_of(primary.addr(), || {
        primary.sql("delete from writes where id = (select min(id) from writes)");
    });
    assert_eq!(verdict.lost, [0], "{verdict}");
    assert!(verdict.doubled.is_empty(), "{verdict}");
}

#[test]
fn a_planted_lost_write_has_its_time() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(0);
    let primary = cluster.primary();
    let workload = Workload::through(Dialect::Postgres, primary.addr()).start();
    workload.wait_for_every_writer();
    let moment = Instant::now();
    workload.wait_for_every_writer();
    let record = workload.finish();
    // The first writer's first and last.
    let last = primary.sql("select max(id) from writes where id < 1::bigint << 32");
    primary.sql(&format!("delete from writes where id in (0, {last})"));
    let verdict = record.verdict(primary.addr());
    let last = last.parse().unwrap();
    assert_eq!(verdict.lost, [0, last], "{verdict}");
    assert_eq!(record.lost_after(&verdict, moment), [last]);
    assert!(record.begun_after(moment, primary.addr()) >= 3);
    assert_eq!(record.begun_after(record.ended, primary.addr()), 0);
}

#[test]
fn a_planted_duplicate_is_found() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(0);
    let primary = cluster.primary();
    let verdict = verdict_of(primary.addr(), || {
        primary.sql("insert into writes select max(id) from writes");
        primary.sql("insert into writes values (-1 + (1::bigint << 62))");
    });
    assert_eq!(
        (verdict.doubled.len(), verdict.foreign),
        (1, 1),
        "{verdict}"
    );
    assert!(verdict.lost.is_empty(), "{verdict}");
}

#[test]
fn a_read_only_primary_is_told_from_a_dead_one() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(0);
    let primary = cluster.primary();
    let workload = Workload::through(Dialect::Postgres, primary.addr()).start();
    workload.wait_for_writes(20);
    primary.sql("alter system set default_transaction_read_only = on");
    primary.sql("select pg_reload_conf()");
    primary.wait_for_sql("show default_transaction_read_only", "on");
    let closed = Instant::now();
    workload.wait_for_failures(50, Failure::is_read_only);
    let still_closed = Instant::now();
    primary.sql("alter system reset default_transaction_read_only");
    primary.sql("select pg_reload_conf()");
    workload.wait_for_every_writer();
    primary.kill_9();
    workload.wait_for_failures(4, Failure::is_connect);
    primary.start();
    workload.wait_for_every_writer();
    let record = workload.finish();
    let verdict = record.verdict(primary.addr());
    verdict.expect_intact();
    assert!(verdict.read_only_errors >= 50, "{verdict}");
    assert!(verdict.failed_connections >= 4, "{verdict}");
    // Each writer lost its session at most once; a killed server's processes may still say 57P01.
    let lost = verdict.errors.get("lost").copied().unwrap_or(0);
    let told = verdict.errors.get("57P01").copied().unwrap_or(0);
    assert!((1..=4).contains(&(lost + told)), "{verdict}");
    // Sessions that began before the change may still have written for a moment.
    let outage = record.outage_within(closed, still_closed);
    assert!(outage.length >= (still_closed - closed) / 2, "{outage:?}");
}

/// B1 without a proxy: applications that ask one node know nothing of the other; the oracle does.
#[test]
fn the_oracle_finds_the_new_primary_by_itself() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(1);
    let (old, new) = (cluster.node(0), cluster.node(1));
    let nodes = [old.addr(), new.addr()];
    let oracle = OracleWriter::start(Dialect::Postgres, &nodes);
    let workload = Workload::through(Dialect::Postgres, old.addr()).start();
    workload.wait_for_writes(100);
    new.wait_until_it_caught_up_with(old);
    old.kill_9();
    new.promote();
    let promoted = Instant::now();
    new.wait_for_sql(
        "select count(*) > 20 from oracle_writes where id >= 1::bigint << 32",
        "t",
    );
    let (record, baseline) = (workload.finish(), oracle.finish());
    let baseline = baseline.verdict(new.addr());
    assert!(baseline.acknowledged > 20, "{baseline}");
    assert!(baseline.read_only_errors > 0, "{baseline}");
    assert!(baseline.outage.length < promoted.elapsed() + Duration::from_secs(5));
    let verdict = record.verdict(new.addr());
    verdict.expect_none_doubled();
    assert!(
        verdict.outage.length > baseline.outage.length,
        "{verdict}\n{baseline}"
    );
    assert!(verdict.added_outage(&baseline) > Duration::ZERO);
    assert!(verdict.failed_connections > 0, "{verdict}");
}

/// Some writes, then something behind their back, then the verdict.
fn verdict_of(primary: SocketAddr, plant: impl FnOnce()) -> Verdict {
    let workload = Workload::through(Dialect::Postgres, primary).start();
    workload.wait_for_writes(100);
    let record = workload.finish();
    plant();
    record.verdict(primary)
}
