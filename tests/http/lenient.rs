//! What is unusual and allowed works: whoever refuses it breaks honest clients.

use std::io::Read;
use std::io::Write;

use crate::harness::Plan;
use crate::harness::read_answer;
use crate::harness::read_head;
use crate::harness::status;
use crate::recorder::Recorder;
use crate::recorder::field;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::wait_until;

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let backend = Recorder::answering(|head| ok(head.split(' ').nth(1).unwrap()));
    let stage = Plan::new(&[backend.addr()]).start();
    let asked: String = (0..50)
        .map(|nth| format!("GET /{nth} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
        .collect();
    let mut client = stage.connect();
    client.write_all(asked.as_bytes()).unwrap();
    for nth in 0..50 {
        let answer = read_answer(&mut client);
        assert!(
            answer.ends_with(&format!("\r\n\r\n/{nth}")),
            "{nth}: {answer}"
        );
    }
}

#[test]
fn a_client_that_waits_for_100_is_told_to_go_on() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let mut client = stage.connect();
    client
        .write_all(
            b"PUT /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        )
        .unwrap();
    assert_eq!(read_head(&mut client), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hello").unwrap();
    assert_eq!(status(&read_answer(&mut client)), 200);
    assert!(
        backend.text().ends_with("\r\n\r\nhello"),
        "{}",
        backend.text()
    );
}

#[test]
fn clients_of_http_1_0_keep_their_connection_when_they_ask() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let mut client = stage.connect();
    for _ in 0..2 {
        client
            .write_all(b"GET /x HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n")
            .unwrap();
        let answer = read_answer(&mut client);
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
        let head = answer.to_ascii_lowercase();
        assert_eq!(field(&head, "connection"), Some("keep-alive"), "{answer}");
    }
    let answer = stage.raw(b"GET /x HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
}

/// RFC 9112, 6.1: a client of HTTP/1.0 does not know chunks.
#[test]
fn an_answer_of_unknown_length_ends_a_connection_of_http_1_0() {
    let backend = Recorder::answering(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec()
    });
    let stage = Plan::new(&[backend.addr()]).start();
    let answer = stage.raw(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    let head = answer.to_ascii_lowercase();
    assert_eq!(field(&head, "transfer-encoding"), None, "{answer}");
}

/// An orderly close would say that this was all of it.
#[test]
fn half_an_answer_to_http_1_0_ends_in_a_reset() {
    let halves: [&[u8]; 2] = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    ];
    for half in halves {
        let backend = Recorder::closing_after(half);
        let stage = Plan::new(&[backend.addr()]).start();
        let mut client = stage.connect();
        client.write_all(b"GET /x HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let error = client.read_to_end(&mut answer).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

/// The version in an answer is that of who sends it (RFC 9110, 2.5).
#[test]
fn the_version_of_a_backend_is_not_passed_on() {
    let backend =
        Recorder::answering(|_| b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na".to_vec());
    let stage = Plan::new(&[backend.addr()]).start();
    let mut client = stage.connect();
    for _ in 0..2 {
        client
            .write_all(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
            .unwrap();
        let answer = read_answer(&mut client);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}

#[test]
fn chunks_and_their_trailers_arrive() {
    let backend = Recorder::answering(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
          2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"
            .to_vec()
    });
    let stage = Plan::new(&[backend.addr()]).start();
    let answer = stage.raw(
        b"POST /x HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE, close\r\n\
          Transfer-Encoding: Chunked\r\nTrailer: X-Check\r\n\r\n\
          5\r\nhello\r\n00A\r\n, chunked!\r\n0\r\nX-Check: 42\r\n\r\n",
    );
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = backend.text();
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    let head = format!("{}\r\n", head.to_ascii_lowercase());
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
    assert_eq!(field(&head, "content-length"), None, "{head}");
    let body = body.to_ascii_lowercase();
    assert!(
        body.contains("hello") && body.contains(", chunked!"),
        "{body}"
    );
    assert!(body.ends_with("0\r\nx-check: 42\r\n\r\n"), "{body}");
    let answer = answer.to_ascii_lowercase();
    assert!(answer.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{answer}");
}

#[test]
fn answers_without_a_body_leave_the_connection_in_order() {
    let backend = Recorder::answering(|head| match head.split(' ').nth(1).unwrap() {
        "/head" => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_vec(),
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: \"x\"\r\n\r\n".to_vec(),
        _ => ok("end"),
    });
    let stage = Plan::new(&[backend.addr()]).start();
    let asked = [("HEAD", "/head"), ("GET", "/204"), ("GET", "/304")]
        .map(|(method, path)| format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
    let last = "GET /end HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let answers = stage.raw(format!("{}{last}", asked.concat()).as_bytes());
    let heads: Vec<&str> = answers.split_inclusive("\r\n\r\n").collect();
    assert_eq!(heads.len(), 5, "{answers}");
    assert_eq!(
        heads[..4].iter().map(|it| status(it)).collect::<Vec<_>>(),
        [200, 204, 304, 200]
    );
    let lower = answers.to_ascii_lowercase();
    let lower: Vec<&str> = lower.split_inclusive("\r\n\r\n").collect();
    assert_eq!(field(lower[0], "content-length"), Some("1000"), "{answers}");
    assert_eq!(field(lower[1], "content-length"), None, "{answers}");
    assert_eq!(field(lower[2], "etag"), Some("\"x\""), "{answers}");
    assert_eq!(heads[4], "end");
}

#[test]
fn empty_values_odd_bytes_and_long_heads_arrive_as_they_are() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let long = "v".repeat(20_000);
    let path = "p".repeat(7_000);
    let many: String = (0..100).map(|nth| format!("X-{nth}: {nth}\r\n")).collect();
    let request = format!(
        "\r\nPOST /{path}?a=%00&b=%0d%0a HTTP/1.1\r\nhOsT:a.test\r\nX-Empty:\r\n\
         X-Odd: \u{e9}\t\"x\\\r\nX-Twice: 1\r\nX-Twice: 2\r\n{many}Content-Length: 0\r\n\
         Connection: close\r\n\r\n"
    );
    let answer = stage.raw(request.as_bytes());
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = backend.text();
    assert!(seen.starts_with(&format!("POST /{path}?a=%00&b=%0d%0a HTTP/1.1\r\n")));
    let lower = seen.to_ascii_lowercase();
    assert_eq!(field(&lower, "x-empty"), Some(""));
    assert_eq!(field(&lower, "x-odd"), Some("\u{e9}\t\"x\\"));
    assert_eq!(field(&lower, "x-99"), Some("99"));
    assert!(
        lower.contains("\r\nx-twice: 1\r\nx-twice: 2\r\n"),
        "{lower}"
    );
    let answer = stage.raw(
        format!("GET /x HTTP/1.1\r\nHost: a.test\r\nX-Long: {long}\r\nConnection: close\r\n\r\n")
            .as_bytes(),
    );
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(backend.text().contains(&long));
}

#[test]
fn a_request_in_single_bytes_is_the_same_request() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let mut client = stage.connect();
    for byte in b"GET /slow HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc" {
        client.write_all(&[*byte]).unwrap();
    }
    assert_eq!(status(&read_answer(&mut client)), 200);
    wait_until(PATIENCE, "the body", || {
        backend.text().ends_with("\r\n\r\nabc")
    });
}
