//! Frame headers (RFC 9113, section 4.1).

/// Length, type, flags, stream.
pub const HEADER_BYTES: usize = 9;

pub const GO_AWAY_BYTES: usize = HEADER_BYTES + 8;

/// A padding length and a dependency; an increment is shorter.
pub const SEEN_PAYLOAD_BYTES: usize = 5;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    PriorityUpdate,
    Unknown,
}

#[derive(Debug, Clone, Copy)]
pub struct Header {
    pub kind: Kind,
    /// Bytes of payload.
    pub length: u32,
    pub stream: u32,
    flags: u8,
}

impl Header {
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            kind: Kind::of(kind),
            length: u32::from_be_bytes([0, l0, l1, l2]),
            stream: number([s0, s1, s2, s3]),
            flags,
        }
    }

    pub fn ends_stream(self) -> bool {
        self.flags & END_STREAM != 0
    }

    pub fn ends_headers(self) -> bool {
        self.flags & END_HEADERS != 0
    }

    /// Whether a connection may begin with it (RFC 9113, 3.4).
    pub fn greets(self) -> bool {
        self.kind == Kind::Settings && self.flags & ACK == 0
    }

    /// Bytes of DATA without padding, which `start` of the payload measures.
    pub fn data_bytes(self, start: [u8; SEEN_PAYLOAD_BYTES]) -> u32 {
        if self.flags & PADDED == 0 {
            return self.length;
        }
        self.length.saturating_sub(1 + u32::from(start[0]))
    }

    /// Whether a stream is said to depend on itself, for which the server has to reset it.
    pub fn depends_on_itself(self, start: [u8; SEEN_PAYLOAD_BYTES]) -> bool {
        let [a, b, c, d, e] = start;
        let dependency = match self.kind {
            Kind::Headers if self.flags & PRIORITY == 0 => return false,
            Kind::Headers if self.flags & PADDED != 0 => [b, c, d, e],
            _ => [a, b, c, d],
        };
        number(dependency) == self.stream
    }
}

impl Kind {
    fn of(byte: u8) -> Self {
        match byte {
            0x0 => Self::Data,
            0x1 => Self::Headers,
            0x2 => Self::Priority,
            0x3 => Self::Reset,
            0x4 => Self::Settings,
            0x5 => Self::PushPromise,
            0x6 => Self::Ping,
            0x7 => Self::GoAway,
            0x8 => Self::WindowUpdate,
            0x9 => Self::Continuation,
            0x10 => Self::PriorityUpdate,
            _ => Self::Unknown,
        }
    }
}

/// GOAWAY (RFC 9113, 6.8).
pub fn go_away(last_stream: u32, code: u32) -> [u8; GO_AWAY_BYTES] {
    let [s0, s1, s2, s3] = last_stream.to_be_bytes();
    let [c0, c1, c2, c3] = code.to_be_bytes();
    [0, 0, 8, 0x7, 0, 0, 0, 0, 0, s0, s1, s2, s3, c0, c1, c2, c3]
}

/// The highest bit of streams and increments is not theirs.
pub fn number(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & 0x7fff_ffff
}
