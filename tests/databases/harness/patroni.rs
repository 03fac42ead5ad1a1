//! Patroni's cluster in the harness: planned and unplanned changes of the leader.

use std::time::Duration;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::http;
use crate::support::patroni::PatroniCluster;
use crate::support::patroni::PatroniNode;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(120);

/// One story, because three nodes take seconds to start. Each chapter begins with a whole cluster:
/// PostgreSQL 15 panics when a replica is promoted that has just begun to receive a new timeline.
#[test]
fn patroni_switches_over_and_fails_over() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PatroniCluster::start();
    let (n1, n2) = (cluster.node(0), cluster.node(1));
    assert_eq!((n1.timeline(), n1.is_in_recovery()), (1, false));
    n1.sql("create table t (x int)");

    cluster.switch_over_to(n2);
    assert_eq!(cluster.leader().name(), "n2");
    cluster.wait_until_complete();
    assert_eq!((n1.is_in_recovery(), n2.timeline()), (true, 2));

    // Its Patroni lives and gives up the lock.
    n2.kill_9_postgres();
    let third = cluster.leader();
    assert_ne!(third.name(), "n2");
    assert_eq!(third.timeline(), 3);
    cluster.wait_until_complete();

    // The whole node stands still; its time passes; it thaws and leads no more.
    third.freeze();
    cluster.expire_the_leader();
    let fourth = cluster.leader();
    assert_ne!(fourth.name(), third.name());
    fourth.sql("insert into t values (1)");
    third.thaw();
    let rejoined = "select pg_is_in_recovery(), (select count(*) from t)";
    third.wait_for_sql(rejoined, "t|1");
    cluster.wait_until_complete();

    let killed = cluster.kill_leader();
    assert!(!killed.is_running());
    cluster.expire_the_leader();
    assert_eq!(cluster.leader().timeline(), 5);
    killed.start();
    cluster.wait_until_complete();
    assert!(killed.is_in_recovery());
}

#[test]
fn patroni_without_etcd_gives_up_its_leader_unless_failsafe() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PatroniCluster::start();
    let leader = cluster.leader();
    cluster.etcd().freeze();
    // PostgreSQL is restarted as a replica of nobody.
    leader.wait_for_sql("select pg_is_in_recovery()", "t");
    assert!(!leader.leads());
    cluster.etcd().thaw();
    assert!(!cluster.leader().is_in_recovery());
    cluster.wait_until_complete();

    // With the fail-safe it stays, as long as it reaches every other member.
    cluster.configure(&json!({"failsafe_mode": true}));
    let leader = cluster.leader();
    wait_until(PATIENCE, "every node knows every member", || {
        let mut nodes = cluster.nodes().iter();
        nodes.all(|node| members_at(node, "/failsafe") == 3)
    });
    cluster.etcd().freeze();
    wait_until(PATIENCE, "the fail-safe holds", || {
        let status = answer_of(leader, "/patroni");
        status.is_some_and(|status| status["failsafe_mode_is_active"] == true)
    });
    leader.sql("create table t (x int)");
    cluster.etcd().stop();
    cluster.etcd().start_again();
    assert_eq!(cluster.leader().name(), leader.name());
}

fn members_at(node: &PatroniNode, path: &str) -> usize {
    let answer = answer_of(node, path);
    answer.map_or(0, |answer| answer.as_object().map_or(0, Map::len))
}

fn answer_of(node: &PatroniNode, path: &str) -> Option<Value> {
    let answer = http::get(node.rest(), path).ok()?;
    serde_json::from_slice(&answer.body).ok()
}
