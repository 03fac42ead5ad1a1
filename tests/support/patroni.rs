//! PostgreSQL under Patroni: three nodes and one etcd.

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use super::etcd::Etcd;
use super::http;
use super::pg_base;
use super::pg_server::PgServer;
use super::ports::free_port;
use super::postgres::PACKAGE;
use super::postgres::as_postgres;
use super::process::Process;
use super::process::installed;
use super::process::is_alive;
use super::process::is_root;
use super::process::words;
use super::slot::Slot;
use super::wait_for;
use super::wait_until;

/// As in tests/install-tools.sh, which says why not Debian's.
const VERSION: &str = "4.1.5";

/// A leader that falls silent keeps its lock for `TTL`; nothing else takes as long.
const PATIENCE: Duration = Duration::from_secs(180);

/// The smallest values that Patroni accepts: it raises others to these by itself. Tests that do
/// not want to wait for the 20 s call `expire_the_leader`.
const TIMING: &str = "ttl: 20, loop_wait: 1, retry_timeout: 3";

const LEADER_KEY: &str = "/service/evergate/leader";

pub struct PatroniCluster {
    nodes: Vec<PatroniNode>,
    etcd: Etcd,
}

/// PostgreSQL and the Patroni that runs it, which live and die together in a namespace of
/// processes: Patroni's PostgreSQL belongs to nobody and would outlive the test.
pub struct PatroniNode {
    server: PgServer,
    rest: SocketAddr,
    slot: Slot,
    dir: TempDir,
}

impl PatroniCluster {
    /// Three nodes; returns when two replicas stream from a leader.
    #[track_caller]
    pub fn start() -> Self {
        let etcd = Etcd::start();
        // As on machines of their own: one port of the REST API on different addresses.
        let port = free_port();
        let nodes = [("n1", 1), ("n2", 2), ("n3", 3)].map(|(name, digit)| {
            let rest = SocketAddr::from(([127, 0, 0, digit], port));
            PatroniNode::build(name, rest, etcd.addr())
        });
        let cluster = Self {
            nodes: nodes.into(),
            etcd,
        };
        cluster.nodes[0].launch();
        // It has the right to found the cluster: the others wait for it, and it will lead.
        wait_until(PATIENCE, "a founder", || {
            let key = cluster
                .etcd
                .etcdctl(&["get", "/service/evergate/initialize"]);
            !key.stdout.is_empty()
        });
        cluster.nodes[1..].iter().for_each(PatroniNode::launch);
        cluster.wait_until_complete();
        cluster
    }

    pub fn nodes(&self) -> &[PatroniNode] {
        &self.nodes
    }

    #[track_caller]
    pub fn node(&self, index: usize) -> &PatroniNode {
        &self.nodes[index]
    }

    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// The node that has the lock and is primary; waits for one.
    #[track_caller]
    pub fn leader(&self) -> &PatroniNode {
        wait_for(PATIENCE, "a leader", || {
            self.running().find(|node| node.leads())
        })
    }

    /// The nth running node that is not the leader.
    #[track_caller]
    pub fn replica(&self, index: usize) -> &PatroniNode {
        let leader = self.leader().name();
        let mut others = self.running().filter(|node| node.name() != leader);
        others.nth(index).expect("too few replicas run")
    }

    /// Asks the leader to hand over to this node, and waits until that one leads.
    #[track_caller]
    pub fn switch_over_to(&self, candidate: &PatroniNode) {
        let leader = self.leader();
        let body = json!({"leader": leader.name(), "candidate": candidate.name()});
        let headers = [("Content-Type", "application/json")];
        let body = body.to_string();
        // It answers when it is done, which may take longer than a client's patience.
        let answer = http::request(
            leader.rest,
            "POST",
            "/switchover",
            &headers,
            body.as_bytes(),
        );
        if let Ok(answer) = answer {
            assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
        }
        wait_until(PATIENCE, "the candidate leads", || candidate.leads());
    }

    /// Changes the cluster's settings, e.g. `{"failsafe_mode": true}`; each node follows in a second.
    #[track_caller]
    pub fn configure(&self, settings: &Value) {
        let (rest, body) = (self.leader().rest, settings.to_string());
        let headers = [("Content-Type", "application/json")];
        let answer = http::request(rest, "PATCH", "/config", &headers, body.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Kills the leader's PostgreSQL and its Patroni; returns who it was. Nobody leads until the
    /// lock expires, by itself or by `expire_the_leader`.
    #[track_caller]
    pub fn kill_leader(&self) -> &PatroniNode {
        let leader = self.leader();
        leader.kill_9();
        leader
    }

    /// Takes the lock from a leader that is dead or frozen, as its time would in 20 s.
    #[track_caller]
    pub fn expire_the_leader(&self) {
        self.etcd.expire_the_lease_of(LEADER_KEY);
    }

    /// Waits until every running node is a member that leads or streams, and could be lost.
    ///
    /// That is: has a checkpoint. One that is killed between its promotion and its first checkpoint
    /// has a control file that says "replica"; Patroni then waits for ever for its recovery.
    #[track_caller]
    pub fn wait_until_complete(&self) {
        let wanted = self.running().count();
        wait_until(PATIENCE, "a complete cluster", || {
            let Some(answer) = self.running().find_map(PatroniNode::cluster) else {
                return false;
            };
            let members = answer["members"].as_array().cloned().unwrap_or_default();
            let good = members.iter().filter(|member| {
                let (role, state) = (&member["role"], &member["state"]);
                (role == "leader" && state == "running") || state == "streaming"
            });
            good.count() == wanted
        });
        for node in self.running() {
            node.sql("checkpoint");
        }
    }

    fn running(&self) -> impl Iterator<Item = &PatroniNode> {
        self.nodes
            .iter()
            .filter(|node| node.is_running() && !node.is_frozen())
    }
}

impl PatroniNode {
    fn build(name: &str, rest: SocketAddr, etcd: SocketAddr) -> Self {
        let dir = pg_base::directory("evergate-patroni-");
        let node = Self {
            server: PgServer::new(name, SocketAddr::new(rest.ip(), free_port())),
            rest,
            slot: Slot::default(),
            dir,
        };
        // Moved into place by Patroni's bootstrap: quicker than initdb and pg_basebackup.
        pg_base::copy_to(&node.dir.path().join("seed"));
        fs::write(node.file(), node.configuration(etcd)).unwrap();
        node
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("patroni.yaml")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Where Patroni answers `/primary`, `/replica`, `/cluster`.
    pub fn rest(&self) -> SocketAddr {
        self.rest
    }

    pub fn is_running(&self) -> bool {
        self.slot.is_running()
    }

    pub fn is_frozen(&self) -> bool {
        self.slot.is_frozen()
    }

    /// Patroni's answer; `None` when there is none.
    pub fn status(&self, path: &str) -> Option<u16> {
        http::get(self.rest, path).ok().map(|answer| answer.status)
    }

    /// `/cluster`, when Patroni answers.
    pub fn cluster(&self) -> Option<Value> {
        let answer = http::get(self.rest, "/cluster").ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// Patroni goes on saying so for a moment when its PostgreSQL has just died: both are asked.
    pub fn leads(&self) -> bool {
        self.status("/primary") == Some(200)
            && self.try_sql("select pg_is_in_recovery()").as_deref() == Ok("f")
    }

    /// Starts and waits until PostgreSQL answers.
    #[track_caller]
    pub fn start(&self) {
        self.launch();
        wait_until(PATIENCE, &format!("{} answers", self.name()), || {
            assert!(self.is_running(), "{} did not start", self.name());
            self.try_sql("select 1").is_ok()
        });
    }

    #[track_caller]
    fn launch(&self) {
        // Numbers of processes begin anew in each namespace: this one may be somebody else's now.
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
        let mut command = words(&["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        if !is_root() {
            command.extend(words(&["--user", "--map-current-user"]));
        }
        command.push("--".to_owned());
        command.extend(as_postgres());
        command.extend([program(), self.file().display().to_string()]);
        self.slot.start(&command, self.dir.path());
    }

    /// Patroni and PostgreSQL at once, as when the machine dies.
    pub fn kill_9(&self) {
        self.slot.kill_9();
    }

    /// PostgreSQL only: Patroni lives, notices, and a leader gives up its lock.
    #[track_caller]
    pub fn kill_9_postgres(&self) {
        let tree = self.slot.look(Process::tree);
        let servers: Vec<u32> = tree.into_iter().filter(|pid| is_postgres(*pid)).collect();
        assert!(!servers.is_empty(), "no PostgreSQL runs");
        for pid in &servers {
            let pid = Pid::from_raw(pid.cast_signed()).unwrap();
            // The postmaster comes first, and its children may end by themselves.
            let _ = kill_process(pid, Signal::KILL);
        }
        wait_until(PATIENCE, "the end of PostgreSQL", || {
            !servers.iter().any(|pid| is_alive(*pid))
        });
    }

    /// Every process of the node stands still; the kernel still accepts connections.
    #[track_caller]
    pub fn freeze(&self) {
        self.slot.freeze();
    }

    #[track_caller]
    pub fn thaw(&self) {
        self.slot.thaw();
    }

    /// What Patroni and PostgreSQL wrote since the last start.
    pub fn log(&self) -> String {
        self.slot.output()
    }

    fn configuration(&self, etcd: SocketAddr) -> String {
        let (name, rest, addr) = (self.name(), self.rest, self.addr());
        let dir = self.dir.path().display();
        // All programs lie together in the real place; elsewhere are only links to some.
        let programs = fs::canonicalize(installed("postgres", PACKAGE)).unwrap();
        let programs = programs.parent().unwrap().display();
        format!(
            r#"
scope: evergate
name: {name}
restapi: {{listen: "{rest}", connect_address: "{rest}"}}
etcd3: {{host: "{etcd}"}}
bootstrap:
  dcs:
    {{{TIMING}, primary_start_timeout: 0, maximum_lag_on_failover: 1048576,
      postgresql: {{use_pg_rewind: true, use_slots: true,
        parameters: {{max_connections: 200, max_wal_senders: 10, wal_level: replica,
          hot_standby: "on", wal_log_hints: "on", wal_keep_size: 1GB}}}}}}
  method: seed
  seed: &seed {{command: "mv {dir}/seed {dir}/data", no_params: true}}
postgresql:
  listen: "{addr}"
  connect_address: "{addr}"
  data_dir: {dir}/data
  bin_dir: {programs}
  pgpass: {dir}/pgpass
  create_replica_methods: [seed, basebackup]
  seed: *seed
  basebackup: {{checkpoint: fast, no-sync: true}}
  authentication:
    superuser: {{username: postgres}}
    replication: {{username: replicator}}
    rewind: {{username: postgres}}
  parameters:
    {{unix_socket_directories: "{dir}", fsync: "off", shared_buffers: 16MB, autovacuum: "off",
      max_wal_size: 4GB, wal_retrieve_retry_interval: 100ms, wal_receiver_timeout: 5s,
      max_logical_replication_workers: 0}}
"#
        )
    }
}

impl Deref for PatroniNode {
    type Target = PgServer;

    fn deref(&self) -> &PgServer {
        &self.server
    }
}

impl Drop for PatroniNode {
    fn drop(&mut self) {
        self.kill_9();
        pg_base::free_shared_memory(&self.data());
    }
}

fn program() -> String {
    let home = || std::env::var("HOME").unwrap_or_default();
    let cache = || std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| home() + "/.cache");
    let cache = if is_root() {
        "/var/cache".to_owned()
    } else {
        cache()
    };
    let place = format!("{cache}/evergate-tests/patroni-{VERSION}");
    assert!(
        Path::new(&place).join("complete").exists(),
        "no Patroni in {place}: run tests/install-tools.sh, or `make test`"
    );
    place + "/bin/patroni"
}

fn is_postgres(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end() == "postgres"
}
