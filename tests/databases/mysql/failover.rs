//! B21: MariaDB primaries that die, hang and come back writable, under a load whose writes are
//! looked for afterwards. Nobody but the test promotes.

use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use serde_json::Value;

use super::LIMIT;
use super::PATIENCE;
use super::Stage;
use super::checked;
use super::file;
use super::session;
use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::mariadb::MariaDb;
use crate::support::mariadb::MariaDbPair;
use crate::support::ports::free_addr;
use crate::support::verdict::Verdict;
use crate::support::wait_until;
use crate::support::workload::Record;
use crate::support::workload::Workload;

/// Writes that show that a load is under way.
const SOME: u64 = 50;
/// Of a load: each has one session at a time.
const WRITERS: usize = 4;

fn patient() -> String {
    // A recovery on a busy disk takes longer than most clients would wait.
    checked("400ms").replace("for: 20s", "for: 60s")
}

/// What the primary acknowledges, its replica has.
fn safe() -> Stage {
    let pair = MariaDbPair::start();
    pair.replicate_before_acknowledging();
    Stage::before(pair, &patient(), "")
}

fn load(stage: &Stage) -> Workload {
    let load = Workload::through(Dialect::MariaDb, stage.write);
    let load = load.writers(WRITERS).start();
    load.wait_for_writes(SOME);
    // Who still logs in when the primary dies has an error of another kind.
    load.wait_for_every_writer();
    load
}

fn view(evergate: &Evergate) -> Value {
    evergate.get("/api/v1/clusters").json()[0].clone()
}

#[track_caller]
fn wait_for(evergate: &Evergate, node: &MariaDb, key: &str, word: &str) {
    let what = format!("the {key} of {} is {word}", node.name());
    wait_until(PATIENCE, &what, || {
        let view = view(evergate);
        let mut backends = view["backends"].as_array().unwrap().iter();
        let found = backends.find(|it| it["name"] == node.name());
        found.expect("the node is a backend")[key] == word
    });
}

/// Waits until it has been asked by a check that began after this call.
#[track_caller]
fn wait_for_checks(evergate: &Evergate, node: &MariaDb) {
    let labels = [("backend", node.name()), ("result", "passed")];
    let seen = || evergate.metric("evergate_health_checks_total", &labels);
    let goal = seen().unwrap_or(0.0) + 2.0;
    wait_until(PATIENCE, "two more checks", || {
        seen().unwrap_or(0.0) >= goal
    });
}

#[track_caller]
fn wait_until_held(evergate: &Evergate, sessions: usize) {
    wait_until(PATIENCE, &format!("{sessions} are held"), || {
        view(evergate)["held_sessions"] == sessions
    });
}

/// Waits until this node is the primary: what begins from now on must not be lost.
#[track_caller]
fn wait_for_primary(evergate: &Evergate, node: &MariaDb) -> Instant {
    wait_for(evergate, node, "role", "primary");
    Instant::now()
}

/// It takes writes, and gets none.
#[track_caller]
fn wait_until_fenced(evergate: &Evergate, node: &MariaDb) {
    wait_for(evergate, node, "role", "fenced");
    assert!(!node.is_read_only());
}

/// One error for each session at most, and nobody who came anew has noticed anything.
#[track_caller]
fn expect_an_error_each_at_most(record: &Record, primary: SocketAddr) -> Verdict {
    let verdict = record.verdict(primary);
    println!("{verdict}");
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
    assert_eq!(verdict.read_only_errors, 0, "{verdict}");
    assert!(verdict.failed_statements <= WRITERS, "{verdict}");
    verdict
}

/// Nothing that began after the new primary was known is lost, and the old one got nothing that
/// began after it had failed.
#[track_caller]
fn expect_replaced(
    record: &Record,
    (old, failed): (&MariaDb, Instant),
    (new, known): (&MariaDb, Instant),
) -> Verdict {
    let verdict = expect_an_error_each_at_most(record, new.addr());
    record.expect_none_lost_after(&verdict, known);
    assert_eq!(record.begun_after(failed, old.addr()), 0, "on the loser");
    verdict
}

#[test]
fn what_a_killed_primary_has_acknowledged_outlives_it_and_its_return() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = safe();
    let load = load(&stage);
    let (old, new) = (stage.pair.node(0), stage.pair.node(1));

    old.kill_9();
    let killed = Instant::now();
    new.apply_what_it_received();
    new.promote();
    let known = wait_for_primary(&stage.evergate, new);
    load.wait_for_every_writer();
    old.start_writable();
    wait_until_fenced(&stage.evergate, old);
    load.wait_for_writes(SOME);

    let record = load.finish();
    expect_replaced(&record, (old, killed), (new, known)).expect_intact();
}

#[test]
fn a_frozen_primary_is_left_and_gets_no_write_when_it_thaws() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = safe();
    let load = load(&stage);
    let (old, new) = (stage.pair.node(0), stage.pair.node(1));

    old.freeze();
    wait_for(&stage.evergate, old, "health", "down");
    wait_until_held(&stage.evergate, WRITERS);
    let severed = Instant::now();
    new.apply_what_it_received();
    new.promote();
    let promoted = Instant::now();
    let known = wait_for_primary(&stage.evergate, new);
    println!(
        "promoted after {:?}, known {:?} later",
        promoted - severed,
        known - promoted
    );
    load.wait_for_every_writer();
    old.thaw();
    wait_until_fenced(&stage.evergate, old);
    load.wait_for_writes(SOME);

    let record = load.finish();
    // Statements that were under way may be done as it thaws, and nobody was told that they were.
    expect_replaced(&record, (old, severed), (new, known)).expect_intact();
}

/// Replication that is not waited for, as most have it: what the old one had not sent is lost with
/// it, and nothing else.
#[test]
fn without_waiting_for_the_replica_only_what_was_not_sent_yet_is_lost() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with(&patient(), "");
    let load = load(&stage);
    let (old, new) = (stage.pair.node(0), stage.pair.node(1));
    // What Evergate has seen of its writes is the least that another must have.
    wait_for_checks(&stage.evergate, old);
    new.wait_until_it_caught_up_with(old);
    // From here on it takes writes that nobody will see again.
    new.sql("stop slave io_thread");
    load.wait_for_writes(SOME);

    old.kill_9();
    let killed = Instant::now();
    new.promote();
    let known = wait_for_primary(&stage.evergate, new);
    load.wait_for_every_writer();
    old.start_writable();
    wait_until_fenced(&stage.evergate, old);
    load.wait_for_writes(SOME);

    let record = load.finish();
    let verdict = expect_replaced(&record, (old, killed), (new, known));
    verdict.expect_none_doubled();
    assert!(!verdict.lost.is_empty(), "the story has no loss: {verdict}");
}

/// The old one is written to again; who is promoted beside it afterwards is not.
#[test]
fn an_old_primary_that_is_back_before_the_promotion_stays_the_only_one_that_is_written_to() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with(&patient(), "");
    let load = load(&stage);
    let (old, new) = (stage.pair.node(0), stage.pair.node(1));

    old.kill_9();
    wait_until_held(&stage.evergate, WRITERS);
    old.start_writable();
    load.wait_for_every_writer();
    new.promote();
    let promoted = Instant::now();
    wait_until_fenced(&stage.evergate, new);
    wait_for_primary(&stage.evergate, old);
    load.wait_for_every_writer();
    load.wait_for_writes(SOME);

    assert_eq!(view(&stage.evergate)["split_brain"], false);
    let record = load.finish();
    let verdict = record.verdict(old.addr());
    println!("{verdict}");
    verdict.expect_intact();
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
    assert_eq!(record.begun_after(promoted, new.addr()), 0, "on the other");
}

/// Nobody but the state directory knows that it has lost.
#[test]
fn an_old_primary_that_is_first_and_writable_after_a_restart_is_fenced() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let pair = MariaDbPair::start();
    let (write, read) = (free_addr(), free_addr());
    let dir = tempfile::tempdir().unwrap();
    let yaml = file(&pair, [write, read], &patient(), "");
    let yaml = format!("{yaml}state_dir: {}\n", dir.path().display());
    let stage = Stage {
        evergate: Evergate::start(&yaml),
        write,
        read,
        pair,
    };
    let load = load(&stage);
    let Stage { evergate, pair, .. } = stage;
    let (old, new) = (pair.node(0), pair.node(1));
    old.kill_9();
    new.promote();
    let known = wait_for_primary(&evergate, new);
    load.wait_for_every_writer();
    let record = load.finish();
    let verdict = expect_an_error_each_at_most(&record, new.addr());
    verdict.expect_none_doubled();
    record.expect_none_lost_after(&verdict, known);

    // Dropping it is kill -9.
    drop(evergate);
    new.kill_9();
    old.start_writable();
    let count = "select count(*) from app.writes";
    let before = old.sql(count);
    let evergate = Evergate::with(&yaml).until(Until::Alive).start();
    wait_until_fenced(&evergate, old);
    wait_for(&evergate, new, "health", "down");
    thread::scope(|scope| {
        let held = scope.spawn(|| session(write).query("insert into writes values (-1)"));
        wait_until_held(&evergate, 1);
        new.start_writable();
        held.join().unwrap().expect("it was held");
    });
    assert_eq!(new.sql("select count(*) from app.writes where id < 0"), "1");
    assert_eq!(old.sql(count), before);
}
