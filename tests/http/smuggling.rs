//! Requests on whose end or receiver readers may disagree: what reached the backend, byte for byte.
//!
//! Security classes 1 and 3: nothing of a request that is refused goes to a backend, what came
//! before it on the connection was answered, what comes after it is never looked at.

mod payloads;

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

use crate::harness::Plan;
use crate::harness::Stage;
use crate::harness::read_head;
use crate::harness::status;
use crate::recorder::Recorder;
use crate::recorder::field;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::wait_until;
use payloads::CHUNKS;
use payloads::FRAMING;
use payloads::HEADS;
use payloads::ONE;
use payloads::TOLD;

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: probe\r\n\r\n";
/// What a lenient reader would take for a second request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
/// The id of [`GOOD`] is taken over, so that its bytes are always the same.
const TRUSTS: &str = "http: {trusted: [127.0.0.0/8], max_body: 1MiB}";
const POST: &str = "POST /bad HTTP/1.1\r\nHost: a.test\r\n";
/// A body that begins well.
const BEGUN: &str = "POST /bad HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                     3\r\nabc\r\n";

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
fn refused(stage: &Stage, bad: &[u8], wanted: u16) {
    let answers = stage.raw(&[GOOD.as_bytes(), bad, SMUGGLED.as_bytes()].concat());
    let shown = bad.escape_ascii();
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
    let post = |parts: &[&[u8]]| [&[POST.as_bytes()], parts].concat().concat();
    let framed = FRAMING
        .iter()
        .map(|fields| post(&[fields, b"\r\n0\r\n\r\n"]));
    let chunked = CHUNKS
        .iter()
        .map(|body| post(&[b"Transfer-Encoding: chunked\r\n\r\n", body]));
    let heads = HEADS.iter().map(|head| head.to_vec());
    let bad = framed.chain(chunked).chain(heads).map(|bytes| (bytes, 400));
    let told = TOLD.iter().map(|(head, status)| (head.to_vec(), *status));
    let probes: Vec<(Vec<u8>, u16)> = bad.chain(told).collect();
    assert!(probes.len() > 350, "{}", probes.len());
    for (sent, (bad, wanted)) in probes.iter().enumerate() {
        refused(&stage, bad, *wanted);
        let expected = good.repeat(sent + 2);
        assert_eq!(backend.text(), expected, "{}", bad.escape_ascii());
    }
}

/// What is unusual and means one thing is one request: its line, one word on its length and its
/// body, and then the next one.
#[test]
fn an_odd_request_without_a_second_meaning_reaches_its_backend_as_one() {
    const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let backend = Recorder::named("a");
    let stage = stage(&backend);
    assert!(ONE.len() > 20, "{}", ONE.len());
    for (sent, line, behind) in ONE {
        let shown = sent.escape_ascii();
        let before = backend.text().len();
        let answers = stage.raw(&[sent, LAST].concat());
        assert_eq!(
            answers.matches(" 200 OK\r\n").count(),
            2,
            "{shown}: {answers}"
        );
        let seen = backend.text().split_off(before);
        let (one, last) = seen.split_once("GET /last HTTP/1.1\r\n").unwrap();
        let (head, body) = one.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, *behind, "{shown}: {seen}");
        assert_eq!(head.split_once("\r\n").unwrap().0, *line, "{shown}: {seen}");
        let head = format!("{}\r\n", head.to_ascii_lowercase());
        let lengths = ["content-length", "transfer-encoding"].map(|name| {
            let lines = head.matches(&format!("\r\n{name}:")).count();
            assert_eq!(lines, usize::from(field(&head, name).is_some()), "{seen}");
            lines
        });
        assert!(lengths[0] + lengths[1] <= 1, "{shown}: {seen}");
        assert!(body.is_empty() || lengths[0] + lengths[1] == 1, "{seen}");
        assert_eq!(
            last.find("\r\n\r\n"),
            Some(last.len() - 4),
            "{shown}: {seen}"
        );
        for gone in ["connection", "upgrade", "http2-settings", "expect"] {
            assert_eq!(field(&head, gone), None, "{shown}: {seen}");
        }
    }
}

/// A connection that its client has ended takes no further request, whatever comes.
#[test]
fn what_follows_the_last_request_of_a_connection_is_never_looked_at() {
    let backend = Recorder::named("a");
    let stage = stage(&backend);
    for (version, field) in [("1.1", "Connection: close\r\n"), ("1.0", "")] {
        for more in [SMUGGLED, "Invalid\r\n\r\n", "\0"] {
            let before = backend.text().len();
            let last = format!("GET /last HTTP/{version}\r\nHost: a.test\r\n{field}\r\n");
            let answers = stage.raw(format!("{last}{more}").as_bytes());
            assert_eq!(answers.matches("HTTP/").count(), 1, "{more}: {answers}");
            assert_eq!(status(&answers), 200, "{more}: {answers}");
            let seen = backend.text().split_off(before);
            assert!(seen.starts_with("GET /last HTTP/1.1\r\n"), "{seen}");
            assert_eq!(seen.find("\r\n\r\n"), Some(seen.len() - 4), "{seen}");
        }
    }
}

/// `Connection` takes off fields of one connection. A client that names others would have one
/// reader see them and the next one not.
#[test]
fn no_client_takes_the_length_or_the_host_off_its_request() {
    let backend = Recorder::named("a");
    let stage = stage(&backend);
    for named in ["Content-Length", "Host", "Cookie"] {
        for option in [named.to_owned(), format!("close, {named}")] {
            let head = format!(
                "{POST}Cookie: a=b\r\nConnection: {option}\r\nContent-Length: 5\r\n\r\nhello"
            );
            let last = "GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
            let answers = stage.raw(format!("{head}{last}").as_bytes());
            assert_eq!(status(&answers), 400, "{option}: {answers}");
            let seen = backend.text();
            assert!(!seen.contains("/bad"), "{option}: {seen}");
            assert!(!seen.contains("hello"), "{option}: {seen}");
        }
    }
}

/// The head has gone to the backend when the body turns out to be bad: it ends there unfinished,
/// on a connection that nobody uses again.
#[test]
fn a_body_that_turns_bad_ends_at_the_backend_without_its_end() {
    let backend = Recorder::named("a");
    let stage = stage(&backend);
    for bad in CHUNKS {
        let (mut client, before) = begin(&stage, &backend);
        client
            .write_all(&[bad, SMUGGLED.as_bytes()].concat())
            .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        let shown = bad.escape_ascii();
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

/// Sends what is good of a body; what the backend has seen when that has arrived.
fn begin(stage: &Stage, backend: &Recorder) -> (TcpStream, String) {
    let earlier = backend.text().len();
    let mut client = stage.connect();
    client.write_all(BEGUN.as_bytes()).unwrap();
    wait_until(PATIENCE, "the body's begin", || {
        backend.text()[earlier..].ends_with("3\r\nabc\r\n")
    });
    (client, backend.text())
}

/// The same with an answer that has begun, and that nothing but the connection's end would end.
#[test]
fn a_body_that_turns_bad_under_its_answer_leaves_neither_looking_whole() {
    let backend = Recorder::scripted(|_, connection| {
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nbegin");
        connection.read_to_end();
    });
    let stage = stage(&backend);
    let clients: Vec<_> = CHUNKS
        .iter()
        .map(|bad| {
            let (mut client, _) = begin(&stage, &backend);
            let answer = read_head(&mut client);
            assert_eq!(status(&answer), 200, "{answer}");
            client
                .write_all(&[bad, SMUGGLED.as_bytes()].concat())
                .unwrap();
            (client, bad.escape_ascii())
        })
        .collect();
    for (mut client, shown) in clients {
        // It may end in a reset.
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        let rest = String::from_utf8_lossy(&rest);
        assert!(!rest.contains("0\r\n\r\n"), "{shown}: {rest}");
    }
    wait_until(PATIENCE, "the ends of the backend's connections", || {
        backend.open_requests() == 0
    });
    let connections = backend.bytes();
    assert_eq!(connections.len(), CHUNKS.len());
    for (seen, bad) in connections.iter().zip(CHUNKS) {
        let (seen, shown) = (seen.escape_ascii().to_string(), bad.escape_ascii());
        assert!(seen.ends_with(r"\r\n3\r\nabc\r\n"), "{shown}: {seen}");
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
