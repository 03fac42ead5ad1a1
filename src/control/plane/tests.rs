//! The plane's own bookkeeping: errands, links that rest.

use super::*;
use crate::config::CheckKind;
use crate::config::ClusterConfig;
use crate::config::DatabaseCheck;
use crate::control::evidence::Evidence;
use crate::control::evidence::PostgresEvidence;
use crate::control::fixtures::cluster;
use crate::control::fixtures::config;
use crate::control::state_dir::StateDir;
use crate::tls::TlsMaterial;
use std::time::Duration;
use tokio::task::LocalSet;

fn plane(backends: &[&str]) -> Plane {
    plane_of(vec![cluster("a", backends)], None)
}

fn apply(plane: &mut Plane, clusters: Vec<ClusterConfig>) {
    let applied = plane.apply(&Desired {
        config: Arc::new(config(clusters)),
        tls: TlsMaterial::default(),
    });
    assert_eq!(applied, Ok(()));
}

fn plane_of(clusters: Vec<ClusterConfig>, keeper: Option<Keeper>) -> Plane {
    let (_, commands) = mpsc::channel(1);
    let (_, reports) = mpsc::channel(1);
    let mut plane = Plane::new(
        SharedTable::default(),
        Arc::default(),
        commands,
        reports,
        keeper,
        Recorder::default(),
    );
    apply(&mut plane, clusters);
    plane
}

/// Went wrong once: the reload came before the next table, and what had been seen was lost.
#[test]
fn what_was_seen_of_a_cluster_that_a_reload_removes_is_saved() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(StateDir::open(directory.path()).unwrap()).unwrap();
    let mut orders = cluster("orders", &["db1"]);
    orders.health_check.kind = CheckKind::Postgres(DatabaseCheck {
        user: None,
        password: None,
        database: None,
    });
    let mut plane = plane_of(vec![orders, cluster("a", &["db2"])], Some(keeper));
    while let Some(order) = plane.core.start_due(Instant::now()) {
        let evidence = match &*order.target.cluster.name {
            "orders" => Evidence::Postgres(PostgresEvidence {
                is_in_recovery: false,
                is_writable: true,
                system_identifier: 7,
                timeline: 5,
                received_lsn: 1,
                replayed_lsn: 1,
                connections_used: 1,
                connections_allowed: 97,
            }),
            _ => Evidence::Silent,
        };
        plane.handle(Event::Probed {
            id: order.id,
            number: order.number,
            target: order.target,
            observation: Observation {
                result: Ok(evidence),
                duration: Duration::ZERO,
            },
            complaint: None,
            recall: None,
        });
    }
    apply(&mut plane, vec![cluster("a", &["db2"])]);
    let saved = plane.keeper.unwrap().load("orders").unwrap();
    assert_eq!(saved.established(), Some("db1"));
    assert_eq!(saved.highest_timeline(), Some(5));
}

/// Went wrong once: nothing was asked again.
#[tokio::test]
async fn who_panics_on_an_errand_is_sent_again() {
    let mut plane = plane(&["db1", "db.x"]);
    let now = Instant::now();
    let order = plane.core.start_due(now).unwrap();
    let name = plane.discovery.start_due(now).unwrap();
    assert_eq!(plane.next_due().filter(|due| *due <= now), None);
    let (id, number) = (order.id, order.number);
    let panics = async {
        plane.spawn(Errand::Probe { id, number }, async { panic!("a probe") });
        plane.spawn(Errand::Lookup(name), async { panic!("a lookup") });
        for _ in 0..2 {
            let ended = plane.tasks.join_next_with_id().await.unwrap();
            plane.ended(ended);
        }
    };
    LocalSet::new().run_until(panics).await;
    assert!(plane.errands.is_empty());
    assert!(plane.core.next_due().is_some(), "the probe");
    assert!(plane.discovery.next_due().is_some(), "the lookup");
}

/// Went wrong once: its login stayed, and a smart shutdown of the database waited for it.
#[test]
fn a_probe_that_ends_in_maintenance_leaves_no_link() {
    let mut plane = plane(&["db1"]);
    let order = plane.core.start_due(Instant::now()).unwrap();
    let now = Moment::now();
    let state = AdminState::Maintenance;
    plane.core.set_admin_state("a", "db1", state, now).unwrap();
    let (recall, _recalled) = probe::recall();
    plane.handle(Event::Probed {
        id: order.id,
        number: order.number,
        target: order.target,
        observation: Observation {
            result: Ok(Evidence::Silent),
            duration: Duration::ZERO,
        },
        complaint: None,
        recall: Some(recall),
    });
    assert!(plane.recalls.is_empty());
}
