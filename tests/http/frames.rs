//! An HTTP/2 client that sends whatever it is told, frame by frame, right or wrong.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::StreamOwned;
use rustls::pki_types::ServerName;

use crate::harness::Stage;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const NONE: u8 = 0;
pub const ACK: u8 = 0x1;
pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;
pub const WITH_PRIORITY: u8 = 0x20;

/// Error codes (RFC 9113, 7).
pub const PROTOCOL_ERROR: u32 = 0x1;
pub const FLOW_CONTROL_ERROR: u32 = 0x3;
pub const STREAM_CLOSED: u32 = 0x5;
pub const FRAME_SIZE_ERROR: u32 = 0x6;
pub const REFUSED_STREAM: u32 = 0x7;
pub const CANCEL: u32 = 0x8;
pub const COMPRESSION_ERROR: u32 = 0x9;
pub const ENHANCE_YOUR_CALM: u32 = 0xb;

const HEADER_TABLE_SIZE: u16 = 1;
/// What the server may send of a stream.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// What every request needs.
pub const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a.test"),
];
pub const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a.test"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The code of RST_STREAM or GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(
            self.payload[at..at + 4].try_into().unwrap(),
        ))
    }

    /// The status of an answer, if it is one of those with an index of their own (RFC 7541, A), or
    /// is spelled out without compression.
    pub fn status(&self) -> Option<u16> {
        if self.kind != HEADERS {
            return None;
        }
        let payload = match self.payload.split_first()? {
            // The encoder's table has changed its size.
            (0x20..=0x3f, rest) => rest,
            _ => &self.payload,
        };
        let indexed = [200, 204, 206, 304, 400, 404, 500];
        match payload.first()? {
            first @ 0x88..=0x8e => Some(indexed[usize::from(first - 0x88)]),
            // A literal with the name of entry 8; digits in Huffman's code are 5 or 6 bits each.
            _ => status_in_huffman(payload),
        }
    }
}

/// `:status` with three digits in Huffman's code: 0, 1, 2 are 5 bits, the others 6 (RFC 7541, B).
fn status_in_huffman(payload: &[u8]) -> Option<u16> {
    let [first, length, rest @ ..] = payload else {
        return None;
    };
    let is_status = first & 0x3f == 8 || first & 0x0f == 8;
    if !is_status || length & 0x80 == 0 {
        return None;
    }
    let mut bits = rest
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let mut status = 0;
    for _ in 0..3 {
        let mut take = |count| (0..count).try_fold(0, |sum, _| Some(sum << 1 | bits.next()?));
        let five = take(5)?;
        let digit = match five {
            0..=2 => five,
            // 3 is 011001: codes of six bits begin after the ten of five.
            _ => (five << 1 | take(1)?) - 0x16,
        };
        status = status * 10 + u16::from(digit);
    }
    Some(status)
}

/// What an HTTP/2 connection runs on.
trait Wire: Read + Write {}

impl Wire for TcpStream {}
impl Wire for StreamOwned<ClientConnection, TcpStream> {}

pub struct Client {
    stream: Box<dyn Wire>,
    unread: Vec<u8>,
}

impl Client {
    /// Begins a connection and waits until the proxy has agreed to everything.
    pub fn new(stage: &Stage) -> Self {
        Self::with(stage, &[])
    }

    /// The same with these settings.
    pub fn with(stage: &Stage, wanted: &[(u16, u32)]) -> Self {
        Self::silent(stage).begun(wanted)
    }

    /// Says nothing yet.
    pub fn silent(stage: &Stage) -> Self {
        Self::on(stage.connect())
    }

    /// Says nothing yet but what TLS needs.
    pub fn secure(stage: &Stage, config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("a.test").unwrap();
        let session = ClientConnection::new(Arc::clone(config), name).unwrap();
        Self::on(StreamOwned::new(session, stage.connect()))
    }

    fn on(stream: impl Wire + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            unread: Vec::new(),
        }
    }

    /// Says what a connection begins with, and waits until the proxy has agreed.
    #[must_use]
    pub fn begun(mut self, wanted: &[(u16, u32)]) -> Self {
        self.send(PREFACE);
        // Without a table, answers can be read as they are.
        self.send(&settings(&[&[(HEADER_TABLE_SIZE, 0)], wanted].concat()));
        self.send(&frame(SETTINGS, ACK, 0, b""));
        self.until(|frame| frame.kind == SETTINGS && frame.flags == ACK);
        self
    }

    /// A proxy that has heard enough may have closed already; what it says is what counts.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame; `None`: the proxy has closed.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => self.unread.extend_from_slice(&buffer[..read]),
                Err(error) if is_end(&error) => return None,
                Err(error) => panic!("the proxy neither answers nor closes: {error}"),
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3, ..] = *self.unread else {
            return None;
        };
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let payload = self.unread.get(9..9 + length)?.to_vec();
        self.unread.drain(..9 + length);
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            payload,
        })
    }

    /// The first frame of that sort.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let mut others = Vec::new();
        while let Some(frame) = self.next() {
            if wanted(&frame) {
                return frame;
            }
            others.push(frame);
        }
        panic!("closed, and before that only {others:?}");
    }

    /// Everything until the proxy closes.
    pub fn rest(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Sends a request without a body; the status of its answer.
    #[track_caller]
    pub fn get(&mut self, stream: u32) -> u16 {
        self.send(&request(stream, &GET));
        let answer = self.until(|frame| frame.stream == stream && frame.kind == HEADERS);
        answer.status().unwrap()
    }
}

/// Over TLS an end that was not announced is an error, too.
fn is_end(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof];
    kinds.contains(&error.kind())
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

pub fn settings(wanted: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = wanted
        .iter()
        .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, NONE, 0, &payload)
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, NONE, stream, &increment.to_be_bytes())
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, NONE, stream, &CANCEL.to_be_bytes())
}

pub fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, NONE, stream, bytes)
}

pub fn last_data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, bytes)
}

pub fn ping() -> Vec<u8> {
    frame(PING, NONE, 0, b"evergate")
}

/// A request without a body.
pub fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(fields))
}

/// A request whose body follows.
pub fn open(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(fields))
}

/// Fields as literals without an index (RFC 7541, 6.2.2): any byte may be in them.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let bytes = |(name, value): &(&str, &str)| literal(name.as_bytes(), value.as_bytes());
    fields.iter().flat_map(bytes).collect()
}

pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &string(name), &string(value)].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    [integer(text.len(), 7), text.to_vec()].concat()
}

/// An integer with a prefix of so many bits (RFC 7541, 5.1).
pub fn integer(mut value: usize, prefix: u32) -> Vec<u8> {
    let most = (1 << prefix) - 1;
    if value < most {
        return vec![value as u8];
    }
    let mut bytes = vec![most as u8];
    value -= most;
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
