//! CancelRequest: it reaches the right server, and nobody else's session.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;

use evergate::protocol::postgres::CancelKey;
use evergate::protocol::postgres::frontend;
use evergate::protocol::postgres::sqlstate::SqlState;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::postgres::cases::before;
use crate::postgres::wire::Wire;
use crate::support::PATIENCE;
use crate::support::postgres::Postgres;
use crate::support::process::Process;
use crate::support::process::installed;
use crate::support::process::words;
use crate::support::talk::connect;
use crate::support::wait_until;

const SLEEP: &[u8] = b"Q\0\0\0\x19select pg_sleep(300)\0";
const SLEEPERS: &str = "select count(*) from pg_stat_activity where query like '%pg_sleep(300)%' and state = 'active' and pid <> pg_backend_pid()";

/// Sends it and waits for the close, as libpq does.
pub fn cancel(addr: SocketAddr, key: &CancelKey) {
    let mut stream = connect(addr);
    stream.write_all(&frontend::cancel_request(key)).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

/// Asks for a query that does not end, and returns when it runs; no other does.
#[track_caller]
pub fn sleep(wire: &mut Wire<impl Read + Write>, server: &Postgres) {
    wire.send(SLEEP);
    wait_until(PATIENCE, "the query runs", || server.sql(SLEEPERS) == "1");
}

/// The session's key ends a query of this server.
#[track_caller]
pub fn expect_that_it_cancels(
    key: &CancelKey,
    wire: &mut Wire<impl Read + Write>,
    server: &Postgres,
    listens: SocketAddr,
) {
    sleep(wire, server);
    cancel(listens, key);
    let error = wire.until_ready().error.unwrap();
    assert_eq!(error.sqlstate, Some(SqlState::QUERY_CANCELED));
}

#[test]
fn a_cancel_ends_one_query_of_one_server() {
    let postgres = [Postgres::start(), Postgres::start()];
    let backends = [postgres[0].addr(), postgres[1].addr()];
    let balance = "balance: {policy: round_robin}";
    let (evergate, listens) = before(&backends, &[balance], &[]);
    let mut sessions: Vec<_> = (0..4).map(|_| Wire::login(listens)).collect();
    for (wire, _) in &mut sessions {
        wire.send(SLEEP);
    }
    let sleepers = |server: &Postgres| server.sql(SLEEPERS);
    for server in &postgres {
        wait_until(PATIENCE, "two queries run", || sleepers(server) == "2");
    }
    let mut left = 4;
    while let Some((mut wire, key)) = sessions.pop() {
        cancel(listens, &key);
        let error = wire.until_ready().error.unwrap();
        assert_eq!(error.sqlstate, Some(SqlState::QUERY_CANCELED));
        left -= 1;
        let running: u32 = postgres
            .iter()
            .map(|it| sleepers(it).parse::<u32>().unwrap())
            .sum();
        assert_eq!(running, left);
        // The session goes on, and its key is still good for it.
        assert_eq!(wire.query("select 1").rows.len(), 1);
    }
    let cancels = [("cause", "cancel_forwarded")];
    evergate.wait_for_metric("evergate_sessions_ended_total", &cancels, 4.0);
}

#[test]
fn a_key_is_worth_nothing_at_the_server_nor_after_the_session() {
    let postgres = Postgres::start();
    let (evergate, listens) = before(&[postgres.addr()], &[], &[]);
    let (mut wire, key) = Wire::login(listens);
    sleep(&mut wire, &postgres);
    // The process id is the server's, as pg_backend_pid() says; the secret is not.
    let pid = "select pid from pg_stat_activity where query like '%pg_sleep(300)%' and state = 'active' and pid <> pg_backend_pid()";
    assert_eq!(postgres.sql(pid), key.process_id().to_string());
    cancel(postgres.addr(), &key);
    assert_eq!(postgres.sql(SLEEPERS), "1");
    cancel(listens, &key);
    assert!(wire.until_ready().error.is_some());
    drop(wire);
    let unknown = [("cause", "cancel_unknown")];
    evergate.wait_for_metric("evergate_listener_connections_active", &[], 0.0);
    cancel(listens, &key);
    evergate.wait_for_metric("evergate_sessions_ended_total", &unknown, 1.0);
}

#[test]
fn a_cancel_for_a_server_that_is_gone_is_dropped() {
    let mut postgres = [Postgres::start(), Postgres::start()];
    let (_evergate, listens) = before(&[postgres[0].addr()], &["failover: {on_dead: keep}"], &[]);
    let (_wire, key) = Wire::login(listens);
    postgres[0].kill9();
    cancel(listens, &key);
    postgres[1].stop();
}

#[test]
fn interrupting_psql_cancels_its_query() {
    let postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &[]);
    let psql = installed("psql", "postgresql-client-15");
    let target = format!(
        "host={} port={} user=postgres dbname=postgres",
        listens.ip(),
        listens.port()
    );
    let command = words(&[&psql, "-X", "-c", "select pg_sleep(300)", &target]);
    let dir = TempDir::new().unwrap();
    let mut psql = Process::start(&command, &[], dir.path());
    wait_until(PATIENCE, "the query runs", || postgres.sql(SLEEPERS) == "1");
    psql.signal(Signal::INT);
    assert!(!psql.wait(PATIENCE).success());
    let said = psql.stderr();
    assert!(
        said.contains("canceling statement due to user request"),
        "{said}"
    );
    assert_eq!(postgres.sql(SLEEPERS), "0");
}

#[test]
fn guessing_keys_hits_nobody_and_is_slowed_down() {
    let postgres = Postgres::start();
    let (evergate, listens) = before(&[postgres.addr()], &[], &[]);
    let (mut wire, key) = Wire::login(listens);
    sleep(&mut wire, &postgres);
    for guess in 0..2000_u32 {
        let wrong = key.secret()[0] ^ 1;
        let secret = [&[wrong][..], &guess.to_be_bytes()[1..]].concat();
        cancel(listens, &CancelKey::new(key.process_id(), &secret).unwrap());
    }
    let unknown = [("cause", "cancel_unknown")];
    evergate.wait_for_metric("evergate_sessions_ended_total", &unknown, 2000.0);
    assert_eq!(postgres.sql(SLEEPERS), "1");
    // The session's own client has another address, and is not kept from it.
    let mut other = crate::support::talk::connect_from([127, 9, 9, 9].into(), listens);
    other.write_all(&frontend::cancel_request(&key)).unwrap();
    assert_eq!(other.read(&mut [0]).unwrap(), 0);
    let error = wire.until_ready().error.unwrap();
    assert_eq!(error.sqlstate, Some(SqlState::QUERY_CANCELED));
}

#[test]
fn a_full_listener_still_takes_cancels() {
    let postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &["max_connections: 1"]);
    let (mut wire, key) = Wire::login(listens);
    expect_that_it_cancels(&key, &mut wire, &postgres, listens);
}
