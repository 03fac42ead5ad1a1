//! Cancels whose server stands still, has left the file, is behind TLS, or does not take them: they
//! get there if anybody can bring them, keep nobody else waiting, and are counted for what they were.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use evergate::protocol::postgres::CancelKey;
use evergate::protocol::postgres::TransactionStatus;
use evergate::protocol::postgres::backend::backend_key_data;
use evergate::protocol::postgres::backend::ready_for_query;
use evergate::protocol::postgres::frontend;
use evergate::protocol::postgres::sqlstate::SqlState;
use rustix::process::Signal;
use socket2::SockRef;
use tempfile::TempDir;

use crate::pki::Authority;
use crate::pki::trusting_anything;
use crate::postgres::cancel::cancel;
use crate::postgres::cancel::expect_that_it_cancels;
use crate::postgres::cancel::sleep;
use crate::postgres::cases::LET_IN;
use crate::postgres::cases::before;
use crate::postgres::cases::file;
use crate::postgres::cases::read_startup;
use crate::postgres::cases::server;
use crate::postgres::tls::encrypted;
use crate::postgres::tls::over_tls;
use crate::postgres::wire::Wire;
use crate::support::PATIENCE;
use crate::support::evergate::Evergate;
use crate::support::netns::Netns;
use crate::support::postgres::Postgres;
use crate::support::process::Process;
use crate::support::process::installed;
use crate::support::process::words;
use crate::support::talk::connect;
use crate::support::wait_until;

const IN_TURN: &str = "balance: {policy: round_robin}";
/// Longer than any of these stories.
const LASTING: &str = "failover: {drain_timeout: 10m}";
/// The first bytes of a CancelRequest.
const CANCEL: &[u8] = b"\0\0\0\x10\x04\xd2\x16\x2e";

#[track_caller]
fn expect_counts(evergate: &Evergate, forwarded: f64, failed: f64) {
    let metric = "evergate_sessions_ended_total";
    let count = |cause| {
        let count = evergate.metric(metric, &[("cause", cause)]);
        count.unwrap_or(0.0)
    };
    let what = format!("{forwarded} forwarded, {failed} failed");
    wait_until(PATIENCE, &what, || {
        (count("cancel_forwarded"), count("cancel_failed")) == (forwarded, failed)
    });
}

#[track_caller]
fn expect_canceled(wire: &mut Wire<impl Read + Write>) {
    let error = wire.until_ready().error.expect("the query was cancelled");
    assert_eq!(error.sqlstate, Some(SqlState::QUERY_CANCELED));
}

/// A session with each of two servers, in their order; `begin` starts one.
fn one_with_each<S: Read + Write>(
    servers: &[Postgres; 2],
    mut begin: impl FnMut() -> (Wire<S>, CancelKey),
) -> [(Wire<S>, CancelKey); 2] {
    let mut sessions = [begin(), begin()];
    let port = |session: &mut (Wire<S>, CancelKey)| {
        let rows = session.0.query("select inet_server_port()").rows;
        // One column: its count and length come first.
        String::from_utf8(rows[0][6..].to_vec()).unwrap()
    };
    let ports = sessions.each_mut().map(port);
    let expected = servers.each_ref().map(|it| it.addr().port().to_string());
    if ports[0] != expected[0] {
        sessions.reverse();
    }
    assert_eq!(sessions.each_mut().map(port), expected);
    sessions
}

/// B3: the server has the request in its socket, and nobody there to read it. Went wrong once: its
/// time was the client's for the handshake, and it was the client who had been too slow.
#[test]
fn a_cancel_for_a_frozen_server_has_failed_and_may_still_come_true() {
    let postgres = [Postgres::start(), Postgres::start()];
    let backends = postgres.each_ref().map(Postgres::addr);
    // The kernel of a frozen server answers its checks.
    let keys = ["handshake_timeout: 1s"];
    let (evergate, listens) = before(&backends, &[IN_TURN], &keys);
    let [mut frozen, mut other] = one_with_each(&postgres, || Wire::login(listens));
    sleep(&mut frozen.0, &postgres[0]);
    sleep(&mut other.0, &postgres[1]);
    postgres[0].freeze();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cancel(listens, &frozen.1));
        cancel(listens, &other.1);
        expect_canceled(&mut other.0);
        waiting.join().expect("it is let go all the same");
    });
    expect_counts(&evergate, 1.0, 1.0);
    let rejected = [("reason", "cancel_failed")];
    evergate.wait_for_metric(
        "evergate_listener_connections_rejected_total",
        &rejected,
        1.0,
    );
    postgres[0].thaw();
    expect_canceled(&mut frozen.0);
    assert_eq!(frozen.0.query("select 1").rows.len(), 1);
}

/// Went wrong once: servers were asked one after the other, and one that stood still took all the
/// time that a cancel has.
#[test]
fn a_frozen_server_keeps_no_cancel_of_a_sealed_session_from_the_others() {
    let postgres = [Postgres::start(), Postgres::start()];
    let backends = postgres.each_ref().map(Postgres::addr);
    let (evergate, listens) = before(&backends, &[IN_TURN], &["tls: passthrough"]);
    let sealed = || {
        let mut wire = Wire::connect(listens);
        wire.send(&frontend::ssl_request());
        let mut answer = [0];
        wire.stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"N", "the server has no TLS");
        let key = wire.begin(&[("user", "postgres")]).unwrap();
        (wire, key)
    };
    let [frozen, mut other] = one_with_each(&postgres, sealed);
    sleep(&mut other.0, &postgres[1]);
    postgres[0].freeze();
    cancel(listens, &other.1);
    expect_canceled(&mut other.0);
    // Whose it was is the servers' secret, and one of them has not taken it.
    expect_counts(&evergate, 0.0, 1.0);
    postgres[0].thaw();
    drop(frozen);
}

#[test]
fn a_cancel_finds_a_server_that_has_left_the_file() {
    let postgres = [Postgres::start(), Postgres::start()];
    let (evergate, listens) = before(&[postgres[0].addr()], &[LASTING], &[]);
    let (mut wire, key) = Wire::login(listens);
    expect_that_it_cancels(&key, &mut wire, &postgres[0], listens);
    // Another backend has its name now.
    let stays = file(listens, &[postgres[1].addr()], &[LASTING], &[]);
    evergate.reload(&stays);
    expect_that_it_cancels(&key, &mut wire, &postgres[0], listens);
    // The whole cluster is gone.
    let renamed = stays.replace("  c:\n", "  d:\n");
    let renamed = renamed.replace("cluster: c\n", "cluster: d\n");
    assert_ne!(renamed, stays);
    evergate.reload(&renamed);
    expect_that_it_cancels(&key, &mut wire, &postgres[0], listens);
    expect_counts(&evergate, 3.0, 0.0);
}

/// Went wrong once: the table did not say any more what name to verify, and the cancel was dropped.
#[test]
fn a_cancel_finds_a_server_that_has_left_the_file_behind_tls() {
    let authority = Authority::new("ca");
    let (gone, left) = (encrypted(&authority), Postgres::start());
    let begun = Arc::default();
    let on_the_way = overheard(gone.addr(), &begun);
    let tls = format!("tls: {{ca_file: {}}}", authority.ca_file.display());
    let (evergate, listens) = before(&[on_the_way], &[&tls, LASTING], &[]);
    let (mut wire, key) = Wire::login(listens);
    for keys in [&[&tls, LASTING][..], &[LASTING]] {
        evergate.reload(&file(listens, &[left.addr()], keys, &[]));
        expect_that_it_cancels(&key, &mut wire, &gone, listens);
    }
    expect_counts(&evergate, 2.0, 0.0);
    // A server takes it in the clear, too, and so would anybody on the way.
    let begun = begun.lock().unwrap();
    assert_eq!(*begun, vec![frontend::ssl_request(); 3]);
}

/// Relays to a server, and keeps what each connection begins with, if it says anything.
fn overheard(target: SocketAddr, begun: &Arc<Mutex<Vec<Vec<u8>>>>) -> SocketAddr {
    let begun = Arc::clone(begun);
    server(move |mut client| {
        let mut first = [0; 8];
        if client.read_exact(&mut first).is_err() {
            return;
        }
        begun.lock().unwrap().push(first.to_vec());
        let mut server = connect(target);
        server.write_all(&first).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| pass(&client, &server));
            pass(&server, &client);
        });
    })
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Drivers differ in how they cancel: libpq before 17 does it in the clear whatever the session has.
#[test]
fn cancels_come_in_any_way_where_both_legs_have_tls() {
    let authority = Authority::new("ca");
    let postgres = encrypted(&authority);
    let pair = authority.issue("listener", &["127.0.0.1"]);
    let (ca, cert, key) = (
        authority.ca_file.display(),
        pair.cert_file.display(),
        pair.key_file.display(),
    );
    let (evergate, listens) = before(
        &[postgres.addr()],
        &[&format!("tls: {{ca_file: {ca}}}")],
        &[&format!("tls: {{cert_file: {cert}, key_file: {key}}}")],
    );
    let by_request = || {
        let mut stream = connect(listens);
        stream.write_all(&frontend::ssl_request()).unwrap();
        let mut accepted = [0];
        stream.read_exact(&mut accepted).unwrap();
        assert_eq!(accepted, *b"S");
        over_tls(stream, trusting_anything())
    };
    let direct = || {
        let mut config = trusting_anything();
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        over_tls(connect(listens), config)
    };
    let mut wire = Wire::over(by_request());
    let key = wire.begin(&[("user", "postgres")]).unwrap();
    let end = |mut stream: Box<dyn Stream>| {
        stream.write_all(&frontend::cancel_request(&key)).unwrap();
        stream.flush().unwrap();
        // With or without the end of TLS.
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let ways: [&dyn Fn(); 3] = [
        &|| cancel(listens, &key),
        &|| end(Box::new(by_request())),
        &|| end(Box::new(direct())),
    ];
    for way in ways {
        sleep(&mut wire, &postgres);
        way();
        expect_canceled(&mut wire);
    }
    expect_counts(&evergate, 3.0, 0.0);

    let psql = installed("psql", "postgresql-client-15");
    let target = format!(
        "host={} port={} user=postgres dbname=postgres sslmode=require",
        listens.ip(),
        listens.port()
    );
    let command = words(&[&psql, "-X", "-c", "select pg_sleep(300)", &target]);
    let dir = TempDir::new().unwrap();
    let mut psql = Process::start(&command, &[], dir.path());
    wait_until(PATIENCE, "the query runs", || {
        postgres.sql("select count(*) from pg_stat_activity where query = 'select pg_sleep(300)' and state = 'active'") == "1"
    });
    psql.signal(Signal::INT);
    assert!(!psql.wait(PATIENCE).success());
    let said = psql.stderr();
    assert!(said.contains("due to user request"), "{said}");
    expect_counts(&evergate, 4.0, 0.0);
}

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// What a server of ours does with a CancelRequest that it has read.
type Deed = fn(TcpStream);

/// A server that lets everybody in, with a key.
fn doing(deed: &Arc<Mutex<Deed>>) -> SocketAddr {
    let deed = Arc::clone(deed);
    server(move |mut stream| {
        let Some(startup) = read_startup(&mut stream) else {
            return;
        };
        if startup.starts_with(CANCEL) {
            let deed = *deed.lock().unwrap();
            return deed(stream);
        }
        let key = CancelKey::new(1, b"real").unwrap();
        let ready = ready_for_query(TransactionStatus::Idle);
        let _ = stream.write_all(&[LET_IN, &backend_key_data(&key), &ready].concat());
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

/// Went wrong once: whatever became of it, a cancel with a good key counted as forwarded.
#[test]
fn a_cancel_counts_as_forwarded_only_when_its_server_has_taken_it() {
    let deed: Arc<Mutex<Deed>> = Arc::new(Mutex::new(drop as Deed));
    let (evergate, listens) = before(&[doing(&deed)], &[], &[]);
    let (_wire, key) = Wire::login(listens);
    let reset: Deed = |stream| {
        let linger = Some(Duration::ZERO);
        SockRef::from(&stream).set_linger(linger).unwrap();
    };
    let answer: Deed = |mut stream| {
        let _ = stream.write_all(b"E");
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let keep: Deed = |mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let story = [
        (drop as Deed, (1.0, 0.0)),
        (reset, (1.0, 1.0)),
        (answer, (1.0, 2.0)),
        (keep, (1.0, 3.0)),
        (drop as Deed, (2.0, 3.0)),
    ];
    for (next, (forwarded, failed)) in story {
        *deed.lock().unwrap() = next;
        cancel(listens, &key);
        expect_counts(&evergate, forwarded, failed);
    }
}

#[test]
fn a_cancel_that_gets_no_connection_has_failed() {
    let netns = Netns::new();
    let postgres = Postgres::start_in(&netns.place());
    let keep = "failover: {on_dead: keep}";
    let (evergate, listens) = before(&[postgres.addr()], &[keep], &[]);
    let (mut wire, key) = Wire::login(listens);
    sleep(&mut wire, &postgres);
    netns.drop_new_connections(postgres.addr().port());
    cancel(listens, &key);
    expect_counts(&evergate, 0.0, 1.0);
    netns.heal();
    cancel(listens, &key);
    expect_canceled(&mut wire);
    expect_counts(&evergate, 1.0, 1.0);
}
