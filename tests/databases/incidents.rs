//! The flight recorder, hooks and the operator's decision, with real PostgreSQL servers.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::client::USER;
use crate::support::evergate::Evergate;
use crate::support::evergate::evergate;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::pg_node::PgNode;
use crate::support::pg_node::Shutdown;
use crate::support::ports::free_addr;
use crate::support::wait_until;
use crate::support::workload::Workload;

const LIMIT: Duration = Duration::from_secs(120);
const SOME: u64 = 50;

struct Stage {
    evergate: Evergate,
    write: SocketAddr,
    cluster: PostgresCluster,
    directory: TempDir,
}

impl Stage {
    /// Two nodes, a hook that keeps every event in `events`, and an admin socket.
    fn new() -> Self {
        let cluster = PostgresCluster::start(1);
        let (write, admin) = (free_addr(), free_addr());
        let backends: Vec<String> = cluster
            .nodes()
            .iter()
            .map(|node| format!("{{address: \"{}\", name: {}}}", node.addr(), node.name()))
            .collect();
        let directory = tempfile::tempdir().unwrap();
        let events = directory.path().join("events");
        let yaml = format!(
            "clusters:\n  orders:\n    protocol: postgres\n    backends: [{}]\n    \
             health_check: {{user: {USER}}}\n    failover:\n      on_event:\n        \
             - {{command: [/bin/sh, -c, 'cat >> {}']}}\n\
             listeners:\n  write: {{bind: \"{write}\", cluster: orders, role: primary}}\n\
             admin: {{bind: \"{admin}\", socket: admin.sock}}\n",
            backends.join(", "),
            events.display()
        );
        Self {
            evergate: Evergate::start(&yaml),
            write,
            cluster,
            directory,
        }
    }

    fn load(&self) -> Workload {
        let load = Workload::through(Dialect::Postgres, self.write).start();
        load.wait_for_writes(SOME);
        load
    }

    fn incidents(&self) -> Vec<Value> {
        let answer = self.evergate.get("/api/v1/incidents").json();
        answer["incidents"].as_array().unwrap().clone()
    }

    /// Waits until one of this kind is over.
    fn incident(&self, kind: &str) -> Value {
        self.incident_of(&[kind])
    }

    /// Waits until one of these kinds is over.
    fn incident_of(&self, kinds: &[&str]) -> Value {
        let is_it = |it: &Value| {
            let kind = it["kind"].as_str();
            kind.is_some_and(|kind| kinds.contains(&kind)) && it["open"] == false
        };
        wait_until(PATIENCE, &format!("one of {kinds:?} is over"), || {
            self.incidents().iter().any(is_it)
        });
        self.incidents().into_iter().find(is_it).unwrap()
    }

    fn role(&self, node: &PgNode) -> String {
        let clusters = self.evergate.get("/api/v1/clusters").json();
        let backends = clusters[0]["backends"].as_array().unwrap().clone();
        let mut backends = backends.iter();
        let backend = backends.find(|it| it["name"] == *node.name()).unwrap();
        backend["role"].as_str().unwrap().to_owned()
    }

    /// The events that the hook was told of.
    fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.path().join("events")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn phase(incident: &Value, phase: &str) -> f64 {
    let steps = incident["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["phase"] == phase);
    let step = step.unwrap_or_else(|| panic!("no {phase} in {incident:#}"));
    step["after_seconds"].as_f64().unwrap()
}

#[test]
fn a_killed_primary_is_one_failover_with_every_phase() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::new();
    let load = stage.load();
    let old = stage.cluster.node(0);
    stage.cluster.node(1).wait_until_it_caught_up_with(old);
    old.kill_9();
    let new = stage.cluster.fail_over_to(0);
    load.wait_for_every_writer();

    let incident = stage.incident_of(&["failover", "switchover"]);
    println!("{incident:#}");
    assert_eq!(incident["kind"], "failover");
    assert_eq!(incident["lost"], *old.name());
    assert_eq!(incident["found"], *new.name());
    assert_eq!(incident["timeline"], 2);
    let phases = [
        "last_good_answer",
        "first_error",
        "detected",
        "fenced",
        "new_primary_seen",
        "released",
        "first_good_answer",
        "closed",
    ];
    let times = phases.map(|name| phase(&incident, name));
    assert!(times.is_sorted(), "{times:?}");
    let sessions = &incident["sessions"];
    assert!(sessions["held"].as_u64() > Some(0), "{sessions}");
    let ended = sessions["lost"].as_u64().unwrap() + sessions["severed"].as_u64().unwrap();
    assert!(ended > 0, "{sessions}");
    stage.evergate.wait_for_metric(
        "evergate_cluster_failovers_total",
        &[("kind", "failover")],
        1.0,
    );
    wait_until(PATIENCE, "the hook was told", || {
        let events = stage.events();
        events.iter().any(|it| it["event"] == "primary_changed")
    });
    let told = stage.events();
    let find = |event: &str| told.iter().position(|it| it["event"] == event);
    assert!(find("primary_lost") < find("primary_changed"), "{told:#?}");
    let changed = &told[find("primary_changed").unwrap()];
    assert_eq!(changed["previous"], *old.name());
    assert_eq!(changed["backend"], *new.name());
    assert_eq!(changed["timeline"], 2);
    assert_eq!(changed["port"], new.addr().port());
    assert_eq!(changed["incident"], incident["id"]);
    drop(load.finish());
}

#[test]
fn a_primary_that_is_shut_down_makes_a_switchover() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::new();
    let load = stage.load();
    stage.cluster.node(0).stop(Shutdown::Fast);
    stage.cluster.fail_over_to(0);
    load.wait_for_every_writer();
    let incident = stage.incident("switchover");
    assert_eq!(incident["lost"], *stage.cluster.node(0).name());
    drop(load.finish());
}

#[test]
fn only_a_primary_that_takes_writes_can_be_appointed() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::new();
    drop(stage.load().finish());
    let socket = format!("unix:{}", stage.evergate.dir().join("admin.sock").display());
    let switchover = |node: &PgNode| {
        let target = format!("orders/{}", node.name());
        let output = evergate(&["switchover", &target, "--admin", &socket]);
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), error)
    };
    let (primary, replica) = (stage.cluster.node(0), stage.cluster.node(1));
    let (code, error) = switchover(replica);
    assert_eq!(code, Some(1));
    assert!(error.contains("promote it first"), "{error}");
    assert_eq!(switchover(primary), (Some(0), String::new()));

    // Both say that they are primary now.
    replica.promote();
    wait_until(PATIENCE, "the split is seen", || {
        let split = [primary, replica].map(|node| stage.role(node));
        split.iter().any(|role| role == "fenced")
    });
    println!(
        "{:?} {:#?}",
        [primary, replica].map(|node| stage.role(node)),
        stage.incidents()
    );
    let (code, error) = switchover(primary);
    assert_eq!((code, &*error), (Some(0), ""));
    assert_eq!(stage.role(primary), "primary");
    assert_eq!(stage.role(replica), "fenced");
    drop(stage.load().finish());
}
