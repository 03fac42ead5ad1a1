//! What every server has to take: frames, fields and requests in order.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let window = |bytes| settings(&[(INITIAL_WINDOW_SIZE, bytes)]);
    let split = |at: &[usize]| {
        let block = block(&GET);
        let mut frames = frame(HEADERS, END_STREAM, 1, &block[..at[0]]);
        for (index, start) in at.iter().enumerate() {
            let end = at.get(index + 1).copied().unwrap_or(block.len());
            let is_last = index + 1 == at.len();
            frames.extend(continuation(1, is_last, &block[*start..end]));
        }
        frames
    };
    let all = [
        (1, 4096),
        (2, 1),
        (3, 100),
        (4, 65535),
        (5, 16384),
        (6, 100),
    ];
    let trailers = frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        1,
        &block(&[("x-test", "ok")]),
    );
    let padded = |flags| {
        let payload = [&[8][..], &block(&GET), &[0; 8]].concat();
        frame(HEADERS, flags | PADDED, 1, &payload)
    };
    let prioritised = [&[0, 0, 0, 0, 255][..], &block(&GET)].concat();
    vec![
        case(
            "PRIORITY on an idle stream",
            [priority(1, 0, 255), ping()].concat(),
            Then::Pong,
        ),
        case(
            "WINDOW_UPDATE on a half-closed stream",
            [window(0), get(), window_update(1, 1)].concat(),
            Then::DataBytes(1),
        ),
        case(
            "PRIORITY on a half-closed stream",
            [window(0), get(), priority(1, 0, 255), window_update(1, 1)].concat(),
            Then::DataBytes(1),
        ),
        case(
            "RST_STREAM on a half-closed stream",
            [get(), reset(1), ping()].concat(),
            Then::Pong,
        ),
        steps(
            "PRIORITY on a closed stream",
            vec![
                Step::Send(get()),
                Step::Answered,
                Step::Send([priority(1, 0, 255), ping()].concat()),
            ],
            Then::Pong,
        ),
        case(
            "DATA",
            [post(), last_data(1, b"test")].concat(),
            Then::Answer,
        ),
        case(
            "several DATA",
            [post(), data(1, b"test"), last_data(1, b"test")].concat(),
            Then::Answer,
        ),
        case(
            "DATA with padding",
            [
                post(),
                frame(DATA, END_STREAM | PADDED, 1, b"\x05test\0\0\0\0\0"),
            ]
            .concat(),
            Then::Answer,
        ),
        case("HEADERS", get(), Then::Answer),
        case(
            "HEADERS with padding",
            padded(END_STREAM | END_HEADERS),
            Then::Answer,
        ),
        case(
            "HEADERS with priority",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | WITH_PRIORITY,
                1,
                &prioritised,
            ),
            Then::Answer,
        ),
        case(
            "PRIORITY of weight 1",
            [priority(1, 0, 0), get()].concat(),
            Then::Answer,
        ),
        case(
            "PRIORITY of weight 256",
            [priority(1, 0, 255), get()].concat(),
            Then::Answer,
        ),
        case(
            "PRIORITY with a dependency",
            [priority(3, 1, 0), get()].concat(),
            Then::Answer,
        ),
        case(
            "exclusive PRIORITY",
            [priority(1, 1 << 31, 0), get()].concat(),
            Then::Answer,
        ),
        case(
            "PRIORITY of an idle stream, then HEADERS of a lower one",
            [priority(3, 0, 255), get()].concat(),
            Then::Answer,
        ),
        case(
            "RST_STREAM",
            [open(1, &GET), reset(1), ping()].concat(),
            Then::Pong,
        ),
        case("SETTINGS", settings(&all), Then::SettingsAck),
        case("PING", ping(), Then::Pong),
        case("GOAWAY", [goaway(0), ping()].concat(), Then::PongOrClose),
        case(
            "WINDOW_UPDATE on stream 0",
            [window_update(0, 1), ping()].concat(),
            Then::Pong,
        ),
        case(
            "WINDOW_UPDATE on stream 1",
            [get(), window_update(1, 1)].concat(),
            Then::Answer,
        ),
        case("CONTINUATION", split(&[5]), Then::Answer),
        case("several CONTINUATION", split(&[5, 10]), Then::Answer),
        case(
            "HEAD",
            request(1, &[&[(":method", "HEAD")][..], &GET[1..]].concat()),
            Then::Answer,
        ),
        case(
            "POST with trailers",
            [post(), data(1, b"test"), trailers].concat(),
            Then::Answer,
        ),
    ]
}
