//! The guard and the HTTP library never disagree on where a request ends.
//!
//! Random streams of good, odd and damaged requests: what the guard lets pass goes through a
//! hyper server, whole and request by request.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper::Request;
use hyper::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::protocol::corpus::seeds;

/// A request as hyper's service saw it: its target, and its body and trailers when they came whole.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    target: String,
    body: Option<(Bytes, Option<HeaderMap>)>,
}

/// What hyper makes of a client that sends these bytes and closes.
fn seen_by_hyper(bytes: &[u8]) -> Vec<Seen> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let target = request.uri().to_string();
            let collected = request.into_body().collect().await.ok();
            let body = collected.map(|body| {
                let trailers = body.trailers().cloned();
                (body.to_bytes(), trailers)
            });
            seen.lock().unwrap().push(Seen { target, body });
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let connection = http1::Builder::new()
            .half_close(true)
            .max_headers(LIMITS.max_headers)
            .serve_connection(TokioIo::new(server), service);
        let mut answers = Vec::new();
        let (_, read) = tokio::join!(connection, client.read_to_end(&mut answers));
        read.unwrap();
    });
    drop(runtime);
    seen.lock().unwrap().clone()
}

/// Where each request ends that the guard takes whole, and whether it refuses what follows.
fn ends(bytes: &[u8]) -> (Vec<usize>, Option<Violation>) {
    let mut guard = Guard::new(LIMITS);
    let mut ends = Vec::new();
    for at in 0..bytes.len() {
        let mut then = guard.inspect(&bytes[at..=at]).then;
        if then == Next::AwaitUpgrade {
            guard.not_upgraded();
            then = Next::More;
        }
        if let Next::Refuse(violation) = then {
            return (ends, Some(violation));
        }
        if guard.is_between_messages() && guard.requests() as usize > ends.len() {
            ends.push(at + 1);
        }
    }
    (ends, None)
}

/// The same bytes, as they pass in one piece.
fn passed(bytes: &[u8]) -> usize {
    let mut guard = Guard::new(LIMITS);
    let mut passed = 0;
    loop {
        let Inspection { pass, then } = guard.inspect(&bytes[passed..]);
        passed += pass;
        if then != Next::AwaitUpgrade {
            return passed;
        }
        guard.not_upgraded();
    }
}

fn agree(bytes: &[u8]) {
    let (ends, violation) = ends(bytes);
    let mut start = 0;
    let mut whole = Vec::new();
    for end in ends {
        let request = &bytes[start..end];
        let seen = seen_by_hyper(request);
        assert_eq!(seen.len(), 1, "one request: {}", request.escape_ascii());
        assert!(seen[0].body.is_some(), "whole: {}", request.escape_ascii());
        let cut = seen_by_hyper(&request[..request.len() - 1]);
        assert!(
            cut.iter().all(|seen| seen.body.is_none()),
            "it ends later: {}",
            request.escape_ascii()
        );
        whole.extend(seen);
        start = end;
    }
    let passed = passed(bytes);
    if violation.is_some() {
        assert!(passed == start || bytes[start..passed] == *b"\r\n");
    }
    let mut together = seen_by_hyper(&bytes[..passed]);
    together.retain(|seen| seen.body.is_some());
    // After a request that does not keep the connection, hyper reads no other.
    let text = bytes.to_ascii_lowercase();
    let contains = |word: &[u8]| text.windows(word.len()).any(|window| window == word);
    if contains(b"http/1.0") || contains(b"close") {
        assert!(!together.is_empty() || whole.is_empty());
        whole.truncate(together.len());
    }
    assert_eq!(together, whole, "together: {}", bytes.escape_ascii());
}

#[test]
fn hyper_sees_what_the_guard_saw_in_ordinary_requests() {
    let pipeline = [
        with_fields("X: y\r\n"),
        post("Content-Length: 5\r\n", "hello"),
        b"\r\n".to_vec(),
        chunked("5\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"),
        with_fields("Upgrade: websocket\r\nConnection: upgrade\r\n"),
        with_fields("Upgrade: h2c\r\n"),
        post("Content-Length: 0\r\n", ""),
        with_fields(""),
    ]
    .concat();
    agree(&pipeline);
    assert_eq!(ends(&pipeline).0.len(), 7);
    assert_eq!(ends(&pipeline).1, None);
    agree(&pipeline[..pipeline.len() - 1]);
}

fn request_line() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "(GET|POST|PUT|OPTIONS|DELETE|x) /[a-z0-9?/%=&]{0,6} HTTP/1\\.1\r\n",
        1 => "(GET|POST|OPTIONS|CONNECT) (/|\\*|http://a(/b)?|a:80|a|//|/\\?|/#) HTTP/1\\.[0129]\r\n",
        1 => "[GET/ 01.HP\r\n\t]{1,16}\r\n",
    ]
}

fn field_line() -> impl Strategy<Value = String> {
    let value = "[\t !-~]{0,12}";
    prop_oneof![
        6 => ("[A-Za-z0-9_-]{1,8}", value).prop_map(|(name, value)| format!("{name}:{value}\r\n")),
        1 => Just("Expect: 100-continue\r\n".to_owned()),
        1 => Just("Upgrade: h2c\r\n".to_owned()),
        1 => Just("Upgrade: a\r\n".to_owned()),
        1 => Just("Content-Length: 5\r\n".to_owned()),
        1 => Just("Transfer-Encoding: chunked\r\n".to_owned()),
        1 => "(Host|Content-Length|Transfer-Encoding|TE|Trailer)( |\t)?:( |\t|\x0b)?(5|0|a|chunked|,|\\+5|05|5, 5|gzip)( |\t)?\r?\n",
    ]
}

fn framed_body() -> impl Strategy<Value = (String, String)> {
    let sized = "[ -~\r\n]{0,20}".prop_map(|body| {
        let field = format!("Content-Length: {}\r\n", body.len());
        (field, body)
    });
    let chunk = ("[ -~\r\n]{1,20}", "0{0,2}").prop_map(|(data, zeros)| {
        let size = data.len();
        format!("{zeros}{size:x}\r\n{data}\r\n")
    });
    let odd = "[0-9a-fA-F]{1,2}( |;a|;a=\"b\"|\t)?\r?\n[a-z]{0,10}\r?\n";
    let trailer = "[A-Za-z-]{1,6}:[ -~]{0,6}\r\n";
    let last = (0..4_usize, trailer).prop_map(|(zeros, trailer)| {
        let trailer = if zeros == 0 { trailer } else { String::new() };
        format!("{}0\r\n{trailer}\r\n", "0".repeat(zeros))
    });
    let chunks = (vec(prop_oneof![9 => chunk, 1 => odd], 0..4), last);
    let chunks = chunks.prop_map(|(chunks, last)| {
        let field = "Transfer-Encoding: chunked\r\n".to_owned();
        (field, chunks.concat() + &last)
    });
    prop_oneof![2 => Just(Default::default()), 2 => sized, 3 => chunks]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let host = prop_oneof![9 => Just("Host: a\r\n"), 1 => Just("")];
    let empty = prop_oneof![9 => Just(""), 1 => Just("\r\n"), 1 => Just("\n")];
    let fields = vec(field_line(), 0..3);
    let parts = (empty, request_line(), host, fields, framed_body());
    parts.prop_map(|(empty, line, host, fields, (framing, body))| {
        let fields = fields.concat();
        format!("{empty}{line}{host}{fields}{framing}\r\n{body}").into_bytes()
    })
}

proptest! {
    #[test]
    fn hyper_sees_what_the_guard_saw(requests in vec(request(), 1..4)) {
        agree(&requests.concat());
        fuzz(&requests.concat());
    }

    #[test]
    fn hyper_sees_what_the_guard_saw_of_damaged_requests(
        requests in vec(request(), 1..3),
        changes in vec((any::<usize>(), prop_oneof![
            any::<u8>(),
            Just(b'\r'),
            Just(b'\n'),
            Just(b' '),
            Just(b':'),
            Just(0),
            Just(b';'),
        ]), 0..3),
    ) {
        let mut bytes = requests.concat();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        agree(&bytes);
        fuzz(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        fuzz(&bytes);
    }

    /// The library takes every target that the guard takes.
    #[test]
    fn targets_are_what_the_library_takes(target in "[!-~]{1,10}") {
        let bytes = format!("GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n");
        if super::requests(bytes).is_ok() {
            let uri: http::Uri = format!("/{target}").parse().unwrap();
            prop_assert_eq!(uri.to_string(), format!("/{target}"), "nothing is cut off");
        }
    }
}

#[test]
fn the_corpus_holds() {
    for seed in seeds("http1") {
        fuzz(&seed);
        agree(&seed);
    }
}
