//! What psql shows when there is no session to be had, and what is waited out instead.

use std::io::Read;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use evergate::protocol::postgres::TransactionStatus;
use evergate::protocol::postgres::backend::ready_for_query;

use crate::postgres::cases::LET_IN;
use crate::postgres::cases::before;
use crate::postgres::cases::complaint;
use crate::postgres::cases::error;
use crate::postgres::cases::file;
use crate::postgres::cases::psql_as;
use crate::postgres::cases::read_startup;
use crate::postgres::cases::server;
use crate::postgres::wire::Wire;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::ports::RefusingPort;
use crate::support::ports::free_addr;
use crate::support::postgres::Postgres;
use crate::support::postgres::pgbench;
use crate::support::postgres::pgbench_tables;

#[track_caller]
fn expect(complaint: &str, parts: &[&str]) {
    for part in parts {
        assert!(complaint.contains(part), "{part:?} is not in {complaint:?}");
    }
    assert!(
        !complaint.contains("closed the connection unexpectedly"),
        "{complaint}"
    );
}

#[test]
fn without_a_server_psql_shows_why_after_the_hold() {
    let (nobody, listens) = (RefusingPort::new(), free_addr());
    let hold = "failover: {hold: {for: 200ms, max_sessions: 1000}}";
    let yaml = file(listens, &[nobody.addr()], &[hold], &[]);
    let _evergate = Evergate::with(&yaml).until(Until::Alive).start();
    for mode in ["disable", "prefer"] {
        let said = complaint(psql_as(listens, &format!("sslmode={mode}"), "select 1"));
        expect(
            &said,
            &["FATAL:  no server is available", "HINT:  Try again"],
        );
    }
}

#[test]
fn a_full_listener_and_a_closed_door_are_explained() {
    let postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &["max_connections: 1"]);
    let (_held, _) = Wire::login(listens);
    for mode in ["disable", "prefer"] {
        let said = complaint(psql_as(listens, &format!("sslmode={mode}"), "select 1"));
        expect(&said, &["FATAL:  sorry, too many clients already"]);
    }
    let (_evergate, listens) = before(&[postgres.addr()], &[], &["deny: [127.0.0.1]"]);
    let said = complaint(psql_as(listens, "", "select 1"));
    expect(
        &said,
        &["FATAL:  connections from this address are not permitted"],
    );
}

#[test]
fn a_database_without_a_route_is_refused() {
    let postgres = Postgres::start();
    let listens = free_addr();
    let yaml = file(
        listens,
        &[postgres.addr()],
        &[],
        &["routes: [{database: orders, cluster: c}]"],
    );
    let yaml = yaml.replace("    cluster: c\n    routes", "    routes");
    let _evergate = Evergate::start(&yaml);
    let said = complaint(psql_as(listens, "", "select 1"));
    expect(&said, &["FATAL:  no route leads to this database"]);
}

#[test]
fn a_servers_own_refusals_pass_unchanged() {
    let postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &[]);
    let said = complaint(psql_as(listens, "dbname=nowhere", "select 1"));
    expect(&said, &["FATAL:  database \"nowhere\" does not exist"]);
    let said = complaint(psql_as(listens, "user=nobody", "select 1"));
    expect(&said, &["FATAL:  role \"nobody\" does not exist"]);
}

/// A server that says this to its first `times` clients and lets the others in.
fn reluctant(times: usize, refusal: Vec<u8>) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let addr = server(move |mut stream| {
        if read_startup(&mut stream).is_none() {
            return;
        }
        let number = count.fetch_add(1, Ordering::Relaxed);
        let answer = match number < times {
            true => refusal.clone(),
            false => [LET_IN, &ready_for_query(TransactionStatus::Idle)].concat(),
        };
        stream.write_all(&answer).unwrap();
        if number >= times {
            let _ = stream.read(&mut [0]);
        }
    });
    (addr, asked)
}

#[test]
fn nobody_sees_that_a_server_is_starting_up_while_it_is_waited_for() {
    for refusal in [
        error(b"57P03", "the database system is starting up"),
        error(b"57P01", "terminating connection"),
        // For a client that asked for protocol 3.2.
        [
            b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0".to_vec(),
            error(b"57P03", "starting"),
        ]
        .concat(),
        // A close before the first byte.
        Vec::new(),
    ] {
        let (addr, asked) = reluctant(5, refusal);
        let (_evergate, listens) = before(&[addr], &[], &[]);
        let mut wire = Wire::connect(listens);
        wire.begin(&[("user", "u")]);
        assert_eq!(asked.load(Ordering::Relaxed), 6);
    }
}

#[test]
fn another_server_takes_a_session_that_one_cannot_take() {
    let (starting, asked) = reluctant(usize::MAX, error(b"57P03", "starting up"));
    let (ready, _) = reluctant(0, Vec::new());
    let (_evergate, listens) = before(&[starting, ready], &[], &[]);
    for _ in 0..20 {
        Wire::connect(listens).begin(&[("user", "u")]);
    }
    assert!(asked.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_server_that_stays_unready_is_named_in_the_refusal() {
    let (addr, _) = reluctant(usize::MAX, error(b"57P03", "starting up"));
    let (evergate, listens) = before(
        &[addr],
        &["failover: {hold: {for: 500ms, max_sessions: 1000}}"],
        &[],
    );
    let said = complaint(psql_as(listens, "", "select 1"));
    expect(&said, &["no server is available", "starting up"]);
    let rejected = [("reason", "starting_up")];
    evergate.wait_for_metric(
        "evergate_listener_connections_rejected_total",
        &rejected,
        1.0,
    );
}

#[test]
fn clients_of_a_full_server_take_turns() {
    const PLACES: usize = 3;
    let (active, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (places, refusals) = (Arc::clone(&active), Arc::clone(&refused));
    let addr = server(move |mut stream| {
        if read_startup(&mut stream).is_none() {
            return;
        }
        if places.fetch_add(1, Ordering::SeqCst) < PLACES {
            let ready = [LET_IN, &ready_for_query(TransactionStatus::Idle)].concat();
            stream.write_all(&ready).unwrap();
            let _ = stream.read(&mut [0]);
        } else {
            refusals.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(&error(b"53300", "sorry, too many clients already"));
        }
        places.fetch_sub(1, Ordering::SeqCst);
    });
    let (evergate, listens) = before(
        &[addr],
        &["failover: {queue: {for: 20s, max_sessions: 1000}}"],
        &[],
    );
    let clients: Vec<_> = (0..60)
        .map(|_| {
            thread::spawn(move || {
                let mut wire = Wire::connect(listens);
                wire.begin(&[("user", "u")]);
                thread::sleep(Duration::from_millis(10));
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    assert!(refused.load(Ordering::Relaxed) > 0);
    // A server that is full is not a server that is ill.
    assert_eq!(evergate.metric("evergate_backend_up", &[]), Some(1.0));
}

#[test]
fn a_roles_connection_limit_is_queued_for() {
    let postgres = Postgres::start();
    pgbench_tables(postgres.addr());
    postgres.sql("create role app login connection limit 3");
    postgres.sql("grant all on all tables in schema public to app");
    let (_evergate, listens) = before(
        &[postgres.addr()],
        &["failover: {queue: {for: 20s, max_sessions: 1000}}"],
        &[],
    );
    let result = pgbench(listens, &["-S", "-C", "-c8", "-j8", "-t20", "-U", "app"]);
    assert!(result.complete, "{}", result.output);
    assert_eq!(result.transactions, 160);
    // The bare server would have refused some of them.
    let result = pgbench(
        postgres.addr(),
        &["-S", "-C", "-c8", "-j8", "-t20", "-U", "app"],
    );
    assert!(!result.complete);
}

#[test]
fn a_full_server_refuses_in_its_own_words_when_nobody_leaves() {
    let (addr, _) = reluctant(
        usize::MAX,
        error(b"53300", "sorry, too many clients already"),
    );
    let (_evergate, listens) = before(
        &[addr],
        &["failover: {queue: {for: 500ms, max_sessions: 1000}}"],
        &[],
    );
    let said = complaint(psql_as(listens, "", "select 1"));
    expect(&said, &["FATAL:  sorry, too many clients already"]);
}
