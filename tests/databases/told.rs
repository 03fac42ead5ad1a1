//! Patroni's REST API as the only check: who leads is told by status codes, on which timeline by the
//! body, and nobody logs in to a server.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::patroni::expect_one_error_each;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::client::Session;
use crate::support::client::USER;
use crate::support::evergate::Evergate;
use crate::support::patroni::PatroniCluster;
use crate::support::patroni::PatroniNode;
use crate::support::ports::free_addr;
use crate::support::wait_for;
use crate::support::wait_until;
use crate::support::workload::Workload;

const LIMIT: Duration = Duration::from_secs(180);
const SOME: u64 = 100;

fn file(cluster: &PatroniCluster, write: SocketAddr, read: SocketAddr) -> String {
    let nodes = cluster.nodes().iter();
    let backends: Vec<String> = nodes
        .map(|node| format!("{{name: {}, address: \"{}\"}}", node.name(), node.addr()))
        .collect();
    // The same on every node's address.
    let port = cluster.node(0).rest().port();
    format!(
        "clusters:\n  orders:\n    protocol: postgres\n    backends: [{}]\n    \
         health_check: {{kind: http, port: {port}, primary_path: /primary, replica_path: /replica}}\n    \
         failover: {{hold: {{for: 60s, max_sessions: 100}}}}\n\
         listeners:\n  write: {{bind: \"{write}\", cluster: orders, role: primary}}\n  \
         read: {{bind: \"{read}\", cluster: orders, role: replica}}\n",
        backends.join(", ")
    )
}

/// Each node's role, by its name.
fn roles(evergate: &Evergate) -> Vec<(String, String)> {
    let view = evergate.get("/api/v1/clusters").json();
    let backends = view[0]["backends"].as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    backends
        .iter()
        .map(|it| (text(&it["name"]), text(&it["role"])))
        .collect()
}

/// Waits until this node is primary and both others are replicas.
#[track_caller]
fn wait_for_leader(evergate: &Evergate, leader: &PatroniNode) {
    wait_until(PATIENCE, &format!("{} leads", leader.name()), || {
        roles(evergate).iter().all(|(name, role)| {
            let expected = match name == leader.name() {
                true => "primary",
                false => "replica",
            };
            role == expected
        })
    });
}

/// Waits until Patroni's `/cluster` has this leader on this timeline; members tell it a moment later.
#[track_caller]
fn wait_for_told_timeline(cluster: &PatroniCluster, leader: &str, timeline: &Value) {
    let what = format!("/cluster has {leader} on timeline {timeline}");
    wait_until(PATIENCE, &what, || {
        let running = cluster.nodes().iter().filter(|node| node.is_running());
        let told = running.filter_map(PatroniNode::cluster);
        let members: Vec<Value> = told
            .filter_map(|answer| answer["members"].as_array().cloned())
            .flatten()
            .collect();
        members.iter().any(|member| {
            member["role"] == "leader"
                && member["name"] == leader
                && member["timeline"] == *timeline
        })
    });
}

/// Waits until the change from one to the other is over, and returns it. A busy machine may make
/// others, in which the same primary serves again.
#[track_caller]
fn finished_change(evergate: &Evergate, lost: &str, found: &str) -> Value {
    wait_for(PATIENCE, &format!("from {lost} to {found}"), || {
        let incidents = evergate.get("/api/v1/incidents").json();
        let incidents = incidents["incidents"].as_array()?.clone();
        let is_it = |it: &Value| it["lost"] == lost && it["found"] == found && it["open"] == false;
        incidents.into_iter().find(is_it)
    })
}

#[track_caller]
fn expect_readers_elsewhere(read: SocketAddr, leader: &PatroniNode) {
    for _ in 0..6 {
        let mut reader = Session::open(Dialect::Postgres, read, USER, PATIENCE).unwrap();
        let rows = reader.query("select pg_is_in_recovery()").unwrap();
        assert_eq!(rows[0][0], "t", "{} leads", leader.name());
    }
}

#[test]
fn patronis_status_codes_alone_are_followed() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PatroniCluster::start();
    let (write, read) = (free_addr(), free_addr());
    let evergate = Evergate::start(&file(&cluster, write, read));
    let (first, second) = (cluster.node(0), cluster.node(1));
    wait_for_leader(&evergate, first);
    expect_readers_elsewhere(read, first);
    let ours = "select count(*) from pg_stat_activity where application_name = 'evergate'";
    assert_eq!(first.sql(ours), "0", "nobody logs in for a check");

    // Planned.
    let load = Workload::through(Dialect::Postgres, write).writers(4);
    let load = load.start();
    load.wait_for_writes(SOME);
    cluster.switch_over_to(second);
    load.wait_for_every_writer();
    cluster.wait_until_complete();
    wait_for_leader(&evergate, second);
    let incident = finished_change(&evergate, first.name(), second.name());
    assert_eq!(incident["timeline"], 2, "{incident:#}");
    wait_for_told_timeline(&cluster, "n2", &incident["timeline"]);
    expect_readers_elsewhere(read, second);
    let verdict = load.finish().verdict(second.addr());
    println!("switchover: {verdict}");
    verdict.expect_intact();
    expect_one_error_each(&verdict);

    // The machine of the leader dies, and comes back when another one leads.
    let load = Workload::through(Dialect::Postgres, write).table("dead");
    let load = load.writers(4).start();
    load.wait_for_writes(SOME);
    let dead = cluster.kill_leader();
    cluster.expire_the_leader();
    load.wait_for_every_writer();
    let third = cluster.leader();
    assert_ne!(third.name(), dead.name());
    let incident = finished_change(&evergate, dead.name(), third.name());
    assert_eq!(incident["timeline"], 3, "{incident:#}");
    wait_for_told_timeline(&cluster, third.name(), &incident["timeline"]);
    dead.start();
    cluster.wait_until_complete();
    wait_for_leader(&evergate, third);
    load.wait_for_writes(SOME);
    let verdict = load.finish().verdict(third.addr());
    println!("kill: {verdict}");
    verdict.expect_none_doubled();
    expect_one_error_each(&verdict);
}
