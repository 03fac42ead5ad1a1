//! Clients and servers that break MySQL's protocol, or use it against the other side.

mod caching_sha2;

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;

use crate::support::PATIENCE;
use crate::support::backend::server;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::stream::Pattern;
use crate::support::talk::connect;
use crate::support::talk::rest;
use crate::support::wait_until;
use crate::talk::wait_for_ends;

/// CLIENT_LOCAL_FILES.
const LOCAL_FILES: u32 = 1 << 7;
/// LONG_PASSWORD, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH.
const USUAL: u32 = 0x1 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;
/// CLIENT_SSL.
const SSL: u32 = 1 << 11;
const NONCE: &[u8; 20] = b"abcdefghijklmnopqrst";
const OK: &[u8] = b"\0\0\0\x02\0\0\0";
const COM_QUERY: u8 = 3;
const MAX_PAYLOAD_BYTES: usize = (1 << 24) - 1;
/// More than this, and memory was taken because somebody announced something.
const ROOM: u64 = 24 << 20;

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&length[..3], &[sequence], payload].concat()
}

fn read_packet(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload)?;
    Ok((header[3], payload))
}

/// As MySQL 8 greets.
fn greeting() -> Vec<u8> {
    greeting_by("mysql_native_password")
}

/// With this way to log in.
fn greeting_by(plugin: &str) -> Vec<u8> {
    let capabilities = (USUAL | LOCAL_FILES | SSL).to_le_bytes();
    let (first, second) = NONCE.split_at(8);
    let payload = [
        &b"\x0a8.0.0\0\x01\0\0\0"[..],
        first,
        b"\0",
        &capabilities[..2],
        b"\x2d\x02\0",
        &capabilities[2..],
        b"\x15",
        &[0; 10],
        second,
        b"\0",
        plugin.as_bytes(),
        b"\0",
    ];
    packet(0, &payload.concat())
}

fn login(capabilities: u32) -> Vec<u8> {
    let payload = [
        &capabilities.to_le_bytes()[..],
        b"\0\0\0\x01\x2d",
        &[0; 23],
        b"app\0\0mysql_native_password\0",
    ];
    packet(1, &payload.concat())
}

/// Lets everybody in who says something, and then does this with them.
fn letting_in(script: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    server(move |mut stream| {
        let greeted = stream.write_all(&greeting());
        if greeted.is_ok() && read_packet(&mut stream).is_ok() {
            stream.write_all(&packet(2, OK)).unwrap();
            script(stream);
        }
    })
}

fn before(backends: &[SocketAddr], cluster: &str, listener: &str) -> (Evergate, SocketAddr) {
    let listens = free_addr();
    let backends: Vec<String> = backends.iter().map(|it| format!("\"{it}\"")).collect();
    let backends = backends.join(", ");
    let evergate = Evergate::start(&format!(
        "clusters:\n  c: {{protocol: mysql, backends: [{backends}], health_check: {{kind: tcp}}{cluster}}}\n\
         listeners:\n  l: {{bind: \"{listens}\", cluster: c{listener}}}\n"
    ));
    (evergate, listens)
}

#[track_caller]
fn log_in(addr: SocketAddr, capabilities: u32) -> TcpStream {
    let mut client = connect(addr);
    assert_eq!(read_packet(&mut client).unwrap().1[0], 10);
    client.write_all(&login(capabilities)).unwrap();
    assert_eq!(read_packet(&mut client).unwrap(), (2, OK.to_vec()));
    client
}

fn query(statement: &str) -> Vec<u8> {
    packet(0, &[&[COM_QUERY], statement.as_bytes()].concat())
}

/// Class 25.
#[test]
fn a_server_gets_no_file_that_nobody_offered() {
    let demand = packet(1, b"\xfb/etc/passwd");
    let received: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let (seen, asked) = (Arc::clone(&received), demand.clone());
    let evil = letting_in(move |mut stream| {
        while read_packet(&mut stream).is_ok() {
            let _ = stream.write_all(&asked);
            let mut loot = Vec::new();
            let _ = stream.read_to_end(&mut loot);
            seen.lock().unwrap().push(loot);
        }
    });
    let (evergate, listens) = before(&[evil], "", "");
    let load = "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE t";
    for (capabilities, statement) in [
        (USUAL, "select 1"),
        (USUAL, load),
        (USUAL | LOCAL_FILES, "select 1"),
        (USUAL | LOCAL_FILES, "  INSERT INTO t VALUES (1)"),
    ] {
        let mut client = log_in(listens, capabilities);
        client.write_all(&query(statement)).unwrap();
        let (sequence, told) = read_packet(&mut client).unwrap();
        assert_eq!((sequence, told[0]), (1, 0xff), "{statement}");
        let number = u16::from_le_bytes([told[1], told[2]]);
        assert_eq!(number, 3948, "{statement}: {}", told.escape_ascii());
        assert_eq!(rest(&mut client), b"");
    }
    wait_for_ends(&evergate, "bad_protocol", 4.0);
    evergate.wait_for_log("asked for a client's local file");
    wait_until(PATIENCE, "its end", || received.lock().unwrap().len() == 4);
    assert!(received.lock().unwrap().iter().all(Vec::is_empty));

    // Who has offered it and asks for it gets what he asked for.
    let mut client = log_in(listens, USUAL | LOCAL_FILES);
    client.write_all(&query(load)).unwrap();
    let mut heard = vec![0; demand.len()];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(heard, demand);
    let file = [packet(2, b"1\t2\n"), packet(3, b"")].concat();
    client.write_all(&file).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), b"");
    assert_eq!(received.lock().unwrap().last(), Some(&file));
}

#[test]
fn a_clients_impossible_logins_reach_no_server() {
    let received: Arc<Mutex<Vec<u8>>> = Arc::default();
    let seen = Arc::clone(&received);
    let backend = server(move |mut stream| {
        let mut all = Vec::new();
        let greeted = stream.write_all(&greeting());
        let _ = greeted.and_then(|()| stream.read_to_end(&mut all));
        seen.lock().unwrap().extend(all);
    });
    let (evergate, listens) = before(&[backend], "", ", handshake_timeout: 500ms");
    let whole = login(USUAL);
    let payload = &whole[4..];
    let ssl_request = packet(
        1,
        &[&(USUAL | SSL).to_le_bytes()[..], &payload[4..32]].concat(),
    );
    let mut logins: Vec<Vec<u8>> = [0, 1, 3, 4, 31, 32, 33, 35]
        .map(|bytes| packet(1, &payload[..bytes]))
        .into();
    logins.extend([
        // Not offered here.
        ssl_request.clone(),
        ssl_request.repeat(100),
        // Lengths that are not there: the first is never whole, the second too much.
        b"\x40\0\0\x01short".to_vec(),
        b"\xff\xff\xff\x01".to_vec(),
        // An authentication of 2^63 bytes.
        packet(
            1,
            &[&[0xff; 4][..], &payload[4..32], b"app\0\xfe", &[0x7f; 8]].concat(),
        ),
        b"GET / HTTP/1.1\r\nHost: db\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
    ]);
    let rss_before = evergate.rss_bytes();
    for bytes in &logins {
        let text = bytes[..bytes.len().min(40)].escape_ascii();
        let mut client = connect(listens);
        assert_eq!(read_packet(&mut client).unwrap().1[0], 10, "{text}");
        let _ = client.write_all(bytes);
        let said = rest(&mut client);
        assert!(said.is_empty(), "{text}: {}", said.escape_ascii());
    }
    wait_for_ends(&evergate, "handshake_timeout", 2.0);
    wait_for_ends(&evergate, "bad_protocol", logins.len() as f64 - 2.0);
    assert_eq!(received.lock().unwrap().escape_ascii().to_string(), "");
    assert!(evergate.rss_bytes() < rss_before + ROOM);
}

#[test]
fn a_servers_impossible_greeting_is_its_own_and_the_next_one_serves() {
    let good = letting_in(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let whole = greeting();
    let cut = |bytes: usize| packet(0, &whole[4..4 + bytes]);
    for evil in [
        packet(0, b""),
        packet(0, b"\x09old"),
        cut(1),
        cut(10),
        cut(20),
        cut(44),
        b"\xff\xff\xff\0".to_vec(),
        b"\x40\0\0\0short".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        [0xff; 4096].to_vec(),
    ] {
        let text = evil[..evil.len().min(40)].escape_ascii().to_string();
        let said = evil.clone();
        let backend = server(move |mut stream| {
            let _ = stream.write_all(&said);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let cluster =
            ", connect: {timeout: 300ms}, failover: {hold: {for: 300ms, max_sessions: 10}}";
        let (evergate, listens) = before(&[backend], cluster, "");
        let rss_before = evergate.rss_bytes();
        let (sequence, told) = read_packet(&mut connect(listens)).unwrap();
        assert_eq!((sequence, told[0]), (0, 0xff), "{text}");
        assert!(evergate.rss_bytes() < rss_before + ROOM, "{text}");

        let (_evergate, listens) = before(&[backend, good], cluster, "");
        for _ in 0..2 {
            drop(log_in(listens, USUAL));
        }
    }
}

/// What is no command is for the server to refuse: it gets every byte, and so does the client.
#[test]
fn impossible_commands_and_answers_pass_as_they_are() {
    let answers = [
        packet(1, b""),
        packet(77, b"\xff"),
        packet(1, b"\xfe"),
        packet(1, b"\xfc\xff\xff"),
        packet(1, &[0xfe; 9]),
        packet(0, b"\0"),
        [packet(1, b"\x02"), packet(1, b"\x02"), packet(200, b"\0")].concat(),
    ];
    let commands = [
        packet(0, b""),
        // COM_CHANGE_USER, COM_BINLOG_DUMP, COM_BINLOG_DUMP_GTID, COM_STMT_EXECUTE: nothing in it.
        packet(0, b"\x11"),
        packet(0, b"\x12"),
        packet(0, b"\x1e"),
        packet(0, b"\x17"),
        packet(9, b"\x03select 1"),
        packet(0, b"\xff\xff"),
    ];
    let all = answers.concat();
    let said = all.clone();
    let received: Arc<Mutex<Vec<u8>>> = Arc::default();
    let seen = Arc::clone(&received);
    let backend = letting_in(move |mut stream| {
        let _ = stream.write_all(&said);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        *seen.lock().unwrap() = rest;
    });
    let (_evergate, listens) = before(&[backend], "", "");
    for command in &commands {
        let mut client = log_in(listens, USUAL | LOCAL_FILES);
        client.write_all(command).unwrap();
        let mut heard = vec![0; all.len()];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(heard, all);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut client), b"");
        assert_eq!(*received.lock().unwrap(), *command);
    }
}

#[test]
fn messages_of_many_packets_pass_whole_and_are_not_kept() {
    // Two full packets and a rest, which may be nothing.
    let long = |tail: usize| {
        let bytes = Pattern::new().next_bytes(2 * MAX_PAYLOAD_BYTES + tail - 1);
        let payload = [&[COM_QUERY], &bytes[..]].concat();
        let chunks = payload.chunks(MAX_PAYLOAD_BYTES).chain([&b""[..]]).take(3);
        let numbered = (0..).zip(chunks);
        numbered
            .flat_map(|(sequence, chunk)| packet(sequence, chunk))
            .collect::<Vec<u8>>()
    };
    let backend = letting_in(|stream| {
        let mut from = stream.try_clone().unwrap();
        let mut to = stream;
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (evergate, listens) = before(&[backend], "", "");
    let rss_before = evergate.rss_bytes();
    for tail in [0, 5] {
        let message = long(tail);
        let mut client = log_in(listens, USUAL);
        let mut writer = client.try_clone().unwrap();
        let said = message.clone();
        let writing = thread::spawn(move || {
            writer.write_all(&said).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        writing.join().unwrap();
        assert_eq!(heard.len(), message.len());
        assert!(heard == message, "{tail}");
    }
    assert!(evergate.rss_bytes() < rss_before + ROOM);
}
