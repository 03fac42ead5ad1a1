//! Paths that mean one thing only.
//!
//! A proxy that matches another path than the backend serves can be walked around. So:
//!
//! - `.` and `..` segments are removed (RFC 3986 5.2.4), and the backend gets the path without them;
//! - dot segments in disguise (`%2e%2e`, `..%2f`, `..\`, `..;x`) and `..` above the root are refused;
//! - repeated slashes match as one, and reach the backend as they were sent: nothing is hidden by them;
//! - all other percent-encodings are left alone and never decoded: `%2F` is data (Elasticsearch's
//!   date mathematics, CouchDB's identifiers), not a separator.

use std::borrow::Cow;

use super::target::BadTarget;

/// A path for matching, and whether the backend must get this one instead of the raw one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Normal<'a> {
    pub path: Cow<'a, str>,
    pub forward: Forward,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forward {
    Raw,
    Normal,
}

/// `path` begins with a slash.
pub(super) fn normalize(path: &str) -> Result<Normal<'_>, BadTarget> {
    let raw = Normal {
        path: Cow::Borrowed(path),
        forward: Forward::Raw,
    };
    if path.contains('\\') {
        return Err(BadTarget::Path);
    }
    if is_plain(path.as_bytes()) {
        return Ok(raw);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut forward = Forward::Raw;
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => forward = Forward::Normal,
            ".." => {
                kept.pop().ok_or(BadTarget::Path)?;
                forward = Forward::Normal;
            }
            "" => {}
            _ if hides_dots(segment) => return Err(BadTarget::Path),
            _ => {
                kept.push(segment);
                continue;
            }
        }
        // The path ends with a slash: an empty last segment.
        if last {
            kept.push("");
        }
    }
    let mut path = String::with_capacity(path.len());
    for segment in kept {
        path.push('/');
        path.push_str(segment);
    }
    Ok(Normal {
        path: Cow::Owned(path),
        forward,
    })
}

/// Whether nothing in a path can be a dot segment or an empty one: nearly all are like that.
fn is_plain(path: &[u8]) -> bool {
    path.windows(2)
        .all(|pair| !matches!(pair, b"//" | b"/." | b"%2" | b"%5"))
}

/// Whether a segment, decoded, has a dot segment in it, by the most generous reader's rules.
fn hides_dots(segment: &str) -> bool {
    // Twice: a frontend of the backend may have decoded once (`%252e`).
    let decoded = decode(&decode(segment.as_bytes()));
    decoded
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .map(|part| part.split(|byte| *byte == b';').next().unwrap_or(part))
        // `..` alone and `.` alone were handled; here they were in disguise.
        .any(|part| matches!(part, b"." | b".."))
}

fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let byte = match after {
            [high, low, ..] if *first == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match byte {
            Some((high, low)) => {
                decoded.push(high << 4 | low);
                rest = &after[2..];
            }
            None => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}
