//! Evergate in front of Redis under real Sentinels: it follows their majority.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use crate::patroni::names;
use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::sentinel::MASTER;
use crate::support::sentinel::RedisSentinels;
use crate::support::verdict::Verdict;
use crate::support::wait_until;
use crate::support::workload::OracleWriter;
use crate::support::workload::Record;
use crate::support::workload::Workload;

const LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);

/// A write listener in front of both nodes.
fn file(cluster: &RedisSentinels, bind: SocketAddr) -> String {
    let [one, two] = [0, 1].map(|index| cluster.node(index).addr());
    let sentinels = cluster.sentinels().iter();
    let sentinels: Vec<_> = sentinels
        .map(|node| format!("\"{}\"", node.addr()))
        .collect();
    let sentinels = sentinels.join(", ");
    format!(
        "
log: {{level: debug, format: json}}
clusters:
  cache:
    protocol: redis
    backends:
      - {{name: r1, address: \"{one}\"}}
      - {{name: r2, address: \"{two}\"}}
    health_check: {{interval: 500ms, timeout: 400ms}}
    failover:
      hold: {{for: 25s, max_sessions: 100}}
      authority: {{kind: sentinel, service: {MASTER}, sentinels: [{sentinels}]}}
listeners:
  writes: {{bind: \"{bind}\", cluster: cache, role: primary, protocol: tcp}}
"
    )
}

#[test]
fn writes_follow_the_majority_of_sentinels() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = RedisSentinels::start();
    let (first, second) = (cluster.node(0), cluster.node(1));
    let bind = free_addr();
    let evergate = Evergate::start(&file(&cluster, bind));
    names(&evergate, first.addr());
    let workload = Workload::through(Dialect::Redis, bind).start();
    let oracle = OracleWriter::start(Dialect::Redis, &[first.addr(), second.addr()]);
    workload.wait_for_writes(100);

    // Planned: the old primary takes writes for seconds more, which would be lost.
    cluster.fail_over();
    names(&evergate, second.addr());
    let switched = Instant::now();
    workload.wait_for_writes(100);
    let (record, baseline) = (workload.finish(), oracle.finish());
    let verdict = record.verdict(second.addr());
    let baseline = baseline.verdict(second.addr());
    println!("failover: {verdict}; the oracle: {baseline}");
    expect_that_only_the_past_was_lost(&record, &verdict, switched);

    // Unplanned, and the loser returns as a master of its own.
    cluster.wait_until_it_can_fail_over();
    // A replica that is "online" may have to hear the first write yet.
    second.command("SET ready yes");
    wait_until(PATIENCE, "the old primary follows", || {
        let ready = first.try_command("GET ready");
        ready.is_ok_and(|words| words == ["yes"])
    });
    let launch = Workload::through(Dialect::Redis, bind).table("more");
    let workload = launch.start();
    workload.wait_for_writes(100);
    second.kill_9();
    assert_eq!(cluster.primary().addr(), first.addr());
    names(&evergate, first.addr());
    let switched = Instant::now();
    workload.wait_for_writes(100);
    second.start();
    assert_eq!(second.role().as_deref(), Some("master"));
    workload.wait_for_writes(500);
    let record = workload.finish();
    let verdict = record.verdict(first.addr());
    println!("kill: {verdict}");
    expect_that_only_the_past_was_lost(&record, &verdict, switched);
}

/// Redis replicates asynchronously, and Sentinel tells late of what it has done: what the old
/// primary took until then is lost. Nothing went there once Evergate was told.
#[track_caller]
fn expect_that_only_the_past_was_lost(record: &Record, verdict: &Verdict, switched: Instant) {
    verdict.expect_none_doubled();
    assert_eq!(verdict.read_only_errors, 0, "{verdict}");
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
    record.expect_none_lost_after(verdict, switched);
    let kept = verdict.acknowledged - verdict.lost.len();
    assert!(kept >= 100, "{verdict}");
}
