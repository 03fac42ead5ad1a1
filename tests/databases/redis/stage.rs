//! A primary and its replica with Evergate in front of them; nobody else changes their roles.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;

use super::PATIENCE;
use crate::support::client::Dialect;
use crate::support::client::Session;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::redis::redis_cli;
use crate::support::redis_node::RedisNode;
use crate::support::redis_node::RedisPair;
use crate::support::verdict::Verdict;
use crate::support::wait_until;
use crate::support::workload::Launch;
use crate::support::workload::Workload;

/// Of a load: each has one session at a time.
pub const WRITERS: usize = 4;
/// Writes that show that a load is under way.
pub const SOME: u64 = 50;

pub struct Stage {
    // Dropped before the servers: its log stays free of their end.
    pub evergate: Evergate,
    pub write: SocketAddr,
    pub read: SocketAddr,
    pub pair: RedisPair,
}

/// What the file says beyond the nodes.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Keys of `health_check`.
    pub check: String,
    /// A line of the cluster.
    pub cluster: String,
    /// Keys of both listeners, and of the one for readers; each begins with a comma.
    pub listeners: String,
    pub read: &'static str,
}

impl Plan {
    pub fn checked(check: &str) -> Self {
        Self {
            check: check.to_owned(),
            ..Self::default()
        }
    }

    fn yaml(&self, pair: &RedisPair, [write, read]: [SocketAddr; 2]) -> String {
        let addr = |node: &RedisNode| match self.cluster.contains("tls:") {
            true => node.tls_addr(),
            false => node.addr(),
        };
        let [one, two] = [0, 1].map(|index| addr(pair.node(index)));
        let (check, cluster, listeners) = (&self.check, &self.cluster, &self.listeners);
        let readers = self.read;
        format!(
            "
clusters:
  cache:
    protocol: redis
    backends: [{{name: r1, address: \"{one}\"}}, {{name: r2, address: \"{two}\"}}]
    health_check: {{{check}}}
    failover: {{hold: {{for: 60s, max_sessions: 100}}}}
    {cluster}
listeners:
  writes: {{bind: \"{write}\", cluster: cache, role: primary{listeners}}}
  reads: {{bind: \"{read}\", cluster: cache, role: replica{listeners}{readers}}}
"
        )
    }

    #[track_caller]
    pub fn start(&self, pair: RedisPair) -> Stage {
        let (write, read) = (free_addr(), free_addr());
        let stage = Stage {
            evergate: Evergate::start(&self.yaml(&pair, [write, read])),
            write,
            read,
            pair,
        };
        stage.wait_for("r1", &[("role", "primary")]);
        stage.wait_for("r2", &[("role", "replica")]);
        stage
    }
}

impl Stage {
    /// Another file for the same nodes and listeners.
    #[track_caller]
    pub fn reload(&self, plan: &Plan) {
        let yaml = plan.yaml(&self.pair, [self.write, self.read]);
        self.evergate.reload(&yaml);
    }

    #[track_caller]
    pub fn load(&self) -> Workload {
        self.start(Workload::through(Dialect::Redis, self.write))
    }

    #[track_caller]
    pub fn start(&self, load: Launch) -> Workload {
        let load = load.writers(WRITERS).start();
        load.wait_for_writes(SOME);
        // Who still logs in when the primary dies has an error of another kind.
        load.wait_for_every_writer();
        load
    }

    #[track_caller]
    pub fn reader(&self) -> Session {
        Session::open(Dialect::Redis, self.read, "", PATIENCE).unwrap()
    }

    /// What the API says of the cluster.
    #[track_caller]
    pub fn view(&self) -> Value {
        self.evergate.get("/api/v1/clusters").json()[0].clone()
    }

    /// Waits until the API says all of this of a backend.
    #[track_caller]
    pub fn wait_for(&self, backend: &str, words: &[(&str, &str)]) {
        wait_until(PATIENCE, &format!("{backend}: {words:?}"), || {
            let view = self.view();
            let mut backends = view["backends"].as_array().unwrap().iter();
            let found = backends.find(|it| it["name"] == backend);
            let found = found.expect("the node is a backend");
            words.iter().all(|(key, word)| found[*key] == *word)
        });
    }

    /// Waits until this one is the primary: what begins from now on must not be lost.
    #[track_caller]
    pub fn wait_for_primary(&self, backend: &str) -> Instant {
        self.wait_for(backend, &[("role", "primary")]);
        Instant::now()
    }

    #[track_caller]
    pub fn wait_until_held(&self, sessions: usize) {
        wait_until(PATIENCE, &format!("{sessions} are held"), || {
            self.view()["held_sessions"] == sessions
        });
    }
}

/// What a primary's end has cost: an error for each session. One that is being killed accepts for
/// a moment longer, and what was said to it is not said to another.
#[track_caller]
pub fn expect_an_error_each_at_most(verdict: &Verdict) {
    println!("{verdict}");
    assert!(verdict.failed_statements <= WRITERS, "{verdict}");
    assert!(verdict.failed_connections <= WRITERS, "{verdict}");
    expect_no_errors_but(verdict, &["lost", "login: closed"]);
}

#[track_caller]
pub fn expect_no_errors_but(verdict: &Verdict, known: &[&str]) {
    let mut errors = verdict.errors.keys();
    let is_known = |error: &String| known.contains(&error.as_str());
    assert!(errors.all(is_known), "{verdict}");
}

/// Of the server that this session speaks to, in its own words.
#[track_caller]
pub fn role_of(session: &mut Session) -> String {
    session.query("ROLE").unwrap().swap_remove(0).swap_remove(0)
}

/// To a node itself, also to one that refuses all that is not about itself.
#[track_caller]
pub fn tell(node: &RedisNode, words: &[&str]) {
    let output = redis_cli(node.addr(), words);
    let answer = String::from_utf8_lossy(&output.stdout);
    assert_eq!(answer.trim(), "OK", "{words:?}");
}

#[track_caller]
pub fn tell_to_follow(node: &RedisNode, primary: SocketAddr) {
    let (ip, port) = (primary.ip().to_string(), primary.port().to_string());
    tell(node, &["REPLICAOF", &ip, &port]);
}
