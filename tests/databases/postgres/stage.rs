//! A cluster with Evergate in front of it, and the questions that stories ask of both.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::support::PATIENCE;
use crate::support::client::Dialect;
use crate::support::client::Failure;
use crate::support::client::Session;
use crate::support::client::USER;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::pg_server::PgServer;
use crate::support::ports::free_addr;
use crate::support::verdict::Verdict;
use crate::support::wait_until;
use crate::support::workload::OracleWriter;
use crate::support::workload::Workload;

pub const LIMIT: Duration = Duration::from_secs(120);
/// Writes that show that a load is under way.
pub const SOME: u64 = 50;
/// Of a load: each has one session at a time.
pub const WRITERS: usize = 4;
/// Checks that notice within two seconds what no connection tells, and not that the machine is busy.
pub const EAGER: &str = "interval: 400ms, timeout: 400ms";

pub struct Stage {
    // Dropped before the servers: its log stays free of their end.
    pub evergate: Evergate,
    pub write: SocketAddr,
    pub read: SocketAddr,
    pub cluster: PostgresCluster,
    yaml: String,
}

/// What the file says beyond the nodes; each text is keys of a map: `interval: 200ms, rise: 1`.
#[derive(Default)]
pub struct Plan {
    check: String,
    failover: String,
    orders: String,
    write: String,
    read: String,
    more: String,
    others: Vec<PgServer>,
    removed: Option<&'static str>,
}

impl Plan {
    pub fn check(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.check);
        self
    }

    pub fn failover(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.failover);
        self
    }

    /// Lines of the cluster.
    pub fn orders(mut self, lines: &[&str]) -> Self {
        self.orders = lines.iter().map(|line| format!("    {line}\n")).collect();
        self
    }

    pub fn write(mut self, keys: &str) -> Self {
        self.write = format!(", {keys}");
        self
    }

    pub fn read(mut self, keys: &str) -> Self {
        self.read = format!(", {keys}");
        self
    }

    /// A line of the file.
    pub fn line(mut self, line: &str) -> Self {
        self.more += &format!("{line}\n");
        self
    }

    /// One more backend that is no node of the cluster.
    pub fn backend(mut self, server: PgServer) -> Self {
        self.others.push(server);
        self
    }

    /// A node that the file does not name.
    pub fn without(mut self, node: &'static str) -> Self {
        self.removed = Some(node);
        self
    }

    #[track_caller]
    pub fn start(self, cluster: PostgresCluster) -> Stage {
        let (write, read) = (free_addr(), free_addr());
        let yaml = self.yaml(&cluster, write, read);
        let evergate = Evergate::start(&yaml);
        let stage = Stage {
            evergate,
            write,
            read,
            cluster,
            yaml,
        };
        // Ready is one listener with a backend; stories begin when all is known.
        for node in stage.cluster.nodes() {
            wait_until(PATIENCE, &format!("{} has a role", node.name()), || {
                stage.role(node).0 != "unknown"
            });
        }
        stage
    }

    fn yaml(&self, cluster: &PostgresCluster, write: SocketAddr, read: SocketAddr) -> String {
        let nodes = cluster.nodes().iter().map(|node| &**node);
        let backends: Vec<String> = nodes
            .chain(&self.others)
            .filter(|node| self.removed != Some(node.name()))
            .map(|node| format!("{{address: \"{}\", name: {}}}", node.addr(), node.name()))
            .collect();
        // A recovery on a busy disk takes longer than most clients would wait.
        let hold = match self.failover.contains("hold:") {
            true => "",
            false => "hold: {for: 60s, max_sessions: 10000}, ",
        };
        let user = match ["user:", "kind:"]
            .iter()
            .any(|key| self.check.contains(key))
        {
            true => String::new(),
            false => format!("user: {USER}, "),
        };
        format!(
            "clusters:\n  orders:\n    protocol: postgres\n    backends: [{}]\n    \
             health_check: {{{user}{}}}\n    failover: {{{hold}{}}}\n{}\
             listeners:\n  write: {{bind: \"{write}\", cluster: orders, role: primary{}}}\n  \
             read: {{bind: \"{read}\", cluster: orders, role: replica{}}}\n{}",
            backends.join(", "),
            self.check,
            self.failover,
            self.orders,
            self.write,
            self.read,
            self.more,
        )
    }
}

impl Stage {
    #[track_caller]
    pub fn with_replicas(count: usize) -> Self {
        Plan::default().start(PostgresCluster::start(count))
    }

    /// Kills Evergate, runs what happens meanwhile, and starts another one with the same file.
    #[track_caller]
    pub fn kill_evergate_and_restart(self, meanwhile: impl FnOnce(&PostgresCluster)) -> Self {
        let Self {
            evergate,
            write,
            read,
            cluster,
            yaml,
        } = self;
        // Dropping it is kill -9.
        drop(evergate);
        meanwhile(&cluster);
        let evergate = Evergate::with(&yaml).until(Until::Alive).start();
        Self {
            evergate,
            write,
            read,
            cluster,
            yaml,
        }
    }

    /// Another file for the same nodes and listeners.
    #[track_caller]
    pub fn reload(&self, plan: &Plan) {
        let yaml = plan.yaml(&self.cluster, self.write, self.read);
        self.evergate.reload(&yaml);
    }

    #[track_caller]
    pub fn load(&self) -> Workload {
        let load = Workload::through(Dialect::Postgres, self.write).writers(WRITERS);
        let load = load.start();
        load.wait_for_writes(SOME);
        // Who still logs in when the primary dies has an error of another kind.
        load.wait_for_every_writer();
        load
    }

    pub fn oracle(&self) -> OracleWriter {
        let nodes: Vec<SocketAddr> = self
            .cluster
            .nodes()
            .iter()
            .map(|node| node.addr())
            .collect();
        OracleWriter::start(Dialect::Postgres, &nodes)
    }

    /// A session of the write listener that waits for its answers as long as tests do.
    pub fn writer(&self) -> Result<Session, Failure> {
        Session::open(Dialect::Postgres, self.write, USER, PATIENCE)
    }

    pub fn reader(&self) -> Result<Session, Failure> {
        Session::open(Dialect::Postgres, self.read, USER, PATIENCE)
    }

    /// What the API says of the cluster.
    #[track_caller]
    pub fn view(&self) -> Value {
        self.evergate.get("/api/v1/clusters").json()[0].clone()
    }

    /// What the API says of a node.
    #[track_caller]
    pub fn node(&self, node: &PgServer) -> Value {
        let view = self.view();
        let mut backends = view["backends"].as_array().unwrap().iter();
        let found = backends.find(|it| it["name"] == node.name());
        found.expect("the node is a backend").clone()
    }

    /// A node's role, and why.
    #[track_caller]
    pub fn role(&self, node: &PgServer) -> (String, String) {
        let node = self.node(node);
        let text = |key: &str| node[key].as_str().unwrap().to_owned();
        (text("role"), text("role_cause"))
    }

    #[track_caller]
    pub fn wait_for_role(&self, node: &PgServer, role: &str, cause: &str) {
        let what = format!("{} is {role} ({cause})", node.name());
        let wanted = (role.to_owned(), cause.to_owned());
        wait_until(PATIENCE, &what, || self.role(node) == wanted);
    }

    /// Waits until this node is the primary: what begins from now on must not be lost.
    #[track_caller]
    pub fn wait_for_primary(&self, node: &PgServer) -> Instant {
        self.wait_for_role(node, "primary", "claims_primary");
        Instant::now()
    }

    #[track_caller]
    pub fn wait_for_health(&self, node: &PgServer, health: &str) {
        wait_until(PATIENCE, &format!("{} is {health}", node.name()), || {
            self.node(node)["health"] == health
        });
    }

    /// Waits until so many sessions are held.
    #[track_caller]
    pub fn wait_until_held(&self, sessions: usize) {
        wait_until(PATIENCE, &format!("{sessions} are held"), || {
            self.view()["held_sessions"] == sessions
        });
    }

    /// Waits until this node has answered (or failed) so many more checks.
    #[track_caller]
    pub fn wait_for_checks(&self, node: &PgServer, result: &str, more: u32) {
        let labels = [("backend", node.name()), ("result", result)];
        let seen = || {
            self.evergate
                .metric("evergate_health_checks_total", &labels)
        };
        let goal = seen().unwrap_or(0.0) + f64::from(more);
        let what = format!("{more} more checks of {}: {result}", node.name());
        wait_until(PATIENCE, &what, || seen().unwrap_or(0.0) >= goal);
    }

    /// Sessions that Evergate itself ended for this reason.
    pub fn severed(&self, cause: &str) -> f64 {
        let labels = [("side", "proxy"), ("phase", "relay"), ("cause", cause)];
        let count = self
            .evergate
            .metric("evergate_sessions_ended_total", &labels);
        count.unwrap_or(0.0)
    }
}

/// The process of the server that this session speaks to.
#[track_caller]
pub fn server_of(session: &mut Session) -> u32 {
    let port = session.query("select inet_server_port()").unwrap();
    port[0][0].parse().unwrap()
}

#[track_caller]
pub fn is_on(session: &mut Session, node: &PgServer) -> bool {
    server_of(session) == u32::from(node.addr().port())
}

/// The rows of a load's table.
#[track_caller]
pub fn rows_of(node: &PgServer) -> HashSet<u64> {
    let rows = node.sql("select id from writes");
    rows.lines().map(|row| row.parse().unwrap()).collect()
}

/// What a failover has cost the load: at most one error for each session, which found nobody that
/// takes no writes, and nothing that began after the new primary was `known`.
#[track_caller]
pub fn expect_an_error_each_at_most(
    load: Workload,
    oracle: OracleWriter,
    new: &PgServer,
    known: Instant,
) -> Verdict {
    let record = load.finish();
    let verdict = record.verdict(new.addr());
    let baseline = oracle.finish().verdict(new.addr());
    println!(
        "{verdict}\nadded outage: {:?}",
        verdict.added_outage(&baseline)
    );
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
    assert_eq!(verdict.read_only_errors, 0, "{verdict}");
    assert!(verdict.failed_statements <= WRITERS, "{verdict}");
    record.expect_none_lost_after(&verdict, known);
    verdict
}

/// Every session has got one error, and no new one was turned away.
#[track_caller]
pub fn expect_an_error_each(verdict: &Verdict) {
    println!("{verdict}");
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
    assert_eq!(verdict.failed_statements, WRITERS, "{verdict}");
}
