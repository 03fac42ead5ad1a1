//! What an HTTP/2 server has to do with each frame in each state: the cases of the public suite
//! h2spec, told from RFC 9113 and RFC 7541. Of its 147 (with the strict one) three are tests of their
//! own here, about how a connection begins, and what the suite sends twice is sent once.

mod definitions;
mod generic;
mod hpack;
mod messages;
mod streams;

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
use crate::frames::RST_STREAM;
use crate::frames::SETTINGS;
use crate::frames::STREAM_CLOSED;
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
        generic::cases(),
        hpack::cases(),
        streams::cases(),
        definitions::cases(),
        messages::cases(),
    ];
    let cases: Vec<Case> = groups.into_iter().flatten().collect();
    assert_eq!(cases.len(), 138);
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
