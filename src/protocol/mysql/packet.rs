//! Packets: a 3-byte length, a sequence number, a payload. A payload of 16 MB - 1 goes on in the next packet.

/// Length and sequence number.
pub const HEADER_BYTES: usize = 4;
/// The largest payload of one packet; a message of at least this size spans several.
pub const MAX_PAYLOAD_BYTES: usize = 0xFF_FFFF;

/// One whole message, however many packets it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Of its last packet: the answer carries the next one.
    pub sequence: u8,
    pub payload: Vec<u8>,
}

/// Bytes that are no acceptable packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    #[error("MySQL message longer than {max_bytes} bytes")]
    TooLong { max_bytes: usize },
    #[error("MySQL packets out of order")]
    OutOfOrder,
}

/// Collects messages from a stream. Memory grows with what arrived, never with what was announced.
#[derive(Debug)]
pub struct MessageReader {
    max_bytes: usize,
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// Of the current packet's payload, still to come.
    missing_bytes: usize,
    payload: Vec<u8>,
    /// The message goes on in a packet with this sequence number.
    continued_as: Option<u8>,
}

impl MessageReader {
    /// Refuses messages with a payload of more than `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            header: [0; HEADER_BYTES],
            header_bytes: 0,
            missing_bytes: 0,
            payload: Vec::new(),
            continued_as: None,
        }
    }

    /// Takes bytes off the front of `bytes`, at most to the end of one message.
    ///
    /// What is left of `bytes` after a message is the caller's: the next message, or, after a
    /// request for TLS, bytes that must not be there.
    ///
    /// # Errors
    /// The stream cannot be read on after an error.
    pub fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<Message>, PacketError> {
        loop {
            if self.header_bytes < HEADER_BYTES {
                let header = take(bytes, HEADER_BYTES - self.header_bytes);
                self.header[self.header_bytes..][..header.len()].copy_from_slice(header);
                self.header_bytes += header.len();
                if self.header_bytes < HEADER_BYTES {
                    return Ok(None);
                }
                self.begin_packet()?;
            }
            let part = take(bytes, self.missing_bytes);
            self.payload.extend_from_slice(part);
            self.missing_bytes -= part.len();
            if self.missing_bytes > 0 {
                return Ok(None);
            }
            self.header_bytes = 0;
            let (length, sequence) = decode_header(self.header);
            if length == MAX_PAYLOAD_BYTES {
                self.continued_as = Some(sequence.wrapping_add(1));
                continue;
            }
            self.continued_as = None;
            let payload = std::mem::take(&mut self.payload);
            return Ok(Some(Message { sequence, payload }));
        }
    }

    /// Nothing of a further message has been read.
    pub fn is_between_messages(&self) -> bool {
        self.header_bytes == 0 && self.continued_as.is_none()
    }

    fn begin_packet(&mut self) -> Result<(), PacketError> {
        let (length, sequence) = decode_header(self.header);
        if self.continued_as.is_some_and(|next| next != sequence) {
            return Err(PacketError::OutOfOrder);
        }
        if self.payload.len() + length > self.max_bytes {
            let max_bytes = self.max_bytes;
            return Err(PacketError::TooLong { max_bytes });
        }
        self.missing_bytes = length;
        Ok(())
    }
}

/// Appends `payload` as packets that start with `sequence`; returns the next sequence number.
pub fn write_message(out: &mut Vec<u8>, sequence: u8, payload: &[u8]) -> u8 {
    let mut sequence = sequence;
    let mut rest = payload;
    loop {
        let (part, after) = rest.split_at(rest.len().min(MAX_PAYLOAD_BYTES));
        let [low, middle, high, _] = (part.len() as u32).to_le_bytes();
        out.extend_from_slice(&[low, middle, high, sequence]);
        out.extend_from_slice(part);
        sequence = sequence.wrapping_add(1);
        // A full packet says "more follows", so the last one must not be full.
        if part.len() < MAX_PAYLOAD_BYTES {
            return sequence;
        }
        rest = after;
    }
}

/// `payload` as packets that start with `sequence`.
pub fn message(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    write_message(&mut out, sequence, payload);
    out
}

/// Payload length and sequence number.
pub(super) fn decode_header(header: [u8; HEADER_BYTES]) -> (usize, u8) {
    let [low, middle, high, sequence] = header;
    let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
    (length, sequence)
}

/// Up to `count` bytes off the front.
pub(super) fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count.min(bytes.len()));
    *bytes = rest;
    taken
}

pub(super) fn fuzz(data: &[u8]) {
    const MAX_BYTES: usize = 1000;
    let mut whole = MessageReader::new(MAX_BYTES);
    let mut split = MessageReader::new(MAX_BYTES);
    let mut rest = data;
    let mut fed = 0;
    loop {
        let message = whole.read(&mut rest);
        let end = data.len() - rest.len();
        let mut last = Ok(None);
        for byte in &data[fed..end] {
            last = split.read(&mut std::slice::from_ref(byte));
            if !matches!(last, Ok(None)) {
                break;
            }
        }
        assert_eq!(message, last);
        fed = end;
        let Ok(Some(message)) = message else {
            return;
        };
        assert!(message.payload.len() <= MAX_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_16_megabytes_spans_packets() {
        for (length, packets) in [
            (MAX_PAYLOAD_BYTES - 1, 1),
            (MAX_PAYLOAD_BYTES, 2),
            (MAX_PAYLOAD_BYTES + 1, 2),
            (2 * MAX_PAYLOAD_BYTES, 3),
        ] {
            let payload = vec![7; length];
            let mut out = Vec::new();
            assert_eq!(write_message(&mut out, 255, &payload), packets - 1);
            assert_eq!(out.len(), length + usize::from(packets) * HEADER_BYTES);
            let mut reader = MessageReader::new(length);
            let mut messages = Vec::new();
            for mut chunk in out.chunks(1_000_003) {
                messages.extend(reader.read(&mut chunk).unwrap());
            }
            assert_eq!(messages.len(), 1, "{length}");
            assert_eq!(messages[0].sequence, (packets - 1).wrapping_sub(1));
            assert!(messages[0].payload == payload);
            assert!(reader.is_between_messages());
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_header() {
        let too_long = Err(PacketError::TooLong { max_bytes: 10 });
        let mut reader = MessageReader::new(10);
        assert_eq!(reader.read(&mut &b"\x0b\0\0\0"[..]), too_long);
        let mut reader = MessageReader::new(10);
        assert_eq!(reader.read(&mut &b"\xff\xff\xff\0"[..]), too_long);
        let mut reader = MessageReader::new(MAX_PAYLOAD_BYTES);
        let full = [&b"\xff\xff\xff\0"[..], &vec![0; MAX_PAYLOAD_BYTES]].concat();
        assert_eq!(reader.read(&mut &full[..]), Ok(None));
        assert!(!reader.is_between_messages());
        let max_bytes = MAX_PAYLOAD_BYTES;
        let too_long = Err(PacketError::TooLong { max_bytes });
        assert_eq!(reader.read(&mut &b"\x01\0\0\x01"[..]), too_long);
    }

    #[test]
    fn a_continuation_has_the_next_sequence_number() {
        let mut reader = MessageReader::new(usize::MAX);
        let full = [&b"\xff\xff\xff\x07"[..], &vec![0; MAX_PAYLOAD_BYTES]].concat();
        assert_eq!(reader.read(&mut &full[..]), Ok(None));
        let refused = reader.read(&mut &b"\x01\0\0\x07"[..]);
        assert_eq!(refused, Err(PacketError::OutOfOrder));
    }

    #[test]
    fn bytes_after_a_message_stay_with_the_caller() {
        let mut reader = MessageReader::new(10);
        let mut bytes = &b"\x02\0\0\x03abjunk"[..];
        let message = reader.read(&mut bytes).unwrap().unwrap();
        assert_eq!((message.sequence, &message.payload[..]), (3, &b"ab"[..]));
        assert_eq!(bytes, b"junk");
    }
}
