//! What a client may say first: Redis commands, but no HTTP.
//!
//! A browser or a fooled server can be made to send an HTTP request to any address; its body
//! would be run as commands (cross-protocol request forgery). Redis guards itself by closing on
//! `POST` and `Host:`; a proxy must not rely on what stands behind it.

use self::OpeningError::Http;
use self::OpeningError::Malformed;
use self::OpeningError::TooLong;

/// Undecided after so many bytes means refused: the words that tell are short. How long a line
/// may become that is passed on is limited by Redis itself (64 kB).
pub const MAX_OPENING_BYTES: usize = 1024;
/// Redis's own limit for the arguments of a command, before 7.0.
const MAX_ARGUMENTS: u64 = 1024 * 1024;
/// Digits of the above, and a sign.
const MAX_COUNT_BYTES: usize = 8;
/// Blank lines that are skipped in front of the first command.
const MAX_BLANK_BYTES: usize = 64;

/// Words that start an HTTP request or header and no Redis command, in lower case.
const HTTP_WORDS: [&str; 12] = [
    "post",
    "put",
    "head",
    "patch",
    "delete",
    "options",
    "connect",
    "trace",
    "propfind",
    "pri",
    "host:",
    "user-agent:",
];

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Not decided yet: read more, pass nothing on.
    Incomplete,
    /// May be passed on.
    Redis,
}

/// Why the first bytes of a connection are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    #[error("an HTTP request on a Redis port")]
    Http,
    #[error("not a Redis command: {0}")]
    Malformed(&'static str),
    #[error("no Redis command in the first {MAX_OPENING_BYTES} bytes")]
    TooLong,
}

/// Judges the bytes received so far.
///
/// # Errors
/// As soon as the bytes cannot become a first command.
pub fn judge(bytes: &[u8]) -> Result<Opening, OpeningError> {
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n' | b' ' | b'\t'));
    if start.unwrap_or(bytes.len()) > MAX_BLANK_BYTES {
        return Err(Malformed("blank lines"));
    }
    let Some((&first, rest)) = start.and_then(|start| bytes[start..].split_first()) else {
        return Ok(Opening::Incomplete);
    };
    match first {
        b'*' => judge_array(rest),
        // TLS, other binary protocols and garbage.
        0x00..=0x20 | 0x7F.. => Err(Malformed("neither text nor an array")),
        _ => judge_inline(&bytes[start.unwrap_or(0)..]),
    }
}

/// An array of a sane length.
fn judge_array(after_star: &[u8]) -> Result<Opening, OpeningError> {
    let Some(end) = after_star.iter().position(|byte| *byte == b'\r') else {
        let is_number = after_star.iter().all(|byte| is_of_number(*byte));
        return match is_number && after_star.len() <= MAX_COUNT_BYTES {
            true => Ok(Opening::Incomplete),
            false => Err(Malformed("length of an array")),
        };
    };
    let count = str::from_utf8(&after_star[..end]).unwrap_or_default();
    match count.parse::<i64>() {
        // Redis skips arrays without elements.
        Ok(count) if end <= MAX_COUNT_BYTES && count <= MAX_ARGUMENTS as i64 => Ok(Opening::Redis),
        _ => Err(Malformed("length of an array")),
    }
}

fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'-'
}

/// A command as typed. Only the words that tell are waited for.
fn judge_inline(text: &[u8]) -> Result<Opening, OpeningError> {
    let Some(end) = text.iter().position(u8::is_ascii_whitespace) else {
        return incomplete_inline(text);
    };
    let word = text[..end].to_ascii_lowercase();
    if HTTP_WORDS.iter().any(|http| http.as_bytes() == word) {
        return Err(Http);
    }
    if word != b"get" {
        return Ok(Opening::Redis);
    }
    // GET is a command too; a path or an address as its key is taken for a request.
    let line_end = text.iter().position(|byte| *byte == b'\n');
    let argument = text[end..line_end.unwrap_or(text.len()).max(end)].trim_ascii_start();
    let starts = |prefix: &[u8]| {
        let length = prefix.len().min(argument.len());
        argument[..length].eq_ignore_ascii_case(&prefix[..length])
    };
    match (argument.len(), line_end) {
        (0, None) => incomplete_inline(text),
        (0, Some(_)) => Ok(Opening::Redis),
        _ if starts(b"/") => Err(Http),
        (length, None) if length < 4 && starts(b"http") => incomplete_inline(text),
        (length, _) if length >= 4 && starts(b"http") => Err(Http),
        _ => Ok(Opening::Redis),
    }
}

fn incomplete_inline(text: &[u8]) -> Result<Opening, OpeningError> {
    match text.len() > MAX_OPENING_BYTES {
        true => Err(TooLong),
        false => Ok(Opening::Incomplete),
    }
}

/// What was decided stays decided when more bytes come.
pub(super) fn fuzz(data: &[u8]) {
    let mut decided = None;
    for end in 0..=data.len().min(300) {
        let judged = judge(&data[..end]);
        if let Some(decided) = decided {
            assert_eq!(judged, decided);
        } else if judged != Ok(Opening::Incomplete) {
            decided = Some(judged);
        }
    }
}
