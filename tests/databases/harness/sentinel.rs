//! Redis under Sentinels in the harness, and the checker in its dialect.

use std::time::Duration;

use crate::pki::Authority;
use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::client::Failure;
use crate::support::redis::redis_cli;
use crate::support::redis_node::ACL_PASSWORD;
use crate::support::redis_node::ACL_USER;
use crate::support::redis_node::Options;
use crate::support::sentinel::RedisSentinels;
use crate::support::workload::OracleWriter;
use crate::support::workload::Workload;

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn sentinels_fail_over_planned_and_unplanned() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = RedisSentinels::start();
    let (first, second) = (cluster.node(0), cluster.node(1));
    assert_eq!(cluster.primary().addr(), first.addr());
    let workload = Workload::through(Dialect::Redis, first.addr()).start();
    let oracle = OracleWriter::start(Dialect::Redis, &[first.addr(), second.addr()]);
    workload.wait_for_writes(100);

    // Planned, and yet the old primary takes writes for up to ten seconds more.
    cluster.fail_over();
    assert_eq!(cluster.primary().addr(), second.addr());
    workload.wait_for_failures(4, Failure::is_read_only);
    let (record, baseline) = (workload.finish(), oracle.finish());
    let verdict = record.verdict(second.addr());
    verdict.expect_none_doubled();
    assert!(
        verdict.acknowledged >= 100 && verdict.errors["READONLY"] >= 4,
        "{verdict}"
    );
    baseline.verdict(second.addr()).expect_none_doubled();

    cluster.wait_until_it_can_fail_over();
    second.kill_9();
    assert_eq!(cluster.primary().addr(), first.addr());
    // It says "master" until the Sentinels tell it otherwise, seconds later: only they know.
    second.start();
    assert_eq!(second.role().as_deref(), Some("master"));
    assert_eq!(cluster.primary().addr(), first.addr());
}

#[test]
fn a_frozen_primary_is_replaced() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = RedisSentinels::start();
    let (old, new) = (cluster.node(0), cluster.node(1));
    old.freeze();
    assert_eq!(cluster.primary().addr(), new.addr());
    old.thaw();
    assert_eq!(cluster.primary().addr(), new.addr());
}

#[test]
fn servers_ask_for_a_user_and_speak_tls_when_told() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("databases");
    let pair = authority.issue("redis", &["127.0.0.1"]);
    let options = Options {
        acl: true,
        tls: Some((pair.cert_file, pair.key_file, authority.ca_file.clone())),
        ..Options::default()
    };
    let cluster = RedisSentinels::start_with(&options);
    let primary = cluster.primary();
    let ca = authority.ca_file.to_str().unwrap();
    let ask = |password| {
        let user = ["--user", ACL_USER, "--pass", password, "--no-auth-warning"];
        let tls = ["--tls", "--cacert", ca, "ACL", "WHOAMI"];
        redis_cli(primary.tls_addr(), &[&user[..], &tls].concat()).stdout
    };
    assert_eq!(ask(ACL_PASSWORD), b"app\n");
    assert_ne!(ask("wrong"), b"app\n");
}
