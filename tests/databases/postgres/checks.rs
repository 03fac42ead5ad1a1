//! The health check itself: who it logs in as, what it costs, and what it does not disturb.

use super::stage::LIMIT;
use super::stage::Plan;
use super::stage::Stage;
use crate::pki::Authority;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::client::Failure;
use crate::support::client::Session;
use crate::support::pg_base::PASSWORD;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::pg_node::PgNode;
use crate::support::wait_for;
use crate::support::wait_until;
use crate::support::workload::Workload;

/// B8
#[test]
fn a_full_server_is_not_a_dead_one() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        // No check may take longer than the interval, and one that is full is logged in to each time.
        .check("interval: 400ms")
        .start(PostgresCluster::with().replicas(0).connections(12).start());
    let primary = stage.cluster.node(0);
    let mut sessions: Vec<Session> = Vec::new();
    let refused = wait_for(PATIENCE, "the server is full", || match stage.writer() {
        Ok(session) => {
            sessions.push(session);
            None
        }
        Err(failure) => Some(failure),
    });
    assert_eq!(refused, Failure::Login("53300".to_owned()));
    // The check leaves its own place to those who pay for it.
    wait_until(PATIENCE, "the last place is taken", || {
        sessions.extend(stage.writer().ok());
        sessions.len() == 9
    });
    let checks = || {
        let labels = [("backend", "n1")];
        stage
            .evergate
            .metric("evergate_health_checks_total", &labels)
    };
    let before = checks();
    wait_until(PATIENCE, "more checks than `fall`", || {
        checks().unwrap() >= before.unwrap() + 5.0
    });
    assert_eq!(stage.node(primary)["health"], "up");
    for session in &mut sessions {
        session.query("select 1").unwrap();
    }
    drop(sessions);
    wait_for(PATIENCE, "a new session", || stage.writer().ok());
    assert!(!stage.evergate.stderr().contains("\"to\":\"down\""));
}

/// B8: nine places for forty.
#[test]
fn more_writers_than_connections_take_turns_and_no_write_is_lost() {
    const MANY: usize = 40;
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .check("interval: 400ms")
        .failover("queue: {for: 120s, max_sessions: 1000}")
        .start(PostgresCluster::with().replicas(0).connections(12).start());
    let primary = stage.cluster.node(0);
    let load = Workload::through(Dialect::Postgres, stage.write);
    // Each gives its place back: for ever, nine would have all of them.
    let load = load.writers(MANY).session_writes(5).start();
    for _ in 0..3 {
        load.wait_for_every_writer();
    }
    let log = primary.log();
    let refusals = ["connection slots are reserved", "too many clients"];
    let is_refusal = |line: &&str| refusals.iter().any(|words| line.contains(words));
    assert!(
        log.lines().any(|line| is_refusal(&line)),
        "never full: {log}"
    );

    let verdict = load.finish().verdict(primary.addr());
    println!("{verdict}");
    verdict.expect_intact();
    assert!(verdict.errors.is_empty(), "{verdict}");
    assert_eq!(stage.node(primary)["health"], "up");
    assert!(!stage.evergate.stderr().contains("\"to\":\"down\""));
}

#[test]
fn many_checks_share_one_connection_and_leave_no_line_in_the_log() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::with()
        .replicas(1)
        .setting("log_connections=on")
        .setting("log_disconnections=on")
        .start();
    let mut stage = Plan::default().check("interval: 400ms").start(cluster);
    let logins = |node: &PgNode| {
        let log = node.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("authorized: user=app"));
        lines.count()
    };
    for node in stage.cluster.nodes() {
        stage.wait_for_checks(node, "passed", 15);
        let name = "select application_name from pg_stat_activity where usename = 'app'";
        node.wait_for_sql(name, "evergate");
        // On a busy machine an answer may be late, and the next check begins anew.
        assert!((1..=3).contains(&logins(node)), "{}", node.log());
    }

    stage.evergate.stop(PATIENCE);
    for node in stage.cluster.nodes() {
        node.wait_for_sql(
            "select count(*) from pg_stat_activity where usename = 'app'",
            "0",
        );
        let log = node.log();
        for complaint in ["ERROR", "FATAL", "unexpected EOF", "could not receive"] {
            let own = log.lines().filter(|line| line.contains(complaint));
            // Readiness is asked of a server that starts up; a replica looks for its primary.
            let others = ["starting up", "could not connect to the primary server"];
            let is_own = |line: &&str| !others.iter().any(|other| line.contains(other));
            let own: Vec<&str> = own.filter(is_own).collect();
            assert!(own.is_empty(), "{own:?}");
        }
    }
}

#[test]
fn the_check_logs_in_as_it_is_told() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("databases");
    let pair = authority.issue("server", &["127.0.0.1"]);
    let cluster = PostgresCluster::with().replicas(1);
    let cluster = cluster.tls(&pair.cert_file, &pair.key_file).start();
    let stage = Plan::default().start(cluster);
    let primary = stage.cluster.node(0);
    let tls = format!("tls: {{ca_file: {}}}", authority.ca_file.display());
    let plan = |user: &str, password: &str, lines: &[&str]| {
        let login = format!("interval: 100ms, user: {user}, password: \"{password}\"");
        Plan::default().check(&login).orders(lines)
    };
    let encrypted = [tls.as_str()];
    for (user, lines) in [
        ("scram", &[][..]),
        ("md5", &[][..]),
        ("scram", &encrypted[..]),
        ("md5", &encrypted[..]),
        ("plain", &encrypted[..]),
    ] {
        stage.reload(&plan(user, PASSWORD, lines));
        let question = "select a.usename, s.ssl from pg_stat_activity a join pg_stat_ssl s \
                        using (pid) where a.application_name = 'evergate'";
        let ssl = if lines.is_empty() { "f" } else { "t" };
        for node in stage.cluster.nodes() {
            node.wait_for_sql(question, &format!("{user}|{ssl}"));
        }
        stage.wait_for_role(primary, "primary", "claims_primary");
    }

    // A password is never said to whoever listens.
    stage.reload(&plan("plain", PASSWORD, &[]));
    wait_until_refused(&stage, primary);
    stage.reload(&plan("scram", PASSWORD, &[]));
    stage.wait_for_role(primary, "primary", "claims_primary");
    stage.reload(&plan("scram", "wrong", &[]));
    wait_until_refused(&stage, primary);
    stage.evergate.wait_for_log("the health check is refused");
    assert!(!stage.evergate.stderr().contains(PASSWORD));
}

/// On a busy machine it may go down for an answer that is late; the next one tells.
#[track_caller]
fn wait_until_refused(stage: &Stage, node: &PgNode) {
    stage.wait_for_health(node, "down");
    wait_until(PATIENCE, "the login is refused", || {
        stage.node(node)["cause"] == "login_failed"
    });
}

#[test]
fn metrics_tell_each_node_one_role() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    let roles = |node: &str| -> Vec<f64> {
        let role = |role| {
            let labels = [("cluster", "orders"), ("backend", node), ("role", role)];
            stage.evergate.metric("evergate_backend_role", &labels)
        };
        ["primary", "replica", "fenced", "unknown"]
            .into_iter()
            .filter_map(role)
            .collect()
    };
    assert_eq!(roles("n1"), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(roles("n2"), [0.0, 1.0, 0.0, 0.0]);
    new.wait_until_it_caught_up_with(old);
    old.kill_9();
    stage.wait_for_role(old, "unknown", "connect_refused");
    assert_eq!(roles("n1"), [0.0, 0.0, 0.0, 1.0]);
    let has_primary = [("cluster", "orders")];
    stage
        .evergate
        .wait_for_metric("evergate_cluster_has_primary", &has_primary, 0.0);
    new.promote();
    old.start();
    stage.wait_for_role(old, "fenced", "stale_timeline");
    assert_eq!(roles("n1"), [0.0, 0.0, 1.0, 0.0]);
    assert_eq!(roles("n2"), [1.0, 0.0, 0.0, 0.0]);
    stage
        .evergate
        .wait_for_metric("evergate_cluster_has_primary", &has_primary, 1.0);
    stage
        .evergate
        .wait_for_metric("evergate_cluster_split_brain", &has_primary, 0.0);
}
