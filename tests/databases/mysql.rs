//! `protocol: mysql` listeners in front of MariaDB servers that change their roles.

mod failover;

use std::io::Read;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::process::Output;
use std::time::Duration;
use std::time::Instant;

use crate::pki::Authority;
use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::client::Session;
use crate::support::client::USER;
use crate::support::evergate::Evergate;
use crate::support::mariadb::MariaDbPair;
use crate::support::mariadb::PASSWORD;
use crate::support::mariadb::mariadb;
use crate::support::ports::free_addr;
use crate::support::wait_until;
use crate::support::workload::Workload;

const LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(40);

struct Stage {
    // Dropped before the servers: its log stays free of their end.
    evergate: Evergate,
    write: SocketAddr,
    read: SocketAddr,
    pair: MariaDbPair,
}

impl Stage {
    /// Both nodes; `cluster` and `listener` are more keys of them.
    fn with(cluster: &str, listener: &str) -> Self {
        Self::before(MariaDbPair::start(), cluster, listener)
    }

    fn before(pair: MariaDbPair, cluster: &str, listener: &str) -> Self {
        let (write, read) = (free_addr(), free_addr());
        let yaml = file(&pair, [write, read], cluster, listener);
        Self {
            evergate: Evergate::start(&yaml),
            write,
            read,
            pair,
        }
    }
}

fn file(pair: &MariaDbPair, binds: [SocketAddr; 2], cluster: &str, listener: &str) -> String {
    let ([write, read], [one, two]) = (binds, [0, 1].map(|index| pair.node(index).addr()));
    format!(
        "
clusters:
  orders:
    protocol: mysql
    backends: [{{name: m1, address: \"{one}\"}}, {{name: m2, address: \"{two}\"}}]
{cluster}
listeners:
  writes: {{bind: \"{write}\", cluster: orders, role: primary{listener}}}
  reads: {{bind: \"{read}\", cluster: orders, role: replica{listener}}}
"
    )
}

fn checked(interval: &str) -> String {
    format!(
        "    health_check: {{user: probe, password: \"{PASSWORD}\", interval: {interval}, timeout: 400ms}}\n    \
         failover: {{hold: {{for: 20s, max_sessions: 100}}}}"
    )
}

/// By the command line client, which prints the bare rows.
fn query(addr: SocketAddr, options: &[&str], statement: &str) -> Output {
    mariadb(addr, USER, &[&["-N", "-B"], options].concat(), statement)
}

#[track_caller]
fn answer(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn session(addr: SocketAddr) -> Session {
    Session::open(Dialect::MariaDb, addr, USER, PATIENCE).unwrap()
}

#[test]
fn the_clients_of_mariadb_reach_the_server_of_their_role() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with(&checked("500ms"), "");
    let port = |addr| answer(query(addr, &[], "select @@port"));
    let ports = [0, 1].map(|index| stage.pair.node(index).addr().port().to_string());
    assert_eq!([port(stage.write), port(stage.read)], ports);
    let big = "select length(repeat('x', 1000000)), repeat('y', 100000)";
    assert!(answer(query(stage.write, &[], big)).starts_with("1000000\tyyy"));
}

#[test]
fn writes_follow_a_switchover_without_a_failed_connection() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with(&checked("500ms"), "");
    stage
        .pair
        .node(0)
        .sql("create table if not exists app.t (x int)");
    let load = Workload::through(Dialect::MariaDb, stage.write).start();
    load.wait_for_writes(200);
    stage.pair.swap();
    load.wait_for_every_writer();
    let record = load.finish();
    let verdict = record.verdict(stage.pair.primary().addr());
    println!("{verdict}");
    assert_eq!(verdict.failed_connections, 0, "{verdict}");
    verdict.expect_intact();
    // One for each of the four sessions: each ends with its first.
    assert!(verdict.read_only_errors <= 4, "{verdict}");
}

#[test]
fn a_read_only_answer_is_noticed_long_before_the_next_check() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let rare = checked("60s");
    // Whoever answers first is asked again soon, as nothing is known of the other yet. That check
    // must not be the one that notices.
    let none_soon = rare.replace("400ms", "20s, fast_interval: 60s");
    let stage = Stage::with(&none_soon, "");
    let yaml = file(&stage.pair, [stage.write, stage.read], &rare, "");
    stage.evergate.reload(&yaml);
    stage.pair.node(0).sql("create table app.t (x int)");
    let mut before = session(stage.write);
    before.query("insert into app.t values (1)").unwrap();
    let (old, new) = (stage.pair.node(0), stage.pair.node(1));
    new.wait_until_it_caught_up_with(old);
    old.demote();
    new.promote();
    let swapped = Instant::now();
    let refused = before.query("insert into app.t values (2)");
    assert!(refused.is_err_and(|failure| failure.is_read_only()));
    // Its session has ended with that, however soon it tries again.
    let again = before.query("insert into app.t values (2)").unwrap_err();
    assert!(!again.is_read_only(), "{again:?}");
    let mut errors = 0;
    wait_until(PATIENCE, "a write is taken", || {
        let written = before.query("insert into app.t values (2)");
        match &written {
            Ok(_) => {}
            Err(failure) if failure.is_read_only() => errors += 1,
            Err(_) => before = session(stage.write),
        }
        written.is_ok()
    });
    let took = swapped.elapsed();
    println!("noticed after {took:?}, {errors} more errors");
    assert!(took < PATIENCE);
    assert_eq!(new.sql("select count(*) from app.t where x = 2"), "1");
}

#[test]
fn a_session_that_may_stay_stays_on_a_server_that_takes_no_writes() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = checked("500ms").replace("}}", "}, on_fenced: keep}");
    let stage = Stage::with(&cluster, "");
    stage.pair.node(0).sql("create table app.t (x int)");
    let mut stays = session(stage.write);
    stage.pair.node(0).sql("set global read_only = 1");
    for _ in 0..3 {
        let refused = stays.query("insert into app.t values (1)");
        assert!(refused.is_err_and(|failure| failure.is_read_only()));
    }
    stays.query("select 1").unwrap();
}

#[test]
fn a_client_is_told_why_there_is_no_server() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = checked("500ms").replace("for: 20s", "for: 1s");
    let stage = Stage::with(&cluster, "");
    stage.pair.node(1).kill_9();
    let mut told = String::new();
    wait_until(PATIENCE, "the replica is missed", || {
        let output = query(stage.read, &[], "select 1");
        told = String::from_utf8_lossy(&output.stderr).into_owned();
        told.contains("No replica is available")
    });
    assert!(told.contains("1158"), "{told}");
}

#[test]
fn a_transaction_ends_before_its_session_does() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    // Read-only without a new primary is fenced, not demoted.
    let cluster = checked("500ms").replace("}}", "}, on_fenced: {grace: 20s}}");
    let stage = Stage::with(&cluster, "");
    stage.pair.node(0).sql("create table app.t (x int)");
    let mut idle = session(stage.write);
    let mut busy = session(stage.write);
    idle.query("insert into app.t values (1)").unwrap();
    busy.query("begin").unwrap();
    busy.query("insert into app.t values (2)").unwrap();
    stage.pair.node(0).sql("set global read_only = 1");
    wait_until(PATIENCE, "the idle session ends", || {
        let ended = idle.query("select 1");
        ended.is_err_and(|failure| failure.class() == "1053")
    });
    // Its transaction began before, and is its own to end.
    busy.query("select 1").unwrap();
    let _ = busy.query("rollback");
    wait_until(PATIENCE, "the other one ends", || {
        busy.query("select 1").is_err()
    });
    stage.pair.node(0).sql("set global read_only = 0");
    let count = stage.pair.node(0).sql("select count(*) from app.t");
    assert_eq!(count.trim(), "1");
}

#[test]
fn tls_ends_here_and_the_server_needs_none() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("test");
    let pair = authority.issue("evergate", &["127.0.0.1"]);
    let (cert, key) = (pair.cert_file.display(), pair.key_file.display());
    let listener = format!(", tls: {{cert_file: \"{cert}\", key_file: \"{key}\"}}");
    let stage = Stage::with(&checked("500ms"), &listener);
    let ca = authority.ca_file.display().to_string();
    let tls = ["--ssl", "--ssl-ca", ca.as_str()];
    assert_eq!(answer(query(stage.write, &tls, "select 40 + 2")), "42");
    let plain = query(stage.write, &["--skip-ssl"], "select 1");
    let told = String::from_utf8_lossy(&plain.stderr).into_owned();
    assert!(told.contains("3159"), "{told}");
}

#[test]
fn tls_to_the_server_is_the_proxys_own() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("test");
    let pair = authority.issue("server", &["127.0.0.1"]);
    let servers = MariaDbPair::start();
    servers.node(0).stop();
    servers
        .node(0)
        .start_with_tls(&pair.cert_file, &pair.key_file);
    let ca = authority.ca_file.display().to_string();
    let cluster = format!("{}\n    tls: {{ca_file: \"{ca}\"}}", checked("500ms"));
    let (cert, key) = (pair.cert_file.display(), pair.key_file.display());
    let listener = format!(", tls: {{cert_file: \"{cert}\", key_file: \"{key}\", optional: true}}");
    let stage = Stage::before(servers, &cluster, &listener);
    let tls = ["--ssl", "--ssl-ca", ca.as_str()];
    // One listener, both kinds of clients; the server sees TLS from both.
    let cipher = "show status like 'ssl_version'";
    for options in [&tls[..], &["--skip-ssl"]] {
        let seen = answer(query(stage.write, options, cipher));
        assert!(seen.contains("TLSv1"), "{options:?}: {seen}");
    }
}

#[test]
fn a_stranger_gets_the_greeting_and_nothing_else() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with(&checked("500ms"), "");
    let mut stream = TcpStream::connect(stage.write).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    // Sequence number 0 and protocol 10, and no second packet.
    let length = usize::from(heard[0]) + 256 * usize::from(heard[1]);
    assert_eq!((heard[3], heard[4], heard.len()), (0, 10, length + 4));
}

/// A server that asks for a file is refused elsewhere: here the client has offered it.
#[test]
fn a_client_loads_its_own_file() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with(&checked("500ms"), "");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows");
    let rows: String = (0..50_000).map(|row| format!("{row}\n")).collect();
    std::fs::write(&file, rows).unwrap();
    let load = format!(
        "create table app.t (x int); load data local infile '{}' into table app.t; \
         select count(*), sum(x) from app.t",
        file.display()
    );
    let output = query(stage.write, &["--local-infile=1"], &load);
    assert_eq!(answer(output), "50000\t1249975000");
}
