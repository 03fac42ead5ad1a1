//! Requests of HTTP/2 that would mean something else in HTTP/1.1: what reaches the backend.

use crate::frames::Client;
use crate::frames::END_HEADERS;
use crate::frames::END_STREAM;
use crate::frames::GET;
use crate::frames::HEADERS;
use crate::frames::POST;
use crate::frames::RST_STREAM;
use crate::frames::block;
use crate::frames::data;
use crate::frames::frame;
use crate::frames::last_data;
use crate::frames::open;
use crate::frames::request;
use crate::harness::Plan;
use crate::harness::Stage;
use crate::recorder::Recorder;
use crate::recorder::field;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::wait_until;

/// A name and the fields of a request, pseudo-headers included.
type Head = (&'static str, Vec<(&'static str, &'static str)>);

/// The usual request with one of its pseudo-headers replaced.
fn with(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    let replaced = GET.iter().map(|(known, old)| match *known == name {
        true => (name, value),
        false => (*known, *old),
    });
    replaced.collect()
}

/// The usual request and more.
fn and(fields: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&GET[..], fields].concat()
}

/// Whether the proxy refuses what was sent on stream 1, in any way.
fn is_refused(client: &mut Client) -> Option<String> {
    let mut said = Vec::new();
    while let Some(frame) = client.next() {
        if frame.stream == 1 {
            if frame.kind == RST_STREAM {
                return None;
            }
            if frame.kind == HEADERS {
                let status = frame.status();
                return (!matches!(status, Some(400..=499))).then(|| format!("status {status:?}"));
            }
        }
        said.push(frame);
    }
    None
}

#[test]
fn heads_that_mean_two_things_reach_nobody() {
    let heads: Vec<Head> = vec![
        (
            "line break in a value",
            and(&[("x-test", "a\r\nx-evil: 1")]),
        ),
        ("CR in a value", and(&[("x-test", "a\rb")])),
        ("LF in a value", and(&[("x-test", "a\nb")])),
        ("NUL in a value", and(&[("x-test", "a\0b")])),
        ("line break in a name", and(&[("x-test\r\nx-evil", "1")])),
        ("colon in a name", and(&[("x-test: a", "1")])),
        ("space in a name", and(&[("x test", "1")])),
        ("empty name", and(&[("", "1")])),
        ("upper case", and(&[("X-Test", "1")])),
        ("white space before a value", and(&[("x-test", " 1")])),
        ("white space behind a value", and(&[("x-test", "1\t")])),
        (
            "transfer-encoding",
            and(&[("transfer-encoding", "chunked")]),
        ),
        (
            "transfer-encoding and a length",
            and(&[("transfer-encoding", "chunked"), ("content-length", "5")]),
        ),
        ("connection", and(&[("connection", "x-forwarded-for")])),
        ("keep-alive", and(&[("keep-alive", "timeout=5")])),
        ("proxy-connection", and(&[("proxy-connection", "close")])),
        ("upgrade", and(&[("upgrade", "websocket")])),
        ("te", and(&[("te", "chunked")])),
        (
            "line break in :path",
            with(":path", "/ HTTP/1.1\r\nhost: evil\r\n\r\n"),
        ),
        ("space in :path", with(":path", "/x HTTP/1.1")),
        ("NUL in :path", with(":path", "/\0")),
        (":path without a slash", with(":path", "x")),
        (":path that is a URI", with(":path", "http://evil.test/")),
        ("empty :path", with(":path", "")),
        ("space in :method", with(":method", "GET /evil HTTP/1.1")),
        ("line break in :method", with(":method", "GET\r\nx: y")),
        ("empty :method", with(":method", "")),
        (
            "line break in :authority",
            with(":authority", "a.test\r\nx-evil: 1"),
        ),
        ("user in :authority", with(":authority", "me@a.test")),
        ("path in :authority", with(":authority", "a.test/evil")),
        ("space in :authority", with(":authority", "a.test evil")),
        ("empty :authority", with(":authority", "")),
        (
            "line break in :scheme",
            with(":scheme", "http\r\nx-evil: 1"),
        ),
        (":scheme with a host", with(":scheme", "http://evil.test/?")),
        ("host that is another", and(&[("host", "evil.test")])),
        ("two hosts", and(&[("host", "a.test"), ("host", "a.test")])),
        ("two :method", and(&[(":method", "POST")])),
        ("two :path", and(&[(":path", "/evil")])),
        ("two :authority", and(&[(":authority", "evil.test")])),
        ("two :scheme", and(&[(":scheme", "http")])),
        (":protocol", and(&[(":protocol", "websocket")])),
        (
            "two lengths",
            and(&[("content-length", "0"), ("content-length", "5")]),
        ),
        (
            "two lengths that agree",
            and(&[("content-length", "0"), ("content-length", "0")]),
        ),
        ("a list of lengths", and(&[("content-length", "0, 0")])),
        ("a signed length", and(&[("content-length", "+0")])),
        (
            "a length that overflows",
            and(&[("content-length", "18446744073709551616")]),
        ),
        (
            "CONNECT",
            vec![(":method", "CONNECT"), (":authority", "a.test:443")],
        ),
    ];
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let mut failed = Vec::new();
    for (name, fields) in &heads {
        let mut client = Client::new(&stage);
        client.send(&request(1, fields));
        if let Some(instead) = is_refused(&mut client) {
            failed.push(format!("{name}: {instead}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(backend.text(), "");
}

/// RFC 9113, 8.1 lets a server that needs no more of a request say so by a reset without an error.
/// Clients say it, too, and their library takes it for the body's end.
#[test]
fn half_a_body_that_is_reset_without_an_error_never_looks_whole() {
    let no_error = frame(RST_STREAM, 0, 1, &[0; 4]);
    for is_early in [false, true] {
        for length in [None, Some("101")] {
            let backend = Recorder::scripted(move |head, connection| {
                if is_early || head.starts_with("GET ") {
                    connection.send(&ok("early"));
                }
                if !head.starts_with("GET ") {
                    connection.read_to_end();
                }
            });
            let stage = Plan::new(&[backend.addr()]).start();
            let mut client = Client::new(&stage);
            let length = length.map(|length| ("content-length", length));
            let fields: Vec<_> = POST.into_iter().chain(length).collect();
            // At once, and while the backend has it already.
            for is_slow in [false, true] {
                let begun = [open(1, &fields), data(1, b"half")].concat();
                if is_slow {
                    client = Client::new(&stage);
                    client.send(&begun);
                    wait_until(PATIENCE, "the body's begin", || {
                        backend.text().contains("half")
                    });
                    client.send(&no_error);
                } else {
                    client.send(&[&begun[..], &no_error].concat());
                }
                let shown = format!("early: {is_early}, {length:?}, slow: {is_slow}");
                let mut other = Client::new(&stage);
                assert_eq!(other.get(1), 200, "{shown}");
                wait_until(PATIENCE, "the end of the cut request", || {
                    backend.open_requests() == 0
                });
                for bytes in backend.bytes() {
                    let text = String::from_utf8_lossy(&bytes);
                    assert!(!text.contains("half\r\n0\r\n"), "{shown}: {text}");
                    let heads = text.matches(" HTTP/1.1\r\n").count();
                    assert!(!text.starts_with("POST ") || heads == 1, "{shown}: {text}");
                }
            }
        }
    }
}

#[test]
fn bodies_that_are_longer_or_shorter_than_their_length_make_no_second_request() {
    let smuggled = b"GET /evil HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let with_length = |length: &'static str| {
        let fields = [&POST[..], &[("content-length", length)]].concat();
        open(1, &fields)
    };
    let trailers = |fields| frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields));
    let bodies = [
        (
            "longer",
            [with_length("1"), last_data(1, smuggled)].concat(),
        ),
        (
            "longer in two",
            [with_length("1"), data(1, b"x"), last_data(1, smuggled)].concat(),
        ),
        (
            "shorter",
            [with_length("100"), last_data(1, smuggled)].concat(),
        ),
        (
            "none",
            request(1, &[&POST[..], &[("content-length", "100")]].concat()),
        ),
        (
            "line break in trailers",
            [
                open(1, &POST),
                data(1, b"x"),
                trailers(&[("x", "y\r\nGET /evil HTTP/1.1")]),
            ]
            .concat(),
        ),
    ];
    for (name, bytes) in bodies {
        let backend = Recorder::named("a");
        let stage = Plan::new(&[backend.addr()]).start();
        let mut client = Client::new(&stage);
        client.send(&bytes);
        assert_eq!(is_refused(&mut client), None, "{name}");
        // What follows on a connection to the backend would be the proof.
        let mut other = Client::new(&stage);
        assert_eq!(other.get(1), 200, "{name}");
        for connection in backend.bytes() {
            let text = String::from_utf8_lossy(&connection);
            let head = text.split("\r\n\r\n").next().unwrap();
            let lower = head.to_ascii_lowercase();
            // Half a body of a request that was cut off is no request.
            let is_whole = text.starts_with("GET / HTTP/1.1\r\n") && text.ends_with("\r\n\r\n");
            let is_cut_off = field(&lower, "content-length").is_some_and(|length| {
                let length: usize = length.parse().unwrap();
                text.len() - head.len() - 4 < length
            });
            let is_unfinished =
                field(&lower, "transfer-encoding").is_some() && !text.contains("\r\n0\r\n");
            assert!(is_whole || is_cut_off || is_unfinished, "{name}: {text}");
        }
    }
}

#[test]
fn trailers_cannot_change_a_request_that_has_been_judged() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let mut client = Client::new(&stage);
    let trailers = block(&[
        (":path", "/evil"),
        ("host", "evil.test"),
        ("content-length", "100"),
        ("transfer-encoding", "chunked"),
        ("authorization", "evil"),
    ]);
    let trailers = frame(HEADERS, END_STREAM | END_HEADERS, 1, &trailers);
    client.send(&[open(1, &POST), data(1, b"x"), trailers].concat());
    // Refused or left out: whatever of them reaches the backend is nothing of all this.
    let is_answered = is_refused(&mut client).is_some();
    let text = backend.text();
    assert!(
        text.is_empty() || text.starts_with("POST / HTTP/1.1\r\n"),
        "{text}"
    );
    assert!(!text.contains("evil") && !text.contains("100"), "{text}");
    assert_eq!(
        is_answered,
        text.ends_with("\r\n1\r\nx\r\n0\r\n\r\n"),
        "{text}"
    );
}

#[test]
fn a_request_becomes_one_of_http1() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let mut client = Client::new(&stage);
    client.send(&request(
        1,
        &[
            &GET[..],
            &[
                ("cookie", "a=1"),
                ("cookie", "b=2"),
                ("te", "trailers"),
                ("x-own", "1"),
            ],
        ]
        .concat(),
    ));
    let answer = client.until(|frame| frame.kind == HEADERS);
    assert_eq!(answer.status(), Some(200));
    let head = backend.text().to_ascii_lowercase();
    assert!(head.starts_with("get / http/1.1\r\n"), "{head}");
    assert_eq!(head.matches("\r\nhost:").count(), 1, "{head}");
    assert_eq!(field(&head, "host"), Some("a.test"));
    assert_eq!(head.matches("\r\ncookie:").count(), 1, "{head}");
    assert_eq!(field(&head, "cookie"), Some("a=1; b=2"));
    assert_eq!(field(&head, "connection"), Some("te"));
    assert_eq!(field(&head, "te"), Some("trailers"));
    assert_eq!(field(&head, "x-own"), Some("1"));
    for gone in [
        "transfer-encoding",
        "content-length",
        ":method",
        ":authority",
    ] {
        assert!(!head.contains(&format!("\r\n{gone}:")), "{head}");
    }
    a_body_is_framed_anew(&stage, &backend);
}

/// A body without a length is sent in chunks, whatever it looks like.
fn a_body_is_framed_anew(stage: &Stage, backend: &Recorder) {
    let body = b"0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n";
    let mut client = Client::new(stage);
    client.send(&[open(1, &POST), last_data(1, body)].concat());
    let answer = client.until(|frame| frame.kind == HEADERS);
    assert_eq!(answer.status(), Some(200));
    let text = backend.text();
    let (_, request) = text.split_once("POST / HTTP/1.1\r\n").unwrap();
    let (head, rest) = request.split_once("\r\n\r\n").unwrap();
    let lower = format!("\r\n{}", head.to_ascii_lowercase());
    assert_eq!(
        field(&lower, "transfer-encoding"),
        Some("chunked"),
        "{text}"
    );
    let framed = format!(
        "{:X}\r\n{}\r\n0\r\n\r\n",
        body.len(),
        String::from_utf8_lossy(body)
    );
    assert_eq!(rest, framed);
}
