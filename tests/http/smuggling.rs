//! Requests on whose end or receiver readers may disagree: what reached the backend, byte for byte.
//!
//! Security classes 1 and 3: nothing of a request that is refused goes to a backend, what came
//! before it on the connection was answered, what comes after it is never looked at.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

use crate::harness::Plan;
use crate::harness::Stage;
use crate::harness::read_head;
use crate::harness::status;
use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::wait_until;

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: probe\r\n\r\n";
/// What a lenient reader would take for a second request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
/// The id of [`GOOD`] is taken over, so that its bytes are always the same.
const TRUSTS: &str = "http: {trusted: [127.0.0.0/8], max_body: 1MiB}";

/// Further fields of a POST whose body is five bytes, or an empty chunk.
const FRAMING: &[&str] = &[
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    "Content-Length: 5\r\nContent-Length: 6\r\n",
    "Content-Length: 5\r\nContent-Length: 5\r\n",
    "Content-Length: 0\r\ncontent-length: 5\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length: 5, 6\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: -5\r\n",
    "Content-Length: 0x5\r\n",
    "Content-Length: 05\r\n",
    "Content-Length: 5 0\r\n",
    "Content-Length: 5.0\r\n",
    "Content-Length: \"5\"\r\n",
    "Content-Length:\r\n",
    "Content-Length: 18446744073709551621\r\n",
    "Content-Length: 99999999999999999999999999\r\n",
    "Content-Length : 5\r\n",
    "Content-Length\t: 5\r\n",
    " Content-Length: 5\r\n",
    "X: y\r\n Content-Length: 5\r\n",
    "X: y\r\n\tTransfer-Encoding: chunked\r\n",
    "Content-Length: 5\r\n 0\r\n",
    "Content_Length: 5\r\n",
    "Transfer_Encoding: chunked\r\n",
    "Content-Length: 5\n",
    "X: y\nContent-Length: 5\r\n",
    "X: y\rContent-Length: 5\r\n",
    "X: y\r\r\nContent-Length: 5\r\n",
    "Content-Length: \x0b5\r\n",
    "Content-Length: 5\0\r\n",
    "Content-Length\0: 5\r\n",
    "(Content-Length): 5\r\n",
    "Content-Length\r\n",
    ": 5\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding\x0b: chunked\r\n",
    "Transfer-Encoding:\x0bchunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked, chunked\r\n",
    "Transfer-Encoding: identity, chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: chunked, gzip\r\n",
    "Transfer-Encoding: ,chunked\r\n",
    "Transfer-Encoding: chunked,\r\n",
    "Transfer-Encoding: chunked;q=1\r\n",
    "Transfer-Encoding: xchunked\r\n",
    "Transfer-Encoding: \"chunked\"\r\n",
    "Transfer-Encoding: chunked\u{a0}\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding: cow\r\n",
    "Transfer-Encoding:\r\n",
    "Transfer-Encoding:\r\n chunked\r\n",
    "Foo: bar\r\n\rTransfer-Encoding: chunked\r\n",
];

/// Bodies of a chunked POST.
const CHUNKS: &[&str] = &[
    "5;a=b\r\nhello\r\n0\r\n\r\n",
    "5;\r\nhello\r\n0\r\n\r\n",
    "0;a\r\n\r\n",
    "5;a\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\rhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "g\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "8000000000000000\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "5\r\nhelloX\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "0\r\n\n",
    "0\n\r\n",
    "0\r\nContent-Length: 5\r\n\r\n",
    "0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "0\r\nHost: b.test\r\n\r\n",
    "0\r\nX : y\r\n\r\n",
    "0\r\nX: y\r\n z\r\n\r\n",
];

/// Whole heads, with what each is answered.
const HEADS: &[(&str, u16)] = &[
    (
        "POST /bad HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("GET /bad HTTP/1.1\r\n\r\n", 400),
    (
        "GET /bad HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        400,
    ),
    (
        "GET /bad HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n",
        400,
    ),
    ("GET /bad HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n", 400),
    ("GET /bad HTTP/1.1\r\nHost: a.test/bad\r\n\r\n", 400),
    ("GET /bad HTTP/1.1\r\nHost: u@a.test\r\n\r\n", 400),
    (
        "GET http://a.test/bad HTTP/1.1\r\nHost: b.test\r\n\r\n",
        400,
    ),
    ("GET http://a.test/bad HTTP/1.1\r\n\r\n", 400),
    (
        "GET http://u@a.test/bad HTTP/1.1\r\nHost: a.test\r\n\r\n",
        400,
    ),
    ("GET ftp://a.test/bad HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    ("GET  /bad HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    ("GET /bad HTTP/1.1 \r\nHost: a.test\r\n\r\n", 400),
    ("GET\t/bad HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    ("GET /ba d HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    ("GET /bad\r\n\r\n", 400),
    ("GET /bad http/1.1\r\nHost: a.test\r\n\r\n", 400),
    ("GET /bad HTTP/1.2\r\nHost: a.test\r\n\r\n", 505),
    ("GET /bad HTTP/0.9\r\nHost: a.test\r\n\r\n", 505),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("GET bad HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    ("GET /bad#x HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    ("GET /bad\0 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    ("GET /bad HTTP/1.1\nHost: a.test\n\n", 400),
    ("GET /bad HTTP/1.1\rHost: a.test\r\r", 400),
    ("\r\n\r\nGET /bad HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    ("CONNECT b.test:80 HTTP/1.1\r\nHost: b.test:80\r\n\r\n", 405),
    (
        "GET /bad HTTP/1.1\r\nHost: a.test\r\nExpect: 200-ok\r\n\r\n",
        417,
    ),
    ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n", 400),
];

fn stage(backend: &Recorder) -> Stage {
    Plan::new(&[backend.addr()]).listener(TRUSTS).start()
}

/// What a good request is when it reaches the backend.
fn reference(stage: &Stage, backend: &Recorder) -> String {
    let mut client = stage.connect();
    client.write_all(GOOD.as_bytes()).unwrap();
    expect_answer(&mut client, 200);
    backend.text()
}

#[track_caller]
fn expect_answer(client: &mut TcpStream, wanted: u16) -> String {
    let answer = crate::harness::read_answer(client);
    assert_eq!(status(&answer), wanted, "{answer}");
    answer
}

/// Sends a good request, a bad one and one that must not be seen, all at once.
#[track_caller]
fn refused(stage: &Stage, bad: &str, wanted: u16) {
    let answers = stage.raw(format!("{GOOD}{bad}{SMUGGLED}").as_bytes());
    let shown = bad.escape_debug();
    assert_eq!(status(&answers), 200, "{shown}: {answers}");
    assert_eq!(
        answers.matches("HTTP/1.1 ").count(),
        2,
        "{shown}: {answers}"
    );
    let (_, last) = answers.rsplit_once("HTTP/1.1 ").unwrap();
    assert!(last.starts_with(&wanted.to_string()), "{shown}: {answers}");
    let last = last.to_ascii_lowercase();
    assert!(
        last.contains("\r\nconnection: close\r\n"),
        "{shown}: {last}"
    );
}

#[test]
fn nothing_of_an_ambiguous_request_reaches_a_backend() {
    let backend = Recorder::named("a");
    let stage = stage(&backend);
    let good = reference(&stage, &backend);
    assert!(good.starts_with("GET /good HTTP/1.1\r\n"), "{good}");
    let framed = FRAMING.iter().map(|fields| {
        let head = format!("POST /bad HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
        (format!("{head}0\r\n\r\n"), 400)
    });
    let chunked = CHUNKS.iter().map(|body| {
        let head = "POST /bad HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        (format!("{head}{body}"), 400)
    });
    let heads = HEADS
        .iter()
        .map(|(head, status)| ((*head).to_owned(), *status));
    let probes: Vec<(String, u16)> = framed.chain(chunked).chain(heads).collect();
    assert!(probes.len() > 100, "{}", probes.len());
    for (sent, (bad, wanted)) in probes.iter().enumerate() {
        refused(&stage, bad, *wanted);
        let expected = good.repeat(sent + 2);
        assert_eq!(backend.text(), expected, "{}", bad.escape_debug());
    }
}

/// The head has gone to the backend when the body turns out to be bad: it ends there unfinished,
/// on a connection that nobody uses again.
#[test]
fn a_body_that_turns_bad_ends_at_the_backend_without_its_end() {
    let head = "POST /bad HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                3\r\nabc\r\n";
    for bad in CHUNKS {
        let backend = Recorder::named("a");
        let stage = stage(&backend);
        let mut client = stage.connect();
        client.write_all(head.as_bytes()).unwrap();
        wait_until(PATIENCE, "the body's begin", || {
            backend.text().ends_with("3\r\nabc\r\n")
        });
        let before = backend.text();
        client
            .write_all(format!("{bad}{SMUGGLED}").as_bytes())
            .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        let shown = bad.escape_debug();
        assert_eq!(status(&answer), 400, "{shown}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{shown}: {answer}");
        wait_until(PATIENCE, "the end of the backend's connection", || {
            backend.open_requests() == 0
        });
        let after = backend.text();
        let more = after.strip_prefix(&before).unwrap();
        assert!(!more.contains("0\r\n\r\n"), "{shown}: {more:?}");
        assert!(!more.contains("smuggled"), "{shown}: {more:?}");
    }
}

/// The same with an answer that has begun, and that nothing but the connection's end would end.
#[test]
fn a_body_that_turns_bad_under_its_answer_leaves_neither_looking_whole() {
    let head = "POST /bad HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                3\r\nabc\r\n";
    for bad in CHUNKS {
        let backend = Recorder::scripted(|_, connection| {
            connection.send(b"HTTP/1.1 200 OK\r\n\r\nbegin");
            connection.read_to_end();
        });
        let stage = stage(&backend);
        let mut client = stage.connect();
        client.write_all(head.as_bytes()).unwrap();
        let mut answer = read_head(&mut client);
        assert_eq!(status(&answer), 200, "{answer}");
        wait_until(PATIENCE, "the body's begin", || {
            backend.text().ends_with("3\r\nabc\r\n")
        });
        client
            .write_all(format!("{bad}{SMUGGLED}").as_bytes())
            .unwrap();
        // It may end in a reset.
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        answer.push_str(&String::from_utf8_lossy(&rest));
        let shown = bad.escape_debug();
        assert!(!answer.contains("0\r\n\r\n"), "{shown}: {answer}");
        wait_until(PATIENCE, "the end of the backend's connection", || {
            backend.open_requests() == 0
        });
        let seen = backend.text();
        assert!(seen.ends_with("3\r\nabc\r\n"), "{shown}: {seen}");
    }
}

#[test]
fn bytes_after_an_upgrade_wait_for_the_backends_answer() {
    let ask =
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    // A backend that does not switch: what follows is a request like any other.
    let backend = Recorder::named("a");
    let plain = stage(&backend);
    let answers = plain.raw(
        format!("{ask}GET /next HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").as_bytes(),
    );
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    let seen = backend.text();
    assert_eq!(seen.matches(" HTTP/1.1\r\n").count(), 2, "{seen}");
    for head in seen.split_inclusive("\r\n\r\n") {
        let ids = head.to_ascii_lowercase().matches("x-request-id:").count();
        assert_eq!(ids, 1, "went through without being read: {head}");
    }
    // … and what is no request is refused, and never seen by the backend.
    let before = backend.text();
    let answers = plain.raw(format!("{ask}\x01\x02 raw\r\n\r\n").as_bytes());
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 1, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 400 ").count(), 1, "{answers}");
    let after = backend.text();
    assert!(!after[before.len()..].contains("raw"), "{after}");
}

#[test]
fn bytes_after_an_upgrade_reach_a_backend_that_switches() {
    let backend = Recorder::answering(|head| match head.contains("GET /ws ") {
        true => b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                  Upgrade: websocket\r\n\r\n"
            .to_vec(),
        false => ok("a"),
    });
    let stage = stage(&backend);
    let mut client = stage.connect();
    client
        .write_all(
            b"GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\n\
              Upgrade: websocket\r\n\r\n\x01\x02GET /raw",
        )
        .unwrap();
    expect_answer(&mut client, 101);
    wait_until(PATIENCE, "the bytes behind the upgrade", || {
        backend.text().ends_with("\r\n\r\n\x01\x02GET /raw")
    });
    assert_eq!(backend.text().matches("GET /ws ").count(), 1);
}

/// Class 4: the rest of a body must not become the next request.
#[test]
fn an_answer_before_the_bodys_end_leaves_nothing_behind() {
    let backend = Recorder::scripted(|first, connection| {
        let mut next = Some(first);
        // Answers at once, and only then reads the body.
        while let Some(head) = next {
            if !connection.send(&ok("early")) || connection.skip_body(&head).is_err() {
                return;
            }
            next = connection.next_head().ok().flatten();
        }
    });
    let stage = stage(&backend);
    let body = SMUGGLED.repeat(2_000);
    let length = body.len();
    let head = format!("POST /early HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n");
    let mut client = stage.connect();
    client.write_all(head.as_bytes()).unwrap();
    client.write_all(&body.as_bytes()[..100]).unwrap();
    expect_answer(&mut client, 200);
    // The proxy may close instead; then these fail.
    let _ = client.write_all(&body.as_bytes()[100..]);
    let _ = client.write_all(b"GET /second HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    let mut more = Vec::new();
    let _ = client.read_to_end(&mut more);
    let more = String::from_utf8_lossy(&more);
    let later = usize::from(!more.is_empty());
    assert_eq!(more.matches("HTTP/1.1 200 OK").count(), later, "{more}");
    let other = stage.raw(b"GET /other HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&other), 200, "{other}");
    assert_eq!(requests_of(&backend), 2 + later, "the body became requests");
}

#[test]
fn a_connection_with_half_a_body_is_not_used_again() {
    let backend = Recorder::scripted(|first, connection| {
        connection.send(&ok("early"));
        match first.starts_with("POST") {
            true => connection.read_to_end(),
            false => _ = connection.next_head(),
        }
    });
    let stage = stage(&backend);
    let mut client = stage.connect();
    client
        .write_all(b"POST /early HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\nabc")
        .unwrap();
    expect_answer(&mut client, 200);
    let other = stage.raw(b"GET /other HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&other), 200, "{other}");
    let connections = backend.bytes();
    assert_eq!(connections.len(), 2, "the same connection for both");
    assert!(connections[1].starts_with(b"GET /other "));
    drop(client);
    wait_until(PATIENCE, "the first connection's end", || {
        backend.open_requests() <= 1
    });
}

/// As the proxy meant them: each has an id of its own, and nothing inside a body has.
fn requests_of(backend: &Recorder) -> usize {
    backend.text().matches("\r\nx-request-id: ").count()
}

#[test]
fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    let backend = Recorder::named("a");
    let stage = stage(&backend);
    let mut client = stage.connect();
    client
        .write_all(format!("{GOOD}GET /next HT").as_bytes())
        .unwrap();
    expect_answer(&mut client, 200);
    client.write_all(b"TP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    expect_answer(&mut client, 200);
}

/// Class 3: a request never lasts until its connection's end.
#[test]
fn a_request_without_length_has_no_body() {
    let backend = Recorder::named("a");
    let stage = stage(&backend);
    for version in ["1.0", "1.1"] {
        let before = backend.text().len();
        let head = format!("POST /none HTTP/{version}\r\nHost: a.test\r\n");
        let answers =
            stage.raw(format!("{head}Connection: keep-alive\r\n\r\n{GOOD}not HTTP\r\n").as_bytes());
        assert_eq!(answers.matches(" 200 OK\r\n").count(), 2, "{answers}");
        assert_eq!(
            answers.matches(" 400 Bad Request\r\n").count(),
            1,
            "{answers}"
        );
        let seen = backend.text();
        assert!(seen[before..].ends_with("\r\n\r\n"), "{seen}");
        assert!(!seen.contains("not HTTP"), "{seen}");
    }
}

/// An answer without a length lasts until the backend closes: one that is cut off by a reset
/// must not look whole, and no other answer is read from that connection.
#[test]
fn an_answer_until_the_connections_end_is_framed_again() {
    let backend = Recorder::scripted(|_, connection| {
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end");
    });
    let stage = stage(&backend);
    let ask = "GET /x HTTP/1.1\r\nHost: a.test\r\n";
    let answers = stage.raw(format!("{ask}\r\n{ask}Connection: close\r\n\r\n").as_bytes());
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(
        answers.matches("D\r\nuntil the end\r\n0\r\n\r\n").count(),
        2,
        "{answers}"
    );
}
