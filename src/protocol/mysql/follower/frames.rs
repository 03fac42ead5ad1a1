//! Packet headers of one direction; of each message only its first bytes are kept.

use crate::protocol::mysql::packet::HEADER_BYTES;
use crate::protocol::mysql::packet::MAX_PAYLOAD_BYTES;
use crate::protocol::mysql::packet::decode_header;
use crate::protocol::mysql::packet::take;

/// Where a direction of the stream stands.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// Of the current packet's payload, still to come.
    missing_bytes: usize,
    /// The message has begun in an earlier packet.
    is_continued: bool,
    sequence: u8,
    first_packet_bytes: usize,
    prefix: Vec<u8>,
    prefix_limit: usize,
}

impl Frames {
    /// Takes bytes off the front of `bytes`; true if they end a message.
    ///
    /// `prefix_limit` tells from a message's first byte how many of its bytes are kept.
    pub(super) fn read(&mut self, bytes: &mut &[u8], prefix_limit: impl Fn(u8) -> usize) -> bool {
        loop {
            if self.header_bytes < HEADER_BYTES {
                let header = take(bytes, HEADER_BYTES - self.header_bytes);
                self.header[self.header_bytes..][..header.len()].copy_from_slice(header);
                self.header_bytes += header.len();
                if self.header_bytes < HEADER_BYTES {
                    return false;
                }
                self.begin_packet();
            }
            let part = take(bytes, self.missing_bytes);
            self.missing_bytes -= part.len();
            self.keep_prefix(part, &prefix_limit);
            if self.missing_bytes > 0 {
                return false;
            }
            self.header_bytes = 0;
            let (length, _) = decode_header(self.header);
            self.is_continued = length == MAX_PAYLOAD_BYTES;
            if !self.is_continued {
                return true;
            }
        }
    }

    pub(super) fn is_between_messages(&self) -> bool {
        self.header_bytes == 0 && !self.is_continued
    }

    /// First bytes of the last message.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Payload of the last message's first packet: below 16 MB - 1, the whole message.
    pub(super) fn message_bytes(&self) -> usize {
        self.first_packet_bytes
    }

    /// Sequence number of the last message's first packet.
    pub(super) fn sequence(&self) -> u8 {
        self.sequence
    }

    /// Gives the memory of a long prefix back.
    pub(super) fn forget_prefix(&mut self) {
        self.prefix = Vec::new();
    }

    fn begin_packet(&mut self) {
        let (length, sequence) = decode_header(self.header);
        self.missing_bytes = length;
        if !self.is_continued {
            self.first_packet_bytes = length;
            self.sequence = sequence;
            self.prefix.clear();
            self.prefix_limit = 0;
        }
    }

    fn keep_prefix(&mut self, part: &[u8], prefix_limit: impl Fn(u8) -> usize) {
        let Some(first) = part.first() else {
            return;
        };
        if self.prefix.is_empty() && !self.is_continued {
            self.prefix_limit = prefix_limit(*first);
        }
        let wanted = self.prefix_limit.saturating_sub(self.prefix.len());
        self.prefix
            .extend_from_slice(&part[..wanted.min(part.len())]);
    }
}
