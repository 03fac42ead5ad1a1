//! What clients send, and what attackers send.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::protocol::corpus::seeds;

const MAX_HEAD_BYTES: usize = 32 << 10;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const PRIORITY_UPDATE: u8 = 0x10;

const NONE: u8 = 0;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &[0x82; 40])
}

fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, NONE, stream, &increment.to_be_bytes())
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, NONE, stream, &[0, 0, 0, 8])
}

/// The stream of a client's request of this number.
fn stream(number: usize) -> u32 {
    2 * number as u32 + 1
}

/// A connection that has begun as clients begin it.
fn begun() -> FrameGuard {
    let mut guard = FrameGuard::new(MAX_HEAD_BYTES);
    let settings = frame(
        SETTINGS,
        NONE,
        0,
        &[0, 3, 0, 0, 0, 100, 0, 4, 0, 0xa0, 0, 0],
    );
    let acknowledged = frame(SETTINGS, 1, 0, &[]);
    for bytes in [
        PREFACE,
        &settings,
        &window_update(0, 1 << 20),
        &acknowledged,
    ] {
        assert_eq!(guard.inspect(bytes, Duration::ZERO), Ok(()));
    }
    guard
}

/// Sends frames, each so much later, until one is refused; `None` when all passed.
fn refused_at(
    guard: &mut FrameGuard,
    frames: impl IntoIterator<Item = Vec<u8>>,
    gap: Duration,
) -> Option<(usize, Flood)> {
    let mut now = Duration::from_secs(1);
    for (at, frame) in frames.into_iter().enumerate() {
        now += gap;
        if let Err(flood) = guard.inspect(&frame, now) {
            return Some((at, flood));
        }
    }
    None
}

/// As many as any flood needs to be seen.
const MANY: usize = 100_000;

#[test]
fn each_flood_is_seen_and_none_of_it_takes_long() {
    type Make = Box<dyn Fn(usize) -> Vec<u8>>;
    let floods: Vec<(Flood, usize, Make)> = vec![
        (
            Flood::Resets,
            520,
            Box::new(|at| [request(stream(at)), reset(stream(at))].concat()),
        ),
        (Flood::Resets, 257, Box::new(|_| reset(1))),
        (
            Flood::Pings,
            2001,
            Box::new(|_| frame(PING, NONE, 0, &[0; 8])),
        ),
        (Flood::Pings, 2001, Box::new(|_| frame(PING, 1, 0, &[0; 8]))),
        (
            Flood::Settings,
            21,
            Box::new(|_| frame(SETTINGS, NONE, 0, &[])),
        ),
        (
            Flood::Settings,
            21,
            Box::new(|_| frame(SETTINGS, 1, 0, &[])),
        ),
        (
            Flood::Settings,
            1,
            Box::new(|_| frame(SETTINGS, NONE, 0, &[0; 390])),
        ),
        (
            Flood::Priorities,
            101,
            Box::new(|_| frame(PRIORITY, NONE, 5, &[0, 0, 0, 3, 1])),
        ),
        (
            Flood::Priorities,
            101,
            Box::new(|_| frame(PRIORITY_UPDATE, NONE, 0, b"\0\0\0\x01u=1")),
        ),
        (
            Flood::EmptyData,
            51,
            Box::new(|_| frame(DATA, NONE, 1, &[])),
        ),
        (
            Flood::EmptyData,
            51,
            Box::new(|_| frame(DATA, PADDED, 1, &[3, 0, 0, 0])),
        ),
        (
            Flood::EmptyData,
            51,
            Box::new(|_| frame(DATA, PADDED, 1, &[255, 0])),
        ),
        (
            Flood::WindowUpdates,
            2001,
            Box::new(|_| window_update(1, 1)),
        ),
        (
            Flood::WindowUpdates,
            20_001,
            Box::new(|_| window_update(0, 4096)),
        ),
        (Flood::Errors, 21, Box::new(|_| window_update(1, 0))),
        (Flood::Errors, 21, Box::new(|_| window_update(1, 1 << 31))),
        (
            Flood::Errors,
            21,
            Box::new(|at| [request(stream(at)), window_update(stream(at), 0)].concat()),
        ),
        (
            Flood::Errors,
            21,
            Box::new(|_| frame(PRIORITY, NONE, 5, &[0x80, 0, 0, 5, 1])),
        ),
        (
            Flood::Errors,
            21,
            Box::new(|at| {
                let itself = [&stream(at).to_be_bytes()[..], &[0, 0x82]].concat();
                frame(HEADERS, END_HEADERS | WITH_PRIORITY, stream(at), &itself)
            }),
        ),
        (
            Flood::Errors,
            21,
            Box::new(|at| {
                let itself = [&[0], &stream(at).to_be_bytes()[..], &[0, 0x82]].concat();
                frame(
                    HEADERS,
                    END_HEADERS | WITH_PRIORITY | PADDED,
                    stream(at),
                    &itself,
                )
            }),
        ),
        (
            Flood::GoAways,
            6,
            Box::new(|_| frame(GOAWAY, NONE, 0, &[0; 8])),
        ),
        (
            Flood::UnknownFrames,
            101,
            Box::new(|_| frame(0x7f, NONE, 0, b"x")),
        ),
    ];
    for (flood, count, make) in floods {
        let seen = refused_at(&mut begun(), (0..MANY).map(&make), Duration::ZERO);
        let (at, seen) = seen.expect("a flood that is not seen");
        assert_eq!(seen, flood);
        assert!(at < count + 2, "{flood} after {at} frames");
        // Nor does it help to send a frame every 15 microseconds, which is 6 Mbit/s of them.
        let slower = refused_at(
            &mut begun(),
            (0..MANY).map(&make),
            Duration::from_micros(15),
        );
        assert_eq!(slower.map(|(_, seen)| seen), Some(flood));
    }
}

#[test]
fn a_header_block_has_few_frames_and_none_is_empty() {
    let begin = || frame(HEADERS, END_STREAM, 1, &[0x82]);
    let go_on = |payload: &'static [u8]| move |_| frame(CONTINUATION, NONE, 1, payload);

    let mut guard = begun();
    guard.inspect(&begin(), Duration::ZERO).unwrap();
    let seen = refused_at(
        &mut guard,
        (0..MANY).map(go_on(b"\x82")),
        Duration::from_secs(1),
    );
    assert_eq!(seen, Some((32, Flood::Continuations)));
    assert!(guard.under_way().is_some());

    let mut guard = begun();
    guard.inspect(&begin(), Duration::ZERO).unwrap();
    let seen = refused_at(
        &mut guard,
        (0..MANY).map(go_on(b"")),
        Duration::from_secs(1),
    );
    assert_eq!(seen, Some((0, Flood::Continuations)));

    let mut guard = begun();
    guard.inspect(&begin(), Duration::ZERO).unwrap();
    let seen = refused_at(
        &mut guard,
        (0..MANY).map(go_on(&[0; 4096])),
        Duration::from_secs(1),
    );
    assert_eq!(
        seen,
        Some((15, Flood::HeaderBlock)),
        "twice the size of a head"
    );

    // Split exactly at the end of a frame, as encoders do that know the end too late.
    let mut guard = begun();
    guard.inspect(&begin(), Duration::ZERO).unwrap();
    assert!(guard.under_way().is_some());
    let end = frame(CONTINUATION, END_HEADERS, 1, b"");
    assert_eq!(guard.inspect(&end, Duration::ZERO), Ok(()));
    assert_eq!(guard.under_way(), None);
}

#[test]
fn a_block_is_refused_by_its_announced_size() {
    let mut guard = begun();
    let header = [0, 0xff, 0xff, HEADERS, END_HEADERS, 0, 0, 0, 1];
    let seen = guard.inspect(&header, Duration::ZERO);
    assert_eq!(
        seen,
        Ok(()),
        "64 KiB less one is twice a head, for the library to answer"
    );
    let header = [1, 0, 1, HEADERS, END_HEADERS, 0, 0, 0, 1];
    let seen = begun().inspect(&header, Duration::ZERO);
    assert_eq!(seen, Err(Flood::HeaderBlock));
}

#[test]
fn other_protocols_are_refused_at_their_first_bytes() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PRI * HTTP/1.1",
        b"\x16\x03\x01",
        b"\0",
    ] {
        let mut guard = FrameGuard::new(MAX_HEAD_BYTES);
        let seen = guard.inspect(bytes, Duration::ZERO);
        assert_eq!(seen, Err(Flood::Preface));
        assert_eq!(
            guard.inspect(PREFACE, Duration::ZERO),
            seen,
            "refused for ever"
        );
    }
}

#[test]
fn h2load_passes_at_full_speed() {
    let mut guard = begun();
    let requests = (0..MANY).flat_map(|at| {
        let update = at.is_multiple_of(8).then(|| window_update(0, 1 << 15));
        [request(stream(at))].into_iter().chain(update)
    });
    assert_eq!(
        refused_at(&mut guard, requests, Duration::from_micros(5)),
        None
    );
}

#[test]
fn a_browser_passes_that_closes_tabs() {
    let mut guard = begun();
    let old_priorities = (1..6).map(|at| frame(PRIORITY, NONE, 2 * at + 1, &[0, 0, 0, 0, 100]));
    assert_eq!(refused_at(&mut guard, old_priorities, Duration::ZERO), None);
    let grease = vec![frame(0xbb, NONE, 0, b"grease")];
    assert_eq!(refused_at(&mut guard, grease, Duration::ZERO), None);
    for tab in 0..100 {
        let streams = || (0..100).map(move |at| stream(6 + tab * 100 + at));
        let loads = streams().flat_map(|stream| {
            let urgent = [&stream.to_be_bytes()[..], b"u=1,i"].concat();
            [request(stream), frame(PRIORITY_UPDATE, NONE, 0, &urgent)]
        });
        assert_eq!(
            refused_at(&mut guard, loads, Duration::from_micros(50)),
            None
        );
        // Every second tab is closed while all of it loads.
        let closes = streams().filter(|_| tab % 2 == 0).map(reset);
        assert_eq!(
            refused_at(&mut guard, closes, Duration::ZERO),
            None,
            "tab {tab}"
        );
    }
}

#[test]
fn a_hedging_client_passes_that_cancels_every_second_request() {
    let mut guard = begun();
    let requests = (0..MANY).flat_map(|at| {
        let cancelled = (at % 2 == 1).then(|| reset(stream(at)));
        [request(stream(at))].into_iter().chain(cancelled)
    });
    assert_eq!(refused_at(&mut guard, requests, Duration::ZERO), None);
}

#[test]
fn grpc_streams_of_small_messages_pass() {
    // Each answer is acknowledged by itself, and measured with a ping.
    let mut guard = begun();
    let open = frame(HEADERS, END_HEADERS, 1, &[0x82; 60]);
    guard.inspect(&open, Duration::ZERO).unwrap();
    let messages = (0..MANY).flat_map(|_| {
        [
            frame(DATA, NONE, 1, &[0; 20]),
            window_update(0, 20),
            window_update(1, 20),
            frame(PING, NONE, 0, &[2; 8]),
        ]
    });
    assert_eq!(
        refused_at(&mut guard, messages, Duration::from_micros(10)),
        None
    );
    // The same, with answers only, a thousand a second.
    let mut guard = begun();
    let answers = (0..MANY).map(|_| frame(PING, NONE, 0, &[2; 8]));
    assert_eq!(
        refused_at(&mut guard, answers, Duration::from_millis(1)),
        None
    );
    let end = frame(DATA, END_STREAM, 1, &[]);
    assert_eq!(guard.inspect(&end, Duration::from_secs(200)), Ok(()));
}

#[test]
fn a_large_upload_and_a_large_download_pass() {
    let mut guard = begun();
    let upload = (0..2000).map(|_| frame(DATA, NONE, 1, &[0; 16_384]));
    assert_eq!(refused_at(&mut guard, upload, Duration::ZERO), None);
    // Ten gigabits a second, each frame acknowledged for its stream and for the connection.
    let updates = (0..MANY).map(|at| window_update(at as u32 % 2, 16_384));
    assert_eq!(
        refused_at(&mut guard, updates, Duration::from_micros(20)),
        None
    );
}

#[test]
fn a_small_window_passes_when_answers_fill_it() {
    // Every half of 1 KiB is acknowledged, for the stream and for the connection.
    let mut guard = begun();
    for _ in 0..MANY {
        guard.note_sent(521);
        let updates = [window_update(1, 512), window_update(0, 512)].concat();
        assert_eq!(guard.inspect(&updates, Duration::ZERO), Ok(()));
    }
    // An answer that drips byte by byte is not worth its frames.
    let mut guard = begun();
    let drips = (0..MANY).map(|_| {
        guard.note_sent(10);
        guard.inspect(&window_update(1, 1), Duration::ZERO)
    });
    assert_eq!(drips.last(), Some(Err(Flood::WindowUpdates)));
}

#[test]
fn preface_and_settings_are_a_unit_and_so_is_a_header_block() {
    let mut guard = FrameGuard::new(MAX_HEAD_BYTES);
    let bytes = [
        PREFACE,
        &frame(SETTINGS, NONE, 0, &[0; 6]),
        &request(1),
        &frame(HEADERS, END_STREAM, 3, &[0x82; 3]),
        &frame(CONTINUATION, END_HEADERS, 3, &[0x82; 4]),
    ]
    .concat();
    let mut units: Vec<Option<u64>> = vec![guard.under_way()];
    let mut ends = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        guard.inspect(&[*byte], Duration::ZERO).unwrap();
        let unit = guard.under_way();
        if unit.is_none() {
            ends.push(at + 1);
        }
        if units.last() != Some(&unit) {
            units.push(unit);
        }
    }
    assert_eq!(ends, [24 + 15, 39 + 49, 88 + 12 + 13]);
    assert_eq!(units, [Some(0), None, Some(1), None, Some(2), None]);
}

#[test]
fn a_connection_begins_with_settings() {
    for first in [
        frame(PING, NONE, 0, &[0; 8]),
        frame(SETTINGS, 1, 0, &[]),
        request(1),
        frame(0x7f, NONE, 0, b"x"),
    ] {
        let mut guard = FrameGuard::new(MAX_HEAD_BYTES);
        guard.inspect(PREFACE, Duration::ZERO).unwrap();
        let seen = guard.inspect(&first, Duration::ZERO);
        assert_eq!(seen, Err(Flood::Preface), "{first:?}");
    }
}

#[test]
fn whoever_is_turned_away_is_told_the_last_stream_and_why() {
    let mut guard = begun();
    guard
        .inspect(&request(0x0102_0305), Duration::ZERO)
        .unwrap();
    assert_eq!(
        guard.go_away(Flood::Pings),
        [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 1, 2, 3, 5, 0, 0, 0, 0xb]
    );
    assert_eq!(guard.go_away(Flood::Preface)[16], 1);
}

#[test]
fn the_corpus_holds() {
    for seed in seeds("http2") {
        fuzz(&seed);
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        fuzz(&bytes);
        fuzz(&[b"\0", PREFACE, &bytes].concat());
    }

    #[test]
    fn random_frames_never_panic(
        pace: u8,
        frames in vec((0..0x12_u8, any::<u8>(), 0..6_u32, vec(0..9_u8, 0..20), 1..60_usize), 0..30),
    ) {
        let frames = frames.into_iter().flat_map(|(kind, flags, stream, payload, times)| {
            frame(kind, flags, stream, &payload).repeat(times)
        });
        let bytes: Vec<u8> = frames.collect();
        fuzz(&[&[pace], PREFACE, &bytes].concat());
    }
}
