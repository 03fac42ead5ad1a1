//! What Evergate learns of real databases, and what they notice of it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::client::Session;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::mariadb::MariaDbPair;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::pg_node::PgNode;
use crate::support::pg_node::Shutdown;
use crate::support::ports::free_addr;
use crate::support::redis_node::ACL_PASSWORD;
use crate::support::redis_node::ACL_USER;
use crate::support::redis_node::Options;
use crate::support::sentinel::RedisSentinels;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(120);
/// Between two probes, and for one.
const QUICK: &str = "200ms";
const PASSWORD: &str = "open sesame";
/// Enough to see whether each leaves a line in a log.
const MANY_PROBES: f64 = 50.0;

/// Cluster `c` with backends `b0`, `b1` and so on.
fn yaml(protocol: &str, user: &str, interval: &str, backends: &[SocketAddr]) -> String {
    let port = free_addr().port();
    // No longer than the interval, and no reason to wait for long.
    let timeout = if interval == QUICK { QUICK } else { "2s" };
    let named = backends.iter().enumerate();
    let backends: String = named
        .map(|(index, addr)| format!("      - {{name: b{index}, address: \"{addr}\"}}\n"))
        .collect();
    format!(
        "version: 1\n\
         clusters:\n  c:\n    protocol: {protocol}\n    backends:\n{backends}    \
         health_check: {{kind: {protocol}, {user}, interval: {interval}, timeout: {timeout}}}\n\
         listeners:\n  rw: {{bind: \"127.0.0.1:{port}\", cluster: c, role: primary}}\n"
    )
}

fn user(name: &str, password: &str) -> String {
    format!("user: {name}, password: \"{password}\"")
}

/// Who may log in without a password, and has no rights to anything that a check asks for.
fn anybody() -> String {
    "user: app".to_owned()
}

fn wait_for_role(evergate: &Evergate, backend: &str, role: &str) {
    let labels = [("backend", backend), ("role", role)];
    evergate.wait_for_metric("evergate_backend_role", &labels, 1.0);
}

fn wait_for_checks(evergate: &Evergate, result: &str, more: f64) {
    let checks = || evergate.metric("evergate_health_checks_total", &[("result", result)]);
    let before = checks().unwrap_or(0.0);
    wait_until(PATIENCE, "more checks", || {
        checks().unwrap_or(0.0) >= before + more
    });
}

fn backend(evergate: &Evergate, index: usize) -> Value {
    let clusters = evergate.get("/api/v1/clusters").text();
    let clusters: Value = serde_json::from_str(&clusters).unwrap();
    clusters[0]["backends"][index].clone()
}

fn wait_for_cause(evergate: &Evergate, cause: &str) {
    wait_until(PATIENCE, cause, || backend(evergate, 0)["cause"] == cause);
}

/// Lines since `before` that would alarm an operator.
fn alarms(node: &PgNode, before: usize) -> Vec<String> {
    let words = ["packet", "reset", "EOF", "FATAL", "ERROR", "WARNING"];
    let log = node.log()[before..].to_owned();
    let alarming = |line: &&str| words.iter().any(|word| line.contains(word));
    log.lines().filter(alarming).map(str::to_owned).collect()
}

#[test]
fn postgres_tells_its_roles_and_notices_nothing_but_one_connection() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(1);
    let nodes = [cluster.node(0), cluster.node(1)];
    let addrs = nodes.map(|node| node.addr());
    for login in [user("scram", PASSWORD), user("md5", PASSWORD), anybody()] {
        let lengths = nodes.map(|node| node.log().len());
        let mut evergate = Evergate::start(&yaml("postgres", &login, QUICK, &addrs));
        wait_for_role(&evergate, "b0", "primary");
        wait_for_role(&evergate, "b1", "replica");
        evergate.wait_for_metric("evergate_cluster_has_primary", &[], 1.0);
        evergate.wait_for_metric("evergate_cluster_split_brain", &[], 0.0);
        wait_for_checks(&evergate, "passed", MANY_PROBES);
        let (primary, replica) = (backend(&evergate, 0), backend(&evergate, 1));
        assert_eq!(primary["role_cause"], "claims_primary");
        assert_eq!(
            (&replica["role"], &replica["lag_bytes"]),
            (&"replica".into(), &0.into())
        );
        for node in nodes {
            let ours = "select count(*) from pg_stat_activity where application_name = 'evergate'";
            assert_eq!(node.sql(ours), "1");
        }
        evergate.stop(PATIENCE);
        for (node, before) in nodes.iter().zip(lengths) {
            assert_eq!(alarms(node, before), [""; 0], "{login}");
        }
    }
}

#[test]
fn a_promoted_postgres_is_primary_and_the_old_one_is_fenced() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(1);
    let (old, new) = (cluster.node(0), cluster.node(1));
    let login = anybody();
    let evergate = Evergate::start(&yaml(
        "postgres",
        &login,
        "200ms",
        &[old.addr(), new.addr()],
    ));
    wait_for_role(&evergate, "b0", "primary");
    old.kill_9();
    evergate.wait_for_metric("evergate_cluster_has_primary", &[], 0.0);
    new.promote();
    wait_for_role(&evergate, "b1", "primary");
    old.start();
    wait_for_role(&evergate, "b0", "fenced");
    assert_eq!(backend(&evergate, 0)["role_cause"], "stale_timeline");
    old.stop(Shutdown::Fast);
    old.rejoin_as_replica_of(new);
    wait_for_role(&evergate, "b0", "replica");
}

/// The next probe would come in five minutes: the resting connection tells.
#[test]
fn a_postgres_that_stops_is_noticed_between_two_probes() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(0);
    let node = cluster.node(0);
    for how in [Shutdown::Fast, Shutdown::Immediate] {
        let login = anybody();
        let evergate = Evergate::start(&yaml("postgres", &login, "300s", &[node.addr()]));
        wait_for_role(&evergate, "b0", "primary");
        node.stop(how);
        evergate.wait_for_metric("evergate_backend_up", &[], 0.0);
        node.start();
        evergate.wait_for_metric("evergate_backend_up", &[], 1.0);
    }
}

#[test]
fn a_postgres_without_free_connections_stays_up_and_gets_the_checks_own() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::with().replicas(0).connections(12).start();
    let addr = cluster.node(0).addr();
    let login = anybody();
    let evergate = Evergate::start(&yaml("postgres", &login, QUICK, &[addr]));
    wait_for_role(&evergate, "b0", "primary");
    // All but the superusers'.
    let mut sessions = Vec::new();
    wait_until(PATIENCE, "nine sessions", || {
        sessions.extend(Session::open(Dialect::Postgres, addr, "app", PATIENCE).ok());
        sessions.len() == 9
    });
    wait_for_checks(&evergate, "failed", 10.0);
    let full = backend(&evergate, 0);
    assert_eq!(
        (&full["health"], &full["role"]),
        (&"up".into(), &"primary".into())
    );
    drop(sessions);
    wait_for_checks(&evergate, "passed", 10.0);
    assert_eq!(backend(&evergate, 0)["health"], "up");
}

#[test]
fn a_refused_login_is_shown_and_logged_once() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(0);
    let addrs = [cluster.node(0).addr()];
    let wrong = user("scram", "wrong");
    let file = yaml("postgres", &wrong, QUICK, &addrs);
    let evergate = Evergate::with(&file).until(Until::Alive).start();
    wait_for_cause(&evergate, "login_failed");
    wait_for_checks(&evergate, "failed", 10.0);
    let lines = evergate.log_lines();
    let complaints = lines
        .iter()
        .filter(|line| line.contains("health check is refused"));
    let complaints: Vec<_> = complaints.collect();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].contains("28P01"), "{complaints:?}");
    assert!(lines.iter().all(|line| !line.contains("wrong")));
}

#[test]
fn mariadb_tells_its_roles_and_counts_no_aborted_connection() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let pair = MariaDbPair::start();
    let addrs = [pair.node(0).addr(), pair.node(1).addr()];
    let login = user("probe", PASSWORD);
    let mut evergate = Evergate::start(&yaml("mysql", &login, QUICK, &addrs));
    wait_for_role(&evergate, "b0", "primary");
    wait_for_role(&evergate, "b1", "replica");
    wait_for_checks(&evergate, "passed", MANY_PROBES);
    assert_eq!(backend(&evergate, 1)["lag_seconds"], 0.0);
    pair.swap();
    wait_for_role(&evergate, "b1", "primary");
    wait_for_role(&evergate, "b0", "replica");
    evergate.stop(PATIENCE);
    for index in [0, 1] {
        let aborted = "select variable_value from information_schema.global_status \
                       where variable_name = 'aborted_connects'";
        assert_eq!(pair.node(index).sql(aborted), "0");
    }
}

#[test]
fn mariadb_names_the_privilege_that_lacks() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let pair = MariaDbPair::start();
    let file = yaml(
        "mysql",
        &user("native", PASSWORD),
        QUICK,
        &[pair.node(0).addr()],
    );
    let evergate = Evergate::with(&file).until(Until::Alive).start();
    wait_for_cause(&evergate, "login_failed");
    evergate.wait_for_log("SLAVE MONITOR");
}

#[test]
fn redis_tells_its_roles_to_an_acl_user() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let set = RedisSentinels::start_with(&Options {
        acl: true,
        ..Options::default()
    });
    let addrs = [set.node(0).addr(), set.node(1).addr()];
    let login = user(ACL_USER, ACL_PASSWORD);
    let evergate = Evergate::start(&yaml("redis", &login, QUICK, &addrs));
    wait_for_role(&evergate, "b0", "primary");
    wait_for_role(&evergate, "b1", "replica");
    wait_for_checks(&evergate, "passed", MANY_PROBES);
    set.wait_until_it_can_fail_over();
    set.fail_over();
    wait_for_role(&evergate, "b1", "primary");
    wait_for_role(&evergate, "b0", "replica");
}
