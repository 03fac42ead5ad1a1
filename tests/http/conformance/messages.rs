//! Requests as messages: RFC 9113, section 8.

use super::*;
use crate::frames::PUSH_PROMISE;

pub(super) fn cases() -> Vec<Case> {
    let trailers = |fields: &[(&str, &str)], flags| {
        let trailers = frame(HEADERS, flags | END_HEADERS, 1, &block(fields));
        [post(), data(1, b"test"), trailers].concat()
    };
    let without = |at: usize| {
        let mut fields = GET.to_vec();
        fields.remove(at);
        request(1, &fields)
    };
    let late = [&[("x-test", "ok")], &GET[..]].concat();
    let promise = [&[0, 0, 0, 3][..], &block(&GET)].concat();
    let no_path = [GET[0], GET[1], (":path", ""), GET[3]];
    let sums = [
        post_with_length("1"),
        data(1, b"test"),
        last_data(1, b"test"),
    ]
    .concat();
    vec![
        case(
            "8.1 HEADERS in the middle",
            trailers(&[("x-test", "ok")], NONE),
            MALFORMED,
        ),
        case(
            "8.1.2 upper case",
            with_fields(&[("X-TEST", "ok")]),
            MALFORMED,
        ),
        case(
            "8.1.2.1 unknown pseudo-header",
            with_fields(&[(":test", "ok")]),
            MALFORMED,
        ),
        case(
            "8.1.2.1 pseudo-header of answers",
            with_fields(&[(":status", "200")]),
            MALFORMED,
        ),
        case(
            "8.1.2.1 pseudo-header in trailers",
            trailers(&[(":method", "POST")], NONE),
            MALFORMED,
        ),
        case(
            "8.1.2.1 pseudo-header behind a field",
            request(1, &late),
            MALFORMED,
        ),
        case(
            "8.1.2.2 connection",
            with_fields(&[("connection", "keep-alive")]),
            MALFORMED,
        ),
        case(
            "8.1.2.2 te",
            with_fields(&[("te", "trailers, deflate")]),
            MALFORMED,
        ),
        case("8.1.2.3 empty :path", request(1, &no_path), MALFORMED),
        case("8.1.2.3 no :method", without(0), MALFORMED),
        case("8.1.2.3 no :scheme", without(1), MALFORMED),
        case("8.1.2.3 no :path", without(2), MALFORMED),
        case(
            "8.1.2.3 two :method",
            with_fields(&[(":method", "GET")]),
            MALFORMED,
        ),
        case(
            "8.1.2.3 two :scheme",
            with_fields(&[(":scheme", "http")]),
            MALFORMED,
        ),
        case(
            "8.1.2.3 two :path",
            with_fields(&[(":path", "/")]),
            MALFORMED,
        ),
        case(
            "8.1.2.6 a length that is not that of DATA",
            [post_with_length("1"), last_data(1, b"test")].concat(),
            MALFORMED,
        ),
        case(
            "8.1.2.6 a length that is not the sum of DATA",
            sums,
            MALFORMED,
        ),
        case(
            "8.2 PUSH_PROMISE",
            frame(PUSH_PROMISE, END_HEADERS, 1, &promise),
            PROTOCOL,
        ),
    ]
}

/// A request with these fields behind the usual ones.
fn with_fields(fields: &[(&str, &str)]) -> Vec<u8> {
    request(1, &[&GET[..], fields].concat())
}
