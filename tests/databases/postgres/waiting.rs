//! Clients that wait: how many, how long, in which order, and what those that come back get.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use super::stage::LIMIT;
use super::stage::Plan;
use super::stage::Stage;
use super::stage::is_on;
use crate::support::Watchdog;
use crate::support::client::Failure;
use crate::support::pg_cluster::PostgresCluster;

/// A client that says who it is and can leave while it waits.
fn waiting_client(stage: &Stage) -> TcpStream {
    let mut client = TcpStream::connect(stage.write).unwrap();
    let startup = b"\0\0\0\x12\0\x03\0\0user\0app\0\0";
    assert_eq!(startup.len(), 0x12);
    client.write_all(startup).unwrap();
    client
}

fn cannot_connect_now() -> Failure {
    Failure::Login("57P03".to_owned())
}

#[test]
fn no_more_wait_than_may_and_who_leaves_makes_room() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .failover("hold: {for: 30s, max_sessions: 3}")
        .start(PostgresCluster::start(1));
    stage.cluster.node(0).kill_9();
    stage.wait_for_health(stage.cluster.node(0), "down");
    let mut waiting: Vec<TcpStream> = (0..3).map(|_| waiting_client(&stage)).collect();
    stage.wait_until_held(3);
    let asked = Instant::now();
    assert_eq!(stage.writer().unwrap_err(), cannot_connect_now());
    assert!(asked.elapsed() < Duration::from_secs(25), "refused at once");
    assert!(stage.reader().is_ok(), "readers wait elsewhere");

    drop(waiting.pop());
    stage.wait_until_held(2);
    thread::scope(|scope| {
        let held = scope.spawn(|| stage.writer());
        stage.wait_until_held(3);
        stage.cluster.node(1).promote();
        let mut held = held.join().unwrap().expect("it was held");
        assert!(is_on(&mut held, stage.cluster.node(1)));
    });
    stage.wait_until_held(0);
}

#[test]
fn who_has_waited_long_enough_is_told_why() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .failover("hold: {for: 500ms, max_sessions: 10}")
        .start(PostgresCluster::start(0));
    stage.cluster.node(0).kill_9();
    stage.wait_for_health(stage.cluster.node(0), "down");
    let asked = Instant::now();
    assert_eq!(stage.writer().unwrap_err(), cannot_connect_now());
    let waited = asked.elapsed();
    println!("refused after {waited:?} of 500 ms");
    assert!(waited >= Duration::from_millis(500), "{waited:?}");
    stage.evergate.wait_for_metric(
        "evergate_sessions_ended_total",
        &[("phase", "hold"), ("cause", "hold_timeout")],
        1.0,
    );
}

/// B24
#[test]
fn two_hundred_that_wait_are_let_go_in_order_and_none_fails() {
    const GROUPS: usize = 10;
    const GROUP: usize = 20;
    /// Let go at once, and those of the own and the next group that may overtake.
    const SLACK: usize = 32 + 2 * GROUP;
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .failover("hold: {for: 60s, max_sessions: 1000}")
        .start(PostgresCluster::with().replicas(1).connections(250).start());
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    old.kill_9();
    stage.wait_for_health(old, "down");

    let starts = Mutex::new(BTreeMap::new());
    let promoted = thread::scope(|scope| {
        let mut waiting = Vec::new();
        for group in 0..GROUPS {
            for _ in 0..GROUP {
                waiting.push(scope.spawn(|| {
                    let mut session = stage.writer().expect("nobody is refused");
                    let question = "select backend_start::text, pg_backend_pid() \
                                    from pg_stat_activity where pid = pg_backend_pid()";
                    let mut rows = session.query(question).unwrap();
                    (rows.swap_remove(0), session)
                }));
            }
            stage.wait_until_held((group + 1) * GROUP);
        }
        new.promote();
        let promoted = Instant::now();
        let sessions: Vec<_> = waiting.into_iter().map(|it| it.join().unwrap()).collect();
        for (place, (start, _)) in sessions.iter().enumerate() {
            starts.lock().unwrap().insert(start.clone(), place);
        }
        promoted.elapsed()
    });
    println!("200 held sessions work {promoted:?} after the promotion");
    let starts = starts.into_inner().unwrap();
    assert_eq!(starts.len(), GROUPS * GROUP);
    for (rank, place) in starts.values().enumerate() {
        assert!(rank.abs_diff(*place) <= SLACK, "{place} came as {rank}");
    }
    assert!(!new.log().contains("too many clients"), "{}", new.log());
}

#[test]
fn a_replica_that_returns_gets_little_at_first() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .failover("slow_start: 5m")
        .orders(&["balance: {policy: round_robin}"])
        .start(PostgresCluster::start(2));
    let returning = stage.cluster.node(1);
    let share = || {
        let mut sessions = (0..60).map(|_| stage.reader().unwrap());
        sessions
            .by_ref()
            .filter_map(|mut session| is_on(&mut session, returning).then_some(()))
            .count()
    };
    assert_eq!(share(), 30);
    returning.kill_9();
    stage.wait_for_health(returning, "down");
    returning.start();
    stage.wait_for_role(returning, "replica", "claims_replica");
    let little = share();
    assert!((1..=20).contains(&little), "{little} of 60");
}
