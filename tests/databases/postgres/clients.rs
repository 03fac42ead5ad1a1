//! Clients that die, cancel and listen, while nodes do what nodes do.

use std::thread;

use super::raw::Raw;
use super::raw::cancel;
use super::stage::LIMIT;
use super::stage::Stage;
use crate::support::Watchdog;
use crate::support::client::Failure;
use crate::support::client::SessionEnd;

/// K4
#[test]
fn a_client_that_dies_in_a_transaction_leaves_nothing_behind() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(0);
    let node = stage.cluster.node(0);
    node.sql("create table t (x int); grant all on t to app");
    let mut dying = Raw::log_in(stage.write);
    dying.query("begin");
    dying.query("lock table t in exclusive mode");
    dying.query("insert into t values (1)");
    let state = "select state from pg_stat_activity where usename = 'app' and query <> '' \
                 and application_name <> 'evergate'";
    node.wait_for_sql(state, "idle in transaction");
    dying.die();
    node.wait_for_sql(state, "");
    let mut next = stage.writer().unwrap();
    next.query("insert into t values (2)").unwrap();
    assert_eq!(next.query("select x from t").unwrap(), [["2"]]);
}

/// K5
#[test]
fn a_cancel_after_a_failover_hits_its_own_query_or_nobody() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    let before = Raw::log_in(stage.write);
    let dead_key = before.key.clone();
    old.kill_9();
    new.promote();

    let mut after = Raw::log_in(stage.write);
    let own_key = after.key.clone();
    assert_ne!(own_key, dead_key);
    let mut bystander = stage.writer().unwrap();
    thread::scope(|scope| {
        let sleeping = scope.spawn(|| bystander.query("select pg_sleep(600)"));
        let running = "select count(*) from pg_stat_activity where query like '%pg_sleep(600)' \
                       and usename = 'app' and state = 'active'";
        new.wait_for_sql(running, "1");
        cancel(stage.write, &dead_key);
        cancel(stage.write, &own_key);
        // It has nothing to cancel; the bystander sleeps on.
        after.query("select 1");
        assert_eq!(new.sql(running), "1");
        new.sql("select pg_cancel_backend(pid) from pg_stat_activity where usename = 'app'");
        let woken = sleeping.join().unwrap().unwrap_err();
        let (code, end) = ("57014".to_owned(), SessionEnd::Stays);
        assert_eq!(woken, Failure::Refused { code, end });
    });

    let mut victim = Raw::log_in(stage.write);
    let key = victim.key.clone();
    let write = stage.write;
    let cancelled = thread::spawn(move || victim.query("select pg_sleep(600)"));
    new.wait_for_sql(
        "select count(*) from pg_stat_activity where query like '%pg_sleep(600)' \
         and usename = 'app' and state = 'active'",
        "1",
    );
    cancel(write, &key);
    cancelled.join().unwrap();
}

/// K8
#[test]
fn a_client_that_only_listens_is_told_when_its_primary_dies() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    let mut listening = Raw::log_in(stage.write);
    listening.query("listen news");
    old.sql("notify news, 'first'");
    assert_eq!(listening.message().unwrap().0, b'A');
    old.kill_9();
    while listening.message().is_some() {}

    new.promote();
    let mut listening = Raw::log_in(stage.write);
    listening.query("listen news");
    new.sql("notify news, 'second'");
    assert_eq!(listening.message().unwrap().0, b'A');
}
