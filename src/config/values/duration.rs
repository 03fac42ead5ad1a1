//! Durations: read with units, shown in the shortest way.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::tree::Node;
use crate::config::tree::Value;
use crate::config::values::Wrong;

/// Units and their length in milliseconds; the longest spelling of a letter first.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

const NANOS_PER_MILLI: u32 = 1_000_000;
/// 10^18 still fits, and a day has fewer nanoseconds.
const MAX_FRACTION_DIGITS: usize = 18;

pub(in crate::config) fn duration(
    node: &Node,
    range: &RangeInclusive<Duration>,
) -> Result<Duration, Wrong> {
    let text = match &node.value {
        Value::Text(text) => text.value.trim(),
        Value::Integer(value) => {
            return Err(Wrong::new(
                format!("{} has no unit", node.shown()),
                format!("write `{value}s` for seconds or `{value}ms` for milliseconds"),
            ));
        }
        Value::Number(_) => {
            return Err(Wrong::new(
                format!("{} has no unit", node.shown()),
                "write a unit: `ms`, `s`, `m`, `h` or `d`, as in `1.5s`",
            ));
        }
        _ => return Err(Wrong::expected("a duration", node)),
    };
    let value = parse_duration(text).ok_or_else(|| {
        Wrong::not(
            "a duration",
            node,
            "write a number and a unit (`ms`, `s`, `m`, `h`, `d`), as in `800ms`, `1.5s` or `1h30m`",
        )
    })?;
    // What is shown, served and compared is whole milliseconds.
    if value.subsec_nanos() % NANOS_PER_MILLI != 0 {
        return Err(Wrong::new(
            format!("{} is finer than a millisecond", node.shown()),
            "write whole milliseconds, as in `1ms`",
        ));
    }
    if range.contains(&value) {
        return Ok(value);
    }
    let (min, max) = (show_duration(*range.start()), show_duration(*range.end()));
    Err(Wrong::new(
        format!("{} is out of range", node.shown()),
        format!("expected {min} to {max}"),
    ))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let part = parse_decimal(number, *millis)?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    Some(total)
}

/// A decimal number of units, exactly; what is finer than a nanosecond counts as one, so that it
/// is not taken for zero.
fn parse_decimal(number: &str, unit_millis: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| match text {
        "" => Some(0),
        text => text.parse::<u64>().ok(),
    };
    let unit_nanos = u128::from(unit_millis) * u128::from(NANOS_PER_MILLI);
    let whole = u128::from(digits(whole)?) * unit_nanos;
    // More digits than these do not count a nanosecond, even in days.
    let (head, tail) = fraction.split_at(fraction.len().min(MAX_FRACTION_DIGITS));
    let scale = 10_u128.pow(u32::try_from(head.len()).ok()?);
    let mut fraction = (u128::from(digits(head)?) * unit_nanos).div_ceil(scale);
    if fraction.is_multiple_of(u128::from(NANOS_PER_MILLI)) && tail.bytes().any(|it| it != b'0') {
        fraction += 1;
    }
    let nanos = whole + fraction;
    let per_second = 1_000_000_000;
    let seconds = u64::try_from(nanos / per_second).ok()?;
    Some(Duration::new(
        seconds,
        u32::try_from(nanos % per_second).ok()?,
    ))
}

/// The shortest way to write a duration.
pub(in crate::config) fn show_duration(value: Duration) -> String {
    let millis = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let unit = UNITS.iter().rev().find(|(_, size)| millis % size == 0);
    let (name, size) = unit.unwrap_or(&UNITS[0]);
    format!("{}{name}", millis / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        for (text, millis) in [
            ("800ms", 800),
            ("1.5s", 1500),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
            ("0s", 0),
            ("0.25s.5s", 750),
            ("0.000000000000000000000s", 0),
            ("0.07s", 70),
        ] {
            let expected = Some(Duration::from_millis(millis));
            assert_eq!(parse_duration(text), expected, "{text}");
        }
        for text in ["", "5", "s", "1.2.3s", "-1s", "1 s", "1us", "1e9s", "1h30"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_shown_duration_reads_back_as_the_same() {
        for millis in [0, 1, 999, 1000, 1001, 60_000, 90_000, 3_600_000, 86_400_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
    }
}
