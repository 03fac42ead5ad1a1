//! Reads a message body from the front; every read is checked.

/// What is left to read. `None` from any method: the body is too short for what it claims.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    /// Up to a NUL, which is read and not returned.
    pub(super) fn c_string(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Some(text)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A peer's text for people: valid UTF-8, no control characters, at most `max_bytes` long.
pub(super) fn printable(text: &[u8], max_bytes: usize) -> String {
    let cut = &text[..text.len().min(max_bytes)];
    let mut printable = String::with_capacity(cut.len());
    for chunk in cut.utf8_chunks() {
        printable.extend(chunk.valid().chars().map(without_control));
        if !chunk.invalid().is_empty() {
            printable.push('?');
        }
    }
    printable
}

/// A line break or an escape sequence in a message could forge a line of a log or of a terminal.
fn without_control(character: char) -> char {
    if character.is_control() {
        ' '
    } else {
        character
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_past_the_end_is_none_and_reads_nothing() {
        let mut cursor = Cursor(b"abc");
        assert_eq!(cursor.u32(), None);
        assert_eq!(cursor.take(4), None);
        assert_eq!(cursor.c_string(), None);
        assert_eq!(cursor.take(2), Some(&b"ab"[..]));
        assert_eq!(cursor.u16(), None);
        assert_eq!(cursor.byte(), Some(b'c'));
        assert_eq!(cursor.byte(), None);
        assert!(cursor.is_empty());
    }

    #[test]
    fn texts_for_people_hold_nothing_that_a_terminal_would_obey() {
        assert_eq!(printable(b"a\x1b[2Jb\nc\0d\x7f", 99), "a [2Jb c d ");
        assert_eq!(printable("\u{9b}31m ü".as_bytes(), 99), " 31m ü");
        assert_eq!(printable(b"\xff\xfeok", 99), "??ok");
        assert_eq!(printable("aü".as_bytes(), 2), "a?", "cut within a letter");
    }
}
