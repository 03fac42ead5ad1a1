//! WebSocket through the proxy: a real handshake (RFC 6455), frames both ways, and its end.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::thread;

use crate::harness::status;
use crate::recorder::Recorder;
use crate::support::PATIENCE;
use crate::support::wait_until;
use crate::world::TCP_CHECK;
use crate::world::stage;

/// The example of RFC 6455, 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

/// A server that sends every message back.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Its peer's end ends it.
            thread::spawn(move || echo(stream));
        }
    });
    addr
}

fn echo(mut stream: TcpStream) -> Option<()> {
    let head = read_head(&mut stream)?.to_ascii_lowercase();
    assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    assert!(head.contains(&KEY.to_ascii_lowercase()), "{head}");
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    // The first message comes in the same segment as the answer.
    let greeting = frame(TEXT, b"welcome", None);
    stream
        .write_all(&[answer.as_bytes(), &greeting].concat())
        .ok()?;
    loop {
        let (kind, payload) = read_frame(&mut stream)?;
        stream.write_all(&frame(kind, &payload, None)).ok()?;
        if kind == CLOSE {
            return Some(());
        }
    }
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// A frame (RFC 6455, 5.2); clients mask theirs.
fn frame(kind: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![kind];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.push(bit | length as u8),
        Ok(length) => {
            frame.push(bit | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(bit | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    let key = mask.unwrap_or_default();
    frame.extend(
        mask.unwrap_or_default()
            .iter()
            .take(if mask.is_some() { 4 } else { 0 }),
    );
    frame.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            u64::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            stream.read_exact(&mut length).ok()?;
            u64::from_be_bytes(length)
        }
        length => u64::from(length),
    };
    let mut key = [0; 4];
    if head[1] & 0x80 != 0 {
        stream.read_exact(&mut key).ok()?;
    }
    let mut payload = vec![0; usize::try_from(length).ok()?];
    stream.read_exact(&mut payload).ok()?;
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    Some((head[0], payload))
}

fn shake_hands(stream: &mut TcpStream) -> String {
    let request = format!(
        "GET /chat HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    read_head(stream).unwrap()
}

#[test]
fn a_websocket_talks_through_the_proxy_until_either_side_ends_it() {
    let stage = stage(&[echo_server()], TCP_CHECK, "");
    let mut client = stage.connect();
    let head = shake_hands(&mut client);
    assert_eq!(status(&head), 101, "{head}");
    let accept = format!("sec-websocket-accept: {}", ACCEPT.to_ascii_lowercase());
    assert!(head.to_ascii_lowercase().contains(&accept), "{head}");
    assert_eq!(
        read_frame(&mut client).unwrap(),
        (TEXT, b"welcome".to_vec())
    );
    for size in [0, 5, 300, 100_000] {
        let message: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let sent = frame(TEXT, &message, Some([1, 2, 3, 4]));
        client.write_all(&sent).unwrap();
        let (kind, payload) = read_frame(&mut client).unwrap();
        assert!(kind == TEXT && payload == message, "{size}: {kind:#x}");
    }
    client
        .write_all(&frame(CLOSE, &[3, 232], Some([1, 2, 3, 4])))
        .unwrap();
    assert_eq!(read_frame(&mut client).unwrap(), (CLOSE, vec![3, 232]));
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    drop(client);
    wait_until(PATIENCE, "the backend's place is free", || {
        let active = stage
            .evergate
            .metric("evergate_backend_connections_active", &[]);
        active == Some(0.0)
    });
}

#[test]
fn a_backend_that_does_not_switch_answers_as_always() {
    let backend = Recorder::named("plain");
    let stage = stage(&[backend.addr()], TCP_CHECK, "");
    let mut client = stage.connect();
    let head = shake_hands(&mut client);
    assert_eq!(status(&head), 200, "{head}");
    let mut body = [0; 5];
    client.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"plain");
    // The connection still speaks HTTP.
    client
        .write_all(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .unwrap();
    assert_eq!(status(&read_head(&mut client).unwrap()), 200);
}

#[test]
fn connect_opens_a_tunnel_where_it_is_allowed() {
    let backend = Recorder::scripted(|head, connection| {
        if !head.starts_with("CONNECT db.test:5432 HTTP/1.1\r\n") {
            connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nwelcome");
        connection.read_to_end();
    });
    let stage = stage(
        &[backend.addr()],
        TCP_CHECK,
        "    http: {allow_connect: true}\n",
    );
    let mut client = stage.connect();
    // What follows the head is for the other end of the tunnel, and no request.
    client
        .write_all(
            b"CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n\r\n\
              GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n",
        )
        .unwrap();
    let head = read_head(&mut client).unwrap().to_ascii_lowercase();
    assert_eq!(status(&head), 200, "{head}");
    assert!(!head.contains("content-length"), "{head}");
    let mut greeting = [0; 7];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"welcome");
    client.write_all(b"the end").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    let sent = backend.text();
    let tunnelled = sent.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(tunnelled, "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\nthe end");
}

#[test]
fn connect_that_is_refused_by_the_backend_leaves_http_as_it_was() {
    let backend = Recorder::answering(|head| match head.starts_with("CONNECT ") {
        true => b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno".to_vec(),
        false => b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes".to_vec(),
    });
    let stage = stage(
        &[backend.addr()],
        TCP_CHECK,
        "    http: {allow_connect: true}\n",
    );
    let mut client = stage.connect();
    client
        .write_all(
            b"CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n\r\n\
              GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n",
        )
        .unwrap();
    assert_eq!(status(&read_head(&mut client).unwrap()), 403);
    let mut body = [0; 2];
    client.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"no");
    assert_eq!(status(&read_head(&mut client).unwrap()), 200);
}

#[test]
fn a_backend_that_switches_unasked_is_not_believed() {
    let backend = Recorder::answering(|_| {
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            .to_vec()
    });
    let stage = stage(&[backend.addr()], TCP_CHECK, "");
    let answer = stage.raw(b"GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&answer), 502, "{answer}");
}
