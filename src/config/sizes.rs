//! Sizes with units, and how far a replica may be behind. Pure.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::MaxLag;
use crate::config::tree::Node;
use crate::config::tree::Value;
use crate::config::values;
use crate::config::values::Wrong;

/// Units of sizes and their length in bytes.
const SIZE_UNITS: [(&str, u64); 5] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A number of bytes.
pub(super) fn size(node: &Node, range: &RangeInclusive<u64>) -> Result<u64, Wrong> {
    let help = "write a number and a unit (`B`, `KiB`, `MiB`, `GiB`, `TiB`), as in `16MiB`";
    let text = match &node.value {
        Value::Text(text) => text.value.trim(),
        Value::Integer(value) => {
            let bytes = u64::try_from(*value).unwrap_or(u64::MAX);
            let mebibytes = bytes.checked_mul(1 << 20);
            let help = match mebibytes.filter(|bytes| range.contains(bytes)) {
                Some(_) => format!("write `{value}MiB`, or `{value}B` for single bytes"),
                None if range.contains(&bytes) => format!("write `{}`", show_size(bytes)),
                None => help.to_owned(),
            };
            let message = format!("{} has no unit", node.shown());
            return Err(Wrong::new(message, help));
        }
        Value::Number(_) => return Err(Wrong::not("a size", node, help)),
        _ => return Err(Wrong::expected("a size", node)),
    };
    let value = parse_size(text).ok_or_else(|| {
        // `16MB` is 16,000,000 bytes to some and 16,777,216 to PostgreSQL.
        let meant = text.strip_suffix('B').filter(|rest| !rest.ends_with('i'));
        let meant = meant.map(|rest| format!("{}iB", rest.replace('k', "K")));
        match meant.filter(|meant| parse_size(meant).is_some() && node.is_written()) {
            Some(meant) => Wrong::not("a size", node, &format!("did you mean `{meant}`?")),
            None => Wrong::not("a size", node, help),
        }
    })?;
    if range.contains(&value) {
        return Ok(value);
    }
    let (min, max) = (show_size(*range.start()), show_size(*range.end()));
    Err(Wrong::new(
        format!("{} is out of range", node.shown()),
        format!("expected {min} to {max}"),
    ))
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    let value = number.parse::<f64>().ok()? * *bytes as f64;
    // Above this a fraction of a byte cannot be told from none.
    (value < (1_u64 << 53) as f64).then_some(value as u64)
}

/// The shortest way to write a size.
pub(super) fn show_size(bytes: u64) -> String {
    let fits = |(_, size): &&(&str, u64)| bytes != 0 && bytes.is_multiple_of(*size);
    let (name, size) = SIZE_UNITS.iter().rev().find(fits).unwrap_or(&SIZE_UNITS[0]);
    format!("{}{name}", bytes / size)
}

/// How far a replica may be behind: `5s` or `16MiB`. The units of time are lower case and those
/// of sizes are not, so no text is both.
pub(super) fn max_lag(
    node: &Node,
    times: &RangeInclusive<Duration>,
    sizes: &RangeInclusive<u64>,
) -> Result<MaxLag, Wrong> {
    let help = "write a time, as in `5s`, or a size, as in `16MiB`";
    match &node.value {
        Value::Integer(_) | Value::Number(_) => {
            Err(Wrong::new(format!("{} has no unit", node.shown()), help))
        }
        Value::Text(text) if text.value.contains('B') => size(node, sizes).map(MaxLag::Bytes),
        Value::Text(_) => values::duration(node, times)
            .map(MaxLag::Time)
            .map_err(|wrong| {
                if wrong.message.ends_with("out of range") {
                    return wrong;
                }
                Wrong::not("a time or a size", node, help)
            }),
        _ => Err(Wrong::expected("a time or a size", node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [
            ("1B", 1),
            ("16MiB", 16 << 20),
            ("1.5KiB", 1536),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "5",
            "B",
            "16MB",
            "16M",
            "16mib",
            "-1B",
            "1 B",
            "1.2.3B",
            "9999999TiB",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn a_shown_size_reads_back_as_the_same() {
        for bytes in [1, 1000, 1024, 1536, 16 << 20, (16 << 20) + 1, 1 << 40] {
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }
}
