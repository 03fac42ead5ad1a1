//! Splits a stream of tagged messages, for readers that want whole ones (a probe, a fake server).
//!
//! A relay does not: see [`follow`](super::follow).

/// One message at the front of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    pub tag: u8,
    pub body: &'a [u8],
    /// Bytes of the whole message: what to drop from the buffer afterwards.
    pub length: usize,
}

/// The stream cannot be split any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("message {tag:?} has an invalid length of {length}")]
    TooShort { tag: char, length: u32 },
    #[error("message {tag:?} of {length} bytes is longer than {max_bytes}")]
    TooLong {
        tag: char,
        length: u32,
        max_bytes: usize,
    },
}

/// Enough for a probe: its queries answer one short row, and a login's longest message is an error
/// with its context. A backend that sends more is not answering us.
pub const MAX_PROBE_MESSAGE_BYTES: usize = 64 * 1024;

const HEADER_BYTES: usize = 5;
/// The length counts itself, not the tag.
const LENGTH_FIELD_BYTES: usize = 4;

/// The first message in the buffer; `None` if it is not complete yet.
///
/// # Errors
/// As soon as the header has arrived, if the length is impossible or more than `max_bytes` (which
/// counts the whole message): nothing is waited for, nothing is allocated.
pub fn next_message(bytes: &[u8], max_bytes: usize) -> Result<Option<Message<'_>>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [tag, length @ ..] = *header;
    let length = u32::from_be_bytes(length);
    let Some(body_bytes) = (length as usize).checked_sub(LENGTH_FIELD_BYTES) else {
        let tag = char::from(tag);
        return Err(FrameError::TooShort { tag, length });
    };
    if body_bytes > max_bytes.saturating_sub(HEADER_BYTES) {
        return Err(FrameError::TooLong {
            tag: char::from(tag),
            length,
            max_bytes,
        });
    }
    Ok(rest.get(..body_bytes).map(|body| Message {
        tag,
        body,
        length: HEADER_BYTES + body_bytes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_off_the_front_one_by_one() {
        let bytes = b"Z\0\0\0\x05IS\0\0\0\x04Q";
        let first = next_message(bytes, 100).unwrap().unwrap();
        assert_eq!((first.tag, first.body, first.length), (b'Z', &b"I"[..], 6));
        let second = next_message(&bytes[6..], 100).unwrap().unwrap();
        assert_eq!(
            (second.tag, second.body, second.length),
            (b'S', &b""[..], 5)
        );
        assert_eq!(next_message(&bytes[11..], 100), Ok(None));
        for cut in 0..6 {
            assert_eq!(next_message(&bytes[..cut], 100), Ok(None));
        }
    }

    #[test]
    fn impossible_lengths_are_refused_before_the_body_arrives() {
        for tag in 0..=u8::MAX {
            for length in [0, 1, 3] {
                let header = [&[tag][..], &u32::to_be_bytes(length)].concat();
                assert_eq!(
                    next_message(&header, 100),
                    Err(FrameError::TooShort {
                        tag: char::from(tag),
                        length
                    })
                );
            }
            let empty = [tag, 0, 0, 0, 4];
            assert_eq!(next_message(&empty, 100).unwrap().unwrap().body, b"");
            for length in [100, 1 << 31, u32::MAX] {
                let header = [&[tag][..], &u32::to_be_bytes(length)].concat();
                assert!(matches!(
                    next_message(&header, 100),
                    Err(FrameError::TooLong { max_bytes: 100, .. })
                ));
            }
            let longest = [&[tag, 0, 0, 0, 99][..], &[0; 95]].concat();
            assert_eq!(next_message(&longest, 100).unwrap().unwrap().length, 100);
            assert!(next_message(&longest, 99).is_err());
        }
    }
}
