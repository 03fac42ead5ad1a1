//! `${VAR}`, `${VAR:-default}` and `$$` in the values of a parsed file.
//!
//! After parsing, so that no value of a variable can become YAML; and once, so
//! that no value can name another variable.

use crate::config::tree::At;
use crate::config::tree::Node;
use crate::config::tree::Value;
use crate::config::values::Wrong;

/// Longest value after substitution: no key takes more.
const MAX_VALUE_BYTES: usize = 64 * 1024;

/// Replaces the variables of a whole tree and returns what went wrong where.
pub(super) fn substitute(
    node: &mut Node,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Vec<(At, Wrong)> {
    let mut wrongs = Vec::new();
    substitute_node(node, lookup, &mut wrongs);
    wrongs
}

fn substitute_node(
    node: &mut Node,
    lookup: &dyn Fn(&str) -> Option<String>,
    wrongs: &mut Vec<(At, Wrong)>,
) {
    match &mut node.value {
        Value::Text(text) if text.value.contains('$') => match expand(&text.value, lookup) {
            Ok((value, from_environment)) => {
                let raw = std::mem::replace(&mut text.value, value);
                text.written = from_environment.then_some(raw);
            }
            Err(wrong) => wrongs.push((node.at, wrong)),
        },
        Value::List(nodes) => {
            for node in nodes {
                substitute_node(node, lookup, wrongs);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                substitute_node(&mut entry.value, lookup, wrongs);
            }
        }
        Value::Null | Value::Flag(_) | Value::Integer(_) | Value::Number(_) | Value::Text(_) => {}
    }
}

/// The text with its variables replaced, and whether there was one.
fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<(String, bool), Wrong> {
    let mut value = String::with_capacity(text.len());
    let mut found = false;
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        value.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            value.push('$');
            rest = tail;
        } else if let Some(inside) = after.strip_prefix('{') {
            let Some(end) = inside.find('}') else {
                return Err(Wrong::new(
                    "`${` is never closed",
                    "write `${NAME}`, or `$$` for a dollar sign",
                ));
            };
            value.push_str(&variable(&inside[..end], lookup)?);
            found = true;
            rest = &inside[end + 1..];
        } else {
            return Err(Wrong::new(
                "a lone `$`",
                "write `${NAME}` for a variable, or `$$` for a dollar sign",
            ));
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(Wrong::new(
                "the value is longer than 64 KiB with its variables replaced",
                "no key takes that much",
            ));
        }
    }
    value.push_str(rest);
    Ok((value, found))
}

fn variable(inside: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, Wrong> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts_with_digit = name.starts_with(|c: char| c.is_ascii_digit());
    if name.is_empty() || starts_with_digit || !name.chars().all(valid) {
        return Err(Wrong::new(
            format!("`{name}` is not the name of an environment variable"),
            "write `${NAME}` or `${NAME:-default}`",
        ));
    }
    // As in a shell, `:-` also stands in for an empty variable.
    let value = lookup(name).filter(|value| !(value.is_empty() && default.is_some()));
    match (value, default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Wrong::new(
            format!("the environment variable `{name}` is not set"),
            format!("set it, or write a default: `${{{name}:-value}}`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree::Text;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("db1".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_and_defaults_are_replaced_once() {
        for (text, expected) in [
            ("${HOST}:5432", "db1:5432"),
            ("${PORT:-5432}", "5432"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY}", ""),
            ("${NESTED}", "${HOST}"),
            ("a$$b", "a$b"),
            ("$${HOST}", "${HOST}"),
        ] {
            let (value, _) = expand(text, &lookup).unwrap();
            assert_eq!(value, expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_an_error() {
        for text in ["${PORT}", "${HOST", "$HOST", "${}", "${1A}", "${A B}"] {
            assert!(expand(text, &lookup).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_from_the_environment_is_not_repeated_in_messages() {
        let mut node = Node {
            at: At { file: 0, node: 0 },
            value: Value::Text(Text {
                value: "${HOST}".to_owned(),
                written: None,
            }),
        };
        assert!(substitute(&mut node, &lookup).is_empty());
        assert_eq!(node.shown(), "the value of `${HOST}`");
    }
}
