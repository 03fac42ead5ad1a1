//! A replica is promoted by hand while its primary lives and takes writes.
//!
//! Nobody like Patroni is there to end it. HAProxy asks what its users ask in such a cluster: a
//! script that says whether the server is in recovery. Both servers say "primary" then, until an
//! operator ends the old one.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::figures::Run;
use crate::nodes::Authority;
use crate::nodes::Intent;
use crate::nodes::Node;
use crate::nodes::Nodes;
use crate::role_teller::RoleTeller;
use crate::stacks::Stack;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::pg_node::PgNode;
use crate::writers::Change;
use crate::writers::Load;

/// Until the operator acts. HAProxy's template sees the second primary after 6 s; Evergate's
/// clients are held for 15 s.
const SPLIT: Duration = Duration::from_secs(8);

/// A cluster of its own for each run: two histories cannot be made one again in less time.
pub fn run() -> Run {
    let cluster = PostgresCluster::start(1);
    let (old, new) = (cluster.node(0), cluster.node(1));
    let tellers: Vec<RoleTeller> = cluster
        .nodes()
        .iter()
        .map(|node| RoleTeller::of(node.addr()))
        .collect();
    let nodes = nodes(&cluster, &tellers);
    let stacks = Stack::start_all(&nodes, Intent::Write);
    let load = Load::start(&stacks, &nodes);

    let began = Instant::now();
    new.promote();
    let taken_over = Instant::now();
    thread::sleep(SPLIT);
    assert!(!old.is_in_recovery() && !new.is_in_recovery());
    // The operator keeps the higher timeline.
    old.kill_9();
    let stuck = load.wait_for_every_writer();
    let change = Change {
        began,
        taken_over,
        primary: new.addr(),
    };
    load.judge(change, &stuck)
}

fn nodes(cluster: &PostgresCluster, tellers: &[RoleTeller]) -> Nodes {
    let node = |(node, teller): (&PgNode, &RoleTeller)| Node {
        name: node.name().to_owned(),
        addr: node.addr(),
        role: teller.addr(),
    };
    Nodes {
        list: cluster.nodes().iter().zip(tellers).map(node).collect(),
        authority: Authority::Nobody,
    }
}
