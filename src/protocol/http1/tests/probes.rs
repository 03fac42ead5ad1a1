//! Requests on whose end or receiver readers may disagree: each of them is refused.

use super::*;

#[test]
fn every_framing_that_readers_may_take_differently_is_refused() {
    use Violation::*;
    let probes: &[(&str, Violation)] = &[
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            LengthAndTransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            LengthAndTransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
            LengthAndTransferEncoding,
        ),
        (
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            TwoContentLengths,
        ),
        (
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            TwoContentLengths,
        ),
        (
            "Content-Length: 0\r\ncontent-length: 5\r\n",
            TwoContentLengths,
        ),
        ("Content-Length: 5, 5\r\n", ContentLength),
        ("Content-Length: 5, 6\r\n", ContentLength),
        ("Content-Length: 5,\r\n", ContentLength),
        ("Content-Length: +5\r\n", ContentLength),
        ("Content-Length: -5\r\n", ContentLength),
        ("Content-Length: -0\r\n", ContentLength),
        ("Content-Length: 0x5\r\n", ContentLength),
        ("Content-Length: 05\r\n", ContentLength),
        ("Content-Length: 5_0\r\n", ContentLength),
        ("Content-Length: 5 0\r\n", ContentLength),
        ("Content-Length: 5.0\r\n", ContentLength),
        ("Content-Length: 5e1\r\n", ContentLength),
        ("Content-Length: \"5\"\r\n", ContentLength),
        ("Content-Length:\r\n", ContentLength),
        ("Content-Length: \u{665}\r\n", ContentLength),
        ("Content-Length: 9223372036854775808\r\n", ContentLength),
        ("Content-Length: 18446744073709551621\r\n", ContentLength),
        (
            "Content-Length: 99999999999999999999999999\r\n",
            ContentLength,
        ),
        ("Content-Length : 5\r\n", SpaceBeforeColon),
        ("Content-Length\t: 5\r\n", SpaceBeforeColon),
        (" Content-Length: 5\r\n", FoldedField),
        ("X: y\r\n Content-Length: 5\r\n", FoldedField),
        ("X: y\r\n\tTransfer-Encoding: chunked\r\n", FoldedField),
        ("Content-Length: 5\r\n 0\r\n", FoldedField),
        ("Content_Length: 5\r\n", DisguisedField),
        ("Transfer_Encoding: chunked\r\n", DisguisedField),
        ("Content-Length: 5\n", BareLf),
        ("X: y\nContent-Length: 5\r\n", BareLf),
        ("X: y\rContent-Length: 5\r\n", BareCr),
        ("X: y\r\r\nContent-Length: 5\r\n", BareCr),
        ("Content-Length: 5\r\r\n", BareCr),
        ("Content-Length: \x0b5\r\n", ControlByte),
        ("Content-Length: 5\0\r\n", ControlByte),
        ("Content-Length\0: 5\r\n", ControlByte),
        ("Content-Length\u{ff}: 5\r\n", FieldName),
        ("Content-Length;: 5\r\n", FieldName),
        ("(Content-Length): 5\r\n", FieldName),
        ("Content-Length 5\r\n", FieldName),
        ("Content-Length\r\n", FieldName),
        (": 5\r\n", FieldName),
        ("Transfer-Encoding : chunked\r\n", SpaceBeforeColon),
        ("Transfer-Encoding\x0b: chunked\r\n", ControlByte),
        ("Transfer-Encoding:\x0bchunked\r\n", ControlByte),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            TransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            TransferEncoding,
        ),
        (
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            TransferEncoding,
        ),
        ("Transfer-Encoding: chunked, chunked\r\n", TransferEncoding),
        ("Transfer-Encoding: identity, chunked\r\n", TransferEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", TransferEncoding),
        ("Transfer-Encoding: chunked, gzip\r\n", TransferEncoding),
        ("Transfer-Encoding: ,chunked\r\n", TransferEncoding),
        ("Transfer-Encoding: chunked,\r\n", TransferEncoding),
        ("Transfer-Encoding: chunked;q=1\r\n", TransferEncoding),
        ("Transfer-Encoding: xchunked\r\n", TransferEncoding),
        ("Transfer-Encoding: chunkedx\r\n", TransferEncoding),
        ("Transfer-Encoding: chunk\r\n", TransferEncoding),
        ("Transfer-Encoding: \"chunked\"\r\n", TransferEncoding),
        ("Transfer-Encoding: 'chunked'\r\n", TransferEncoding),
        ("Transfer-Encoding: chunked\u{a0}\r\n", TransferEncoding),
        ("Transfer-Encoding: \u{212a}chunked\r\n", TransferEncoding),
        ("Transfer-Encoding: identity\r\n", TransferEncoding),
        ("Transfer-Encoding: cow\r\n", TransferEncoding),
        ("Transfer-Encoding:\r\n", TransferEncoding),
        ("Transfer-Encoding:\r\n chunked\r\n", TransferEncoding),
        ("Foo: bar\r\n\rTransfer-Encoding: chunked\r\n", BareCr),
    ];
    for (fields, violation) in probes {
        let bytes = post(
            fields,
            "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n",
        );
        assert_eq!(
            requests(bytes),
            Err(*violation),
            "{}",
            fields.escape_debug()
        );
    }
}

#[test]
fn http_1_0_has_no_transfer_encoding() {
    for version in ["1.0", "1.1"] {
        let bytes = format!(
            "POST / HTTP/{version}\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        );
        let expected = match version {
            "1.0" => Err(Violation::TransferEncodingVersion),
            _ => Ok(1),
        };
        assert_eq!(requests(bytes), expected, "HTTP/{version}");
    }
}

#[test]
fn every_chunk_that_readers_may_take_differently_is_refused() {
    use Violation::*;
    let probes: &[(&str, Violation)] = &[
        ("5;a=b\r\nhello\r\n0\r\n\r\n", ChunkExtension),
        ("5;\r\nhello\r\n0\r\n\r\n", ChunkExtension),
        ("5 ;a\r\nhello\r\n0\r\n\r\n", ChunkExtension),
        ("0;a\r\n\r\n", ChunkExtension),
        ("5;a\nhello\r\n0\r\n\r\n", BareLf),
        ("5;a\rhello\r\n0\r\n\r\n", BareCr),
        ("5\nhello\r\n0\r\n\r\n", BareLf),
        ("5\rhello\r\n0\r\n\r\n", BareCr),
        ("5 \r\nhello\r\n0\r\n\r\n", ChunkSize),
        (" 5\r\nhello\r\n0\r\n\r\n", ChunkSize),
        ("\t5\r\nhello\r\n0\r\n\r\n", ChunkSize),
        ("0x5\r\nhello\r\n0\r\n\r\n", ChunkSize),
        ("+5\r\nhello\r\n0\r\n\r\n", ChunkSize),
        ("-5\r\nhello\r\n0\r\n\r\n", ChunkSize),
        ("-0\r\n\r\n", ChunkSize),
        ("5_\r\nhello\r\n0\r\n\r\n", ChunkSize),
        ("g\r\nhello\r\n0\r\n\r\n", ChunkSize),
        ("\r\nhello\r\n0\r\n\r\n", ChunkSize),
        ("\r\n0\r\n\r\n", ChunkSize),
        ("00000000000000005\r\nhello\r\n0\r\n\r\n", ChunkSize),
        ("10000000000000005\r\nhello\r\n0\r\n\r\n", ChunkSize),
        ("8000000000000000\r\nhello\r\n0\r\n\r\n", ChunkSize),
        ("ffffffffffffffff\r\nhello\r\n0\r\n\r\n", ChunkSize),
        ("7fffffffffffffff\r\nhello\r\n0\r\n\r\n", BodyTooLarge),
        ("f4241\r\n", BodyTooLarge),
        ("5\r\nhelloX\r\n0\r\n\r\n", ChunkEnd),
        ("5\r\nhello\n0\r\n\r\n", BareLf),
        ("5\r\nhello\r0\r\n\r\n", BareCr),
        ("5\r\nhello0\r\n\r\n", ChunkEnd),
        ("5\r\nhell\r\n0\r\n\r\n", BareLf),
        ("5\r\nhell\r\n\r\n0\r\n\r\n", BareLf),
        ("0\r\n\n", BareLf),
        ("0\n\r\n", BareLf),
        ("0\r\n\r\r\n", BareCr),
    ];
    for (body, violation) in probes {
        let bytes = chunked(&format!("{body}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(requests(bytes), Err(*violation), "{}", body.escape_debug());
    }
}

#[test]
fn trailers_must_not_say_what_a_head_has_to_say() {
    for name in [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "content-length",
        "Connection",
        "Upgrade",
        "TE",
        "Authorization",
        "Cookie",
        "Content-Type",
        "Transfer_Encoding",
        "X-Forwarded-For",
    ] {
        let bytes = chunked(&format!("0\r\n{name}: 5\r\n\r\n"));
        assert_eq!(requests(bytes), Err(Violation::Trailer), "{name}");
    }
    for (trailer, violation) in [
        ("X : y", Violation::SpaceBeforeColon),
        (" X: y", Violation::FoldedField),
        ("X: y\r\n z", Violation::FoldedField),
        ("X", Violation::FieldName),
        ("X: y\nContent-Length: 5", Violation::BareLf),
        ("X: \0", Violation::ControlByte),
        ("GET / HTTP/1.1", Violation::FieldName),
    ] {
        let bytes = chunked(&format!("0\r\n{trailer}\r\n\r\n"));
        assert_eq!(
            requests(bytes),
            Err(violation),
            "{}",
            trailer.escape_debug()
        );
    }
    let long = format!("0\r\nX: {}\r\n\r\n", "y".repeat(9000));
    assert_eq!(requests(chunked(&long)), Err(Violation::TrailersTooLarge));
    let many = format!("0\r\n{}\r\n", "X: y\r\n".repeat(33));
    assert_eq!(requests(chunked(&many)), Err(Violation::TrailersTooLarge));
}

#[test]
fn request_lines_have_one_form() {
    use Violation::*;
    let probes: &[(&str, Violation)] = &[
        ("GET  / HTTP/1.1", RequestLine),
        ("GET /  HTTP/1.1", RequestLine),
        ("GET / HTTP/1.1 ", RequestLine),
        (" GET / HTTP/1.1", RequestLine),
        ("GET\t/ HTTP/1.1", RequestLine),
        ("GET /\tHTTP/1.1", RequestLine),
        ("GET /a b HTTP/1.1", RequestLine),
        ("GET /", RequestLine),
        ("GET", RequestLine),
        ("GET / ", RequestLine),
        ("GET HTTP/1.1", RequestLine),
        ("GET / HTTP/1.1x", RequestLine),
        ("GET / http/1.1", RequestLine),
        ("GET / HTTP/1", RequestLine),
        ("GET / HTTP/1.10", RequestLine),
        ("GET / HTTP /1.1", RequestLine),
        ("G(T / HTTP/1.1", RequestLine),
        ("G\u{e9}T / HTTP/1.1", RequestLine),
        ("GET / HTTP/2.0", Version),
        ("PRI * HTTP/2.0", Version),
        ("GET / HTTP/0.9", Version),
        ("GET / HTTP/1.2", Version),
        ("GET a HTTP/1.1", Target),
        ("GET * HTTP/1.1", Target),
        ("OPTIONS *x HTTP/1.1", Target),
        ("GET /#fragment HTTP/1.1", Target),
        ("GET /\u{e9} HTTP/1.1", Target),
        ("GET /a\\b HTTP/1.1", Target),
        ("GET /a\tb HTTP/1.1", Target),
        ("GET ?a HTTP/1.1", Target),
        ("GET a.example:80 HTTP/1.1", Target),
        ("GET ftp://a.example/ HTTP/1.1", Target),
        ("GET file:///etc/passwd HTTP/1.1", Target),
        ("GET http:///a HTTP/1.1", Target),
        ("GET http:/a HTTP/1.1", Target),
        ("GET http://user@a.example/ HTTP/1.1", Target),
        ("GET http://a.example:x/ HTTP/1.1", Target),
        ("GET http://a.example:66000/ HTTP/1.1", Target),
        ("GET http://a.example\\/ HTTP/1.1", Target),
        ("GET http://[::1/ HTTP/1.1", Target),
        ("CONNECT / HTTP/1.1", Target),
        ("CONNECT a.example HTTP/1.1", Target),
        ("CONNECT a.example: HTTP/1.1", Target),
        ("CONNECT :80 HTTP/1.1", Target),
        ("CONNECT a.example:80 HTTP/1.1", Connect),
        ("GET / HTTP/1.1\r", BareCr),
        ("GET /\r HTTP/1.1", BareCr),
        ("GET /\0 HTTP/1.1", ControlByte),
        ("GET /\x7f HTTP/1.1", ControlByte),
        ("GET / HTTP/1.1\nX: y", BareLf),
        ("\nGET / HTTP/1.1", BareLf),
        ("\r\n\r\nGET / HTTP/1.1", EmptyLines),
        ("\x16\x03\x01\x02\0\x01", ControlByte),
        ("SSH-2.0-OpenSSH_9.2", RequestLine),
        ("INVALID CONNECTION PREFACE", NotHttp),
        ("INVALID /CONNECTION PREFACE", RequestLine),
        ("INVALID CONNECTION HTTPREFACE", RequestLine),
        ("INVALID CONNECTION PREFACE OF HTTP", RequestLine),
    ];
    for (line, violation) in probes {
        let bytes = format!("{line}\r\nHost: a.example\r\n\r\n");
        assert_eq!(requests(bytes), Err(*violation), "{}", line.escape_debug());
    }
    let method = "M".repeat(33);
    let bytes = format!("{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(requests(bytes), Err(Violation::Method));
}

#[test]
fn whom_a_request_is_for_is_said_once() {
    use Violation::*;
    let probes: &[(&str, Result<u64, Violation>)] = &[
        ("GET / HTTP/1.1\r\n\r\n", Err(NoHost)),
        ("GET / HTTP/1.0\r\n\r\n", Ok(1)),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Ok(1)),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            Err(TwoHosts),
        ),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n",
            Err(TwoHosts),
        ),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: a:80:81\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: a_b.example:8080\r\n\r\n", Ok(1)),
        ("GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n", Ok(1)),
        ("GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", Ok(1)),
        (
            "GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Ok(1),
        ),
        (
            "GET HTTP://A.example/x HTTP/1.1\r\nHost: a.Example\r\n\r\n",
            Ok(1),
        ),
        (
            "GET https://[::1]:81 HTTP/1.1\r\nHost: [::1]:81\r\n\r\n",
            Ok(1),
        ),
        (
            "GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n",
            Err(HostConflict),
        ),
        (
            "GET http://a.example/ HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
            Err(HostConflict),
        ),
        (
            "GET http://a.example/ HTTP/1.1\r\nHost:\r\n\r\n",
            Err(HostConflict),
        ),
        (
            "GET http://a.example/ HTTP/1.0\r\nHost: b.example\r\n\r\n",
            Err(HostConflict),
        ),
        ("GET http://a.example/ HTTP/1.1\r\n\r\n", Err(NoHost)),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Ok(1)),
    ];
    for (bytes, expected) in probes {
        assert_eq!(requests(bytes), *expected, "{}", bytes.escape_debug());
    }
}
