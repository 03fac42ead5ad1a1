//! Connections as they go: pipelines, limits, upgrades, pieces.

use super::*;

fn allowing_connect() -> Guard {
    Guard::new(Limits {
        allow_connect: true,
        ..LIMITS
    })
}

fn inspection(pass: usize, then: Next) -> Inspection {
    Inspection { pass, then }
}

#[test]
fn what_clients_send_passes() {
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: localhost:9200\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"[..],
        b"GET /a%20b;c=d/{\"id\"}?q={x:[1|2]}&r=`^ HTTP/1.1\r\nHost: es\r\n\r\n",
        b"POST /_bulk HTTP/1.1\r\nHost: es\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n{}\n",
        b"POST / HTTP/1.1\r\nHost: es\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\n{}\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: g\r\ntransfer-encoding:\tchunked \r\nTE: trailers\r\n\r\n000a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\ngrpc-status: 0\r\n\r\n",
        b"\r\nDELETE /x HTTP/1.1\r\nHost: es\r\nContent-Length:0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX_Under_Score: \xc3\xa9\xff\r\nX-Tab: a\tb\r\nX-Empty:\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi",
        b"M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(requests(bytes), Ok(1), "{}", bytes.escape_ascii());
        assert_eq!(requests([bytes, bytes, bytes].concat()), Ok(3));
    }
}

#[test]
fn a_bad_request_stops_what_follows_and_not_what_was_before() {
    let good = post("Content-Length: 3\r\n", "abc");
    for bad in [
        &b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"[..],
        b"GET /\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n;",
    ] {
        let bytes = [&good, &good, bad, &good].concat();
        let mut guard = Guard::new(LIMITS);
        let Inspection { pass, then } = guard.inspect(&bytes);
        assert_eq!(pass, 2 * good.len());
        assert!(matches!(then, Next::Refuse(_)));
        assert_eq!(
            guard.inspect(&good),
            inspection(0, then),
            "refused for ever"
        );
        assert!(!guard.is_between_messages() && !guard.is_in_head());
    }
}

#[test]
fn a_head_that_came_in_pieces_never_passes_whole_when_it_is_bad() {
    let head = with_fields("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n");
    for cut in 1..head.len() - 1 {
        let mut guard = Guard::new(LIMITS);
        let first = guard.inspect(&head[..cut]);
        assert_eq!(first, inspection(cut, Next::More));
        let violation = Violation::LengthAndTransferEncoding;
        let second = guard.inspect(&head[cut..]);
        assert_eq!(second, inspection(0, Next::Refuse(violation)));
    }
}

#[test]
fn it_knows_where_in_a_request_it_is() {
    let mut guard = Guard::new(LIMITS);
    assert!(guard.is_between_messages());
    for (piece, is_in_head, is_between) in [
        (&b"\r"[..], true, false),
        (b"\n", false, true),
        (b"P", true, false),
        (b"OST / HTTP/1.1\r\n", true, false),
        (b"Host: a\r\nContent-Length: 4\r\n\r", true, false),
        (b"\n", false, false),
        (b"abc", false, false),
        (b"d", false, true),
    ] {
        let all = inspection(piece.len(), Next::More);
        assert_eq!(guard.inspect(piece), all);
        assert_eq!(guard.is_in_head(), is_in_head, "{}", piece.escape_ascii());
        assert_eq!(guard.is_between_messages(), is_between);
    }
    assert_eq!(guard.requests(), 1);
}

#[test]
fn heads_have_limits() {
    let target = |length: usize| {
        format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "x".repeat(length - 1)
        )
    };
    assert_eq!(requests(target(1000)), Ok(1));
    assert_eq!(requests(target(1001)), Err(Violation::TargetTooLong));
    assert_eq!(requests(target(100_000)), Err(Violation::TargetTooLong));

    let fields = |count: usize| with_fields(&"X: y\r\n".repeat(count - 1));
    assert_eq!(requests(fields(50)), Ok(1));
    assert_eq!(requests(fields(51)), Err(Violation::TooManyFields));

    let crumbs =
        |count: usize| with_fields(&format!("Cookie: {}a=b\r\n", "a=b; ".repeat(count - 1)));
    assert_eq!(requests(crumbs(49)), Ok(1));
    assert_eq!(requests(crumbs(50)), Err(Violation::TooManyFields));

    let rest = with_fields("X: \r\n").len() - 2;
    let head = |length: usize| with_fields(&format!("X: {}\r\n", "y".repeat(length - rest)));
    assert_eq!(requests(head(4096)), Ok(1));
    assert_eq!(requests(head(4097)), Err(Violation::HeadTooLarge));
    assert_eq!(requests(head(1_000_000)), Err(Violation::HeadTooLarge));

    let name = |length: usize| with_fields(&format!("{}: y\r\n", "N".repeat(length)));
    assert_eq!(requests(name(256)), Ok(1));
    assert_eq!(requests(name(257)), Err(Violation::FieldName));
}

#[test]
fn a_line_without_an_end_is_refused_at_its_limit_and_not_kept_beyond_it() {
    for start in [&b"GET /"[..], b"GET / HTTP/1.1\r\nX: "] {
        let mut guard = Guard::new(LIMITS);
        guard.inspect(start);
        let mut sent = start.len();
        while guard.inspect(b"x").then == Next::More {
            sent += 1;
            assert!(sent <= LIMITS.max_head_bytes, "no limit");
        }
    }
}

#[test]
fn bodies_have_a_limit() {
    let of = |length: u64| post(&format!("Content-Length: {length}\r\n"), "");
    assert_eq!(requests(of(1_000_000)), Ok(1));
    assert_eq!(requests(of(1_000_001)), Err(Violation::BodyTooLarge));
    assert_eq!(requests(of(i64::MAX as u64)), Err(Violation::BodyTooLarge));
    let chunk = "1000\r\n".to_owned() + &"x".repeat(0x1000) + "\r\n";
    assert_eq!(requests(chunked(&(chunk.repeat(244) + "240\r\n"))), Ok(1));
    let beyond = chunked(&(chunk.repeat(244) + "241\r\n"));
    assert_eq!(requests(beyond), Err(Violation::BodyTooLarge));

    let mut unlimited = Guard::new(Limits {
        max_body_bytes: None,
        ..LIMITS
    });
    let bytes = of(i64::MAX as u64);
    assert_eq!(
        unlimited.inspect(&bytes),
        inspection(bytes.len(), Next::More)
    );
    assert!(!unlimited.is_between_messages());
}

#[test]
fn other_expectations_than_continue_fail() {
    assert_eq!(requests(with_fields("Expect: 100-Continue\r\n")), Ok(1));
    let other = requests(with_fields("Expect: 200-ok\r\n"));
    assert_eq!(other, Err(Violation::Expectation));
}

#[test]
fn bytes_behind_an_upgrade_wait_for_its_answer() {
    let asks = with_fields("Connection: Upgrade\r\nUpgrade: websocket\r\n");
    let next = with_fields("");
    let bytes = [&asks[..], &next, b"\x81\x05\0\n"].concat();

    let mut guard = Guard::new(LIMITS);
    let waits = inspection(asks.len(), Next::AwaitUpgrade);
    assert_eq!(guard.inspect(&bytes), waits);
    assert!(!guard.is_between_messages());
    let rest = &bytes[asks.len()..];
    assert_eq!(guard.inspect(rest), inspection(0, Next::AwaitUpgrade));
    guard.upgraded();
    assert_eq!(guard.inspect(rest), inspection(rest.len(), Next::More));
    assert_eq!(guard.inspect(b"\0\n\r"), inspection(3, Next::More));
    assert_eq!(guard.requests(), 1);

    let mut guard = Guard::new(LIMITS);
    assert_eq!(guard.inspect(&bytes), waits);
    guard.not_upgraded();
    assert!(guard.is_between_messages());
    let refused = Next::Refuse(Violation::ControlByte);
    assert_eq!(guard.inspect(rest), inspection(next.len(), refused));
    assert_eq!(guard.requests(), 2);
    guard.upgraded();
    assert_eq!(
        guard.inspect(rest),
        inspection(0, refused),
        "refused for ever"
    );
}

#[test]
fn an_upgrade_begins_after_the_whole_request() {
    let asks = post("Upgrade: x\r\nTransfer-Encoding: chunked\r\n", "1\r\na\r\n");
    let mut guard = Guard::new(LIMITS);
    assert_eq!(guard.inspect(&asks), inspection(asks.len(), Next::More));
    guard.upgraded();
    assert_eq!(guard.inspect(b"0\r\n\r\n\0"), inspection(6, Next::More));

    let mut guard = Guard::new(LIMITS);
    guard.inspect(&asks);
    guard.not_upgraded();
    let refused = Next::Refuse(Violation::ControlByte);
    assert_eq!(guard.inspect(b"0\r\n\r\n\0"), inspection(5, refused));
}

#[test]
fn an_answer_without_a_question_upgrades_nothing() {
    let mut guard = Guard::new(LIMITS);
    guard.inspect(&post("Content-Length: 1\r\n", ""));
    guard.upgraded();
    let refused = Next::Refuse(Violation::ControlByte);
    assert_eq!(guard.inspect(b"a\0"), inspection(1, refused));
}

#[test]
fn only_other_protocols_than_h2c_are_waited_for() {
    for (fields, waits) in [
        ("Upgrade: h2c\r\n", false),
        ("Upgrade: H2C, ,\r\n", false),
        ("Upgrade:\r\n", false),
        ("Upgrade: h2c, websocket\r\n", true),
        ("Upgrade: h2c\r\nUpgrade: TLS/1.0\r\n", true),
    ] {
        let mut guard = Guard::new(LIMITS);
        let then = guard.inspect(&with_fields(fields)).then;
        assert_eq!(then == Next::AwaitUpgrade, waits, "{fields}");
    }
    let mut guard = Guard::new(LIMITS);
    let then = guard
        .inspect(b"GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n")
        .then;
    assert_eq!(then, Next::More, "HTTP/1.0 has no Upgrade");
}

#[test]
fn connect_is_followed_by_a_tunnel() {
    let asks = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
    let mut guard = allowing_connect();
    assert_eq!(
        guard.inspect(asks),
        inspection(asks.len(), Next::AwaitUpgrade)
    );
    guard.upgraded();
    assert_eq!(guard.inspect(b"\x16\x03\n"), inspection(3, Next::More));

    for (asks, violation) in [
        ("Host: b:443\r\n", Violation::HostConflict),
        (
            "Host: a:443\r\nContent-Length: 0\r\n",
            Violation::ConnectBody,
        ),
        (
            "Host: a:443\r\nTransfer-Encoding: chunked\r\n",
            Violation::ConnectBody,
        ),
    ] {
        let bytes = format!("CONNECT a:443 HTTP/1.1\r\n{asks}\r\n");
        let then = allowing_connect().inspect(bytes.as_bytes()).then;
        assert_eq!(then, Next::Refuse(violation), "{asks}");
    }
}

#[test]
fn causes_are_words_and_differ() {
    let seen = [
        Violation::RequestLine,
        Violation::EmptyLines,
        Violation::Method,
        Violation::Target,
        Violation::TargetTooLong,
        Violation::Version,
        Violation::Connect,
        Violation::BodyTooLarge,
        Violation::TooManyFields,
        Violation::TwoContentLengths,
        Violation::BareLf,
    ];
    let mut words = seen.map(Violation::as_str).to_vec();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), seen.len());
    assert_eq!(Violation::BodyTooLarge.status(), 413);
    assert_eq!(Violation::TargetTooLong.status(), 414);
    assert_eq!(Violation::HeadTooLarge.status(), 431);
    assert_eq!(Violation::Version.status(), 505);
}
