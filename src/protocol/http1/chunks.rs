//! Bodies of a backend's answers that come in chunks (RFC 9112, 7.1).
//!
//! Backends are trusted with what clients are not: extensions and spaces behind a chunk's size
//! mean nothing and are skipped.

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

use super::head;
use super::line::LineReader;
use super::violation::Violation;

const MAX_LINE_BYTES: usize = 4 << 10;
const MAX_TRAILER_BYTES: usize = 16 << 10;
const MAX_TRAILERS: usize = 64;
/// More do not fit into 63 bits.
const MAX_DIGITS: usize = 15;

/// What has come next.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

/// Reads one body.
#[derive(Debug, Default)]
pub struct ChunkReader {
    state: State,
    line: LineReader,
    trailers: HeaderMap,
    trailer_bytes: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Over,
    Refused(Violation),
}

impl ChunkReader {
    /// Takes the next piece out of `buffer`; `None`: it is still to come.
    ///
    /// # Errors
    /// These are no chunks. Nothing that comes later can be believed.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Piece>, Violation> {
        loop {
            match self.state {
                State::Data(_) if buffer.is_empty() => return Ok(None),
                State::Data(left) => {
                    let taken =
                        usize::try_from(left).map_or(buffer.len(), |it| it.min(buffer.len()));
                    let data = buffer.split_to(taken).freeze();
                    self.state = match left - taken as u64 {
                        0 => State::DataEnd,
                        left => State::Data(left),
                    };
                    self.look_ahead(buffer);
                    return Ok(Some(Piece::Data(data)));
                }
                State::Refused(violation) => return Err(violation),
                State::Over if self.trailers.is_empty() => return Ok(Some(Piece::End)),
                State::Over => {
                    return Ok(Some(Piece::Trailers(std::mem::take(&mut self.trailers))));
                }
                _ => {
                    if !self.step(buffer)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The end mostly comes with the last chunk: whoever reads need not ask again. What is wrong is
    /// said after the data before it.
    fn look_ahead(&mut self, buffer: &mut BytesMut) {
        loop {
            let may_end = match self.state {
                State::DataEnd | State::Size => true,
                State::Trailers => buffer.starts_with(b"\r\n"),
                _ => false,
            };
            if !may_end {
                return;
            }
            match self.step(buffer) {
                Ok(true) => {}
                Ok(false) => return,
                Err(violation) => self.state = State::Refused(violation),
            }
        }
    }

    /// Whether nothing more is to come, and nothing is to be had.
    pub fn is_over(&self) -> bool {
        self.state == State::Over && self.trailers.is_empty()
    }

    /// Takes one line; `false`: its end is still to come.
    fn step(&mut self, buffer: &mut BytesMut) -> Result<bool, Violation> {
        let (max_bytes, too_long) = match self.state {
            State::DataEnd => (0, Violation::ChunkEnd),
            State::Trailers => (
                MAX_TRAILER_BYTES.saturating_sub(self.trailer_bytes),
                Violation::TrailersTooLarge,
            ),
            _ => (MAX_LINE_BYTES, Violation::ChunkSize),
        };
        let Some(line) = self.line.next(buffer, max_bytes, too_long)? else {
            buffer.clear();
            return Ok(false);
        };
        let consumed = line.consumed;
        match self.state {
            State::DataEnd => self.state = State::Size,
            State::Trailers if line.text.is_empty() => self.state = State::Over,
            State::Trailers => {
                self.trailer_bytes += line.text.len() + 2;
                if self.trailers.len() == MAX_TRAILERS {
                    return Err(Violation::TrailersTooLarge);
                }
                let (name, value) = head::field(&line.text)?;
                let name = HeaderName::from_bytes(name).map_err(|_| Violation::FieldName)?;
                let value = HeaderValue::from_bytes(value).map_err(|_| Violation::ControlByte)?;
                self.trailers.append(name, value);
            }
            _ => {
                self.state = match size(&line.text)? {
                    0 => State::Trailers,
                    size => State::Data(size),
                }
            }
        }
        buffer.advance(consumed);
        Ok(true)
    }
}

fn size(line: &[u8]) -> Result<u64, Violation> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let (digits, rest) = line.split_at(digits.count());
    let is_size = (1..=MAX_DIGITS).contains(&digits.len());
    if !is_size || !matches!(rest, [] | [b' ' | b'\t' | b';', ..]) {
        return Err(Violation::ChunkSize);
    }
    let digits = str::from_utf8(digits).map_err(|_| Violation::ChunkSize)?;
    u64::from_str_radix(digits, 16).map_err(|_| Violation::ChunkSize)
}
