//! PostgreSQL clusters in the harness: replication, death, frost, promotion, refusals.

use std::time::Duration;

use crate::pki::Authority;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::client::Failure;
use crate::support::client::Session;
use crate::support::client::USER;
use crate::support::netns::Netns;
use crate::support::pg_base::PASSWORD;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::pg_node::Shutdown;
use crate::support::postgres::psql_as;
use crate::support::wait_for;

const LIMIT: Duration = Duration::from_secs(90);
const ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

#[test]
fn a_cluster_comes_up_with_streaming_replicas() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(2);
    let primary = cluster.primary();
    assert_eq!(primary.name(), "n1");
    assert_eq!(primary.timeline(), 1);
    assert_eq!(primary.sql("select count(*) from pg_stat_replication"), "2");
    primary.sql("create table t as select 7 as x");
    for index in [0, 1] {
        let replica = cluster.replica(index);
        replica.wait_for_sql("select x from t", "7");
        assert_eq!(replica.timeline(), 1);
    }
    cluster.replica(0).pause_replay();
    primary.sql("update t set x = 8");
    cluster.replica(1).wait_for_sql("select x from t", "8");
    assert_eq!(cluster.replica(0).sql("select x from t"), "7");
    cluster.replica(0).resume_replay();
    cluster.replica(0).wait_for_sql("select x from t", "8");
}

#[test]
fn a_promoted_replica_has_timeline_2_and_the_old_primary_rejoins() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(2);
    let old = cluster.node(0);
    old.sql("create table t (x int)");
    // Replication is asynchronous: what is not received dies with the old one.
    cluster.node(1).wait_until_it_caught_up_with(old);
    old.kill_9();
    assert!(!old.is_running());
    let new = cluster.fail_over_to(0);
    assert_eq!((new.name(), new.timeline()), ("n2", 2));
    assert_eq!(cluster.replica(0).timeline(), 2);

    // The old one returns first and believes in itself.
    old.start();
    old.sql("insert into t values (1)");
    assert_eq!((old.is_in_recovery(), old.timeline()), (false, 1));
    assert_eq!(cluster.primary().name(), "n2");

    old.rejoin_as_replica_of(new);
    assert_eq!(old.sql("select count(*) from t"), "0");
    assert_eq!((old.is_in_recovery(), old.timeline()), (true, 2));
    new.stop(Shutdown::Fast);
    assert!(!new.is_running());
}

#[test]
fn a_frozen_node_accepts_and_answers_when_it_thaws() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(0);
    let node = cluster.primary();
    node.freeze();
    let short = Duration::from_millis(300);
    let silent = Session::open(Dialect::Postgres, node.addr(), USER, short).unwrap_err();
    assert_eq!(silent, Failure::Login("timeout".to_owned()));
    node.thaw();
    node.wait_until_it_answers();
}

/// B5 and B7: who says what when sessions are ended.
#[test]
fn sessions_are_told_why_they_end() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PostgresCluster::start(0);
    let node = cluster.primary();
    let open = || Session::open(Dialect::Postgres, node.addr(), USER, PATIENCE).unwrap();
    // The postmaster needs a moment to tell the others.
    let told = |mut session: Session| {
        let failure = || session.query("select 1").err();
        wait_for(PATIENCE, "the end of a session", failure).class()
    };

    let (mut victim, other) = (open(), open());
    let pid = victim.query("select pg_backend_pid()").unwrap();
    node.kill_9_child(pid[0][0].parse().unwrap());
    // The other one gets 57P02 as a notice, which is no answer to its statement.
    assert_eq!(told(victim), "lost");
    assert_eq!(told(other), "lost");
    node.wait_until_it_answers();

    let session = open();
    node.stop(Shutdown::Fast);
    assert_eq!(told(session), "57P01");
    node.start_without_waiting();
    node.wait_until_it_answers();
}

#[test]
fn a_cluster_refuses_as_it_is_told() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("databases");
    let pair = authority.issue("server", &["127.0.0.1"]);
    let cluster = PostgresCluster::with().replicas(0).connections(5);
    let cluster = cluster.tls(&pair.cert_file, &pair.key_file).start();
    let addr = cluster.primary().addr();
    for user in ["scram", "md5", "plain"] {
        let with = |password| psql_as(addr, user, password, ENCRYPTED);
        let welcome = with(PASSWORD);
        assert_eq!(welcome.stdout, b"t\n", "{user}: {welcome:?}");
        assert!(!with("wrong").status.success(), "{user}");
    }
    let open = |user| Session::open(Dialect::Postgres, addr, user, PATIENCE);
    let refused = open("nobody").unwrap_err();
    assert_eq!(refused, Failure::Login("28000".to_owned()));
    // Three of five are for superusers, and sessions end a moment after their client.
    let hold = || wait_for(PATIENCE, "a free slot", || open(USER).ok());
    let _held = [hold(), hold()];
    let refused = open(USER).unwrap_err();
    assert_eq!(refused, Failure::Login("53300".to_owned()));
}

/// The cable of the primary is pulled while replicas are elsewhere.
#[test]
fn nodes_with_networks_of_their_own_replicate_until_the_cable_is_pulled() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let networks = [Netns::new(), Netns::new()];
    networks.iter().for_each(Netns::forward);
    let places = networks.each_ref().map(Netns::place);
    let cluster = PostgresCluster::with().replicas(1).places(&places).start();
    let (old, new) = (cluster.node(0), cluster.node(1));
    networks[0].pull_cable();
    new.promote();
    assert_eq!(new.timeline(), 2);
    let cut_off = Duration::from_millis(300);
    assert!(Session::open(Dialect::Postgres, old.addr(), USER, cut_off).is_err());
    networks[0].plug_cable();
    old.wait_until_it_answers();
    // Both take writes: the split brain of B15.
    assert_eq!((old.is_in_recovery(), old.timeline()), (false, 1));
    assert!(!new.is_in_recovery());
    new.wait_until_it_answers();
}
