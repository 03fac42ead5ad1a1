//! Evergate in front of a real Patroni: it follows the leader, and nobody else.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::evergate::Evergate;
use crate::support::http;
use crate::support::patroni::PatroniCluster;
use crate::support::ports::free_addr;
use crate::support::verdict::Verdict;
use crate::support::wait_until;
use crate::support::workload::OracleWriter;
use crate::support::workload::Workload;

const LIMIT: Duration = Duration::from_secs(180);
const PATIENCE: Duration = Duration::from_secs(60);

/// A write listener in front of all nodes.
fn file(cluster: &PatroniCluster, bind: SocketAddr) -> String {
    let check = "interval: 500ms, timeout: 400ms";
    file_with(cluster, bind, cluster.node(0).rest().port(), check)
}

/// As [`file`], with another port of the REST API on each node's address, and these checks.
pub fn file_with(cluster: &PatroniCluster, bind: SocketAddr, port: u16, check: &str) -> String {
    let backends = cluster.nodes().iter().map(|node| {
        let (name, addr) = (node.name(), node.addr());
        format!("      - {{name: {name}, address: \"{addr}\"}}\n")
    });
    let backends: String = backends.collect();
    format!(
        "
log: {{level: debug, format: json}}
clusters:
  orders:
    protocol: postgres
    backends:
{backends}
    health_check: {{user: postgres, {check}}}
    failover:
      hold: {{for: 25s, max_sessions: 100}}
      authority: {{kind: patroni, port: {port}}}
listeners:
  writes: {{bind: \"{bind}\", cluster: orders, role: primary}}
"
    )
}

/// Waits until Evergate was told that this node leads.
#[track_caller]
pub fn names(evergate: &Evergate, node: SocketAddr) {
    let leader = format!("\"leader\":\"{node}\"");
    wait_until(PATIENCE, &leader, || {
        let mut lines = evergate.log_lines().into_iter().rev();
        let last = lines.find(|line| line.contains("\"leader\":"));
        last.is_some_and(|line| line.contains(&leader))
    });
}

/// Row B18: Patroni's REST API answers with errors, and its primary goes on in failsafe mode.
#[test]
fn without_etcd_the_primary_of_failsafe_mode_is_written_to_all_the_while() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PatroniCluster::start();
    let leader = cluster.leader();
    let json = [("Content-Type", "application/json")];
    let body = br#"{"failsafe_mode": true}"#;
    let patched = http::request(leader.rest(), "PATCH", "/config", &json, body);
    assert_eq!(patched.expect("Patroni answers").status, 200);
    wait_until(PATIENCE, "the members of failsafe mode", || {
        let key = cluster
            .etcd()
            .etcdctl(&["get", "/service/evergate/failsafe"]);
        ["n1", "n2", "n3"].iter().all(|name| {
            let text = String::from_utf8_lossy(&key.stdout);
            text.contains(&format!("\"{name}\""))
        })
    });
    let bind = free_addr();
    let evergate = Evergate::start(&file(&cluster, bind));
    names(&evergate, leader.addr());
    let workload = Workload::through(Dialect::Postgres, bind).start();
    workload.wait_for_writes(100);

    cluster.etcd().freeze();
    evergate.wait_for_log("the authority is silent");
    // It cannot renew its lock, and leads all the same.
    wait_until(PATIENCE, "failsafe mode", || {
        leader.log().contains("failsafe mode is enabled")
    });
    workload.wait_for_writes(1000);
    cluster.etcd().thaw();
    let silent = |line: &String| line.contains("the authority is silent");
    wait_until(PATIENCE, "the authority speaks again", || {
        let lines = evergate.log_lines();
        let silence = lines.iter().rposition(silent);
        let word = lines
            .iter()
            .rposition(|line| line.contains("names a leader"));
        word > silence
    });
    workload.wait_for_writes(100);
    let verdict = workload.finish().verdict(cluster.leader().addr());
    verdict.expect_intact();
    assert!(verdict.errors.is_empty(), "{verdict}");
    println!("failsafe: {verdict}");
    assert_eq!(cluster.leader().timeline(), 1);
}

/// The listener of [`file`], and one that relays bytes unseen.
fn file_with_both(cluster: &PatroniCluster, bind: SocketAddr, bytes: SocketAddr) -> String {
    let listener = "cluster: orders, role: primary, protocol: tcp";
    let text = file(cluster, bind);
    format!("{text}  bytes: {{bind: \"{bytes}\", {listener}}}\n")
}

#[test]
fn writes_follow_patronis_leader() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PatroniCluster::start();
    let (bind, bytes) = (free_addr(), free_addr());
    let evergate = Evergate::start(&file_with_both(&cluster, bind, bytes));
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.addr()).collect();
    names(&evergate, cluster.node(0).addr());
    let start = |address, table| {
        let launch = Workload::through(Dialect::Postgres, address).table(table);
        let workload = launch.writers(4).start();
        workload.wait_for_writes(100);
        workload
    };
    let workload = start(bind, "planned");
    let unseen = start(bytes, "planned_bytes");
    let oracle = OracleWriter::start(Dialect::Postgres, &nodes);

    // Planned.
    cluster.switch_over_to(cluster.node(1));
    workload.wait_for_writes(100);
    unseen.wait_for_writes(100);
    names(&evergate, cluster.node(1).addr());
    let primary = cluster.leader().addr();
    let unseen = unseen.finish().verdict(primary);
    let (planned, baseline) = (workload.finish(), oracle.finish());
    let (planned, baseline) = (planned.verdict(primary), baseline.verdict(primary));
    planned.expect_intact();
    unseen.expect_intact();
    println!(
        "switchover: {planned}; added {:?}",
        planned.added_outage(&baseline)
    );
    expect_one_error_each(&planned);
    expect_few_errors(&unseen);

    // The machine of the leader dies.
    cluster.wait_until_complete();
    let (workload, unseen) = (start(bind, "dead"), start(bytes, "dead_bytes"));
    let dead = cluster.kill_leader();
    cluster.expire_the_leader();
    workload.wait_for_writes(100);
    unseen.wait_for_writes(100);
    let next = cluster.leader();
    assert_ne!(next.name(), dead.name());
    names(&evergate, next.addr());
    let known = Instant::now();

    // It comes back, and gets no write before it is a replica, or ever.
    dead.start();
    cluster.wait_until_complete();
    workload.wait_for_writes(100);
    let primary = cluster.leader().addr();
    let records = [workload.finish(), unseen.finish()];
    let [killed, unseen] = records.each_ref().map(|record| {
        let verdict = record.verdict(primary);
        verdict.expect_none_doubled();
        record.expect_none_lost_after(&verdict, known);
        verdict
    });
    println!("kill: {killed}");
    expect_one_error_each(&killed);
    expect_few_errors(&unseen);

    // It stands still, loses its lock, and goes on when another one leads.
    let workload = start(bind, "frozen");
    let frozen = cluster.leader();
    frozen.freeze();
    cluster.expire_the_leader();
    workload.wait_for_writes(100);
    let next = cluster.leader();
    assert_ne!(next.name(), frozen.name());
    names(&evergate, next.addr());
    let known = Instant::now();
    frozen.thaw();
    cluster.wait_until_complete();
    workload.wait_for_writes(100);
    let record = workload.finish();
    let thawed = record.verdict(cluster.leader().addr());
    thawed.expect_none_doubled();
    record.expect_none_lost_after(&thawed, known);
    println!("freeze: {thawed}");
    expect_one_error_each(&thawed);
}

/// Who reads the protocol tells no client more than that its session has ended: once for each of
/// the four writers, and never a new one.
#[track_caller]
pub fn expect_one_error_each(verdict: &Verdict) {
    assert_eq!(verdict.read_only_errors, 0, "{verdict}");
    assert!(verdict.failed_statements <= 4, "{verdict}");
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
}

/// A `tcp` listener relays what a server says that has begun to shut down a moment ago: each of
/// the four writers may come back to it once or twice before Evergate has heard.
#[track_caller]
fn expect_few_errors(verdict: &Verdict) {
    assert_eq!(verdict.read_only_errors, 0, "{verdict}");
    assert!(verdict.failed_statements <= 4, "{verdict}");
    assert!(verdict.failed_connections <= 8, "{verdict}");
}
