//! A primary that takes no writes any more, and says so.

use std::thread;
use std::time::Duration;

use super::stage::LIMIT;
use super::stage::Stage;
use crate::support::Watchdog;
use crate::support::client::Failure;
use crate::support::client::Session;

const SESSIONS: usize = 4;

/// B10
#[test]
fn sessions_of_a_primary_that_turns_read_only_are_severed_and_new_ones_held() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let primary = stage.cluster.node(0);
    primary.sql("create table writes (id bigint); grant all on writes to app");
    let sessions: Vec<Session> = (0..SESSIONS).map(|_| stage.writer().unwrap()).collect();

    thread::scope(|scope| {
        let writing = sessions
            .into_iter()
            .map(|session| scope.spawn(|| write_to_the_end(session)));
        let writing: Vec<_> = writing.collect();
        primary.sql("alter system set default_transaction_read_only = on");
        primary.sql("select pg_reload_conf()");
        let ends = writing.into_iter().map(|it| it.join().unwrap());
        let (errors, ends): (Vec<usize>, Vec<Failure>) = ends.unzip();
        println!("read-only errors of sessions that ignore them: {errors:?}");
        // Went wrong once: they lived on, and every write failed for hours.
        let told = |end: &Failure| end.class() == "57P01";
        assert!(ends.iter().all(told), "{ends:?}");

        stage.wait_for_role(primary, "fenced", "read_only");
        let held = scope.spawn(|| stage.writer());
        stage.wait_until_held(1);
        primary.sql("alter system reset default_transaction_read_only");
        primary.sql("select pg_reload_conf()");
        let mut held = held.join().unwrap().expect("it was held");
        held.query("insert into writes values (1)").unwrap();
    });
    stage.wait_for_role(primary, "primary", "claims_primary");
}

/// Writes until the session ends: how many writes were refused as read-only, and its end.
fn write_to_the_end(mut session: Session) -> (usize, Failure) {
    let mut refused = 0;
    loop {
        match session.query("insert into writes values (0)") {
            Ok(_) => {}
            Err(failure) if failure.is_read_only() => refused += 1,
            Err(failure) => return (refused, failure),
        }
        // As an application does between two statements.
        thread::sleep(Duration::from_millis(2));
    }
}

/// What one session has made read-only for itself says nothing about its server.
#[test]
fn a_read_only_session_harms_nobody_else() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(0);
    let load = stage.load();
    let mut session = stage.writer().unwrap();
    session
        .query("set default_transaction_read_only = on")
        .unwrap();
    for _ in 0..50 {
        let refused = session.query("insert into writes values (-1)").unwrap_err();
        assert!(refused.is_read_only(), "{refused:?}");
    }
    load.wait_for_every_writer();
    let verdict = load.finish().verdict(stage.cluster.node(0).addr());
    println!("{verdict}");
    assert_eq!(verdict.failed_statements, 0, "{verdict}");
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
    verdict.expect_intact();
}
