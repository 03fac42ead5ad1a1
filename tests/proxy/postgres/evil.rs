//! Peers that break the protocol: nobody else notices, and nobody gains by it.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use evergate::protocol::postgres::TransactionStatus;
use evergate::protocol::postgres::backend::ready_for_query;
use evergate::protocol::postgres::error::ServerError;
use evergate::protocol::postgres::frontend;
use evergate::protocol::postgres::sqlstate::SqlState;

use crate::postgres::cases::LET_IN;
use crate::postgres::cases::answer;
use crate::postgres::cases::before;
use crate::postgres::cases::psql_as;
use crate::postgres::cases::read_startup;
use crate::postgres::cases::server;
use crate::postgres::wire::Wire;
use crate::support::PATIENCE;
use crate::support::postgres::Postgres;
use crate::support::talk::connect;

const LENGTHS: [u32; 8] = [0, 1, 3, 4, 5, 1 << 30, 1 << 31, u32::MAX];
const GSSENC_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";

/// What comes until the end, be it orderly or not.
fn to_the_end(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    all
}

#[test]
fn a_servers_impossible_lengths_reach_the_client_as_they_are() {
    let script: Arc<Mutex<Vec<u8>>> = Arc::default();
    let said = Arc::clone(&script);
    let addr = server(move |mut stream| {
        if read_startup(&mut stream).is_some() {
            let said = said.lock().unwrap().clone();
            let _ = stream.write_all(&said);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let (evergate, listens) = before(&[addr], &["health_check: {kind: tcp}"], &[]);
    let rss_before = evergate.rss_bytes();
    let startup = frontend::startup_message(&[("user", "u")]);
    for beginning in [&b""[..], LET_IN, &[LET_IN, b"Z\0\0\0\x05I"].concat()] {
        for tag in *b"ERKZTDSNAvWX\0" {
            for length in LENGTHS {
                let message = [&[tag][..], &length.to_be_bytes(), b"C57P01\0"].concat();
                let all = [beginning, &message].concat();
                script.lock().unwrap().clone_from(&all);
                let mut client = connect(listens);
                client.write_all(&startup).unwrap();
                let got = to_the_end(client);
                // Bytes are never changed; what may come behind them is our own epitaph.
                assert!(
                    got.starts_with(&all),
                    "{tag} {length}: {}",
                    got.escape_ascii()
                );
            }
        }
    }
    assert!(evergate.rss_bytes() < rss_before + (16 << 20));
}

#[test]
fn a_clients_impossible_lengths_are_refused() {
    let postgres = Postgres::start();
    let (evergate, listens) = before(&[postgres.addr()], &[], &[]);
    let mut number = 0.0;
    for length in LENGTHS
        .into_iter()
        .filter(|length| *length != 5)
        .chain([7, 10_005])
    {
        for code in [0x0003_0000, 80877102, 80877103, 80877104, 0xdead_beef_u32] {
            let mut client = connect(listens);
            let bytes = [length.to_be_bytes(), code.to_be_bytes()].concat();
            let _ = client.write_all(&[bytes, vec![0; 32]].concat());
            let all = to_the_end(client);
            assert!(all.is_empty() || all[0] == b'E', "{length} {code}");
            number += 1.0;
        }
    }
    for noise in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"\xff\xff\xff\xff",
        b"\x16\x03\x01\x02",
    ] {
        let mut client = connect(listens);
        client.write_all(noise).unwrap();
        assert!(to_the_end(client).is_empty());
        number += 1.0;
    }
    let labels = [("reason", "bad_protocol")];
    evergate.wait_for_metric(
        "evergate_listener_connections_rejected_total",
        &labels,
        number,
    );
    assert_eq!(answer(psql_as(listens, "", "select 1")), "1");
}

#[test]
fn a_client_may_ask_for_each_encryption_once() {
    let postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &[]);
    let mut client = connect(listens);
    let mut writer = client.try_clone().unwrap();
    // Waits for each answer at first, or it would be taken for stuffing.
    for request in [&frontend::ssl_request()[..], GSSENC_REQUEST] {
        client.write_all(request).unwrap();
        let mut answer = [0];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"N");
    }
    std::thread::spawn(move || {
        let pair = [&frontend::ssl_request()[..], GSSENC_REQUEST].concat();
        let many = pair.repeat(1000);
        // A million requests, or as many as somebody reads.
        for _ in 0..500 {
            if writer.write_all(&many).is_err() {
                return;
            }
        }
    });
    let said = to_the_end(client);
    assert!(
        said.is_empty() || said[0] == b'E',
        "{}",
        said.escape_ascii()
    );
}

#[test]
fn bytes_stuffed_behind_a_request_for_encryption_are_refused() {
    let postgres = Postgres::start();
    let (_evergate, listens) = before(&[postgres.addr()], &[], &[]);
    for request in [&frontend::ssl_request()[..], GSSENC_REQUEST] {
        let startup = frontend::startup_message(&[("user", "postgres")]);
        let mut client = connect(listens);
        client.write_all(&[request, &startup].concat()).unwrap();
        let said = to_the_end(client);
        assert_eq!(said[0], b'E', "{}", said.escape_ascii());
        let error = ServerError::parse(&said[5..]);
        assert_eq!(error.sqlstate, Some(SqlState::PROTOCOL_VIOLATION));
        assert!(error.message.contains("unencrypted data"), "{error}");
    }
}

#[test]
fn a_server_that_falls_silent_after_the_startup_is_left_for_another() {
    let frozen = server(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let ready = server(|mut stream| {
        if read_startup(&mut stream).is_some() {
            let ready = ready_for_query(TransactionStatus::Idle);
            stream.write_all(&[LET_IN, &ready].concat()).unwrap();
            let _ = stream.read(&mut [0]);
        }
    });
    let (_evergate, listens) = before(&[frozen, ready], &["connect: {timeout: 1s}"], &[]);
    for _ in 0..4 {
        let started = Instant::now();
        Wire::connect(listens).begin(&[("user", "u")]);
        assert!(started.elapsed() < PATIENCE);
    }
}
