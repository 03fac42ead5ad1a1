//! Follows a client's requests byte by byte and stops at the first that is not beyond doubt.
//!
//! The HTTP library behind it is lenient in places (bare LF, lists of codings, chunk
//! extensions, several equal lengths). Other readers are lenient in other places, and where two
//! readers disagree on the end of a request, one client can put words into another's mouth. So
//! whatever any reader could take differently is refused here.

use std::num::NonZeroU64;

use super::head::Framing;
use super::head::Head;
use super::head::check_trailer;
use super::line::Line;
use super::line::LineReader;
use super::violation::Violation;

/// Sixteen hex digits and some room to see what is wrong with a longer line.
const MAX_CHUNK_LINE_BYTES: usize = 64;
const MAX_CHUNK_DIGITS: usize = 16;
/// The HTTP library ends a body whose trailers are longer than 16 KiB.
const MAX_TRAILER_BYTES: usize = 8 << 10;
/// gRPC needs three or four.
const MAX_TRAILERS: usize = 32;
/// `http::Uri` takes no more.
const MAX_URI_BYTES: usize = u16::MAX as usize - 1;

/// What a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The request line and all fields with their line ends, without the empty line.
    pub max_head_bytes: usize,
    /// Each crumb of a cookie counts.
    pub max_headers: usize,
    pub max_uri_bytes: usize,
    /// Without the framing of chunks; `None` = any length.
    pub max_body_bytes: Option<NonZeroU64>,
    pub allow_connect: bool,
}

/// What is to be done with the bytes that were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspection {
    /// So many of the first bytes may go on.
    pub pass: usize,
    pub then: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// All bytes pass.
    More,
    /// The bytes after `pass` have to wait, and be given again, until the answer to the last
    /// request is known: they may be its new protocol's.
    AwaitUpgrade,
    /// No byte after `pass`, now or later. `pass` ends where the last good request ended; of the
    /// bad one, parts that came earlier may have passed.
    Refuse(Violation),
}

/// One client connection.
#[derive(Debug)]
pub struct Guard {
    limits: Limits,
    state: State,
    line: LineReader,
    /// Of the request under way, as long as its head is.
    head: Head,
    upgrade: Upgrade,
    requests: u64,
}

#[derive(Debug)]
enum State {
    /// Before a request line, or in it.
    Start {
        after_empty_line: bool,
    },
    Fields,
    /// So many bytes of a body are to come.
    Body(u64),
    /// Within a body of chunks of which so many bytes have been announced.
    ChunkSize {
        announced: u64,
    },
    ChunkData {
        announced: u64,
        left: u64,
    },
    ChunkEnd {
        announced: u64,
    },
    Trailers {
        bytes: usize,
        fields: usize,
    },
    AwaitUpgrade,
    Tunnel,
    Refused(Violation),
}

/// What the last request asked for, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    None,
    Asked,
    /// Granted before the request's body was complete: the new protocol begins after it.
    Granted,
}

impl Guard {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits: Limits {
                max_uri_bytes: limits.max_uri_bytes.min(MAX_URI_BYTES),
                ..limits
            },
            state: State::Start {
                after_empty_line: false,
            },
            line: LineReader::default(),
            head: Head::default(),
            upgrade: Upgrade::None,
            requests: 0,
        }
    }

    /// Looks at the next bytes from the client. However they are cut into pieces, the same bytes
    /// pass in the end, or fewer of a request that is refused, and the same is said of them.
    pub fn inspect(&mut self, bytes: &[u8]) -> Inspection {
        let mut at = 0;
        let mut good = 0;
        loop {
            let then = match self.state {
                State::Refused(violation) => {
                    let then = Next::Refuse(violation);
                    return Inspection { pass: good, then };
                }
                State::AwaitUpgrade => Next::AwaitUpgrade,
                State::Tunnel => {
                    at = bytes.len();
                    Next::More
                }
                _ if at < bytes.len() => {
                    match self.step(&bytes[at..]) {
                        Ok(taken) => at += taken,
                        Err(violation) => self.refuse(violation),
                    }
                    if self.is_between_messages() {
                        good = at;
                    }
                    continue;
                }
                _ => Next::More,
            };
            return Inspection { pass: at, then };
        }
    }

    /// Whether nothing of a request is under way: the connection may be parked.
    pub fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Start { .. }) && !self.line.is_inside()
    }

    /// Whether a head has begun and not ended.
    pub fn is_in_head(&self) -> bool {
        match self.state {
            State::Start { .. } => self.line.is_inside(),
            State::Fields => true,
            _ => false,
        }
    }

    /// Whether a head has passed whose body has not ended.
    pub fn is_in_body(&self) -> bool {
        matches!(
            self.state,
            State::Body(_)
                | State::ChunkSize { .. }
                | State::ChunkData { .. }
                | State::ChunkEnd { .. }
                | State::Trailers { .. }
        )
    }

    /// Requests whose head has come whole. The last of them is the one that bytes wait for.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The last request's answer was 101, or 2xx to CONNECT: after the request no byte is looked
    /// at. Means nothing when that request did not ask for it.
    pub fn upgraded(&mut self) {
        match (&self.state, self.upgrade) {
            (State::AwaitUpgrade, _) => self.state = State::Tunnel,
            (State::Refused(_), _) => {}
            (_, Upgrade::Asked) => self.upgrade = Upgrade::Granted,
            (_, Upgrade::None | Upgrade::Granted) => {}
        }
    }

    /// The last request's answer was another one: what waits is the next request.
    pub fn not_upgraded(&mut self) {
        self.upgrade = Upgrade::None;
        if matches!(self.state, State::AwaitUpgrade) {
            self.end_message();
        }
    }

    fn refuse(&mut self, violation: Violation) {
        self.line.clear();
        self.state = State::Refused(violation);
    }

    /// Takes at least one byte.
    fn step(&mut self, input: &[u8]) -> Result<usize, Violation> {
        match &mut self.state {
            State::Body(left) => {
                let taken = min(*left, input.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.end_message();
                }
                Ok(taken)
            }
            State::ChunkData { announced, left } => {
                let taken = min(*left, input.len());
                *left -= taken as u64;
                if *left == 0 {
                    let announced = *announced;
                    self.state = State::ChunkEnd { announced };
                }
                Ok(taken)
            }
            State::Fields => {
                // All the lines that are there at once: this is where requests are fast or not.
                let mut taken = 0;
                let framing = loop {
                    let max_bytes = self.head.max_field_bytes(&self.limits);
                    let rest = &input[taken..];
                    let Some(line) = self.line.next(rest, max_bytes, Violation::HeadTooLarge)?
                    else {
                        return Ok(input.len());
                    };
                    taken += line.consumed;
                    if line.text.is_empty() {
                        break self.head.end(&self.limits)?;
                    }
                    self.head.add(&line.text, &self.limits)?;
                };
                let wants_upgrade = self.head.wants_upgrade();
                self.begin_body(framing, wants_upgrade);
                Ok(taken)
            }
            _ => {
                let (max_bytes, too_long) = self.max_line();
                let Some(line) = self.line.next(input, max_bytes, too_long)? else {
                    return Ok(input.len());
                };
                self.on_line(&line)?;
                Ok(line.consumed)
            }
        }
    }

    /// The longest line that may come here, and what a longer one is refused as.
    fn max_line(&self) -> (usize, Violation) {
        match &self.state {
            State::ChunkSize { .. } => (MAX_CHUNK_LINE_BYTES, Violation::ChunkSize),
            State::ChunkEnd { .. } => (0, Violation::ChunkEnd),
            State::Trailers { bytes, .. } => {
                (MAX_TRAILER_BYTES - bytes, Violation::TrailersTooLarge)
            }
            _ => Head::max_request_line(&self.limits),
        }
    }

    fn on_line(&mut self, line: &Line<'_>) -> Result<(), Violation> {
        let text = &line.text[..];
        match &mut self.state {
            // RFC 9112, section 2.2: an empty line before a request is to be ignored.
            State::Start { after_empty_line } if text.is_empty() => {
                if *after_empty_line {
                    return Err(Violation::EmptyLines);
                }
                *after_empty_line = true;
            }
            State::ChunkSize { announced } => {
                let announced = *announced;
                self.begin_chunk(announced, text)?;
            }
            State::ChunkEnd { announced } => {
                let announced = *announced;
                self.state = State::ChunkSize { announced };
            }
            State::Trailers { .. } if text.is_empty() => self.end_message(),
            State::Trailers { bytes, fields } => {
                check_trailer(text)?;
                *bytes += text.len() + 2;
                *fields += 1;
                if *bytes > MAX_TRAILER_BYTES || *fields > MAX_TRAILERS {
                    return Err(Violation::TrailersTooLarge);
                }
            }
            _ => {
                self.head.begin(text, &self.limits)?;
                self.state = State::Fields;
            }
        }
        Ok(())
    }

    fn begin_body(&mut self, framing: Framing, wants_upgrade: bool) {
        self.requests += 1;
        self.upgrade = if wants_upgrade {
            Upgrade::Asked
        } else {
            Upgrade::None
        };
        match framing {
            Framing::Chunked => self.state = State::ChunkSize { announced: 0 },
            Framing::Length(0) => self.end_message(),
            Framing::Length(length) => self.state = State::Body(length),
        }
    }

    fn begin_chunk(&mut self, announced: u64, text: &[u8]) -> Result<(), Violation> {
        let size = chunk_size(text)?;
        if size == 0 {
            self.state = State::Trailers {
                bytes: 0,
                fields: 0,
            };
            return Ok(());
        }
        let announced = announced.checked_add(size);
        let max = self.limits.max_body_bytes.map_or(u64::MAX, NonZeroU64::get);
        let Some(announced) = announced.filter(|announced| *announced <= max) else {
            return Err(Violation::BodyTooLarge);
        };
        let left = size;
        self.state = State::ChunkData { announced, left };
        Ok(())
    }

    fn end_message(&mut self) {
        self.state = match self.upgrade {
            Upgrade::None => State::Start {
                after_empty_line: false,
            },
            Upgrade::Asked => State::AwaitUpgrade,
            Upgrade::Granted => State::Tunnel,
        };
    }
}

/// Hex digits and nothing else (RFC 9112, section 7.1). Extensions are allowed there, but no
/// client sends them, and readers differ on where they end.
fn chunk_size(text: &[u8]) -> Result<u64, Violation> {
    if text.contains(&b';') {
        return Err(Violation::ChunkExtension);
    }
    let is_number =
        (1..=MAX_CHUNK_DIGITS).contains(&text.len()) && text.iter().all(u8::is_ascii_hexdigit);
    str::from_utf8(text)
        .ok()
        .filter(|_| is_number)
        .and_then(|digits| i64::from_str_radix(digits, 16).ok())
        .map(i64::unsigned_abs)
        .ok_or(Violation::ChunkSize)
}

fn min(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}
