//! Nodes that die, hang, are cut off, or fall over and get up again.

use std::time::Duration;
use std::time::Instant;

use super::stage::EAGER;
use super::stage::LIMIT;
use super::stage::Plan;
use super::stage::SOME;
use super::stage::Stage;
use super::stage::WRITERS;
use super::stage::expect_an_error_each;
use super::stage::expect_an_error_each_at_most;
use super::stage::is_on;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::netns::Netns;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::wait_until;
use crate::support::workload::Workload;

/// B1
#[test]
fn writes_follow_the_new_primary() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(2);
    let load = stage.load();
    let oracle = stage.oracle();

    let old = stage.cluster.node(0);
    stage.cluster.node(1).wait_until_it_caught_up_with(old);
    old.kill_9();
    let new = stage.cluster.fail_over_to(0);
    let known = stage.wait_for_primary(new);
    load.wait_for_every_writer();

    expect_an_error_each_at_most(load, oracle, new, known).expect_none_doubled();
}

/// B2
#[test]
fn readers_of_a_killed_replica_move_to_the_other() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(2);
    let (dying, staying) = (stage.cluster.node(1), stage.cluster.node(2));
    let mut sessions: Vec<_> = (0..10).map(|_| stage.reader().unwrap()).collect();
    let (on_dying, on_staying): (Vec<_>, Vec<_>) = sessions
        .drain(..)
        .map(|mut session| (is_on(&mut session, dying), session))
        .partition(|(on_dying, _)| *on_dying);
    assert_eq!((on_dying.len(), on_staying.len()), (5, 5));

    dying.kill_9();
    let mut new: Vec<_> = (0..20)
        .map(|_| stage.reader().expect("no new session notices"))
        .collect();
    assert!(new.iter_mut().all(|session| is_on(session, staying)));
    for (_, mut session) in on_staying {
        assert!(is_on(&mut session, staying));
    }
    for (_, mut session) in on_dying {
        assert!(session.query("select 1").is_err());
    }
    stage.wait_for_health(dying, "down");

    dying.start();
    stage.wait_for_role(dying, "replica", "claims_replica");
    let mut back = stage.reader().unwrap();
    assert!(is_on(&mut back, dying), "the one with fewer sessions");
}

/// B3, B4
#[test]
fn a_frozen_primary_is_left_and_gets_no_write_when_it_thaws() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .check(EAGER)
        .start(PostgresCluster::start(1));
    let load = stage.load();
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    new.wait_until_it_caught_up_with(old);

    old.freeze();
    let frozen = Instant::now();
    stage.wait_for_health(old, "down");
    // Three failures in a row, one begun each 200 ms, the last one answered by its timeout.
    println!(
        "hang detected after {:?}, promised 800 ms",
        frozen.elapsed()
    );
    expect_no_write_to_the_loser(&stage, load, || old.thaw());
}

/// The other node is promoted, and `back` brings the old primary back.
#[track_caller]
fn expect_no_write_to_the_loser(stage: &Stage, load: Workload, back: impl FnOnce()) {
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    stage.wait_until_held(WRITERS);
    let severed = Instant::now();
    new.promote();
    let known = stage.wait_for_primary(new);
    load.wait_for_every_writer();

    back();
    old.wait_until_it_answers();
    stage.wait_for_role(old, "fenced", "stale_timeline");
    load.wait_for_writes(SOME);
    let record = load.finish();
    let verdict = record.verdict(new.addr());
    expect_an_error_each(&verdict);
    verdict.expect_none_doubled();
    // Statements that were under way may be done as it is back, and nobody was told that they were.
    let late = record.begun_after(severed, old.addr());
    assert_eq!(late, 0, "writes to the loser");
    record.expect_none_lost_after(&verdict, known);
}

/// B7
#[test]
fn a_primary_that_resets_itself_costs_an_outage_and_no_failover() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let load = stage.load();
    let primary = stage.cluster.node(0);
    let mut victim = stage.writer().unwrap();
    let pid = victim.query("select pg_backend_pid()").unwrap();
    primary.kill_9_child(pid[0][0].parse().unwrap());
    wait_until(PATIENCE, "the primary has reset itself", || {
        primary
            .log()
            .contains("all server processes terminated; reinitializing")
    });
    load.wait_for_every_writer();

    assert_eq!(stage.view()["primary"], "n1");
    assert_eq!(primary.timeline(), 1);
    let verdict = load.finish().verdict(primary.addr());
    expect_an_error_each(&verdict);
    verdict.expect_intact();
    assert!(victim.query("select 1").is_err());
}

/// B6
#[test]
fn nobody_is_told_that_a_primary_is_starting_up() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(0);
    let load = stage.load();
    let primary = stage.cluster.node(0);
    primary.kill_9();
    stage.wait_until_held(WRITERS);
    let seen = seen_while_starting(&stage);
    println!("a client of the server itself saw {seen:?}");
    load.wait_for_every_writer();
    let verdict = load.finish().verdict(primary.addr());
    expect_an_error_each(&verdict);
    verdict.expect_intact();
}

/// Starts the primary; what a client of it sees meanwhile.
fn seen_while_starting(stage: &Stage) -> Vec<String> {
    let primary = stage.cluster.node(0);
    primary.start_without_waiting();
    let mut seen: Vec<String> = Vec::new();
    wait_until(PATIENCE, "the primary answers", || {
        let Err(failure) = primary.try_sql("select 1") else {
            return true;
        };
        if seen.last() != Some(&failure.class()) {
            seen.push(failure.class());
        }
        false
    });
    seen
}

/// N2, N3: no RST tells that it is gone, and no host that the network is.
#[test]
fn a_primary_that_is_cut_off_is_left_and_gets_no_write_when_it_is_back() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let networks = [Netns::new(), Netns::new()];
    networks.iter().for_each(Netns::forward);
    let places = networks.each_ref().map(Netns::place);
    let cluster = PostgresCluster::with().replicas(1).places(&places).start();
    let stage = Plan::default().check(EAGER).start(cluster);
    let load = stage.load();
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    new.wait_until_it_caught_up_with(old);

    networks[0].drop_incoming();
    networks[0].drop_outgoing();
    let cut = Instant::now();
    stage.wait_for_health(old, "down");
    println!("lost after {:?}, promised 800 ms", cut.elapsed());
    expect_no_write_to_the_loser(&stage, load, || networks[0].heal());
}

/// B12
#[test]
fn a_replica_that_flaps_waits_longer_each_time() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .check("interval: 300ms, timeout: 200ms, rise: 1, fall: 1, max_damping: 5s")
        .start(PostgresCluster::start(2));
    let (flapping, steady) = (stage.cluster.node(1), stage.cluster.node(2));
    let mut returns = Vec::new();
    for _ in 0..3 {
        flapping.freeze();
        stage.wait_for_health(flapping, "down");
        let down = Instant::now();
        let mut reader = stage.reader().unwrap();
        assert!(is_on(&mut reader, steady));
        flapping.thaw();
        stage.wait_for_health(flapping, "up");
        returns.push(down.elapsed());
    }
    println!("back after {returns:?}");
    // From the first flap on twice the interval, then twice as long each time.
    assert!(returns[1] >= Duration::from_millis(400), "{returns:?}");
    assert!(returns[2] >= Duration::from_millis(900), "{returns:?}");
}

/// B12: whoever flaps is the only one that takes writes, so that it is written to all the same.
#[test]
fn a_primary_that_flaps_costs_each_session_an_error_a_time_and_no_write() {
    const FLAPS: usize = 4;
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .check("interval: 300ms, timeout: 200ms, rise: 1, fall: 1, max_damping: 5m")
        .start(PostgresCluster::start(1));
    let (flapping, replica) = (stage.cluster.node(0), stage.cluster.node(1));
    let load = stage.load();
    for _ in 0..FLAPS {
        flapping.freeze();
        stage.wait_for_health(flapping, "down");
        stage.wait_until_held(WRITERS);
        flapping.thaw();
        load.wait_for_every_writer();
        assert_eq!(stage.role(replica).0, "replica");
    }
    let verdict = load.finish().verdict(flapping.addr());
    println!("{verdict}");
    verdict.expect_intact();
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
    // A busy machine may add a flap of its own.
    assert!(verdict.failed_statements >= WRITERS * FLAPS, "{verdict}");
    assert_eq!(
        (stage.view()["primary"].as_str(), flapping.timeline()),
        (Some("n1"), 1)
    );
}
