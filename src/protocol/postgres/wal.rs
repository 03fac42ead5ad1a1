//! Positions in the write-ahead log, as PostgreSQL writes them.

/// `16/B374D848`, the text form of type pg_lsn, as one number; `None` if it is anything else.
///
/// The difference of two positions is a count of bytes.
#[must_use]
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from(hex_u32(high)?) << 32 | u64::from(hex_u32(low)?))
}

/// A position as PostgreSQL up to 18 writes it (19 pads the second half with zeros).
#[must_use]
pub fn format_lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & u64::from(u32::MAX))
}

/// The timeline in the name of a WAL file, `00000003000000160000005C` (what `pg_walfile_name` says):
/// its first eight digits. `None` if it is no such name or names timeline 0, which does not exist.
#[must_use]
pub fn wal_file_timeline(name: &str) -> Option<u32> {
    if name.len() != 24 {
        return None;
    }
    let parts = [name.get(..8)?, name.get(8..16)?, name.get(16..)?];
    let [Some(timeline), Some(_log), Some(_segment)] = parts.map(hex_u32) else {
        return None;
    };
    (timeline > 0).then_some(timeline)
}

/// One to eight hexadecimal digits and nothing else (no sign, unlike `from_str_radix`).
fn hex_u32(digits: &str) -> Option<u32> {
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) || digits.len() > 8 {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_two_hexadecimal_halves() {
        assert_eq!(parse_lsn("16/B374D848"), Some(0x16_B374_D848));
        assert_eq!(parse_lsn("0/0"), Some(0));
        assert_eq!(parse_lsn("ffffffff/FFFFFFFF"), Some(u64::MAX));
        assert_eq!(format_lsn(0x16_0000_D848), "16/D848");
        for wrong in [
            "",
            "/",
            "0/",
            "/0",
            "0",
            "0/0/0",
            "-1/0",
            "+1/0",
            "0/+1",
            "0/123456789",
            " 0/0",
            "0/x",
        ] {
            assert_eq!(parse_lsn(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_wal_file_is_named_after_its_timeline() {
        assert_eq!(wal_file_timeline("00000003000000160000005C"), Some(3));
        assert_eq!(
            wal_file_timeline("FFFFFFFF000000160000005C"),
            Some(u32::MAX)
        );
        for wrong in [
            "",
            "00000003",
            "00000000000000160000005C",
            "00000003000000160000005C.partial",
            "+0000003000000160000005C",
            "0000000300000016000000ü",
            "00000003.history",
        ] {
            assert_eq!(wal_file_timeline(wrong), None, "{wrong}");
        }
    }
}
