//! One node to one typed value, or what is wrong with it. Pure.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use crate::cluster::Name;
use crate::config::Host;
use crate::config::tree::Node;
use crate::config::tree::Value;

/// Why a value is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub message: String,
    pub help: Option<String>,
}

impl Wrong {
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: Some(help.into()),
        }
    }

    pub fn expected(what: &str, found: &Node) -> Self {
        Self {
            message: format!("expected {what}, found {}", found.shown()),
            help: None,
        }
    }

    pub fn not(what: &str, found: &Node, help: &str) -> Self {
        Self::new(format!("{} is not {what}", found.shown()), help)
    }
}

/// The word nearest to `wrong`, if one is near enough to be meant.
pub(super) fn nearest<'w>(wrong: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let wrong = wrong.to_lowercase();
    let letters = wrong.chars().count();
    // A third of the letters: `weigth` finds `weight`, `foo` finds nothing.
    let max_edits = (letters / 3).max(1);
    words
        // Each letter too many or too few is an edit; counting them is cheap, comparing is not.
        .filter(|word| word.chars().count().abs_diff(letters) <= max_edits)
        .map(|word| (strsim::damerau_levenshtein(&wrong, word), word))
        .filter(|(edits, word)| *edits <= max_edits && *edits < word.chars().count())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, word)| word)
}

/// "did you mean" when a word is near, else all words.
pub(super) fn suggestion<'w>(wrong: &str, words: impl Iterator<Item = &'w str> + Clone) -> String {
    if let Some(word) = nearest(wrong, words.clone()) {
        return format!("did you mean `{word}`?");
    }
    let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
    match words.as_slice() {
        [] => "nothing may stand here".to_owned(),
        [only] => format!("expected {only}"),
        _ => format!("expected one of {}", words.join(", ")),
    }
}

pub(super) fn choice(node: &Node, words: &'static [&'static str]) -> Result<&'static str, Wrong> {
    let known = words.iter().copied();
    let Some(word) = node.word() else {
        let mut wrong = Wrong::expected("a word", node);
        wrong.help = Some(suggestion("", known));
        return Err(wrong);
    };
    if let Some(found) = known.clone().find(|known| *known == word) {
        return Ok(found);
    }
    Err(Wrong::new(
        format!("{} is not known here", node.shown()),
        suggestion(&word, known),
    ))
}

pub(super) fn flag(node: &Node) -> Result<bool, Wrong> {
    match &node.value {
        Value::Flag(value) => Ok(*value),
        Value::Text(text) if text.written.is_some() && text.value == "true" => Ok(true),
        Value::Text(text) if text.written.is_some() && text.value == "false" => Ok(false),
        _ => Err(Wrong::expected("`true` or `false`", node)),
    }
}

pub(super) fn count(node: &Node, range: &RangeInclusive<u64>) -> Result<u64, Wrong> {
    let value = match &node.value {
        Value::Integer(value) => *value,
        Value::Text(text) => match text.value.trim().parse::<i128>() {
            Ok(value) if text.written.is_some() => value,
            Ok(value) => {
                let message = format!("expected a number, found the text {}", node.shown());
                return Err(Wrong::new(message, format!("write `{value}`, no quotes")));
            }
            Err(_) => return Err(Wrong::expected("a whole number", node)),
        },
        _ => return Err(Wrong::expected("a whole number", node)),
    };
    let (min, max) = (*range.start(), *range.end());
    match u64::try_from(value) {
        Ok(value) if range.contains(&value) => Ok(value),
        _ if min == max => Err(Wrong::new(
            format!("{} is not supported", node.shown()),
            format!("write `{min}`"),
        )),
        _ => Err(Wrong::new(
            format!("{} is out of range", node.shown()),
            format!("expected {min} to {max}"),
        )),
    }
}

pub(super) fn ratio(node: &Node, range: &RangeInclusive<f64>) -> Result<f64, Wrong> {
    let value = match &node.value {
        Value::Integer(value) => *value as f64,
        Value::Number(value) => *value,
        Value::Text(text) if text.written.is_some() => match text.value.trim().parse() {
            Ok(value) => value,
            Err(_) => return Err(Wrong::expected("a number", node)),
        },
        _ => return Err(Wrong::expected("a number", node)),
    };
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Wrong::new(
        format!("{} is out of range", node.shown()),
        format!("expected {} to {}", range.start(), range.end()),
    ))
}

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

pub(super) fn duration(node: &Node, range: &RangeInclusive<Duration>) -> Result<Duration, Wrong> {
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
pub(super) fn show_duration(value: Duration) -> String {
    let millis = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let unit = UNITS.iter().rev().find(|(_, size)| millis % size == 0);
    let (name, size) = unit.unwrap_or(&UNITS[0]);
    format!("{}{name}", millis / size)
}

/// Longest name that is written: it is a metric label and stands in every log line.
pub(super) const MAX_NAME_BYTES: usize = 128;

pub(super) fn name(node: &Node) -> Result<Name, Wrong> {
    let text = node.text()?;
    name_text(&text.value)
        .map(|()| Name::from(text.value.as_str()))
        .map_err(|problem| Wrong {
            message: format!("{} cannot be a name: {problem}", node.shown()),
            help: None,
        })
}

/// Names stand in paths of the API, in metric labels and in logs.
pub(super) fn name_text(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > MAX_NAME_BYTES {
        return Err("it is longer than 128 bytes");
    }
    if matches!(text, "." | "..") {
        return Err("it means a directory in paths");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:[]".contains(c);
    if text.chars().all(allowed) {
        Ok(())
    } else {
        Err("use letters, digits and `.` `_` `-` `:`")
    }
}

/// A place to listen on.
pub(super) fn socket_address(node: &Node) -> Result<SocketAddr, Wrong> {
    let help = "write an IP address and a port, as in `0.0.0.0:5432` or `[::]:5432`";
    let Value::Text(text) = &node.value else {
        return Err(Wrong::not("an address to listen on", node, help));
    };
    let value = text.value.trim();
    // `:5432` is what other tools accept; which family it means differs between them.
    value
        .parse()
        .map_err(|_| Wrong::not("an address to listen on", node, help))
}

/// A backend's address.
pub(super) fn host_and_port(node: &Node) -> Result<(Host, NonZeroU16), Wrong> {
    let help = "write `host:port`, as in `db1.internal:5432`, `10.0.0.1:5432` or `[::1]:5432`";
    let Value::Text(text) = &node.value else {
        return Err(Wrong::not("a backend's address", node, help));
    };
    if text.value.ends_with(":0") {
        return Err(Wrong::new(
            format!("{} has port 0, which nothing listens on", node.shown()),
            help,
        ));
    }
    host_and_port_text(&text.value).ok_or_else(|| Wrong::not("a backend's address", node, help))
}

pub(super) fn host_and_port_text(text: &str) -> Option<(Host, NonZeroU16)> {
    let (host, port) = text.rsplit_once(':')?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits)?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match (bracketed, host.parse::<IpAddr>()) {
        (Some(inside), _) => Host::Ip(IpAddr::V6(inside.parse().ok()?)),
        (None, Ok(IpAddr::V4(address))) => Host::Ip(IpAddr::V4(address)),
        (None, Ok(IpAddr::V6(_))) => return None,
        (None, Err(_)) if is_host_name(host) => Host::Name(Name::from(host)),
        (None, Err(_)) => return None,
    };
    Some((host, port))
}

/// RFC 1123, and underscores, which container networks use.
pub(super) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    // All digits and dots is a mistyped IPv4 address.
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.len() <= 253 && !numeric && text.split('.').all(label)
}

/// A server name that a client asks for; `*.` may stand for one label.
pub(super) fn server_name(node: &Node, wildcard: bool) -> Result<String, Wrong> {
    let text = node.text()?;
    let lower = text.value.to_lowercase();
    let tail = match lower.strip_prefix("*.") {
        Some(tail) if wildcard => tail,
        _ => lower.as_str(),
    };
    if is_host_name(tail) && !tail.ends_with('.') {
        return Ok(lower);
    }
    let help = if wildcard {
        "write a host name, as in `db.example.com` or `*.example.com`"
    } else {
        "write a host name, as in `db.example.com`"
    };
    Err(Wrong::not("a server name", node, help))
}

/// An address of this machine that connections can come from.
pub(super) fn source_address(node: &Node) -> Result<IpAddr, Wrong> {
    let help = "write an IP address of this machine, as in `10.0.0.1` or `fd00::1`";
    let Value::Text(text) = &node.value else {
        return Err(Wrong::not("an address to connect from", node, help));
    };
    let address = text.value.trim().parse::<IpAddr>().ok();
    address
        .filter(|address| !address.is_unspecified() && !address.is_multicast())
        .ok_or_else(|| Wrong::not("an address to connect from", node, help))
}

/// A network; a lone address is a network of one.
pub(super) fn network(node: &Node) -> Result<IpNet, Wrong> {
    let help = "write a network, as in `10.0.0.0/8`, `fd00::/8` or `192.0.2.7`";
    let Value::Text(text) = &node.value else {
        return Err(Wrong::not("a network", node, help));
    };
    let value = text.value.trim();
    let network: IpNet = match value.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => value
            .parse()
            .map_err(|_| Wrong::not("a network", node, help))?,
    };
    if network.addr() != network.network() {
        return Err(Wrong::new(
            format!("{} has bits set outside its prefix", node.shown()),
            format!("did you mean `{}`?", network.trunc()),
        ));
    }
    Ok(network)
}

/// Status codes of a health check: `200` or `200-299`.
pub(super) fn status_range(node: &Node) -> Result<(u16, u16), Wrong> {
    // Those below 200 announce the answer and are none (RFC 9110, 15.2).
    let help = "write a status code from 200 to 599 or a range, as in `200` or `200-299`";
    let wrong = || Wrong::not("a range of status codes", node, help);
    let word = node.word().ok_or_else(wrong)?;
    let (low, high) = word.split_once('-').unwrap_or((&word, &word));
    let code = |text: &str| text.trim().parse::<u16>().ok();
    match (code(low), code(high)) {
        (Some(low), Some(high)) if (200..=599).contains(&low) && (low..=599).contains(&high) => {
            Ok((low, high))
        }
        _ => Err(wrong()),
    }
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

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let words = || ["weight", "tier", "zone", "for"].into_iter();
        assert_eq!(nearest("wieght", words()), Some("weight"));
        assert_eq!(nearest("WEIGHT", words()), Some("weight"));
        assert_eq!(nearest("banana", words()), None);
        assert_eq!(nearest("", words()), None);
    }

    #[test]
    fn host_names_are_not_mistyped_addresses() {
        for name in [
            "db1",
            "db-1.internal",
            "my_service",
            "a.b.c.",
            "1password.example",
        ] {
            assert!(is_host_name(name), "{name}");
        }
        for name in ["", "10.0.0.300", "-a", "a-", "a..b", "a b", "a/b", "1.2"] {
            assert!(!is_host_name(name), "{name}");
        }
    }
}
