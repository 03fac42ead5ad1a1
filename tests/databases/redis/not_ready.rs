//! B20: servers that live, and answer that they cannot serve now: LOADING, MASTERDOWN, BUSY.

use std::thread;

use super::LIMIT;
use super::PATIENCE;
use super::client;
use super::says;
use super::stage::Plan;
use super::stage::SOME;
use super::stage::WRITERS;
use super::stage::expect_an_error_each_at_most;
use super::stage::expect_no_errors_but;
use super::stage::role_of;
use super::stage::tell;
use super::stage::tell_to_follow;
use crate::support::Watchdog;
use crate::support::client::Failure;
use crate::support::client::Session;
use crate::support::ports::RefusingPort;
use crate::support::redis::redis_cli;
use crate::support::redis_node::Options;
use crate::support::redis_node::RedisNode;
use crate::support::redis_node::RedisPair;
use crate::support::talk::rest;
use crate::support::wait_until;

const QUICK: &str = "interval: 500ms, timeout: 400ms";
/// No check but the first ones: what is noticed, is noticed by traffic.
const RARE: &str = "interval: 60s, timeout: 2s";
/// Keys that a server loads within a moment, or, told to load `SLOWLY`, within a minute.
const FILL: &str =
    "for i = 1, 30000 do redis.call('SET', 'k' .. i, string.rep('x', 100)) end return 'OK'";
const LAST_KEY: &str = "k30000";
const SLOWLY: [&str; 2] = ["key-load-delay", "2000"];
/// It answers meanwhile, several times a second.
const ANSWERS_WHILE_LOADING: [&str; 2] = [
    "rdbcompression no",
    "loading-process-events-interval-bytes 1024",
];

fn pair(lines: &[&'static str]) -> RedisPair {
    RedisPair::start_with(&Options {
        lines: lines.to_vec(),
        ..Options::default()
    })
}

/// Asks until it is refused in this word.
#[track_caller]
fn wait_until_refused(session: &mut Session, word: &str) {
    wait_until(PATIENCE, word, || match session.query("GET k1") {
        Ok(_) => false,
        Err(failure) => {
            assert_eq!(failure.class(), word);
            true
        }
    });
}

#[track_caller]
fn wait_until_it_ends(session: &mut Session) {
    wait_until(PATIENCE, "the session ends", || {
        session.query("GET k1") == Err(Failure::Lost)
    });
}

/// Its data is in a snapshot, from which it starts slowly, and what comes later is kept, too.
#[track_caller]
fn take_snapshot(node: &RedisNode) {
    tell(node, &["EVAL", FILL, "0"]);
    node.command("BGREWRITEAOF");
    let done = ["in_progress:0", "scheduled:0"].map(|end| format!("aof_rewrite_{end}"));
    wait_until(PATIENCE, "the snapshot is taken", || {
        let info = node.command("INFO persistence").concat();
        done.iter().all(|line| info.contains(line))
    });
}

#[test]
fn the_writers_of_a_primary_that_loads_its_data_wait_until_it_is_ready() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let keeps = ["appendonly yes", "appendfsync no"];
    let stage = Plan::checked(QUICK).start(pair(&[keeps, ANSWERS_WHILE_LOADING].concat()));
    let (primary, replica) = (stage.pair.node(0), stage.pair.node(1));
    take_snapshot(primary);
    let load = stage.load();
    replica.wait_until_it_caught_up_with(primary);

    primary.kill_9();
    let [name, value] = SLOWLY;
    primary.start_without_waiting(&[&format!("--{name}"), value]);
    stage.wait_for("r1", &[("health", "down"), ("cause", "starting_up")]);
    stage.wait_for("r1", &[("role", "unknown"), ("role_cause", "starting_up")]);
    stage.wait_until_held(WRITERS);
    let word = primary.try_command("PING").unwrap_err();
    assert_eq!(word, Failure::Login("LOADING".to_owned()), "from itself");
    // Readers go on, with what their server has.
    assert_eq!(says(stage.read, &["STRLEN", LAST_KEY]), "100");
    stage.wait_for("r2", &[("role", "replica"), ("role_cause", "lost_primary")]);

    tell(primary, &["CONFIG", "SET", name, "0"]);
    load.wait_for_every_writer();
    stage.wait_for("r1", &[("health", "up"), ("role", "primary")]);
    let verdict = load.finish().verdict(primary.addr());
    expect_an_error_each_at_most(&verdict);
    verdict.expect_intact();
}

/// A full synchronization, which ends no client's session: one of them has to tell.
#[test]
fn a_replica_that_loads_its_data_gets_no_new_reader_until_it_is_ready() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::checked(RARE).start(pair(&ANSWERS_WHILE_LOADING));
    let (primary, replica) = (stage.pair.node(0), stage.pair.node(1));
    // It misses more than its primary keeps for those who were away.
    let nowhere = RefusingPort::new();
    tell_to_follow(replica, nowhere.addr());
    tell(primary, &["EVAL", FILL, "0"]);
    let [name, value] = SLOWLY;
    tell(replica, &["CONFIG", "SET", name, value]);
    let mut reader = stage.reader();
    assert_eq!(role_of(&mut reader), "slave");

    tell_to_follow(replica, primary.addr());
    wait_until_refused(&mut reader, "LOADING");
    stage.wait_for("r2", &[("health", "down"), ("cause", "starting_up")]);
    // Who comes anew is not told so, and who was there is sent away, to come anew.
    assert_eq!(says(stage.write, &["SET", "k1", "new"]), "OK");
    wait_until_it_ends(&mut reader);
    thread::scope(|scope| {
        let held = scope.spawn(|| stage.reader().query(&format!("STRLEN {LAST_KEY}")));
        stage.wait_until_held(1);
        tell(replica, &["CONFIG", "SET", name, "0"]);
        let read = held.join().unwrap().expect("it was held");
        assert_eq!(read, [["100"]]);
    });
    stage.wait_for("r2", &[("health", "up"), ("role", "replica")]);
}

/// Its primary is well, and the two have lost each other.
#[test]
fn one_reader_who_is_told_that_a_replica_has_lost_its_primary_spares_it_the_others() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let plan = |check| Plan {
        read: ", fallback: primary",
        ..Plan::checked(check)
    };
    let stage = plan(RARE).start(pair(&["replica-serve-stale-data no"]));
    let (primary, replica) = (stage.pair.node(0), stage.pair.node(1));
    assert_eq!(says(stage.write, &["SET", "k1", "old"]), "OK");
    let mut reader = stage.reader();
    assert_eq!(role_of(&mut reader), "slave");

    let nowhere = RefusingPort::new();
    tell_to_follow(replica, nowhere.addr());
    wait_until_refused(&mut reader, "MASTERDOWN");
    stage.wait_for("r2", &[("health", "down"), ("cause", "lost_primary")]);
    stage.wait_for("r2", &[("role", "unknown"), ("role_cause", "lost_primary")]);
    let mut elsewhere = stage.reader();
    assert_eq!(role_of(&mut elsewhere), "master");
    assert_eq!(elsewhere.query("GET k1").unwrap(), [["old"]]);
    assert_eq!(elsewhere.query("SET k1 new").unwrap(), [["OK"]]);
    wait_until_it_ends(&mut reader);

    stage.reload(&plan(QUICK));
    tell_to_follow(replica, primary.addr());
    wait_until(PATIENCE, "it gets readers again", || {
        role_of(&mut stage.reader()) == "slave"
    });
    assert_eq!(says(stage.read, &["GET", "k1"]), "new");
}

#[test]
fn everybody_waits_while_the_replica_of_a_dead_primary_serves_nobody() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::checked(QUICK).start(pair(&["replica-serve-stale-data no"]));
    let (old, new) = (stage.pair.node(0), stage.pair.node(1));
    assert_eq!(says(stage.write, &["SET", "k1", "v"]), "OK");
    let load = stage.load();
    let mut reader = stage.reader();
    new.wait_until_it_caught_up_with(old);

    old.kill_9();
    stage.wait_for("r1", &[("health", "down")]);
    stage.wait_for("r2", &[("health", "down"), ("cause", "lost_primary")]);
    let word = new.try_command("PING").unwrap_err();
    assert_eq!(word, Failure::Login("MASTERDOWN".to_owned()), "from itself");
    let told = reader.query("GET k1").unwrap_err().class();
    assert!(["MASTERDOWN", "lost"].contains(&told.as_str()), "{told}");
    thread::scope(|scope| {
        let held = scope.spawn(|| stage.reader().query("GET k1"));
        stage.wait_until_held(WRITERS + 1);
        tell(new, &["REPLICAOF", "NO", "ONE"]);
        let known = stage.wait_for_primary("r2");
        load.wait_for_every_writer();
        // It is back as a primary without data.
        old.start();
        stage.wait_for("r1", &[("role", "fenced"), ("role_cause", "diverged")]);
        load.wait_for_writes(SOME);
        assert_eq!(old.command("DBSIZE"), ["0"], "it got a write");
        // The reader has waited all the while.
        stage.wait_until_held(1);
        tell_to_follow(old, new.addr());
        stage.wait_for("r1", &[("role", "replica")]);
        assert_eq!(held.join().unwrap().expect("it was held"), [["v"]]);

        let record = load.finish();
        let verdict = record.verdict(new.addr());
        expect_an_error_each_at_most(&verdict);
        verdict.expect_none_doubled();
        record.expect_none_lost_after(&verdict, known);
    });
}

#[test]
fn writers_wait_for_a_script_that_does_not_end_and_nobody_else_is_written_to() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::checked(QUICK).start(pair(&["lua-time-limit 100"]));
    let primary = stage.pair.node(0);
    assert_eq!(says(stage.write, &["SET", "k1", "v"]), "OK");
    let load = stage.load();
    let mut endless = client(stage.write, b"EVAL \"while true do end\" 0\r\n");

    // Until it counts as down, its word is passed on: it may end at any moment.
    load.wait_for_failures(1, |failure| failure.class() == "BUSY");
    stage.wait_for("r1", &[("health", "down"), ("cause", "check_timeout")]);
    stage.wait_for("r1", &[("role", "unknown")]);
    stage.wait_until_held(WRITERS);
    assert_eq!(rest(&mut endless), b"", "its session ends as the others do");
    assert!(
        redis_cli(primary.addr(), &["PING"])
            .stdout
            .starts_with(b"BUSY")
    );
    assert_eq!(says(stage.read, &["GET", "k1"]), "v");
    stage.wait_for("r2", &[("role", "replica")]);

    tell(primary, &["SCRIPT", "KILL"]);
    load.wait_for_every_writer();
    stage.wait_for("r1", &[("health", "up"), ("role", "primary")]);
    let verdict = load.finish().verdict(primary.addr());
    println!("{verdict}");
    verdict.expect_intact();
    expect_no_errors_but(&verdict, &["BUSY", "login: BUSY", "lost", "login: closed"]);
}
