//! What becomes of live sessions, by reason: each story has one session that is idle, one in a
//! transaction, one in a long query and one in the midst of a COPY.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use super::four::Four;
use super::four::wait_for_sessions;
use super::stage::EAGER;
use super::stage::LIMIT;
use super::stage::Plan;
use super::stage::Stage;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::evergate::evergate;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::wait_until;

const GRACE: Duration = Duration::from_secs(1);

#[test]
fn sessions_of_a_fenced_primary_are_severed_at_once() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let four = Four::of_writers(&stage);
    stage.cluster.node(1).promote();
    four.expect_severed(&stage, "backend_fenced");
    // Fenced as soon as the new timeline is seen, before it is known whether the old one yields.
    let cluster = [("cluster", "orders")];
    stage
        .evergate
        .wait_for_metric("evergate_cluster_split_brain", &cluster, 1.0);
}

#[test]
fn sessions_of_a_fenced_primary_are_kept_where_the_file_says_so() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .failover("on_fenced: keep")
        .start(PostgresCluster::start(1));
    let mut four = Four::of_writers(&stage);
    let old = stage.cluster.node(0);
    stage.cluster.node(1).promote();
    stage.wait_for_role(old, "fenced", "split_brain");
    stage.wait_for_checks(old, "passed", 3);
    four.idle.query("select 1").unwrap();
    four.in_transaction.query("commit").unwrap();
    assert!(four.busy.iter().all(|busy| !busy.is_finished()));
    old.kill_9();
}

#[test]
fn sessions_of_a_dead_primary_are_severed_at_once() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .check(EAGER)
        .start(PostgresCluster::start(0));
    let four = Four::of_writers(&stage);
    stage.cluster.node(0).freeze();
    four.expect_severed(&stage, "backend_dead");
}

#[test]
fn sessions_of_a_dead_primary_are_kept_where_the_file_says_so() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .check(EAGER)
        .failover("on_dead: keep")
        .start(PostgresCluster::start(0));
    let mut four = Four::of_writers(&stage);
    let node = stage.cluster.node(0);
    node.freeze();
    stage.wait_for_health(node, "down");
    stage.wait_for_checks(node, "failed", 3);
    assert!(four.busy.iter().all(|busy| !busy.is_finished()));
    node.thaw();
    four.idle.query("select 1").unwrap();
    four.in_transaction.query("commit").unwrap();
    node.kill_9();
}

#[test]
fn sessions_of_a_drained_backend_may_work_until_the_deadline() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let admin = crate::support::ports::free_addr();
    let line = format!("admin: {{bind: {admin}, socket: {}}}", socket.display());
    let stage = Plan::default()
        .failover("drain_timeout: 1s")
        .line(&line)
        .start(PostgresCluster::start(0));
    let mut four = Four::of_writers(&stage);
    let socket = format!("unix:{}", socket.display());
    let asked = Instant::now();
    let done = evergate(&["drain", "orders/n1", "--admin", &socket]);
    assert!(done.status.success(), "{done:?}");
    four.in_transaction
        .query("insert into t values (2)")
        .unwrap();
    let ends = four.expect_severed(&stage, "backend_drained");
    for end in [ends.long_query, ends.copy] {
        let after = end - asked;
        println!("severed {after:?} after the command, promised 1 s");
        assert!(after >= GRACE, "{after:?}");
    }
}

#[test]
fn sessions_of_a_removed_backend_may_work_until_the_deadline() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let plan = || Plan::default().failover("drain_timeout: 1s");
    let stage = plan().start(PostgresCluster::start(1));
    let mut four = Four::of_writers(&stage);
    let asked = Instant::now();
    stage.reload(&plan().without("n1"));
    four.in_transaction
        .query("insert into t values (2)")
        .unwrap();
    let ends = four.expect_severed(&stage, "backend_removed");
    for end in [ends.long_query, ends.copy] {
        let after = end - asked;
        println!("severed {after:?} after the reload, promised 1 s");
        assert!(after >= GRACE, "{after:?}");
    }
    let node = stage.cluster.node(0);
    node.wait_for_sql("select count(*) from t", "0");
    // Nobody asks a server that is not ours; who sleeps there has not noticed its client's end.
    let others = "select count(*) from pg_stat_activity where usename = 'app' \
                  and query not like '%pg_sleep%'";
    node.wait_for_sql(others, "0");
}

/// A service that knows who is primary says so by status code, as Patroni does.
struct Teller {
    is_primary: Arc<AtomicBool>,
    port: u16,
}

impl Teller {
    /// Answers for as long as the test runs.
    fn start() -> Self {
        let is_primary = Arc::new(AtomicBool::new(true));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let truth = Arc::clone(&is_primary);
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                let mut request = [0; 1024];
                let length = client.read(&mut request).unwrap_or(0);
                let asks_for_primary = request[..length].starts_with(b"GET /primary");
                let status = match asks_for_primary == truth.load(Ordering::Acquire) {
                    true => "200 OK",
                    false => "503 Service Unavailable",
                };
                let answer =
                    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                // The check may have given up.
                let _ = client.write_all(answer.as_bytes());
            }
        });
        Self { is_primary, port }
    }

    fn plan(&self) -> Plan {
        let check = format!(
            "kind: http, primary_path: /primary, replica_path: /replica, port: {}, interval: 100ms",
            self.port
        );
        Plan::default().check(&check)
    }

    fn demote(&self) {
        self.is_primary.store(false, Ordering::Release);
    }
}

#[test]
fn sessions_of_a_demoted_primary_may_end_their_transaction_within_the_grace() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let teller = Teller::start();
    let stage = teller
        .plan()
        .failover("on_demoted: {grace: 1s}")
        .start(PostgresCluster::start(0));
    let node = stage.cluster.node(0);
    let four = Four::of_writers(&stage);
    let mut ending = stage.writer().unwrap();
    ending.query("begin").unwrap();
    ending.query("insert into t values (3)").unwrap();
    teller.demote();
    let demoted = Instant::now();
    stage.wait_for_role(node, "replica", "claims_replica");
    wait_for_severed(&stage, 1.0);
    wait_for_sessions(node, 4);
    ending.query("commit").unwrap();
    wait_for_severed(&stage, 2.0);
    wait_for_sessions(node, 3);
    println!("transaction ended {:?} into the grace", demoted.elapsed());
    assert!(ending.query("select 1").is_err());
    assert_eq!(node.sql("select count(*) from t where x = 3"), "1");

    wait_for_severed(&stage, 5.0);
    assert!(demoted.elapsed() >= GRACE);
    for mut session in [four.idle, four.in_transaction] {
        assert_eq!(session.query("select 1").unwrap_err().class(), "57P01");
    }
    for busy in four.busy {
        let (answer, ended) = busy.join().unwrap();
        assert_eq!(answer.unwrap_err().class(), "57P01");
        assert!(ended - demoted >= GRACE);
    }
    node.wait_for_sql("select count(*) from t where x = 1", "0");
}

#[test]
fn sessions_of_a_demoted_primary_are_severed_at_once_or_kept_as_the_file_says() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let teller = Teller::start();
    let plan = |policy| teller.plan().failover(&format!("on_demoted: {policy}"));
    let stage = plan("keep").start(PostgresCluster::start(0));
    let node = stage.cluster.node(0);
    let mut four = Four::of_writers(&stage);
    teller.demote();
    stage.wait_for_role(node, "replica", "claims_replica");
    stage.wait_for_checks(node, "passed", 3);
    four.idle.query("select 1").unwrap();
    four.in_transaction
        .query("insert into t values (2)")
        .unwrap();
    assert!(four.busy.iter().all(|busy| !busy.is_finished()));

    stage.reload(&plan("sever"));
    four.expect_severed(&stage, "backend_demoted");
}

#[track_caller]
fn wait_for_severed(stage: &Stage, sessions: f64) {
    let what = format!("{sessions} sessions are severed");
    wait_until(PATIENCE, &what, || {
        stage.severed("backend_demoted") >= sessions
    });
}
