//! Integers and strings as MySQL writes them.

/// The bytes are not what the protocol allows; the text says which part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed MySQL packet: {0}")]
pub struct Malformed(pub &'static str);

/// First byte of a NULL in a text row, and of a request for a local file.
pub(super) const LENENC_NULL: u8 = 0xFB;
const LENENC_U16: u8 = 0xFC;
const LENENC_U24: u8 = 0xFD;
const LENENC_U64: u8 = 0xFE;

const TRUNCATED: Malformed = Malformed("truncated");

/// What is left to read of a payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A length-encoded integer; the two first bytes that are no integer are refused.
    pub(super) fn lenenc(&mut self) -> Result<u64, Malformed> {
        match self.u8()? {
            LENENC_U16 => Ok(u64::from(self.u16()?)),
            LENENC_U24 => {
                let [a, b, c] = self.array()?;
                Ok(u64::from(u32::from_le_bytes([a, b, c, 0])))
            }
            LENENC_U64 => Ok(u64::from_le_bytes(self.array()?)),
            LENENC_NULL | 0xFF => Err(Malformed("not a length-encoded integer")),
            small => Ok(u64::from(small)),
        }
    }

    /// Bytes behind a length-encoded length.
    pub(super) fn lenenc_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let count = usize::try_from(self.lenenc()?).map_err(|_| TRUNCATED)?;
        self.take(count)
    }

    /// Bytes up to a NUL, which is consumed and must be there.
    pub(super) fn until_nul(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = self.take(end.ok_or(Malformed("missing NUL"))?)?;
        self.take(1)?;
        Ok(text)
    }

    /// Bytes up to a NUL or, as some peers send it, to the end.
    pub(super) fn until_nul_or_end(&mut self) -> &'a [u8] {
        match self.until_nul() {
            Ok(text) => text,
            Err(_) => std::mem::take(&mut self.0),
        }
    }
}

pub(super) fn put_lenenc(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_le_bytes();
    match value {
        0..=0xFA => out.push(bytes[0]),
        0xFB..=0xFFFF => {
            out.push(LENENC_U16);
            out.extend_from_slice(&bytes[..2]);
        }
        0x1_0000..=0xFF_FFFF => {
            out.push(LENENC_U24);
            out.extend_from_slice(&bytes[..3]);
        }
        _ => {
            out.push(LENENC_U64);
            out.extend_from_slice(&bytes);
        }
    }
}

pub(super) fn put_lenenc_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_lenenc(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_nul_terminated(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_encoded_integers_go_round() {
        for value in [
            0,
            1,
            0xFA,
            0xFB,
            0xFF,
            0x100,
            0xFFFF,
            0x1_0000,
            0xFF_FFFF,
            0x100_0000,
            u64::MAX,
        ] {
            let mut bytes = Vec::new();
            put_lenenc(&mut bytes, value);
            let mut reader = Reader(&bytes);
            assert_eq!(reader.lenenc(), Ok(value));
            assert!(reader.is_empty());
            assert_eq!(Reader(&bytes[..bytes.len() - 1]).lenenc(), Err(TRUNCATED));
        }
        assert!(Reader(&[0xFB]).lenenc().is_err());
        assert!(Reader(&[0xFF]).lenenc().is_err());
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        assert_eq!(Reader(b"\x05abcd").lenenc_bytes(), Err(TRUNCATED));
        assert_eq!(
            Reader(b"\xfe\xff\xff\xff\xff\xff\xff\xff\xffa").lenenc_bytes(),
            Err(TRUNCATED)
        );
    }
}
