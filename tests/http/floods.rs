//! What is cheap to send and costly to serve: each attack is ended, holds little memory and is not
//! noticed by anybody else.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::frames::ACK;
use crate::frames::CONTINUATION;
use crate::frames::Client;
use crate::frames::DATA;
use crate::frames::END_HEADERS;
use crate::frames::END_STREAM;
use crate::frames::ENHANCE_YOUR_CALM;
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
use crate::frames::RST_STREAM;
use crate::frames::SETTINGS;
use crate::frames::block;
use crate::frames::data;
use crate::frames::frame;
use crate::frames::integer;
use crate::frames::last_data;
use crate::frames::literal;
use crate::frames::open;
use crate::frames::ping;
use crate::frames::request;
use crate::frames::reset;
use crate::frames::settings;
use crate::frames::window_update;
use crate::harness::Plan;
use crate::harness::Stage;
use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::wait_until;

/// What an attack may make the proxy hold.
const MAX_GROWTH_BYTES: u64 = 10 << 20;
/// The attacker is gone after about a second; the rest is for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);
const MANY: u32 = 100_000;

fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// An attack by name, and its frames from so many on.
type Attack = (&'static str, Box<dyn Fn(u32) -> Vec<u8>>);

/// Sends until the proxy has enough, and reads until it has closed; the last frame.
fn attack(stage: &Stage, make: &dyn Fn(u32) -> Vec<u8>) -> (Option<Frame>, Duration) {
    let mut client = Client::new(stage);
    let started = Instant::now();
    let mut number = 0;
    while number < MANY {
        let bytes: Vec<u8> = (number..number + 1000).flat_map(make).collect();
        number += 1000;
        if !client.send(&bytes) {
            break;
        }
    }
    let last = client.rest().pop();
    (last, started.elapsed())
}

#[test]
fn every_flood_is_ended_and_costs_others_nothing() {
    let attacks: Vec<Attack> = vec![
        (
            "rapid reset",
            Box::new(|at| [request(stream(at), &GET), reset(stream(at))].concat()),
        ),
        (
            "rapid reset of uploads",
            Box::new(|at| {
                let stream = stream(at);
                [open(stream, &POST), reset(stream), data(stream, b"x")].concat()
            }),
        ),
        (
            "CONTINUATION",
            Box::new(|at| match at {
                0 => frame(HEADERS, END_STREAM, 1, &block(&GET)),
                _ => frame(CONTINUATION, NONE, 1, &literal(b"a", b"b")),
            }),
        ),
        (
            "empty CONTINUATION",
            Box::new(|at| match at {
                0 => frame(HEADERS, END_STREAM, 1, &block(&GET)),
                _ => frame(CONTINUATION, NONE, 1, b""),
            }),
        ),
        (
            "streams that the server has to reset, by a window of 0",
            Box::new(|at| [request(stream(at), &GET), window_update(stream(at), 0)].concat()),
        ),
        (
            "streams that the server has to reset, by DATA after the end",
            Box::new(|at| [request(stream(at), &GET), data(stream(at), b"x")].concat()),
        ),
        (
            "streams that the server has to reset, by their fields",
            Box::new(|at| request(stream(at), &[&GET[..], &[("connection", "close")]].concat())),
        ),
        ("PING", Box::new(|_| ping())),
        ("PING with ACK", Box::new(|_| frame(PING, ACK, 0, &[0; 8]))),
        (
            "SETTINGS",
            Box::new(|_| settings(&[(INITIAL_WINDOW_SIZE, 1000)])),
        ),
        (
            "SETTINGS with ACK",
            Box::new(|_| frame(SETTINGS, ACK, 0, b"")),
        ),
        (
            "PRIORITY",
            Box::new(|at| frame(PRIORITY, NONE, stream(at), &[0, 0, 0, 0, 1])),
        ),
        (
            "empty DATA",
            Box::new(|at| match at {
                0 => open(1, &POST),
                _ => data(1, b""),
            }),
        ),
        (
            "DATA that is only padding",
            Box::new(|at| match at {
                0 => open(1, &POST),
                _ => frame(DATA, PADDED, 1, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            }),
        ),
        ("tiny WINDOW_UPDATE", Box::new(|_| window_update(0, 1))),
        ("unknown frames", Box::new(|_| frame(0xbb, NONE, 0, b"x"))),
        ("GOAWAY", Box::new(|_| frame(GOAWAY, NONE, 0, &[0; 8]))),
    ];
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let mut bystander = Client::new(&stage);
    // Whatever is allocated once is allocated now.
    attack(&stage, &attacks[0].1);
    assert_eq!(bystander.get(1), 200);
    let before = stage.evergate.rss_bytes();
    for ((name, make), number) in attacks.iter().zip(1..) {
        let (last, elapsed) = attack(&stage, make);
        assert!(elapsed < PATIENCE, "{name}: {elapsed:?}");
        // When the proxy has closed while more was coming, the last words may be lost.
        if let Some(code) = last.as_ref().and_then(Frame::code) {
            let codes = [ENHANCE_YOUR_CALM, PROTOCOL_ERROR];
            assert!(codes.contains(&code), "{name}: {last:?}");
        }
        assert_eq!(bystander.get(stream(number)), 200, "{name}");
        let growth = stage.evergate.rss_bytes().saturating_sub(before);
        assert!(growth < MAX_GROWTH_BYTES, "{name}: {growth} bytes");
    }
    let floods = || {
        let labels = [("cause", "flood")];
        stage
            .evergate
            .metric("evergate_sessions_ended_total", &labels)
    };
    // DATA after the end is an error of the connection at once.
    let by_guard = attacks.len() as f64 - 1.0;
    wait_until(PATIENCE, "floods are counted", || {
        floods() >= Some(by_guard)
    });
}

#[test]
fn a_flood_is_told_why_it_was_ended() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let mut client = Client::new(&stage);
    assert_eq!(client.get(1), 200);
    client.send(&frame(PRIORITY, NONE, 5, &[0, 0, 0, 0, 1]).repeat(200));
    let last = client.until(|frame| frame.kind == GOAWAY);
    assert_eq!(last.code(), Some(ENHANCE_YOUR_CALM));
    assert_eq!(last.payload[..4], [0, 0, 0, 1], "the last stream");
    assert_eq!(client.rest(), []);
}

/// A bomb: one large field in the table, and many references of one byte to it.
fn bomb(at: u32, references: usize) -> Vec<u8> {
    let name = b"cookie";
    let value = "x".repeat(900);
    let field = match at {
        0 => [
            &[0x40][..],
            &integer(6, 7),
            name,
            &integer(900, 7),
            value.as_bytes(),
        ]
        .concat(),
        _ => Vec::new(),
    };
    // The first entry of the dynamic table.
    let block = [block(&GET), field, vec![0x80 | 62; references]].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, stream(at), &block)
}

#[test]
fn heads_that_grow_when_they_are_decoded_are_refused_and_not_kept() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let no_window = || Client::with(&stage, &[(INITIAL_WINDOW_SIZE, 0)]);
    let mut other = Client::new(&stage);
    assert_eq!(other.get(1), 200);
    let before = stage.evergate.rss_bytes();

    // 14 MB in one head of 16 kB.
    let mut client = no_window();
    client.send(&bomb(0, 16_000));
    let last = client.rest().pop().unwrap();
    assert_eq!(last.kind, GOAWAY, "{last:?}");

    // A little more than is allowed, again and again.
    let mut client = no_window();
    for at in 0..120 {
        client.send(&bomb(at, 60));
    }
    for at in 0..120 {
        let stream = stream(at);
        let answer = client.until(|frame| frame.kind == HEADERS && frame.stream == stream);
        assert_eq!(answer.status(), Some(431));
    }

    // Crumbs that are small, and far too many.
    let mut client = no_window();
    let crumbs = |at| {
        let block = [block(&GET), literal(b"cookie", b"").repeat(200)].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, stream(at), &block)
    };
    client.send(&crumbs(0));
    let answer = client.until(|frame| frame.kind == HEADERS);
    assert_eq!(answer.status(), Some(431));
    for at in 1..100 {
        client.send(&crumbs(at));
    }
    client.rest();

    assert_eq!(other.get(3), 200);
    let growth = stage.evergate.rss_bytes().saturating_sub(before);
    assert!(growth < MAX_GROWTH_BYTES, "{growth} bytes");
    assert!(!backend.text().contains("xxx"), "{}", backend.text());
}

#[test]
fn a_target_that_is_too_long_is_refused() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let mut client = Client::new(&stage);
    let path = format!("/{}", "x".repeat(8 << 10));
    client.send(&request(1, &[GET[0], GET[1], (":path", &path), GET[3]]));
    let answer = client.until(|frame| frame.kind == HEADERS);
    assert_eq!(answer.status(), Some(414));
    assert_eq!(backend.bytes().len(), 0, "{}", backend.text());
}

#[test]
fn an_answer_that_nobody_takes_ends_and_its_connection_stays() {
    let backend = Recorder::answering(|head| match head.starts_with("GET /large") {
        true => ok(&"x".repeat(4 << 20)),
        false => ok("small"),
    });
    let limits = "http: {body_timeout: 3s}";
    let stage = Plan::new(&[backend.addr()]).listener(limits).start();
    let large = [GET[0], GET[1], (":path", "/large"), GET[3]];
    // Whatever is allocated once is allocated now.
    assert_eq!(Client::new(&stage).get(1), 200);
    let before = stage.evergate.rss_bytes();
    let mut peak = before;
    let mut client = Client::with(&stage, &[(INITIAL_WINDOW_SIZE, 0)]);
    for at in 0..100 {
        client.send(&request(stream(at), &large));
    }
    // One that is read in time stays.
    client.send(&request(stream(100), &GET));
    let mut ended = 0;
    let mut small = 0;
    while ended < 100 || small == 0 {
        let frame = client.next().unwrap();
        assert_ne!(frame.kind, GOAWAY);
        if frame.stream == stream(100) {
            assert_ne!(frame.kind, RST_STREAM);
            small += usize::from(frame.kind == DATA);
            if frame.kind == HEADERS {
                client.send(&window_update(stream(100), 100));
            }
        } else if frame.kind == RST_STREAM {
            ended += 1;
        }
        peak = peak.max(stage.evergate.rss_bytes());
    }
    let growth = peak.saturating_sub(before);
    assert!(growth < MAX_GROWTH_BYTES, "{growth} bytes");
    client.send(&request(stream(101), &GET));
    client.until(|frame| frame.kind == HEADERS && frame.stream == stream(101));
}

/// All the windows that there can be, and a socket that nobody reads.
#[test]
fn answers_that_nobody_reads_are_not_kept() {
    let backend = Recorder::answering(|head| match head.starts_with("GET /large") {
        true => ok(&"x".repeat(4 << 20)),
        false => ok("small"),
    });
    let limits = "http: {body_timeout: 5s}";
    let stage = Plan::new(&[backend.addr()]).listener(limits).start();
    assert_eq!(Client::new(&stage).get(1), 200);
    let before = stage.evergate.rss_bytes();
    const LARGEST: u32 = (1 << 31) - 1;
    let mut client = Client::with(&stage, &[(INITIAL_WINDOW_SIZE, LARGEST)]);
    client.send(&window_update(0, LARGEST - 65_535));
    let large = [GET[0], GET[1], (":path", "/large"), GET[3]];
    for at in 0..128 {
        client.send(&request(stream(at), &large));
    }
    let mut peak = before;
    let ended = || {
        let labels = [("cause", "body_timeout")];
        let ended = "evergate_sessions_ended_total";
        stage.evergate.metric(ended, &labels).unwrap_or(0.0)
    };
    wait_until(PATIENCE, "the client is given up", || {
        peak = peak.max(stage.evergate.rss_bytes());
        ended() == 1.0
    });
    let growth = peak.saturating_sub(before);
    eprintln!("{growth} bytes");
    assert!(growth < MAX_GROWTH_BYTES, "{growth} bytes");
}

#[test]
fn a_head_that_does_not_end_ends_its_connection() {
    let backend = Recorder::named("a");
    let limits = "http: {header_timeout: 1s}";
    let stage = Plan::new(&[backend.addr()]).listener(limits).start();
    let starts: [(&str, Vec<u8>); 5] = [
        ("nothing after the preface", PREFACE.to_vec()),
        ("half a preface", PREFACE[..20].to_vec()),
        (
            "half of SETTINGS",
            [PREFACE, &settings(&[(4, 1)])[..12]].concat(),
        ),
        (
            "a head without its end",
            [
                PREFACE,
                &settings(&[]),
                &frame(HEADERS, END_STREAM, 1, &block(&GET)),
            ]
            .concat(),
        ),
        (
            "half a frame",
            [PREFACE, &settings(&[]), &ping()[..12]].concat(),
        ),
    ];
    for (name, bytes) in starts {
        let mut client = Client::silent(&stage);
        client.send(&bytes);
        // The proxy closes; a client that waited for ever would fail with its own time-out.
        let said = client.rest();
        assert!(
            said.iter().all(|frame| frame.kind != HEADERS),
            "{name}: {said:?}"
        );
    }
    // A body that comes frame by frame is no head, however long it takes.
    let mut client = Client::new(&stage);
    client.send(&open(1, &POST));
    let payload = frame(DATA, NONE, 1, &[b'x'; 1000]);
    let (first, mut rest) = payload.split_at(500);
    client.send(first);
    for _ in 0..6 {
        // Always in the middle of a frame, never in the same for long.
        thread::sleep(Duration::from_millis(300));
        client.send(&[rest, &payload[..500]].concat());
        rest = &payload[500..];
    }
    client.send(&[rest, &last_data(1, b"")].concat());
    let answer = client.until(|frame| frame.kind == HEADERS);
    assert_eq!(answer.status(), Some(200));
}

#[test]
fn an_idle_connection_is_ended_although_it_answers_pings() {
    let backend = Recorder::named("a");
    let limits = "http: {keep_alive: 1s}";
    let stage = Plan::new(&[backend.addr()]).listener(limits).start();
    let mut client = Client::new(&stage);
    assert_eq!(client.get(1), 200);
    let started = Instant::now();
    while client.send(&ping()) && started.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(100));
    }
    assert!(started.elapsed() < PATIENCE);
    let last = client.rest().pop();
    assert!(last.is_none_or(|frame| matches!(frame.kind, GOAWAY | PING)));
}
