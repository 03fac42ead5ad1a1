//! Backends that answer strangely: what their client gets, and that the next one gets none of it.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::thread;

use crate::harness::Plan;
use crate::harness::Stage;
use crate::harness::read_answer;
use crate::harness::read_head;
use crate::harness::status;
use crate::recorder::Recorder;
use crate::recorder::field;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::world::TCP_CHECK;

/// More than all buffers on the way hold.
const LARGE: usize = 48 << 20;
const ASK: &[u8] = b"GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

/// One attempt, so that a retry does not hide what became of it.
fn stage(backend: &Recorder) -> Stage {
    let once = "http: {retry: {attempts: 0}}";
    Plan::default()
        .cluster("web", &[backend.addr()], once)
        .start()
}

fn sends(bytes: &'static [u8]) -> Recorder {
    Recorder::scripted(move |_, connection| {
        connection.send(bytes);
    })
}

/// What comes behind an answer belongs to nobody.
#[test]
fn an_answer_that_nobody_asked_for_is_given_to_nobody() {
    let backend = Recorder::answering(|_| [ok("good"), ok("evil")].concat());
    let stage = stage(&backend);
    let mut client = stage.connect();
    for _ in 0..20 {
        client
            .write_all(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
            .unwrap();
        let answer = read_answer(&mut client);
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(answer.ends_with("\r\n\r\ngood"), "{answer}");
    }
}

#[test]
fn answers_that_mean_two_things_or_nothing_are_502() {
    let bad: [&[u8]; 8] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
          5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"220 mail.test ESMTP\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ];
    for bytes in bad {
        let backend = sends(bytes);
        let answer = stage(&backend).raw(ASK);
        let shown = bytes.escape_ascii();
        assert_eq!(status(&answer), 502, "{shown}: {answer}");
        assert!(!answer.contains("hello"), "{shown}: {answer}");
        assert!(!answer.contains("127.0.0.1"), "{shown}: {answer}");
    }
    let backend = Recorder::scripted(|_, connection| {
        let long = "x".repeat(1 << 20);
        connection.send(format!("HTTP/1.1 200 OK\r\nX: {long}\r\n\r\n").as_bytes());
    });
    let answer = stage(&backend).raw(ASK);
    assert_eq!(status(&answer), 502, "{answer}");
}

#[test]
fn half_an_answer_does_not_look_whole() {
    let backend = sends(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    let answer = stage(&backend).raw(ASK);
    let head = answer.to_ascii_lowercase();
    assert_eq!(field(&head, "content-length"), Some("10"), "{answer}");
    assert!(!answer.contains("hellohello"), "{answer}");
    let backend = sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let answer = stage(&backend).raw(ASK);
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(!answer.contains("\r\n0\r\n"), "{answer}");
    // Before its head was whole there is nothing to pass on.
    let backend = sends(b"HTTP/1.1 200 OK\r\nContent-Le");
    assert_eq!(status(&stage(&backend).raw(ASK)), 502);
}

#[test]
fn what_comes_before_an_answer_does_not_replace_it() {
    let backend = Recorder::answering(|_| {
        let before = "HTTP/1.1 100 Continue\r\n\r\n\
                      HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
        [before.as_bytes(), &ok("final")].concat()
    });
    let stage = stage(&backend);
    let answer = stage.raw(ASK);
    assert!(answer.contains("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nfinal"), "{answer}");
}

#[test]
fn answers_before_the_answer_come_to_an_end() {
    let backend = Recorder::scripted(|_, connection| {
        while connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n") {}
    });
    assert_eq!(status(&stage(&backend).raw(ASK)), 502);
}

/// Reads and answers at the same time; accepts for ever, for checks come, too.
fn full_duplex_backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    // A check has nothing to say.
                    if !matches!(stream.read(&mut byte), Ok(1)) {
                        return;
                    }
                    head.push(byte[0]);
                }
                let mut writer = stream.try_clone().unwrap();
                let answers = thread::spawn(move || {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                    writer.write_all(head.as_bytes())?;
                    writer.write_all(&vec![b'a'; LARGE])
                });
                let mut body = stream.take(LARGE as u64);
                let _ = std::io::copy(&mut body, &mut std::io::sink());
                let _ = answers.join().unwrap();
            });
        }
    });
    addr
}

/// The answer fills every buffer on its way long before the client looks at it.
#[test]
fn a_client_may_send_everything_before_it_reads_an_answer_that_came_first() {
    let stage = crate::world::stage(&[full_duplex_backend()], TCP_CHECK, "");
    let mut client = stage_client(stage.addr);
    let head = format!("PUT /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: {LARGE}\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    let answer = read_head(&mut client);
    assert_eq!(status(&answer), 200, "{answer}");
    client.write_all(&vec![b'q'; LARGE]).unwrap();
    let mut body = client.take(LARGE as u64);
    assert_eq!(
        std::io::copy(&mut body, &mut std::io::sink()).unwrap(),
        LARGE as u64
    );
}

fn stage_client(addr: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(addr).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client
}

/// A switch that nobody asked for would let both sides speak unheard.
#[test]
fn a_switch_of_protocols_that_nobody_asked_for_is_502() {
    let backend = sends(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(status(&stage(&backend).raw(ASK)), 502);
}

/// A backend may refuse a body before it has come, and close.
#[test]
fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    let backend = Recorder::scripted(|_, connection| {
        connection.send(
            b"HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig",
        );
        connection.read_to_end();
    });
    let stage = stage(&backend);
    let mut client = stage.connect();
    client
        .write_all(b"PUT /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4000000\r\n\r\n")
        .unwrap();
    let _ = client.write_all(&vec![b'x'; 100_000]);
    let answer = read_answer(&mut client);
    assert_eq!(status(&answer), 413, "{answer}");
    assert!(answer.ends_with("\r\n\r\nbig"), "{answer}");
}

/// Class 38: nothing is ever unpacked.
#[test]
fn packed_bodies_pass_as_they_are() {
    const PACKED: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03not really\xff\xfe";
    let backend = Recorder::answering(|_| {
        let length = PACKED.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {length}");
        [head.as_bytes(), b"\r\n\r\n", PACKED].concat()
    });
    let stage = stage(&backend);
    let length = PACKED.len();
    let head = format!(
        "POST /x HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip, br\r\n\
         Content-Encoding: gzip\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let answer = stage.raw(&[head.as_bytes(), PACKED].concat());
    let head = answer.to_ascii_lowercase();
    assert_eq!(field(&head, "content-encoding"), Some("gzip"), "{answer}");
    assert!(
        answer.ends_with(&*String::from_utf8_lossy(PACKED)),
        "{answer}"
    );
    let seen = backend.bytes().concat();
    assert!(seen.ends_with(&[b"\r\n\r\n", PACKED].concat()));
    let seen = String::from_utf8_lossy(&seen).to_ascii_lowercase();
    assert_eq!(field(&seen, "accept-encoding"), Some("gzip, br"));
}
