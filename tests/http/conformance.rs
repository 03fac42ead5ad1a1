//! What an HTTP/2 server has to do with each frame in each state: the cases of the public suite
//! h2spec, told from RFC 9113 and RFC 7541. What the suite sends twice is sent once here.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::frames::ACK;
use crate::frames::COMPRESSION_ERROR;
use crate::frames::CONTINUATION;
use crate::frames::Client;
use crate::frames::DATA;
use crate::frames::END_HEADERS;
use crate::frames::END_STREAM;
use crate::frames::FLOW_CONTROL_ERROR;
use crate::frames::FRAME_SIZE_ERROR;
use crate::frames::Frame;
use crate::frames::GET;
use crate::frames::GOAWAY;
use crate::frames::HEADERS;
use crate::frames::INITIAL_WINDOW_SIZE;
use crate::frames::NONE;
use crate::frames::PADDED;
use crate::frames::PING;
use crate::frames::POST;
use crate::frames::PREFACE;
use crate::frames::PRIORITY;
use crate::frames::PROTOCOL_ERROR;
use crate::frames::PUSH_PROMISE;
use crate::frames::REFUSED_STREAM;
use crate::frames::RST_STREAM;
use crate::frames::SETTINGS;
use crate::frames::STREAM_CLOSED;
use crate::frames::WINDOW_UPDATE;
use crate::frames::WITH_PRIORITY;
use crate::frames::block;
use crate::frames::data;
use crate::frames::frame;
use crate::frames::last_data;
use crate::frames::open;
use crate::frames::ping;
use crate::frames::request;
use crate::frames::reset;
use crate::frames::settings;
use crate::frames::window_update;
use crate::harness::Plan;
use crate::harness::Stage;
use crate::pki::Authority;
use crate::recorder::Recorder;

/// What a client does, on a connection that has begun.
#[derive(Debug)]
enum Step {
    Send(Vec<u8>),
    /// Waits until stream 1 has been answered.
    Answered,
    /// Waits for data.
    Data,
}

/// What the server has to do then.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// GOAWAY with one of these codes, and in any case the end of the connection.
    ConnectionError(&'static [u32]),
    /// RST_STREAM with one of these codes, or as above.
    StreamError(&'static [u32]),
    /// GOAWAY and nothing less.
    GoAway(u32),
    /// RST_STREAM and nothing more.
    Reset(u32),
    /// The answer of stream 1.
    Answer,
    /// The answer to a ping; the client has sent one.
    Pong,
    PongOrClose,
    SettingsAck,
    /// A frame of DATA with just this many bytes.
    DataBytes(usize),
}

struct Case {
    name: &'static str,
    steps: Vec<Step>,
    then: Then,
}

fn case(name: &'static str, bytes: Vec<u8>, then: Then) -> Case {
    steps(name, vec![Step::Send(bytes)], then)
}

fn steps(name: &'static str, steps: Vec<Step>, then: Then) -> Case {
    Case { name, steps, then }
}

const PROTOCOL: Then = Then::ConnectionError(&[PROTOCOL_ERROR]);
const FRAME_SIZE: Then = Then::ConnectionError(&[FRAME_SIZE_ERROR]);
const COMPRESSION: Then = Then::ConnectionError(&[COMPRESSION_ERROR]);
const MALFORMED: Then = Then::StreamError(&[PROTOCOL_ERROR]);
const CLOSED: Then = Then::StreamError(&[STREAM_CLOSED]);
const CLOSED_OR_PROTOCOL: Then = Then::StreamError(&[STREAM_CLOSED, PROTOCOL_ERROR]);

/// Exclusive or not, on which stream, weight less one.
fn priority(stream: u32, on: u32, weight: u8) -> Vec<u8> {
    let payload = [&on.to_be_bytes()[..], &[weight]].concat();
    frame(PRIORITY, NONE, stream, &payload)
}

fn continuation(stream: u32, is_last: bool, payload: &[u8]) -> Vec<u8> {
    let flags = if is_last { END_HEADERS } else { NONE };
    frame(CONTINUATION, flags, stream, payload)
}

/// A head that goes on in the next frame.
fn unfinished(flags: u8, stream: u32) -> Vec<u8> {
    frame(HEADERS, flags, stream, &block(&GET))
}

fn more() -> Vec<u8> {
    block(&[("x-dummy", "dummy")])
}

/// A request with these bytes behind its fields.
fn encoded(tail: &[u8]) -> Vec<u8> {
    let payload = [&block(&GET)[..], tail].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &payload)
}

/// A request with these fields behind the usual ones.
fn with_fields(fields: &[(&str, &str)]) -> Vec<u8> {
    request(1, &[&GET[..], fields].concat())
}

fn get() -> Vec<u8> {
    request(1, &GET)
}

fn post() -> Vec<u8> {
    open(1, &POST)
}

fn goaway(code: u32) -> Vec<u8> {
    frame(GOAWAY, NONE, 0, &[[0; 4], code.to_be_bytes()].concat())
}

fn post_with_length(length: &str) -> Vec<u8> {
    open(1, &[&POST[..], &[("content-length", length)]].concat())
}

fn generic() -> Vec<Case> {
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

fn hpack() -> Vec<Case> {
    let name = b"\x06x-test";
    let value = b"\x06h2spec";
    let huffman_name = b"\x85\xf2\xb2\x4a\x84\xff";
    let huffman_value = b"\x84\x9c\x48\xac\xa4";
    let long = |first: u8| encoded(&[&[first][..], name, value].concat());
    let short = |first: u8| encoded(&[&[first][..], huffman_name, huffman_value].concat());
    // Entry 58 is user-agent.
    let named = |entry: &[u8], value: &[u8]| encoded(&[entry, value].concat());
    let resized = |update: &[u8]| {
        let payload = [update, &block(&GET)].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &payload)
    };
    vec![
        case(
            "indexed field of the static table",
            encoded(b"\xba"),
            Then::Answer,
        ),
        case("literal with indexing", long(0x40), Then::Answer),
        case("literal with indexing, Huffman", short(0x40), Then::Answer),
        case("literal without indexing", long(0), Then::Answer),
        case("literal without indexing, Huffman", short(0), Then::Answer),
        case("literal never indexed", long(0x10), Then::Answer),
        case("literal never indexed, Huffman", short(0x10), Then::Answer),
        case(
            "literal with an indexed name",
            encoded(b"\x7a\x06h2spec"),
            Then::Answer,
        ),
        case(
            "literal with an indexed name, Huffman",
            named(b"\x7a", huffman_value),
            Then::Answer,
        ),
        case(
            "literal without indexing, indexed name",
            named(b"\x0f\x2b", value),
            Then::Answer,
        ),
        case(
            "literal without indexing, indexed name, Huffman",
            named(b"\x0f\x2b", huffman_value),
            Then::Answer,
        ),
        case(
            "literal never indexed, indexed name",
            named(b"\x1f\x2b", value),
            Then::Answer,
        ),
        case(
            "literal never indexed, indexed name, Huffman",
            named(b"\x1f\x2b", huffman_value),
            Then::Answer,
        ),
        case("table size update", resized(b"\x3f\x61"), Then::Answer),
        case(
            "two table size updates",
            resized(b"\x3f\x61\x3f\xe1\x1f"),
            Then::Answer,
        ),
        case(
            "2.3.3 index out of the table",
            encoded(b"\xc6"),
            COMPRESSION,
        ),
        case(
            "2.3.3 name out of the table",
            encoded(b"\x7f\x07\x00"),
            COMPRESSION,
        ),
        case(
            "4.2 table size update at the end",
            encoded(b"\x21"),
            COMPRESSION,
        ),
        case(
            "5.2 Huffman padding of more than 7 bits",
            encoded(b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
            COMPRESSION,
        ),
        case(
            "5.2 Huffman padding of zeros",
            encoded(b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
            COMPRESSION,
        ),
        case(
            "5.2 EOS in Huffman's code",
            encoded(b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f"),
            COMPRESSION,
        ),
        case("6.1 index 0", encoded(b"\x80"), COMPRESSION),
        case(
            "6.3 table size above the allowed one",
            resized(b"\x3f\xe2\x1f"),
            COMPRESSION,
        ),
    ]
}

fn frames_and_streams() -> Vec<Case> {
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

fn definitions() -> Vec<Case> {
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

fn messages() -> Vec<Case> {
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

fn backend() -> Recorder {
    Recorder::answering(|_| crate::recorder::ok("hello, world"))
}

/// A listener with TLS, and a client that speaks HTTP/2 with it and nothing else.
fn secure(backend: &Recorder) -> (Stage, Arc<ClientConfig>) {
    let authority = Authority::new("ca");
    let pair = authority.issue("a", &["a.test"]);
    let tls = format!(
        "tls: {{cert_file: '{}', key_file: '{}'}}",
        pair.cert_file.display(),
        pair.key_file.display()
    );
    let mut config = authority.trusting(&[&TLS13, &TLS12]);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stage = Plan::new(&[backend.addr()]).listener(&tls).start();
    (stage, Arc::new(config))
}

#[test]
fn every_case_of_h2spec_is_met() {
    let backend = backend();
    let stage = Plan::new(&[backend.addr()]).start();
    meet_every_case(|| Client::silent(&stage));
}

#[test]
fn every_case_of_h2spec_is_met_over_tls() {
    let backend = backend();
    let (stage, config) = secure(&backend);
    meet_every_case(|| Client::secure(&stage, &config));
}

fn meet_every_case(connect: impl Fn() -> Client) {
    let groups = [
        generic(),
        hpack(),
        frames_and_streams(),
        definitions(),
        messages(),
    ];
    let cases: Vec<Case> = groups.into_iter().flatten().collect();
    assert!(cases.len() >= 138, "{}", cases.len());
    let failed: Vec<String> = cases
        .into_iter()
        .filter_map(|case| {
            let name = case.name;
            let error = run(connect().begun(&[]), case).err()?;
            Some(format!("{name}: {error}"))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_server_begins_with_settings() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let mut client = Client::silent(&stage);
    client.send(&[PREFACE, &settings(&[(INITIAL_WINDOW_SIZE, 65535)])].concat());
    let first = client.next().unwrap();
    assert_eq!((first.kind, first.flags), (SETTINGS, NONE));
}

#[test]
fn a_connection_that_begins_wrongly_is_ended() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let after_preface = [
        ping(),
        get(),
        frame(SETTINGS, ACK, 0, b""),
        frame(0xbb, NONE, 0, b"x"),
    ];
    for first in after_preface {
        let mut client = Client::silent(&stage);
        client.send(&[PREFACE, &first].concat());
        let said = client.rest();
        let last = said.last().unwrap();
        assert_eq!(last.code(), Some(PROTOCOL_ERROR), "{first:?}: {said:?}");
    }
    let almost = [&PREFACE[..18], b"XX\r\n\r\n"].concat();
    let mut client = Client::silent(&stage);
    client.send(&almost);
    client.rest();
    assert!(!backend.text().contains("XX"), "{}", backend.text());
}

/// An answer of HTTP/1 would be no frame: the end says it all (RFC 9113, 3.4).
#[test]
fn who_begins_with_neither_version_is_closed_without_a_word() {
    const WRONG: &[u8] = b"INVALID CONNECTION PREFACE\r\n\r\n";
    let backend = backend();
    let stage = Plan::new(&[backend.addr()]).start();
    let mut client = Client::silent(&stage);
    client.send(WRONG);
    assert_eq!(client.rest(), []);
    let (stage, config) = secure(&backend);
    let mut client = Client::secure(&stage, &config);
    client.send(WRONG);
    let said = client.rest();
    let last = said.last().unwrap();
    assert_eq!(last.code(), Some(PROTOCOL_ERROR), "{said:?}");
    assert!(!backend.text().contains("PREFACE"), "{}", backend.text());
}

fn run(mut client: Client, case: Case) -> Result<(), String> {
    for step in case.steps {
        match step {
            Step::Send(bytes) => {
                client.send(&bytes);
            }
            Step::Answered => {
                client.until(Frame::ends_stream);
            }
            Step::Data => {
                client.until(|frame| frame.kind == DATA);
            }
        }
    }
    // What else comes, comes before this.
    let mut said = Vec::new();
    loop {
        let next = client.next();
        if let Some(is_met) = judge(case.then, next.as_ref()) {
            said.extend(next);
            return is_met.then_some(()).ok_or_else(|| {
                let then = case.then;
                format!("expected {then:x?}, got {said:x?}")
            });
        }
        said.extend(next);
    }
}

/// Whether the server has done it; `None`: it has still to say more. `next` is nothing once the
/// connection is closed.
fn judge(then: Then, next: Option<&Frame>) -> Option<bool> {
    let code = next.and_then(Frame::code);
    let is_reset = next.is_some_and(|frame| frame.kind == RST_STREAM);
    let is_goaway = next.is_some_and(|frame| frame.kind == GOAWAY);
    let is_pong = next.is_some_and(|frame| {
        frame.kind == PING && frame.flags == ACK && frame.payload == b"evergate"
    });
    let among = |codes: &[u32]| code.is_some_and(|code| codes.contains(&code));
    match then {
        Then::ConnectionError(codes) | Then::StreamError(codes) if is_goaway => {
            // The end still has to come. PROTOCOL_ERROR is right where a special code is wanted, too,
            // only less telling.
            (!among(codes) && !among(&[PROTOCOL_ERROR])).then_some(false)
        }
        Then::StreamError(codes) if is_reset => Some(among(codes)),
        // A request that was complete may have been answered before it was in error.
        Then::ConnectionError(_) | Then::StreamError(_) => next.is_none().then_some(true),
        Then::GoAway(wanted) if is_goaway => Some(code == Some(wanted)),
        Then::Reset(wanted) if is_reset => Some(code == Some(wanted)),
        Then::Answer if next.is_some_and(|frame| frame.kind == HEADERS) => Some(true),
        Then::Pong | Then::PongOrClose if is_pong => Some(true),
        Then::SettingsAck => {
            let is_ack = |frame: &Frame| frame.kind == SETTINGS && frame.flags == ACK;
            (next.is_some_and(is_ack) || next.is_none()).then_some(next.is_some())
        }
        Then::DataBytes(bytes) => match next {
            Some(frame) if frame.kind == DATA => Some(frame.payload.len() == bytes),
            Some(_) => None,
            None => Some(false),
        },
        Then::PongOrClose if next.is_none() => Some(true),
        Then::Answer if is_reset => Some(false),
        _ if next.is_none() => Some(false),
        _ => None,
    }
}
