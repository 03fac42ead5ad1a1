//! Replies, of both versions of the protocol.

use self::RespError::Malformed;

/// Longest line of a reply: numbers, statuses and errors; Redis's own limit for inline text.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// Deepest nesting. Typed replies need three levels; COMMAND DOCS, the deepest known, seven.
const MAX_DEPTH: usize = 16;
/// No value is shorter: a type, at least no text, CR and LF.
const MIN_VALUE_BYTES: usize = 3;

/// One reply, or one part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A status such as `+OK`, a big number, a double: one line as sent.
    Line(Vec<u8>),
    /// `-ERR ...`: the whole line, its code first.
    Error(Vec<u8>),
    Integer(i64),
    Boolean(bool),
    Bulk(Vec<u8>),
    Null,
    /// Arrays, sets and pushed messages.
    Array(Vec<Value>),
    /// Keys and values in turn, as RESP2 sends them in an array.
    Map(Vec<Value>),
}

/// Bytes that are no acceptable reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RespError {
    #[error("malformed Redis reply: {0}")]
    Malformed(&'static str),
    #[error("Redis reply longer than {max_bytes} bytes")]
    TooLong { max_bytes: usize },
    #[error("Redis reply nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// Collects replies from a stream. Memory grows with what arrived, never with what was announced.
#[derive(Debug)]
pub struct ReplyReader {
    max_bytes: usize,
    /// Of the current reply, so far.
    read_bytes: usize,
    /// The current line without its end, or the current bulk string with its end.
    part: Vec<u8>,
    /// Length of the bulk string that is being read.
    bulk: Option<Bulk>,
    open: Vec<Aggregate>,
}

#[derive(Debug, Clone, Copy)]
struct Bulk {
    bytes: usize,
    kind: u8,
}

#[derive(Debug)]
struct Aggregate {
    kind: AggregateKind,
    missing: usize,
    values: Vec<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AggregateKind {
    Array,
    Map,
    /// Remarks about the value that follows; read and dropped.
    Attribute,
}

impl Value {
    /// The text of a line or bulk string, if it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Line(bytes) | Self::Bulk(bytes) => str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// An integer, also one that was sent as text.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(integer) => Some(*integer),
            _ => self.text()?.parse().ok(),
        }
    }

    /// The elements of an array or map.
    pub fn elements(&self) -> Option<&[Value]> {
        match self {
            Self::Array(values) | Self::Map(values) => Some(values),
            _ => None,
        }
    }

    /// The value behind `name` in a map, or in the array that RESP2 sends instead.
    pub fn field(&self, name: &str) -> Option<&Value> {
        let mut pairs = self.elements()?.chunks_exact(2);
        let pair = pairs.find(|pair| pair[0].text() == Some(name))?;
        Some(&pair[1])
    }

    /// The text of an error reply.
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Error(line) => Some(String::from_utf8_lossy(line).into_owned()),
            _ => None,
        }
    }
}

impl ReplyReader {
    /// Refuses replies of more than `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            read_bytes: 0,
            part: Vec::new(),
            bulk: None,
            open: Vec::new(),
        }
    }

    /// Takes bytes off the front of `bytes`, at most to the end of one reply.
    ///
    /// # Errors
    /// The stream cannot be read on after an error.
    pub fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<Value>, RespError> {
        while let Some(part) = self.next_part(bytes)? {
            let value = match self.bulk.take() {
                Some(bulk) => Some(bulk_value(bulk, part)?),
                None => self.on_line(&part)?,
            };
            if let Some(value) = value
                && let Some(reply) = self.close(value)
            {
                self.read_bytes = 0;
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }

    /// Nothing of a further reply has been read.
    pub fn is_between_replies(&self) -> bool {
        self.read_bytes == 0
    }

    /// The next whole line or bulk string.
    fn next_part(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, RespError> {
        let wanted = match self.bulk {
            Some(bulk) => bulk.bytes + 2 - self.part.len(),
            None => match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => end + 1,
                None => usize::MAX,
            },
        };
        let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
        *bytes = rest;
        self.read_bytes += taken.len();
        if self.read_bytes > self.max_bytes {
            let max_bytes = self.max_bytes;
            return Err(RespError::TooLong { max_bytes });
        }
        self.part.extend_from_slice(taken);
        if self.bulk.is_none() && self.part.len() > MAX_LINE_BYTES {
            return Err(Malformed("endless line"));
        }
        if taken.len() < wanted {
            return Ok(None);
        }
        let mut part = std::mem::take(&mut self.part);
        if !part.ends_with(b"\r\n") {
            return Err(Malformed("missing CRLF"));
        }
        part.truncate(part.len() - 2);
        Ok(Some(part))
    }

    /// A value, unless the line begins a longer one.
    fn on_line(&mut self, line: &[u8]) -> Result<Option<Value>, RespError> {
        let Some((&kind, text)) = line.split_first() else {
            return Err(Malformed("empty line"));
        };
        let value = match kind {
            b'+' | b'(' | b',' => Value::Line(text.to_vec()),
            b'-' => Value::Error(text.to_vec()),
            b':' => Value::Integer(integer(text)?),
            b'_' if text.is_empty() => Value::Null,
            b'#' if text == b"t" => Value::Boolean(true),
            b'#' if text == b"f" => Value::Boolean(false),
            b'$' | b'=' | b'!' => return self.begin_bulk(kind, text),
            b'*' | b'~' | b'>' => return self.open(AggregateKind::Array, text),
            b'%' => return self.open(AggregateKind::Map, text),
            b'|' => return self.open(AggregateKind::Attribute, text),
            _ => return Err(Malformed("unknown type")),
        };
        Ok(Some(value))
    }

    fn begin_bulk(&mut self, kind: u8, text: &[u8]) -> Result<Option<Value>, RespError> {
        let Some(bytes) = length(text)? else {
            return Ok(Some(Value::Null));
        };
        self.refuse_announced(bytes)?;
        self.bulk = Some(Bulk { bytes, kind });
        Ok(None)
    }

    fn open(&mut self, kind: AggregateKind, text: &[u8]) -> Result<Option<Value>, RespError> {
        let Some(count) = length(text)? else {
            return Ok(Some(Value::Null));
        };
        let missing = match kind {
            AggregateKind::Array => count,
            AggregateKind::Map | AggregateKind::Attribute => count.saturating_mul(2),
        };
        self.refuse_announced(missing.saturating_mul(MIN_VALUE_BYTES))?;
        if self.open.len() == MAX_DEPTH {
            return Err(RespError::TooDeep);
        }
        let values = Vec::new();
        let aggregate = Aggregate {
            kind,
            missing,
            values,
        };
        match (missing, kind) {
            (0, AggregateKind::Attribute) => Ok(None),
            (0, _) => Ok(Some(aggregate.into_value())),
            _ => {
                self.open.push(aggregate);
                Ok(None)
            }
        }
    }

    /// Refuses at once what cannot become a reply within the limit.
    fn refuse_announced(&self, bytes: usize) -> Result<(), RespError> {
        let max_bytes = self.max_bytes;
        match bytes <= max_bytes - self.read_bytes {
            true => Ok(()),
            false => Err(RespError::TooLong { max_bytes }),
        }
    }

    /// Puts a value where it belongs; returns the reply if that was all.
    fn close(&mut self, value: Value) -> Option<Value> {
        let mut value = value;
        loop {
            let Some(innermost) = self.open.last_mut() else {
                return Some(value);
            };
            innermost.values.push(value);
            innermost.missing -= 1;
            if innermost.missing > 0 {
                return None;
            }
            let whole = self.open.pop()?;
            if whole.kind == AggregateKind::Attribute {
                return None;
            }
            value = whole.into_value();
        }
    }
}

impl Aggregate {
    fn into_value(self) -> Value {
        match self.kind {
            AggregateKind::Map => Value::Map(self.values),
            AggregateKind::Array | AggregateKind::Attribute => Value::Array(self.values),
        }
    }
}

fn bulk_value(bulk: Bulk, content: Vec<u8>) -> Result<Value, RespError> {
    match bulk.kind {
        b'!' => Ok(Value::Error(content)),
        // "txt:" or "mkd:" and the text.
        b'=' => match content.get(4..) {
            Some(text) if content[3] == b':' => Ok(Value::Bulk(text.to_vec())),
            _ => Err(Malformed("verbatim string")),
        },
        _ => Ok(Value::Bulk(content)),
    }
}

/// A length; `None` is the null of RESP2. Streamed values (`?`) are not sent by any server.
pub(super) fn length(text: &[u8]) -> Result<Option<usize>, RespError> {
    match integer(text)? {
        -1 => Ok(None),
        length => usize::try_from(length)
            .map(Some)
            .map_err(|_| Malformed("negative length")),
    }
}

fn integer(text: &[u8]) -> Result<i64, RespError> {
    let text = str::from_utf8(text).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or(Malformed("not a number"))
}

pub(super) fn fuzz(data: &[u8]) {
    const MAX_BYTES: usize = 4096;
    let mut whole = ReplyReader::new(MAX_BYTES);
    let mut split = ReplyReader::new(MAX_BYTES);
    let mut rest = data;
    loop {
        let before = rest;
        let reply = whole.read(&mut rest);
        let used = &before[..before.len() - rest.len()];
        let mut split_reply = Ok(None);
        for byte in used {
            split_reply = split.read(&mut std::slice::from_ref(byte));
            if split_reply != Ok(None) {
                break;
            }
        }
        match &reply {
            // An endless or overlong part may be refused a little earlier byte by byte.
            Err(_) => assert!(split_reply.is_err()),
            _ => assert_eq!(reply, split_reply),
        }
        if !matches!(reply, Ok(Some(_))) {
            return;
        }
    }
}
