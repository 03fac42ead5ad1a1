//! Lines of a head, of chunk sizes and of trailers: they end in CRLF and in nothing else.

use std::borrow::Cow;
use std::mem;

use super::scan::text_length;
use super::violation::Violation;

/// Keeps the line under way when it does not arrive in one piece; no more than its limit.
#[derive(Debug, Default)]
pub struct LineReader {
    partial: Vec<u8>,
}

pub struct Line<'a> {
    /// Without its CRLF; no control bytes but tabs.
    pub text: Cow<'a, [u8]>,
    /// Bytes of the input that belong to it.
    pub consumed: usize,
}

impl LineReader {
    /// The line that `input` continues, if it ends there; otherwise all of `input` was taken.
    /// A line of more than `max_bytes`, its end not counted, is refused as `too_long`.
    #[inline]
    pub fn next<'a>(
        &mut self,
        input: &'a [u8],
        max_bytes: usize,
        too_long: Violation,
    ) -> Result<Option<Line<'a>>, Violation> {
        if self.partial.last() == Some(&b'\r') {
            return self.after_cr(input);
        }
        let length = text_length(input);
        if self.partial.len() + length > max_bytes {
            return Err(too_long);
        }
        match input[length..] {
            [] | [b'\r'] => {
                self.partial.extend_from_slice(input);
                Ok(None)
            }
            [b'\r', b'\n', ..] => Ok(Some(Line {
                text: self.complete(&input[..length]),
                consumed: length + 2,
            })),
            [b'\r', ..] => Err(Violation::BareCr),
            [b'\n', ..] => Err(Violation::BareLf),
            [..] => Err(Violation::ControlByte),
        }
    }

    /// Whether some of a line has come and its end has not.
    pub fn is_inside(&self) -> bool {
        !self.partial.is_empty()
    }

    pub fn clear(&mut self) {
        self.partial = Vec::new();
    }

    fn after_cr<'a>(&mut self, input: &[u8]) -> Result<Option<Line<'a>>, Violation> {
        match input.first() {
            None => Ok(None),
            Some(b'\n') => {
                self.partial.pop();
                Ok(Some(Line {
                    text: Cow::Owned(mem::take(&mut self.partial)),
                    consumed: 1,
                }))
            }
            Some(_) => Err(Violation::BareCr),
        }
    }

    fn complete<'a>(&mut self, end: &'a [u8]) -> Cow<'a, [u8]> {
        if self.partial.is_empty() {
            return Cow::Borrowed(end);
        }
        self.partial.extend_from_slice(end);
        Cow::Owned(mem::take(&mut self.partial))
    }
}
