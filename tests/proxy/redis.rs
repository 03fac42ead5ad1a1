//! Clients and servers that break Redis' protocol, or never meant to speak it.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::backend::server;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::redis::Redis;
use crate::support::redis::redis_cli;
use crate::support::talk::connect;
use crate::support::talk::echoes;
use crate::support::talk::rest;
use crate::talk::ended;
use crate::talk::wait_for_ends;

/// More than this, and memory was taken because somebody announced something.
const ROOM: u64 = 16 << 20;

fn before(backend: SocketAddr, listener: &str) -> (Evergate, SocketAddr) {
    let listens = free_addr();
    let evergate = Evergate::start(&format!(
        "clusters:\n  c: {{protocol: redis, backends: [\"{backend}\"], health_check: {{kind: tcp}}}}\n\
         listeners:\n  l: {{bind: \"{listens}\", cluster: c{listener}}}\n"
    ));
    (evergate, listens)
}

/// A client that has said this.
#[track_caller]
fn saying(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut client = connect(addr);
    client.write_all(bytes).unwrap();
    client
}

/// K2: a drop at a time.
#[test]
fn a_first_command_that_does_not_come_to_be_has_the_time_of_a_handshake() {
    let backend = Backend::start(Behaviour::Echo);
    let (evergate, listens) = before(backend.addr(), ", handshake_timeout: 500ms");
    // A pool's connection may be silent for as long as it likes.
    let mut silent = connect(listens);
    let openings = [&b"*"[..], b"*1", b"PIN", b"\r\n", b"get", b"GET h"];
    let mut openings: Vec<TcpStream> = openings.map(|bytes| saying(listens, bytes)).into();
    let mut dripping = saying(listens, b"get");
    let mut drops = dripping.try_clone().unwrap();
    let dripped = thread::spawn(move || {
        // As fast as it would take half a minute to come to the limit of bytes.
        while drops.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(30));
        }
    });
    for opening in openings.iter_mut().chain([&mut dripping]) {
        assert_eq!(rest(opening), b"");
    }
    dripped.join().unwrap();
    wait_for_ends(&evergate, "handshake_timeout", 7.0);
    assert_eq!(backend.bytes_received(), 0);

    echoes(&mut silent, b"*1\r\n$4\r\nPING\r\n").unwrap();
    // What is a command by its first bytes may take longer than the rest of it.
    let mut slow = saying(listens, b"*1\r\n");
    for part in [&b"$4\r\n"[..], b"PI", b"NG\r\n"] {
        thread::sleep(Duration::from_millis(300));
        slow.write_all(part).unwrap();
    }
    let mut answer = [0; 14];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"*1\r\n$4\r\nPING\r\n");
}

/// Class 26.
#[test]
fn what_is_no_command_reaches_no_server() {
    let backend = Backend::start(Behaviour::Echo);
    let (evergate, listens) = before(backend.addr(), "");
    let endless = [b'x'; 65_536];
    let mut bombs: Vec<Vec<u8>> = [
        &b"*1073741824\r\n"[..],
        b"*9223372036854775807\r\n",
        b"*99999999999999999999999999",
        b"*1x\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        &endless,
        &[b'\n'; 1000],
        b"\r\n\r\nPOST / HTTP/1.1\r\n",
        b"Host: cache\r\n",
        b"User-Agent: x\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://cache/ HTTP/1.1\r\n",
    ]
    .map(<[u8]>::to_vec)
    .into();
    for verb in [
        "GET", "POST", "pOsT", "PUT", "HEAD", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE",
    ] {
        bombs.push(format!("{verb} /x HTTP/1.1\r\nHost: c\r\n\r\nSET k v\r\n").into());
    }
    let rss_before = evergate.rss_bytes();
    for bomb in &bombs {
        let text = bomb[..bomb.len().min(40)].escape_ascii();
        let mut client = connect(listens);
        // It may have been closed before all is said.
        let _ = client.write_all(bomb);
        let told = rest(&mut client);
        let is_told = told.is_empty() || told.starts_with(b"-ERR ");
        assert!(is_told, "{text}: {}", told.escape_ascii());
    }
    wait_for_ends(&evergate, "bad_protocol", bombs.len() as f64);
    assert_eq!(backend.bytes_received(), 0);

    // The same, a byte at a time.
    for bomb in &bombs {
        let mut client = connect(listens);
        for byte in bomb.iter().take(2000) {
            if client.write_all(&[*byte]).is_err() {
                break;
            }
        }
        rest(&mut client);
    }
    wait_for_ends(&evergate, "bad_protocol", 2.0 * bombs.len() as f64);
    assert_eq!(backend.bytes_received(), 0);
    assert!(evergate.rss_bytes() < rss_before + ROOM);
    echoes(&mut connect(listens), b"PING\r\n").unwrap();
}

/// Behind a first command it is the server that sets the limits, and says so.
#[test]
fn a_real_server_refuses_the_bombs_that_come_later() {
    let redis = Redis::start();
    let (evergate, listens) = before(redis.addr(), "");
    let long = [b"SET k ", &[b'x'; 70_000][..]].concat();
    let nested = b"*1\r\n".repeat(10_000);
    for (bomb, told) in [
        (&b"*2147483648\r\n"[..], "-ERR Protocol error: invalid"),
        (b"*1\r\n$1073741824\r\n", "-ERR Protocol error: invalid"),
        (&nested, "-ERR Protocol error: expected '$'"),
        (&long, "-ERR Protocol error: too big inline"),
        (b"POST / HTTP/1.1\r\n", ""),
    ] {
        let mut client = saying(listens, b"PING\r\n");
        let mut pong = [0; 7];
        client.read_exact(&mut pong).unwrap();
        assert_eq!(&pong, b"+PONG\r\n");
        let _ = client.write_all(bomb);
        let said = rest(&mut client);
        assert!(said.starts_with(told.as_bytes()), "{}", said.escape_ascii());
    }
    assert_eq!(redis_cli(listens, &["PING"]).stdout, b"PONG\n");
    assert_eq!(ended(&evergate, "bad_protocol"), 0.0);
}

/// Whatever a server says is passed on as it is, and costs nothing.
#[test]
fn bombs_of_a_server_are_the_clients_to_judge() {
    let bombs = [
        b"*1073741824\r\n".to_vec(),
        b"$1073741824\r\nx".to_vec(),
        b"%9223372036854775807\r\n".to_vec(),
        b"*-2\r\n$-2\r\n".to_vec(),
        b"$?\r\n;4\r\nab".to_vec(),
        b"|1\r\n+a\r\n".to_vec(),
        b"*1\r\n".repeat(1 << 18),
        b"*2\r\n>1\r\n~1\r\n|1\r\n".repeat(1 << 16),
        // A line that does not end.
        [b"-READONLY ", &[b'x'; 8 << 20][..]].concat(),
        (0..=255).collect::<Vec<u8>>().repeat(64),
    ];
    let mut expected = bombs.to_vec();
    let addr = server(move |mut stream| {
        let mut number = [0; 3];
        if stream.read_exact(&mut number).is_ok() {
            let index = usize::from(number[0] - b'a');
            let _ = stream.write_all(&bombs[index]);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let (evergate, listens) = before(addr, "");
    let rss_before = evergate.rss_bytes();
    for (name, bomb) in ('a'..).zip(&mut expected) {
        let mut client = saying(listens, format!("{name}\r\n").as_bytes());
        let mut said = Vec::new();
        client.read_to_end(&mut said).unwrap();
        let first = bomb[..bomb.len().min(20)].escape_ascii();
        assert!(said == *bomb, "{first}: {} bytes", said.len());
    }
    assert!(evergate.rss_bytes() < rss_before + ROOM);
}
