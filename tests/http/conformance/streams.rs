//! Frames in general and the states of a stream: RFC 9113, sections 4 and 5.

use super::*;
use crate::frames::REFUSED_STREAM;

const CLOSED_OR_PROTOCOL: Then = Then::StreamError(&[STREAM_CLOSED, PROTOCOL_ERROR]);

pub(super) fn cases() -> Vec<Case> {
    let unknown = frame(0x16, NONE, 0, &[0; 8]);
    let itself = [&[0, 0, 0, 1, 255][..], &block(&GET)].concat();
    let large = |kind, flags, bytes| frame(kind, flags, 1, &vec![0; bytes]);
    let fields = |count: usize| {
        let field = block(&[("x-dummy", &"x".repeat(4000))]);
        [block(&GET), field.repeat(count)].concat()
    };
    let many: Vec<u8> = (0..=128).flat_map(|at| request(2 * at + 1, &GET)).collect();
    vec![
        case(
            "4.1 unknown type",
            [unknown.clone(), ping()].concat(),
            Then::Pong,
        ),
        case(
            "4.1 undefined flag",
            frame(PING, 0x16, 0, b"evergate"),
            Then::Pong,
        ),
        case(
            "4.1 reserved bit",
            frame(PING, 0x16, 1 << 31, b"evergate"),
            Then::Pong,
        ),
        case(
            "4.2 DATA of 2^14 bytes",
            [post(), large(DATA, END_STREAM, 1 << 14)].concat(),
            Then::Answer,
        ),
        case(
            "4.2 DATA that is too large",
            [post(), large(DATA, END_STREAM, (1 << 14) + 1)].concat(),
            Then::StreamError(&[FRAME_SIZE_ERROR]),
        ),
        case(
            "4.2 HEADERS that is too large",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(5)),
            FRAME_SIZE,
        ),
        case(
            "4.3 invalid block",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x40"),
            COMPRESSION,
        ),
        case(
            "4.3 PRIORITY within a block",
            [
                unfinished(NONE, 1),
                priority(1, 0, 255),
                continuation(1, true, &more()),
            ]
            .concat(),
            PROTOCOL,
        ),
        case(
            "4.3 HEADERS of another stream within a block",
            [
                unfinished(NONE, 1),
                request(3, &GET),
                continuation(1, true, &more()),
            ]
            .concat(),
            PROTOCOL,
        ),
        case(
            "5.1 idle: DATA",
            last_data(1, b"test"),
            Then::ConnectionError(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        case("5.1 idle: RST_STREAM", reset(1), PROTOCOL),
        case("5.1 idle: WINDOW_UPDATE", window_update(1, 100), PROTOCOL),
        case(
            "5.1 idle: CONTINUATION",
            continuation(1, true, &block(&GET)),
            PROTOCOL,
        ),
        case(
            "5.1 half-closed: DATA",
            [get(), last_data(1, b"test")].concat(),
            CLOSED,
        ),
        case("5.1 half-closed: HEADERS", [get(), get()].concat(), CLOSED),
        case(
            "5.1 half-closed: CONTINUATION",
            [get(), continuation(1, true, &block(&GET))].concat(),
            CLOSED_OR_PROTOCOL,
        ),
        case(
            "5.1 closed by RST_STREAM: DATA",
            [open(1, &GET), reset(1), last_data(1, b"test")].concat(),
            CLOSED,
        ),
        case(
            "5.1 closed by RST_STREAM: HEADERS",
            [open(1, &GET), reset(1), get()].concat(),
            CLOSED,
        ),
        case(
            "5.1 closed by RST_STREAM: CONTINUATION",
            [open(1, &GET), reset(1), continuation(1, true, &more())].concat(),
            CLOSED_OR_PROTOCOL,
        ),
        steps(
            "5.1 closed: DATA",
            vec![
                Step::Send(get()),
                Step::Answered,
                Step::Send(last_data(1, b"test")),
            ],
            CLOSED,
        ),
        steps(
            "5.1 closed: HEADERS",
            vec![Step::Send(get()), Step::Answered, Step::Send(get())],
            Then::ConnectionError(&[STREAM_CLOSED]),
        ),
        steps(
            "5.1 closed: CONTINUATION",
            vec![
                Step::Send(get()),
                Step::Answered,
                Step::Send(continuation(1, true, &more())),
            ],
            Then::ConnectionError(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        case("5.1.1 even stream", request(2, &GET), PROTOCOL),
        case(
            "5.1.1 lower stream",
            [request(5, &GET), request(3, &GET)].concat(),
            PROTOCOL,
        ),
        case(
            "5.1.2 too many streams",
            [settings(&[(INITIAL_WINDOW_SIZE, 0)]), many].concat(),
            Then::StreamError(&[PROTOCOL_ERROR, REFUSED_STREAM]),
        ),
        case(
            "5.3.1 HEADERS that depends on itself",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | WITH_PRIORITY,
                1,
                &itself,
            ),
            MALFORMED,
        ),
        case(
            "5.3.1 PRIORITY that depends on itself",
            priority(1, 1, 255),
            MALFORMED,
        ),
        case(
            "5.4.1 the end after an error",
            frame(PING, NONE, 3, &[0; 8]),
            PROTOCOL,
        ),
        case(
            "5.4.1 GOAWAY before the end",
            frame(PING, NONE, 3, &[0; 8]),
            Then::GoAway(PROTOCOL_ERROR),
        ),
        case(
            "5.5 unknown frame within a block",
            [unfinished(END_STREAM, 1), unknown].concat(),
            PROTOCOL,
        ),
    ]
}
