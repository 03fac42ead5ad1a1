//! B9: the disk of a primary is full, and everything else about it is well.

use std::fs;
use std::path::PathBuf;

use super::stage::LIMIT;
use super::stage::Plan;
use super::stage::SOME;
use super::stage::WRITERS;
use crate::support::Watchdog;
use crate::support::client::Failure;
use crate::support::client::SessionEnd;
use crate::support::disk::Disk;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::pg_node::PgNode;

const MORE: &str = "insert into big select repeat(i::text, 200) from generate_series(1, 1000) i";

/// Where the tables of the cluster's only tablespace will lie: a place that each node has of
/// its own, so that one disk can be small and the others not.
fn tablespace(node: &PgNode) -> PathBuf {
    node.sql("create tablespace small location ''");
    let number = node.sql("select oid from pg_tablespace where spcname = 'small'");
    let versions = node.data().join("pg_tblspc").join(number);
    let mut versions = fs::read_dir(versions).unwrap();
    versions.next().expect("a version").unwrap().path()
}

#[test]
fn a_full_disk_is_the_writers_error_and_no_failover() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::with().replicas(1);
    let cluster = cluster.setting("allow_in_place_tablespaces=on").start();
    let stage = Plan::default().check("interval: 100ms").start(cluster);
    let (primary, replica) = (stage.cluster.node(0), stage.cluster.node(1));
    let place = tablespace(primary);
    replica.wait_until_it_caught_up_with(primary);
    let _disk = Disk::over(&place, "2m");
    let filler = place.join("filler");
    fs::write(&filler, vec![0; 1 << 20]).unwrap();
    primary.sql("create table big (x text) tablespace small; grant all on big to app");
    let load = stage.load();

    let mut writer = stage.writer().unwrap();
    let full = (0..100).find_map(|_| writer.query(MORE).err());
    let (code, end) = ("53100".to_owned(), SessionEnd::Stays);
    assert_eq!(full, Some(Failure::Refused { code, end }));
    for _ in 0..20 {
        let again = stage.writer().unwrap().query(MORE).unwrap_err();
        assert_eq!(again.class(), "53100");
    }
    stage.wait_for_checks(primary, "passed", 5);
    let well = ("primary".into(), "claims_primary".into());
    assert_eq!(stage.role(primary), well);
    assert_eq!(stage.node(primary)["health"], "up");
    writer.query("select 1").unwrap();
    load.wait_for_writes(SOME);

    fs::remove_file(filler).unwrap();
    writer.query(MORE).unwrap();
    stage.writer().unwrap().query("select 1").unwrap();
    load.wait_for_every_writer();
    let verdict = load.finish().verdict(primary.addr());
    println!("{WRITERS} writers elsewhere on it: {verdict}");
    assert_eq!(verdict.failed_statements, 0, "{verdict}");
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
    verdict.expect_intact();
    let log = stage.evergate.stderr();
    assert!(!log.contains("\"to\":\"down\""), "{log}");
}
