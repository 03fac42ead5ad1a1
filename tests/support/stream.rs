//! Bytes that can be told from any other bytes, so that a lost, doubled or swapped one is noticed.

use std::io;
use std::io::Read;
use std::io::Write;

/// An endless stream that is the same each time.
#[derive(Debug, Clone)]
pub struct Pattern {
    state: u64,
}

impl Pattern {
    pub fn new() -> Self {
        Self::seeded(0)
    }

    /// Streams with different seeds differ, so that swapped connections are noticed.
    pub fn seeded(seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Self { state }
    }

    pub fn next_bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes);
        bytes
    }

    /// One step of xorshift64* per byte: position matters, chunk size does not.
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let mixed = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D);
            *byte = mixed.to_be_bytes()[0];
        }
    }
}

/// Writes `bytes` bytes of the pattern.
pub fn write_pattern(to: &mut impl Write, mut pattern: Pattern, bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left.min(16 * 1024)).unwrap();
        to.write_all(&pattern.next_bytes(length))?;
        left -= length as u64;
    }
    Ok(())
}

/// Reads to the end or to `bytes`; panics at the first byte that is not the pattern's.
/// Returns how many were right.
#[track_caller]
pub fn expect_pattern(from: &mut impl Read, mut pattern: Pattern, bytes: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut seen = 0;
    while seen < bytes {
        let room = usize::try_from((bytes - seen).min(buffer.len() as u64)).unwrap();
        let length = from.read(&mut buffer[..room])?;
        if length == 0 {
            break;
        }
        let expected = pattern.next_bytes(length);
        let wrong = buffer.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "wrong byte within {length} after {seen}");
        seen += length as u64;
    }
    Ok(seen)
}
