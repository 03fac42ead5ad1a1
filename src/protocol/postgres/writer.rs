//! Builds one message: tag, length, body.

/// A message whose length is filled in at the end.
pub(super) struct Writer {
    bytes: Vec<u8>,
    /// Where the length field is: after the tag, if there is one.
    length_at: usize,
}

impl Writer {
    pub(super) fn tagged(tag: u8) -> Self {
        Self {
            bytes: vec![tag, 0, 0, 0, 0],
            length_at: 1,
        }
    }

    /// The messages that come before the protocol version is agreed on have no tag.
    pub(super) fn untagged() -> Self {
        Self {
            bytes: vec![0; 4],
            length_at: 0,
        }
    }

    pub(super) fn byte(mut self, byte: u8) -> Self {
        self.bytes.push(byte);
        self
    }

    pub(super) fn u16(mut self, number: u16) -> Self {
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn u32(mut self, number: u32) -> Self {
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Text and its NUL. A NUL within would end it early and let the rest pass as the next field,
    /// so it is left out.
    pub(super) fn c_string(mut self, text: &str) -> Self {
        self.bytes.extend(text.bytes().filter(|byte| *byte != 0));
        self.byte(0)
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let length =
            u32::try_from(self.bytes.len() - self.length_at).expect("we build no message of 4 GiB");
        self.bytes[self.length_at..self.length_at + 4].copy_from_slice(&length.to_be_bytes());
        self.bytes
    }
}
