//! Each type of frame, settings, windows and codes: RFC 9113, sections 6 and 7.

use super::*;
use crate::frames::FLOW_CONTROL_ERROR;
use crate::frames::WINDOW_UPDATE;

pub(super) fn cases() -> Vec<Case> {
    let headers_with_pad = {
        let block = block(&GET);
        let payload = [&[block.len() as u8 + 1][..], &block].concat();
        frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, &payload)
    };
    let setting = |name, value| settings(&[(name, value)]);
    vec![
        case("6.1 DATA on stream 0", last_data(0, b"test"), PROTOCOL),
        case(
            "6.1 DATA on a closed half",
            [get(), last_data(1, b"test")].concat(),
            CLOSED,
        ),
        case(
            "6.1 DATA with too much padding",
            [
                post_with_length("4"),
                frame(DATA, END_STREAM | PADDED, 1, b"\x06Test"),
            ]
            .concat(),
            PROTOCOL,
        ),
        case(
            "6.2 HEADERS, then PRIORITY",
            [
                unfinished(NONE, 1),
                priority(1, 0, 255),
                continuation(1, true, &more()),
            ]
            .concat(),
            PROTOCOL,
        ),
        case("6.2 HEADERS on stream 0", request(0, &GET), PROTOCOL),
        case(
            "6.2 HEADERS with too much padding",
            headers_with_pad,
            MALFORMED,
        ),
        case("6.3 PRIORITY on stream 0", priority(0, 0, 255), PROTOCOL),
        case(
            "6.3 PRIORITY of 4 bytes",
            [get(), frame(PRIORITY, NONE, 1, &[0x80, 0, 0, 1])].concat(),
            Then::StreamError(&[FRAME_SIZE_ERROR]),
        ),
        case("6.4 RST_STREAM on stream 0", reset(0), PROTOCOL),
        case("6.4 RST_STREAM on an idle stream", reset(1), PROTOCOL),
        case(
            "6.4 RST_STREAM of 3 bytes",
            [get(), frame(RST_STREAM, NONE, 1, &[0; 3])].concat(),
            Then::StreamError(&[FRAME_SIZE_ERROR]),
        ),
        case(
            "6.5 SETTINGS with ACK and more",
            frame(SETTINGS, ACK, 0, &[0]),
            FRAME_SIZE,
        ),
        case(
            "6.5 SETTINGS on a stream",
            frame(SETTINGS, NONE, 1, &[0, 3, 0, 0, 0, 100]),
            PROTOCOL,
        ),
        case(
            "6.5 SETTINGS of 3 bytes",
            frame(SETTINGS, NONE, 0, &[0, 3, 0]),
            Then::ConnectionError(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
        ),
        case("6.5.2 ENABLE_PUSH = 2", setting(2, 2), PROTOCOL),
        case(
            "6.5.2 INITIAL_WINDOW_SIZE = 2^31",
            setting(4, 1 << 31),
            Then::ConnectionError(&[FLOW_CONTROL_ERROR]),
        ),
        case(
            "6.5.2 MAX_FRAME_SIZE = 2^14 - 1",
            setting(5, (1 << 14) - 1),
            PROTOCOL,
        ),
        case("6.5.2 MAX_FRAME_SIZE = 2^24", setting(5, 1 << 24), PROTOCOL),
        case(
            "6.5.2 unknown parameter",
            [setting(0xff, 1), ping()].concat(),
            Then::Pong,
        ),
        case(
            "6.5.3 the last of two values",
            [settings(&[(4, 100), (4, 1)]), get()].concat(),
            Then::DataBytes(1),
        ),
        case("6.5.3 SETTINGS", setting(2, 0), Then::SettingsAck),
        case(
            "6.7 PING with ACK",
            [frame(PING, ACK, 0, b"invalid\0"), ping()].concat(),
            Then::Pong,
        ),
        case(
            "6.7 PING on a stream",
            frame(PING, NONE, 1, &[0; 8]),
            PROTOCOL,
        ),
        case(
            "6.7 PING of 6 bytes",
            frame(PING, NONE, 0, &[0; 6]),
            FRAME_SIZE,
        ),
        case(
            "6.8 GOAWAY on a stream",
            frame(GOAWAY, NONE, 1, &[0; 8]),
            PROTOCOL,
        ),
        case("6.9 WINDOW_UPDATE by 0", window_update(0, 0), PROTOCOL),
        case(
            "6.9 WINDOW_UPDATE by 0 on a stream",
            [open(1, &GET), window_update(1, 0)].concat(),
            MALFORMED,
        ),
        case(
            "6.9 WINDOW_UPDATE of 3 bytes",
            frame(WINDOW_UPDATE, NONE, 0, &[0, 0, 1]),
            FRAME_SIZE,
        ),
        case(
            "6.9.1 a window of 1",
            [setting(4, 1), get()].concat(),
            Then::DataBytes(1),
        ),
        case(
            "6.9.1 a window above 2^31 - 1",
            window_update(0, 0x7fff_ffff).repeat(2),
            Then::GoAway(FLOW_CONTROL_ERROR),
        ),
        case(
            "6.9.1 a window above 2^31 - 1 on a stream",
            [open(1, &GET), window_update(1, 0x7fff_ffff).repeat(2)].concat(),
            Then::Reset(FLOW_CONTROL_ERROR),
        ),
        case(
            "6.9.2 a window that grows with SETTINGS",
            [setting(4, 0), get(), setting(4, 1)].concat(),
            Then::DataBytes(1),
        ),
        steps(
            "6.9.2 a window below 0",
            vec![
                Step::Send([setting(4, 3), get()].concat()),
                Step::Data,
                Step::Send([setting(4, 2), window_update(1, 2)].concat()),
            ],
            Then::DataBytes(1),
        ),
        case(
            "6.10 several CONTINUATION",
            [
                unfinished(END_STREAM, 1),
                continuation(1, false, &more()),
                continuation(1, true, &more()),
            ]
            .concat(),
            Then::Answer,
        ),
        case(
            "6.10 CONTINUATION, then another frame",
            [
                unfinished(NONE, 1),
                continuation(1, false, &more()),
                last_data(1, b"test"),
            ]
            .concat(),
            PROTOCOL,
        ),
        case(
            "6.10 CONTINUATION on stream 0",
            [unfinished(END_STREAM, 1), continuation(0, true, &more())].concat(),
            PROTOCOL,
        ),
        case(
            "6.10 CONTINUATION after the end of HEADERS",
            [get(), continuation(1, true, &more())].concat(),
            PROTOCOL,
        ),
        case(
            "6.10 CONTINUATION after the last CONTINUATION",
            [
                unfinished(END_STREAM, 1),
                continuation(1, true, &more()).repeat(2),
            ]
            .concat(),
            PROTOCOL,
        ),
        case(
            "6.10 CONTINUATION after DATA",
            [
                unfinished(NONE, 1),
                last_data(1, b"test"),
                continuation(1, true, &more()),
            ]
            .concat(),
            PROTOCOL,
        ),
        case(
            "7 GOAWAY with an unknown code",
            [goaway(0xff), ping()].concat(),
            Then::PongOrClose,
        ),
        case(
            "7 RST_STREAM with an unknown code",
            [post(), frame(RST_STREAM, NONE, 1, &[0, 0, 0, 0xff]), ping()].concat(),
            Then::Pong,
        ),
    ]
}
