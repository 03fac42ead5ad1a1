//! A password, written as such or in a file of its own. Never shown.

use std::path::Path;

use crate::config::Secret;
use crate::config::reader::Reader;
use crate::config::source;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Value;
use crate::config::values::Wrong;

/// A password is a line of text; more is the wrong file.
const MAX_PASSWORD_BYTES: u64 = 4096;
/// What the effective configuration has in its place.
const REDACTED: &str = "***";

/// Reads `password` or `password_file` of a section; none is a login without one.
pub(super) fn read(sources: &mut Sources, reader: &mut Reader<'_>) -> Option<Secret> {
    if let Some(first) = reader.entry("password")
        && let Some(second) = reader.entry("password_file")
    {
        let wrong = Wrong::new("`password_file` beside `password`", "remove one");
        sources.conflict(second.key_at, wrong, "the other one is here", first.key_at);
        return None;
    }
    if reader.entry("password").is_some() {
        return read_written(sources, reader);
    }
    let at = reader.place("password_file");
    let path = reader.path(sources, "password_file")?;
    read_file(sources, at, &path)
}

pub(super) fn is_written(reader: &Reader<'_>) -> bool {
    reader.entry("password").is_some() || reader.entry("password_file").is_some()
}

fn read_written(sources: &mut Sources, reader: &mut Reader<'_>) -> Option<Secret> {
    let node = reader.node("password")?;
    reader.attach_value("password", REDACTED.into(), Vec::new());
    // No message repeats the value, whatever is wrong with it.
    let wrong = match &node.value {
        Value::Text(text) if text.value.is_empty() => {
            Wrong::new("the password is empty", "remove the key to log in without")
        }
        Value::Text(text) if text.value.contains('\0') => {
            Wrong::new("a password cannot contain NUL", "take it out")
        }
        Value::Text(text) => {
            if node.is_written() {
                sources.warn_if_own_file_exposed(node.at);
            }
            return Some(Secret::new(text.value.clone()));
        }
        Value::Flag(_) | Value::Integer(_) | Value::Number(_) => {
            Wrong::new("the password must be text", "put it in quotes")
        }
        Value::Null | Value::List(_) | Value::Map(_) => Wrong::expected("a password", node),
    };
    sources.error(node.at, wrong);
    None
}

fn read_file(sources: &mut Sources, at: At, path: &Path) -> Option<Secret> {
    if !sources.outside.files {
        return None;
    }
    let text = match source::read_text(path, MAX_PASSWORD_BYTES) {
        Ok(text) => text,
        Err(wrong) => {
            sources.error(at, wrong);
            return None;
        }
    };
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    let problem = if password.is_empty() {
        "is empty"
    } else if password.contains(['\n', '\0']) {
        "holds more than one line of text"
    } else {
        sources.warn_if_exposed(at, path);
        return Some(Secret::new(password.to_owned()));
    };
    let message = format!("{} {problem}", path.display());
    sources.error(
        at,
        Wrong::new(message, "put one line with the password into it"),
    );
    None
}
