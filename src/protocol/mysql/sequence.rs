//! Sequence numbers of a login whose legs differ: TLS on one side makes its login one packet longer.

use super::packet::HEADER_BYTES;
use super::packet::MAX_PAYLOAD_BYTES;
use super::packet::decode_header;
use super::response::ERR_HEADER;
use super::response::OK_HEADER;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToClient,
    ToServer,
}

/// Adds to the sequence numbers of one direction until the login is over.
///
/// Make it when the legs begin to differ: behind the greeting, with the first message inside
/// TLS; a response that goes on without TLS must lose its `SSL` flag besides. After the login both sides count from 0 for each command, and nothing is changed.
#[derive(Debug, Clone)]
pub struct SequenceShift {
    direction: Direction,
    shift: u8,
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    missing_bytes: usize,
    is_continued: bool,
    is_over: bool,
}

impl SequenceShift {
    /// For packets of the server. `shift` is how many packets more the client's leg has seen:
    /// 1 if only the client came by TLS, -1 if only the server's leg has it.
    pub fn to_client(shift: i8) -> Self {
        Self::new(Direction::ToClient, shift)
    }

    /// For packets of the client, with the same `shift` as the other direction.
    pub fn to_server(shift: i8) -> Self {
        Self::new(Direction::ToServer, shift.wrapping_neg())
    }

    fn new(direction: Direction, shift: i8) -> Self {
        Self {
            direction,
            shift: shift.cast_unsigned(),
            header: [0; HEADER_BYTES],
            header_bytes: 0,
            missing_bytes: 0,
            is_continued: false,
            is_over: shift == 0,
        }
    }

    /// Nothing will be changed any more.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Rewrites the next bytes of the stream in place. A login is short: byte by byte will do.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.is_over {
                return;
            }
            if self.header_bytes < HEADER_BYTES {
                self.on_header_byte(byte);
            } else {
                self.on_payload_byte(*byte);
            }
            if self.header_bytes == HEADER_BYTES && self.missing_bytes == 0 {
                self.header_bytes = 0;
                self.is_continued = decode_header(self.header).0 == MAX_PAYLOAD_BYTES;
            }
        }
    }

    fn on_header_byte(&mut self, byte: &mut u8) {
        self.header[self.header_bytes] = *byte;
        self.header_bytes += 1;
        if self.header_bytes < HEADER_BYTES {
            return;
        }
        let (length, sequence) = decode_header(self.header);
        self.missing_bytes = length;
        // Only commands of the client start at 0.
        self.is_over = self.direction == Direction::ToServer && sequence == 0;
        if !self.is_over {
            *byte = sequence.wrapping_add(self.shift);
        }
    }

    /// OK and ERR end a login; authentication data that looks like them is escaped by servers.
    fn on_payload_byte(&mut self, byte: u8) {
        let is_first = self.missing_bytes == decode_header(self.header).0 && !self.is_continued;
        let ends = matches!(byte, OK_HEADER | ERR_HEADER);
        self.is_over = is_first && ends && self.direction == Direction::ToClient;
        self.missing_bytes -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mysql::packet::message;

    fn shifted(mut shift: SequenceShift, mut bytes: Vec<u8>, chunk_bytes: usize) -> Vec<u8> {
        bytes
            .chunks_mut(chunk_bytes)
            .for_each(|chunk| shift.apply(chunk));
        assert!(shift.is_over());
        bytes
    }

    #[test]
    fn numbers_shift_until_the_login_is_over() {
        let server = |first: u8, after: u8| {
            let switch = message(first, b"\xfeplugin\0nonce");
            let more = message(first + 2, b"\x01\x03");
            let ok = message(first + 3, b"\0\0\0\x02\0\0\0");
            [switch, more, ok, message(after, b"\0\0\0\x02\0\0\0")].concat()
        };
        let client = |first: u8| {
            let response = message(first, b"who I am");
            let empty = message(first + 2, b"");
            [
                response,
                empty,
                message(0, b"\x03SELECT 1"),
                message(3, b"data"),
            ]
            .concat()
        };
        for chunk_bytes in 1..40 {
            let to_client = SequenceShift::to_client(1);
            assert_eq!(shifted(to_client, server(2, 1), chunk_bytes), server(3, 1));
            let to_server = SequenceShift::to_server(1);
            assert_eq!(shifted(to_server, client(2), chunk_bytes), client(1));
            let to_client = SequenceShift::to_client(-1);
            assert_eq!(shifted(to_client, server(3, 1), chunk_bytes), server(2, 1));
            let to_server = SequenceShift::to_server(-1);
            assert_eq!(shifted(to_server, client(1), chunk_bytes), client(2));
        }
    }

    #[test]
    fn equal_legs_are_left_alone() {
        assert!(SequenceShift::to_client(0).is_over());
    }
}
