//! A password or another secret, written as such or in a file of its own. Never shown.

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
pub(super) const REDACTED: &str = "***";

/// The two keys of a secret, and how messages call it.
pub(super) struct SecretKeys {
    written: &'static str,
    file: &'static str,
    noun: &'static str,
    if_empty: &'static str,
}

const PASSWORD: SecretKeys = SecretKeys {
    written: "password",
    file: "password_file",
    noun: "password",
    if_empty: "remove the key to log in without",
};

/// What the cookie of `sticky` is keyed with.
pub(super) const COOKIE_SECRET: SecretKeys = SecretKeys {
    written: "secret",
    file: "secret_file",
    noun: "secret",
    if_empty: "write the same 16 characters or more in every instance",
};

/// Reads `password` or `password_file` of a section; none is a login without one.
pub(super) fn read(sources: &mut Sources, reader: &mut Reader<'_>) -> Option<Secret> {
    read_secret(sources, reader, &PASSWORD)
}

pub(super) fn is_written(reader: &Reader<'_>) -> bool {
    reader.entry("password").is_some() || reader.entry("password_file").is_some()
}

/// Reads a secret from one of its two keys.
pub(super) fn read_secret(
    sources: &mut Sources,
    reader: &mut Reader<'_>,
    keys: &SecretKeys,
) -> Option<Secret> {
    let (written, file) = (keys.written, keys.file);
    if let Some(first) = reader.entry(written)
        && let Some(second) = reader.entry(file)
    {
        let wrong = Wrong::new(format!("`{file}` beside `{written}`"), "remove one");
        sources.conflict(second.key_at, wrong, "the other one is here", first.key_at);
        return None;
    }
    if reader.entry(written).is_some() {
        return read_written(sources, reader, keys);
    }
    let at = reader.place(file);
    let path = reader.path(sources, file)?;
    read_file(sources, at, &path, keys)
}

fn read_written(
    sources: &mut Sources,
    reader: &mut Reader<'_>,
    keys: &SecretKeys,
) -> Option<Secret> {
    let node = reader.node(keys.written)?;
    reader.attach_value(keys.written, REDACTED.into(), Vec::new());
    let noun = keys.noun;
    // No message repeats the value, whatever is wrong with it.
    let wrong = match &node.value {
        Value::Text(text) if text.value.is_empty() => {
            Wrong::new(format!("the {noun} is empty"), keys.if_empty)
        }
        Value::Text(text) if text.value.contains('\0') => {
            Wrong::new(format!("a {noun} cannot contain NUL"), "take it out")
        }
        Value::Text(text) => {
            if node.is_written() {
                sources.warn_if_own_file_exposed(node.at);
            }
            return Some(Secret::new(text.value.clone()));
        }
        Value::Flag(_) | Value::Integer(_) | Value::Number(_) => {
            Wrong::new(format!("the {noun} must be text"), "put it in quotes")
        }
        Value::Null | Value::List(_) | Value::Map(_) => Wrong::expected(&format!("a {noun}"), node),
    };
    sources.error(node.at, wrong);
    None
}

fn read_file(sources: &mut Sources, at: At, path: &Path, keys: &SecretKeys) -> Option<Secret> {
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
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    let problem = if secret.is_empty() {
        "is empty"
    } else if secret.contains(['\n', '\0']) {
        "holds more than one line of text"
    } else {
        sources.warn_if_exposed(at, path);
        return Some(Secret::new(secret.to_owned()));
    };
    let message = format!("{} {problem}", path.display());
    let help = format!("put one line with the {} into it", keys.noun);
    sources.error(at, Wrong::new(message, help));
    None
}
