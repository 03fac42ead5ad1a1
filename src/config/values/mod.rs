//! One node to one typed value, or what is wrong with it. Pure.

mod address;
mod duration;

use std::ops::RangeInclusive;

pub(super) use address::MAX_NAME_BYTES;
pub(super) use address::host_and_port;
pub(super) use address::host_and_port_text;
pub(super) use address::is_host_name;
pub(super) use address::name;
pub(super) use address::name_text;
pub(super) use address::network;
pub(super) use address::server_name;
pub(super) use address::socket_address;
pub(super) use address::source_address;
pub(super) use duration::duration;
pub(super) use duration::show_duration;

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
    fn near_words_are_suggested_and_far_ones_are_not() {
        let words = || ["weight", "tier", "zone", "for"].into_iter();
        assert_eq!(nearest("wieght", words()), Some("weight"));
        assert_eq!(nearest("WEIGHT", words()), Some("weight"));
        assert_eq!(nearest("banana", words()), None);
        assert_eq!(nearest("", words()), None);
    }
}
