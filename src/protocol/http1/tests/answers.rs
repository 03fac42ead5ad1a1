//! Answers of backends: where they end, what is refused, and requests as they are sent.

use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Uri;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::fuzz::Heard;
use super::super::fuzz::heard;
use super::super::*;
use crate::protocol::corpus::seeds;

const GET: Asked = Asked {
    is_head: false,
    is_connect: false,
};

fn head(text: &str, asked: Asked) -> Result<Option<AnswerHead>, Violation> {
    HeadReader::default().read(&mut BytesMut::from(text), asked)
}

/// The end of the body, and whether the connection is kept.
fn end(text: &str, asked: Asked) -> (BodyEnd, bool) {
    let head = head(text, asked).unwrap().unwrap();
    (head.body, head.is_kept)
}

fn whole(text: &str) -> Heard {
    fuzz_answer(text.as_bytes());
    heard(text.as_bytes(), text.len(), GET)
}

#[test]
fn a_head_says_where_its_body_ends() {
    let answer = |fields: &str| end(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), GET);
    assert_eq!(answer("Content-Length: 5\r\n"), (BodyEnd::Length(5), true));
    assert_eq!(answer("Content-Length: 0\r\n"), (BodyEnd::Length(0), true));
    let chunked = "Transfer-Encoding: Chunked\r\n";
    assert_eq!(answer(chunked), (BodyEnd::Chunked, true));
    assert_eq!(answer(""), (BodyEnd::Close, false));
}

#[test]
fn some_answers_have_no_body_whatever_they_say() {
    let none = |status: u16, asked| {
        let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n");
        end(&text, asked).0 == BodyEnd::Length(0)
    };
    assert!(
        [100, 101, 103, 204, 304]
            .into_iter()
            .all(|it| none(it, GET))
    );
    let (is_head, is_connect) = (true, true);
    assert!(none(200, Asked { is_head, ..GET }));
    assert!(none(200, Asked { is_connect, ..GET }));
    assert!(!none(407, Asked { is_connect, ..GET }));
    assert!(!none(200, GET));
}

#[test]
fn a_connection_is_kept_as_its_version_has_it() {
    let kept = |version: &str, connection: &str| {
        let text = format!(
            "HTTP/{version} 200 OK\r\nContent-Length: 0\r\nConnection: {connection}\r\n\r\n"
        );
        end(&text, GET).1
    };
    assert!(kept("1.1", "keep-alive") && kept("1.1", "x-y") && kept("1.0", "Keep-Alive"));
    assert!(kept("1.0", "x-y, keep-alive"));
    assert!(!kept("1.1", "Close") && !kept("1.1", "x-y, close") && !kept("1.0", "x-y"));
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\
                Connection: close\r\n\r\n";
    assert!(!end(both, GET).1);
}

#[test]
fn fields_arrive_as_they_were_sent_but_for_the_connections_own_words() {
    let text = "HTTP/1.1 200 Fine so far\r\nX-A: 1\r\nx-a:  \u{e9} 2 \r\nConnection: close\r\n\r\n";
    let head = head(text, GET).unwrap().unwrap();
    assert_eq!(head.reason.as_deref(), Some(b"Fine so far".as_slice()));
    assert_eq!(head.headers.len(), 2);
    let values: Vec<_> = head.headers.get_all("x-a").iter().collect();
    assert_eq!(
        values,
        ["1", "\u{e9} 2"]
            .map(|it| HeaderValue::from_bytes(it.as_bytes()).unwrap())
            .each_ref()
    );
    // The usual phrase is nothing worth keeping.
    let usual = "HTTP/1.1 404 Not Found\r\n\r\n";
    assert_eq!(self::head(usual, GET).unwrap().unwrap().reason, None);
}

#[test]
fn heads_that_leave_doubts_are_refused() {
    let refused =
        |fields: &str| head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), GET).unwrap_err();
    let length = "Content-Length: 5\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    assert_eq!(
        refused(&[length, chunked].concat()),
        Violation::LengthAndTransferEncoding
    );
    assert_eq!(
        refused(&[length, length].concat()),
        Violation::ContentLength
    );
    assert_eq!(refused("Content-Length: +5\r\n"), Violation::ContentLength);
    assert_eq!(
        refused("Content-Length: 5, 5\r\n"),
        Violation::ContentLength
    );
    assert_eq!(
        refused(&[chunked, chunked].concat()),
        Violation::TransferEncoding
    );
    assert_eq!(
        refused("Transfer-Encoding: gzip, chunked\r\n"),
        Violation::TransferEncoding
    );
    let old = format!("HTTP/1.0 200 OK\r\n{chunked}\r\n");
    assert_eq!(
        head(&old, GET).unwrap_err(),
        Violation::TransferEncodingVersion
    );
    for line in [
        "SSH-2.0-x",
        "HTTP/2 200",
        "HTTP/1.1 99 X",
        "HTTP/1.1 2x0 X",
        "HTTP/1.1 200 OK\r\nA b: c",
    ] {
        let text = format!("{line}\r\n\r\n");
        assert_eq!(
            head(&text, GET).unwrap_err(),
            Violation::StatusLine,
            "{line}"
        );
    }
    let many = "A: b\r\n".repeat(257);
    assert_eq!(refused(&many), Violation::TooManyFields);
    let long = format!("A: {}\r\n", "b".repeat(MAX_HEAD_BYTES));
    assert_eq!(refused(&long), Violation::HeadTooLarge);
}

#[test]
fn a_head_without_an_end_is_waited_for_and_not_for_ever() {
    let mut reader = HeadReader::default();
    let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\n");
    while buffer.len() < MAX_HEAD_BYTES {
        assert!(reader.read(&mut buffer, GET).unwrap().is_none());
        buffer.extend_from_slice(b"A: b\r\n");
    }
    assert_eq!(
        reader.read(&mut buffer, GET).unwrap_err(),
        Violation::HeadTooLarge
    );
}

#[test]
fn chunks_are_put_together() {
    let chunked = |body: &str| {
        whole(&format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ))
    };
    for body in [
        "5\r\nhello\r\n0\r\n\r\n",
        "2\r\nhe\r\n003;a=b;c=\"d\"\r\nllo\r\n0\r\n\r\nrest",
        "5  \r\nhello\r\n00;x\r\n\r\n",
    ] {
        let heard = chunked(body);
        assert_eq!(
            (heard.body.as_slice(), heard.is_over),
            (b"hello".as_slice(), true),
            "{body}"
        );
    }
    let trailed = chunked("1\r\nx\r\n0\r\nA: 1\r\nB:2\r\n\r\n");
    assert_eq!((trailed.trailers.len(), trailed.is_over), (2, true));
    assert_eq!(trailed.trailers["b"], "2");
    let half = chunked("5\r\nhel");
    assert_eq!(
        (half.body.as_slice(), half.is_over, half.is_refused),
        (b"hel".as_slice(), false, false)
    );
    for body in [
        "x\r\n",
        "\r\n",
        "-1\r\n",
        "5\nhello",
        "1\r\nxy\r\n",
        "1000000000000000\r\n",
        "1 1\u{1}\r\n",
        "0\r\nA b: c\r\n\r\n",
    ] {
        assert!(chunked(body).is_refused, "{body:?}");
    }
    let many = format!("0\r\n{}\r\n", "A: b\r\n".repeat(65));
    assert!(chunked(&many).is_refused);
    let large = format!("0\r\nA: {}\r\n\r\n", "b".repeat(17 << 10));
    assert!(chunked(&large).is_refused);
}

#[test]
fn the_end_that_is_there_already_is_seen_with_the_last_data() {
    let mut chunks = ChunkReader::default();
    let mut buffer = BytesMut::from("2\r\nhi\r\n0\r\n\r\n");
    let piece = chunks.next(&mut buffer).unwrap();
    assert_eq!(piece, Some(Piece::Data("hi".into())));
    assert!(chunks.is_over() && buffer.is_empty());
    assert_eq!(chunks.next(&mut buffer).unwrap(), Some(Piece::End));
}

#[test]
fn a_request_is_written_as_the_backend_wants_it() {
    let written = |method: Method, uri: &'static str, framing| {
        let mut headers = HeaderMap::new();
        headers.append("host", HeaderValue::from_static("a.test"));
        headers.append("x", HeaderValue::from_static("1"));
        headers.append("x", HeaderValue::from_static("2"));
        let mut out = Vec::new();
        encode::head(
            &mut out,
            (&method, &Uri::from_static(uri)),
            &headers,
            framing,
        );
        String::from_utf8(out).unwrap()
    };
    let fields = "host: a.test\r\nx: 1\r\nx: 2\r\n";
    let get = written(Method::GET, "/a?b=c", None);
    assert_eq!(get, format!("GET /a?b=c HTTP/1.1\r\n{fields}\r\n"));
    let put = written(Method::PUT, "/", Some(Framing::Chunked));
    assert_eq!(
        put,
        format!("PUT / HTTP/1.1\r\n{fields}transfer-encoding: chunked\r\n\r\n")
    );
    let sized = written(Method::PUT, "/", Some(Framing::Length(3)));
    assert_eq!(sized, format!("PUT / HTTP/1.1\r\n{fields}\r\n"));
    let connect = written(Method::CONNECT, "a.test:1", None);
    assert_eq!(
        connect,
        format!("CONNECT a.test:1 HTTP/1.1\r\n{fields}\r\n")
    );
    let options = written(Method::OPTIONS, "*", None);
    assert_eq!(options, format!("OPTIONS * HTTP/1.1\r\n{fields}\r\n"));
}

#[test]
fn only_announced_trailers_are_sent() {
    let mut headers = HeaderMap::new();
    headers.append("trailer", HeaderValue::from_static("A, b"));
    let announced = encode::announced(&headers);
    let mut trailers = HeaderMap::new();
    for name in ["a", "b", "c"] {
        trailers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    let mut out = Vec::new();
    encode::trailers(&mut out, &trailers, &announced);
    assert_eq!(out, b"0\r\na: 1\r\nb: 1\r\n\r\n");
}

proptest! {
    /// Whatever the pieces, the same is heard.
    #[test]
    fn random_answers_are_heard_alike(
        fields in vec("(Content-Length: [0-9]{1,2}|Transfer-Encoding: chunked|Connection: close|[a-z]{1,5}: [ -~]{0,9})\r\n", 0..4),
        body in "([0-9a-f]{1,2}(;[a-z]{1,3})?\r\n[a-z]{0,9}(\r\n)?){0,4}(0\r\n([a-z]{1,3}: x\r\n)?\r\n)?",
    ) {
        let text = format!("HTTP/1.1 200 OK\r\n{}\r\n{body}", fields.concat());
        fuzz_answer(text.as_bytes());
    }

    #[test]
    fn random_bytes_of_a_backend_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        fuzz_answer(&bytes);
    }

    /// What is cut into chunks is put together again.
    #[test]
    fn chunks_hold_every_body(parts in vec(vec(any::<u8>(), 1..50), 0..6), piece_bytes in 1..80_usize) {
        let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for part in &parts {
            encode::chunk_size(&mut text, part.len());
            text.extend_from_slice(part);
            text.extend_from_slice(encode::CHUNK_END);
        }
        text.extend_from_slice(encode::LAST_CHUNK);
        let heard = heard(&text, piece_bytes, GET);
        prop_assert!(heard.is_over);
        prop_assert_eq!(heard.body, parts.concat());
    }
}

#[test]
fn the_corpus_of_answers_holds() {
    for seed in seeds("http1_answer") {
        fuzz_answer(&seed);
    }
}
