//! Follows a client's frames by their headers and counts what only an attacker sends much of.
//!
//! What is wrong in a single frame is the HTTP library's to answer. What is cheap to send, legal
//! each time and costly in numbers is counted here. The allowances are far above what curl,
//! browsers, h2load and gRPC send.

use std::time::Duration;

use super::allowance::Allowance;
use super::flood::Flood;
use super::frame;
use super::frame::GO_AWAY_BYTES;
use super::frame::HEADER_BYTES;
use super::frame::Header;
use super::frame::Kind;
use super::frame::SEEN_PAYLOAD_BYTES;
use super::frame::number;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client fills a frame before it begins the next one; 32 full frames are 512 KiB.
const MAX_CONTINUATIONS: u32 = 32;
/// Six parameters are defined, some more are registered. nghttp2 takes 32.
const MAX_SETTINGS_BYTES: u32 = 64 * 6;
/// Windows that grow by less are hardly worth the frame.
const TINY_INCREMENT: u32 = 1024;

const BYTES_FOR_UPDATE: u64 = 256;

/// One client connection.
#[derive(Debug)]
pub struct FrameGuard {
    max_block_bytes: u64,
    state: State,
    /// SETTINGS have come.
    has_begun: bool,
    /// Preface and SETTINGS are one unit, a whole header block is, and each other frame.
    unit: u64,
    /// The header block under way.
    block: Option<Block>,
    /// The highest stream that has begun.
    last_stream: u32,
    allowances: Allowances,
    flood: Option<Flood>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Preface {
        seen: usize,
    },
    Header {
        bytes: [u8; HEADER_BYTES],
        seen: usize,
    },
    Payload {
        header: Header,
        left: u32,
        start: [u8; SEEN_PAYLOAD_BYTES],
    },
}

#[derive(Debug, Clone, Copy)]
struct Block {
    bytes: u64,
    continuations: u32,
}

#[derive(Debug)]
struct Allowances {
    resets: Allowance,
    pings: Allowance,
    settings: Allowance,
    priorities: Allowance,
    empty_data: Allowance,
    window_updates: Allowance,
    tiny_updates: Allowance,
    errors: Allowance,
    go_aways: Allowance,
    unknown: Allowance,
}

impl Allowances {
    const fn new() -> Self {
        Self {
            // A closed tab resets all its streams at once. Besides, every second request may be
            // cancelled for ever (hedging does that).
            resets: Allowance::new(Flood::Resets, 256, 25),
            // gRPC measures its bandwidth with one for each answer when it streams.
            pings: Allowance::new(Flood::Pings, 2000, 2000),
            settings: Allowance::new(Flood::Settings, 20, 2),
            // Old clients build a tree of about ten, and move one or two streams with each request.
            priorities: Allowance::new(Flood::Priorities, 100, 20),
            empty_data: Allowance::new(Flood::EmptyData, 50, 10),
            // Some clients send one for the stream and one for the connection for each frame.
            window_updates: Allowance::new(Flood::WindowUpdates, 20_000, 50_000),
            tiny_updates: Allowance::new(Flood::WindowUpdates, 2000, 1000),
            errors: Allowance::new(Flood::Errors, 20, 1),
            go_aways: Allowance::new(Flood::GoAways, 5, 1),
            // Browsers send made-up types, so that nobody relies on there being none (GREASE).
            unknown: Allowance::new(Flood::UnknownFrames, 100, 20),
        }
    }

    /// What a new request allows.
    fn earn_by_request(&mut self) {
        self.resets.earn_halves(1);
        self.pings.earn_halves(2);
        self.priorities.earn_halves(4);
        self.tiny_updates.earn_halves(8);
    }

    /// What bytes to the client allow: with a window of 1 KiB it acknowledges every 512 bytes, for
    /// the stream and for the connection. Answers that drip do not pay for the updates they need.
    fn earn_by_sent(&mut self, bytes: u64) {
        let halves = bytes / (BYTES_FOR_UPDATE / 2);
        self.window_updates.earn_halves(halves);
        self.tiny_updates.earn_halves(halves);
    }

    /// What a message in a stream allows.
    fn earn_by_data(&mut self) {
        self.pings.earn_halves(2);
        self.tiny_updates.earn_halves(4);
    }
}

impl FrameGuard {
    /// `max_head_bytes` as HTTP/1.1 would spell a head. Compressed it is smaller, but it must be
    /// allowed to be somewhat too large: then the library answers 431 and the connection stays.
    pub fn new(max_head_bytes: usize) -> Self {
        Self {
            max_block_bytes: 2 * max_head_bytes as u64,
            state: State::Preface { seen: 0 },
            has_begun: false,
            unit: 0,
            block: None,
            last_stream: 0,
            allowances: Allowances::new(),
            flood: None,
        }
    }

    /// Looks at the next bytes from the client. `now` is of any clock that does not go back.
    /// However the bytes are cut, the same is said of them. After an error nothing may go on.
    pub fn inspect(&mut self, bytes: &[u8], now: Duration) -> Result<(), Flood> {
        let mut rest = bytes;
        while self.flood.is_none() && !rest.is_empty() {
            match self.step(rest, now) {
                Ok(taken) => rest = &rest[taken..],
                Err(flood) => self.flood = Some(flood),
            }
        }
        self.flood.map_or(Ok(()), Err)
    }

    /// The client has been sent so many bytes: it will open its windows again for them.
    pub fn note_sent(&mut self, bytes: usize) {
        self.allowances.earn_by_sent(bytes as u64);
    }

    /// Which unit has come in part, for deadlines: the preface with the first SETTINGS, a whole
    /// header block, or a frame of another kind. Each unit has a number of its own.
    pub fn under_way(&self) -> Option<u64> {
        let is_between = matches!(self.state, State::Header { seen: 0, .. });
        let is_whole = is_between && self.block.is_none() && self.has_begun;
        (!is_whole).then_some(self.unit)
    }

    /// GOAWAY for a client that is turned away.
    pub fn go_away(&self, flood: Flood) -> [u8; GO_AWAY_BYTES] {
        frame::go_away(self.last_stream, flood.code())
    }

    /// Takes at least one byte.
    fn step(&mut self, input: &[u8], now: Duration) -> Result<usize, Flood> {
        match &mut self.state {
            State::Preface { seen } => {
                let expected = &PREFACE[*seen..];
                let taken = expected.len().min(input.len());
                if input[..taken] != expected[..taken] {
                    return Err(Flood::Preface);
                }
                *seen += taken;
                if *seen == PREFACE.len() {
                    self.state = State::BEFORE_FRAME;
                }
                Ok(taken)
            }
            State::Header { bytes, seen } => {
                if *seen == 0 && self.block.is_none() && self.has_begun {
                    self.unit += 1;
                }
                let missing = &mut bytes[*seen..];
                let taken = missing.len().min(input.len());
                missing[..taken].copy_from_slice(&input[..taken]);
                *seen += taken;
                if *seen == HEADER_BYTES {
                    let header = Header::parse(*bytes);
                    self.begin(header, now)?;
                }
                Ok(taken)
            }
            State::Payload {
                header,
                left,
                start,
            } => {
                let at = (header.length - *left) as usize;
                if let Some(missing) = start.get_mut(at..) {
                    let seen = missing.len().min(input.len()).min(*left as usize);
                    missing[..seen].copy_from_slice(&input[..seen]);
                }
                let taken = input.len().min(*left as usize);
                *left -= taken as u32;
                if *left == 0 {
                    let (header, start) = (*header, *start);
                    self.end(header, start, now)?;
                }
                Ok(taken)
            }
        }
    }

    /// A frame's header is complete. Frames longer than was allowed are followed like others; the
    /// library ends the connection at their header.
    fn begin(&mut self, header: Header, now: Duration) -> Result<(), Flood> {
        if !self.has_begun && !header.greets() {
            return Err(Flood::Preface);
        }
        let allowances = &mut self.allowances;
        match header.kind {
            Kind::Headers | Kind::PushPromise => self.begin_block(header)?,
            Kind::Continuation => self.continue_block(header)?,
            Kind::Reset => allowances.resets.spend(now)?,
            Kind::Settings if header.length > MAX_SETTINGS_BYTES => return Err(Flood::Settings),
            Kind::Settings => allowances.settings.spend(now)?,
            Kind::Ping => allowances.pings.spend(now)?,
            Kind::Priority | Kind::PriorityUpdate => allowances.priorities.spend(now)?,
            Kind::GoAway => allowances.go_aways.spend(now)?,
            Kind::Unknown => allowances.unknown.spend(now)?,
            // What they carry decides.
            Kind::Data | Kind::WindowUpdate => {}
        }
        let start = [0; SEEN_PAYLOAD_BYTES];
        if header.length == 0 {
            return self.end(header, start, now);
        }
        let left = header.length;
        self.state = State::Payload {
            header,
            left,
            start,
        };
        Ok(())
    }

    /// A frame is complete.
    fn end(
        &mut self,
        header: Header,
        start: [u8; SEEN_PAYLOAD_BYTES],
        now: Duration,
    ) -> Result<(), Flood> {
        self.state = State::BEFORE_FRAME;
        self.has_begun = true;
        let allowances = &mut self.allowances;
        match header.kind {
            Kind::Headers | Kind::PushPromise | Kind::Continuation => {
                if header.ends_headers() {
                    self.block = None;
                }
                if header.kind == Kind::Headers && header.depends_on_itself(start) {
                    allowances.errors.spend(now)?;
                }
            }
            Kind::Data if header.data_bytes(start) > 0 => allowances.earn_by_data(),
            Kind::Data if !header.ends_stream() => allowances.empty_data.spend(now)?,
            Kind::WindowUpdate => {
                allowances.window_updates.spend(now)?;
                let [a, b, c, d, _] = start;
                match number([a, b, c, d]) {
                    // The library resets the stream (RFC 9113, section 6.9).
                    0 => allowances.errors.spend(now)?,
                    1..TINY_INCREMENT => allowances.tiny_updates.spend(now)?,
                    _ => {}
                }
            }
            Kind::Priority if header.depends_on_itself(start) => allowances.errors.spend(now)?,
            _ => {}
        }
        Ok(())
    }

    fn begin_block(&mut self, header: Header) -> Result<(), Flood> {
        // Only a new stream is a request; trailers come on an old one.
        if header.stream > self.last_stream {
            self.last_stream = header.stream;
            self.allowances.earn_by_request();
        }
        self.block = Some(Block {
            bytes: 0,
            continuations: 0,
        });
        self.grow_block(header)
    }

    fn continue_block(&mut self, header: Header) -> Result<(), Flood> {
        let Some(block) = &mut self.block else {
            // The library ends the connection.
            return Ok(());
        };
        block.continuations += 1;
        let is_empty = header.length == 0 && !header.ends_headers();
        if is_empty || block.continuations > MAX_CONTINUATIONS {
            return Err(Flood::Continuations);
        }
        self.grow_block(header)
    }

    fn grow_block(&mut self, header: Header) -> Result<(), Flood> {
        let Some(block) = &mut self.block else {
            return Ok(());
        };
        block.bytes += u64::from(header.length);
        if block.bytes > self.max_block_bytes {
            return Err(Flood::HeaderBlock);
        }
        Ok(())
    }
}

impl State {
    const BEFORE_FRAME: Self = Self::Header {
        bytes: [0; HEADER_BYTES],
        seen: 0,
    };
}
