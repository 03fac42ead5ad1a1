//! B15 with the network that makes it happen: a replica is cut off, somebody promotes it there, and
//! the partition heals. Two servers take writes then; one of them keeps what it has.

use serde_json::Value;

use super::stage::EAGER;
use super::stage::LIMIT;
use super::stage::Plan;
use super::stage::SOME;
use super::stage::Stage;
use super::stage::WRITERS;
use super::stage::rows_of;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::client::USER;
use crate::support::evergate::evergate;
use crate::support::netns::Netns;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::pg_node::PgNode;
use crate::support::pg_node::Shutdown;
use crate::support::ports::free_addr;
use crate::support::process::installed;
use crate::support::wait_for;
use crate::support::wait_until;

/// A row that a client on the other side of the partition has written; the load has no such id.
const THEIRS: u64 = 1 << 62;

/// A primary and a replica with networks of their own; Evergate and its clients have this host's.
struct Partition {
    stage: Stage,
    networks: [Netns; 2],
    admin: String,
    _dir: tempfile::TempDir,
}

impl Partition {
    fn new() -> Self {
        let networks = [Netns::new(), Netns::new()];
        networks.iter().for_each(Netns::forward);
        let places = networks.each_ref().map(Netns::place);
        let cluster = PostgresCluster::with().replicas(1).places(&places).start();
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let admin = format!("unix:{}", socket.display());
        let line = format!(
            "admin: {{bind: \"{}\", socket: {}}}",
            free_addr(),
            socket.display()
        );
        let stage = Plan::default().check(EAGER).line(&line).start(cluster);
        Self {
            stage,
            networks,
            admin,
            _dir: dir,
        }
    }

    fn nodes(&self) -> [&PgNode; 2] {
        [0, 1].map(|index| self.stage.cluster.node(index))
    }

    /// As somebody does who sits on the replica's side.
    #[track_caller]
    fn on_the_other_side(&self, statement: &str) -> String {
        let psql = installed("psql", "postgresql-client-15");
        let addr = self.nodes()[1].addr();
        let target = format!(
            "host={} port={} user={USER} dbname=postgres",
            addr.ip(),
            addr.port()
        );
        let target = match statement.contains("pg_promote") {
            true => target.replace(USER, "postgres"),
            false => target,
        };
        let said = self.networks[1].run(&[&psql, "-X", "-q", "-A", "-t", "-c", statement, &target]);
        said.trim_end().to_owned()
    }

    #[track_caller]
    fn promote_on_the_other_side(&self) {
        assert_eq!(self.on_the_other_side("select pg_promote(true, 20)"), "t");
        let insert = format!("insert into writes values ({THEIRS})");
        self.on_the_other_side(&insert);
    }

    /// Nobody is written to, clients wait, and whoever watches is told.
    #[track_caller]
    fn expect_a_split_brain(&self) {
        let stage = &self.stage;
        let cluster = [("cluster", "orders")];
        let metric = |name: &str, value| stage.evergate.wait_for_metric(name, &cluster, value);
        metric("evergate_cluster_split_brain", 1.0);
        metric("evergate_cluster_has_primary", 0.0);
        stage.wait_until_held(WRITERS);
        for node in self.nodes() {
            stage.wait_for_role(node, "fenced", "split_brain");
        }
        let before = self.nodes().map(|node| rows_of(node));
        for node in self.nodes() {
            stage.wait_for_checks(node, "passed", 3);
        }
        assert_eq!(self.nodes().map(|node| rows_of(node)), before);
        let incident = self.incident();
        assert_eq!(incident["open"], true, "{incident:#}");
        assert!(has_step(&incident, "split_brain"), "{incident:#}");
    }

    /// The newest split brain; a busy machine may make other incidents.
    #[track_caller]
    fn incident(&self) -> Value {
        wait_for(PATIENCE, "an incident of a split brain", || {
            let answer = self.stage.evergate.get("/api/v1/incidents").json();
            let incidents = answer["incidents"].as_array()?.clone();
            incidents.into_iter().find(|it| it["kind"] == "split_brain")
        })
    }

    #[track_caller]
    fn expect_its_end(&self, found: &PgNode) {
        wait_until(PATIENCE, "the incident is over", || {
            self.incident()["open"] == false
        });
        let incident = self.incident();
        assert_eq!(incident["found"], *found.name(), "{incident:#}");
        assert!(has_step(&incident, "split_brain_over"), "{incident:#}");
        assert!(incident["sessions"]["held"].as_u64() > Some(0));
        let cluster = [("cluster", "orders")];
        let metric = "evergate_cluster_split_brain";
        self.stage.evergate.wait_for_metric(metric, &cluster, 0.0);
    }
}

fn has_step(incident: &Value, phase: &str) -> bool {
    let mut steps = incident["steps"].as_array().unwrap().iter();
    steps.any(|step| step["phase"] == phase)
}

/// Evergate is on the primary's side: it sees a dead replica, and two primaries when the partition
/// heals. An operator decides for the one that clients have written to all the while.
#[test]
fn a_replica_that_was_promoted_out_of_sight_stops_writes_until_an_operator_decides() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let partition = Partition::new();
    let stage = &partition.stage;
    let [old, new] = partition.nodes();
    let load = stage.load();
    partition.networks[1].drop_incoming();
    partition.networks[1].drop_outgoing();
    stage.wait_for_health(new, "down");
    partition.promote_on_the_other_side();
    load.wait_for_writes(SOME);
    assert_eq!(stage.role(old), ("primary".into(), "claims_primary".into()));

    partition.networks[1].heal();
    new.wait_until_it_answers();
    partition.expect_a_split_brain();

    let decide = ["switchover", "orders/n1", "--admin", &partition.admin];
    let decided = evergate(&decide);
    assert!(decided.status.success(), "{decided:?}");
    load.wait_for_every_writer();
    load.wait_for_writes(SOME);
    stage.wait_for_role(old, "primary", "claims_primary");
    assert_eq!(stage.role(new).0, "fenced");
    partition.expect_its_end(old);
    let verdict = load.finish().verdict(old.addr());
    println!("{verdict}");
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
    assert_eq!(verdict.read_only_errors, 0, "{verdict}");
    assert!(verdict.failed_statements <= WRITERS, "{verdict}");
    // Clients have never met the other one: all that they were promised is there.
    verdict.expect_intact();
    let theirs = rows_of(new);
    let ours = rows_of(old);
    let only_there: Vec<_> = theirs.difference(&ours).collect();
    assert_eq!(only_there, [&THEIRS], "writes to the loser");
}

/// Evergate sees both all the while: nobody may be written to from the first look at the second
/// primary on. The old one yields, and the other side wins.
#[test]
fn a_replica_that_was_promoted_in_sight_stops_writes_until_the_old_primary_yields() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let partition = Partition::new();
    let stage = &partition.stage;
    let [old, new] = partition.nodes();
    let load = stage.load();
    partition.networks[1].cut_off_from(partition.networks[0].ip());
    // What it has not got by now it will never have.
    wait_until(PATIENCE, "the stream is cut", || {
        old.sql("select count(*) from pg_stat_replication") == "0"
    });
    load.wait_for_writes(SOME);
    partition.promote_on_the_other_side();
    partition.expect_a_split_brain();
    let split = std::time::Instant::now();
    partition.networks[1].heal();
    stage.wait_for_checks(old, "passed", 3);
    assert_eq!(stage.role(old), ("fenced".into(), "split_brain".into()));

    old.stop(Shutdown::Fast);
    load.wait_for_every_writer();
    stage.wait_for_role(new, "primary", "claims_primary");
    partition.expect_its_end(new);
    old.start();
    stage.wait_for_role(old, "fenced", "stale_timeline");
    load.wait_for_writes(SOME);
    let record = load.finish();
    let verdict = record.verdict(new.addr());
    println!("{verdict}");
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
    assert_eq!(verdict.read_only_errors, 0, "{verdict}");
    assert!(verdict.failed_statements <= WRITERS, "{verdict}");
    assert!(verdict.doubled.is_empty(), "{verdict}");
    assert_eq!(verdict.foreign, 1, "theirs, and no other: {verdict}");
    // Replication is asynchronous, and was cut: that is lost, and nothing of what came later.
    assert!(verdict.lost.len() >= SOME as usize, "{verdict}");
    assert_eq!(
        record.begun_after(split, old.addr()),
        0,
        "writes to the loser"
    );
    let kept = rows_of(old);
    assert!(verdict.lost.iter().all(|id| kept.contains(id)), "{verdict}");
}
