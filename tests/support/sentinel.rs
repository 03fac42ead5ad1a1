//! A Redis primary, a replica and three Sentinels that agree on who is primary.

use std::net::SocketAddr;

use super::PATIENCE;
use super::redis_node::Options;
use super::redis_node::RedisNode;
use super::redis_node::RedisPair;
use super::wait_for;
use super::wait_until;

/// What the Sentinels call the set of servers.
pub const MASTER: &str = "main";

pub struct RedisSentinels {
    nodes: [RedisNode; 2],
    sentinels: Vec<RedisNode>,
}

impl RedisSentinels {
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    /// Returns when the replica is online and every Sentinel knows all the others.
    #[track_caller]
    pub fn start_with(options: &Options) -> Self {
        let RedisPair { nodes } = RedisPair::start_with(options);
        let sentinels: Vec<RedisNode> = (0..3).map(|_| sentinel(nodes[0].addr())).collect();
        sentinels.iter().for_each(RedisNode::start);
        let cluster = Self { nodes, sentinels };
        cluster.wait_until_it_can_fail_over();
        cluster
    }

    /// The first primary is 0 for ever.
    #[track_caller]
    pub fn node(&self, index: usize) -> &RedisNode {
        &self.nodes[index]
    }

    pub fn sentinels(&self) -> &[RedisNode] {
        &self.sentinels
    }

    /// Whom most of the Sentinels name, when that one says the same of itself; waits for it.
    #[track_caller]
    pub fn primary(&self) -> &RedisNode {
        wait_for(PATIENCE, "the Sentinels agree", || {
            let named: Vec<u16> = self.sentinels.iter().filter_map(named_by).collect();
            let chosen = |node: &&RedisNode| {
                let port = node.addr().port();
                named.iter().filter(|named| **named == port).count() >= 2
            };
            let node = self.nodes.iter().find(chosen)?;
            (node.role().as_deref() == Some("master")).then_some(node)
        })
    }

    /// The running node that is not the primary.
    #[track_caller]
    pub fn replica(&self) -> &RedisNode {
        let primary = self.primary().addr();
        let mut others = self.nodes.iter().filter(|node| node.addr() != primary);
        others.find(|node| node.is_running()).expect("a replica")
    }

    /// Planned: returns when the Sentinels have agreed on the other one.
    #[track_caller]
    pub fn fail_over(&self) {
        let old = self.primary().addr();
        let command = format!("SENTINEL FAILOVER {MASTER}");
        wait_until(PATIENCE, "the failover begins", || {
            // NOGOODSLAVE until the last one is over.
            self.sentinels[0].try_command(&command).is_ok()
        });
        wait_until(PATIENCE, "another primary", || self.primary().addr() != old);
    }

    /// Every Sentinel knows a good replica and two other Sentinels.
    #[track_caller]
    pub fn wait_until_it_can_fail_over(&self) {
        wait_until(PATIENCE * 2, "the Sentinels know each other", || {
            self.sentinels.iter().all(|sentinel| {
                let quorum = sentinel.try_command(&format!("SENTINEL CKQUORUM {MASTER}"));
                let known = master_field(sentinel, "num-slaves").as_deref() == Some("1")
                    && master_field(sentinel, "num-other-sentinels").as_deref() == Some("2");
                quorum.is_ok() && known
            })
        });
    }
}

/// Two of three must agree, and half a second of silence is suspicious.
fn sentinel(primary: SocketAddr) -> RedisNode {
    let (ip, port) = (primary.ip(), primary.port());
    let file = [
        format!("sentinel monitor {MASTER} {ip} {port} 2"),
        format!("sentinel down-after-milliseconds {MASTER} 500"),
        format!("sentinel failover-timeout {MASTER} 3000"),
        "protected-mode no".to_owned(),
    ];
    RedisNode::build(&["--sentinel"], None, &file)
}

/// A field of what a Sentinel tells of the master.
fn master_field(sentinel: &RedisNode, name: &str) -> Option<String> {
    let question = format!("SENTINEL MASTER {MASTER}");
    let words = sentinel.try_command(&question).ok()?;
    let mut pairs = words.chunks_exact(2);
    pairs
        .find(|pair| pair[0] == name)
        .map(|pair| pair[1].clone())
}

/// The port of the one that this Sentinel takes for the primary.
fn named_by(sentinel: &RedisNode) -> Option<u16> {
    let question = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {MASTER}");
    sentinel.try_command(&question).ok()?.get(1)?.parse().ok()
}
