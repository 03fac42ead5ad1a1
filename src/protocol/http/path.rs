//! Paths that mean one thing only.
//!
//! A proxy that matches another path than the backend serves can be walked around. So:
//!
//! - `.` and `..` segments are removed (RFC 3986 5.2.4), and the backend gets the path without them;
//! - dot segments in disguise (`%2e%2e`, `..%2f`, `..\`, `..;x`) and `..` above the root are refused;
//! - repeated slashes match as one, and reach the backend as they were sent: nothing is hidden by them;
//! - encoded characters that need no encoding match as themselves (RFC 3986 6.2.2.2), as every
//!   backend reads them: `/%61dmin` is `/admin`;
//! - all other percent-encodings are left alone and never decoded: `%2F` is data (Elasticsearch's
//!   date mathematics, CouchDB's identifiers), not a separator. Their digits' case does not matter.

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
    let mut kept: Vec<Cow<'_, str>> = Vec::new();
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
                kept.push(respelled(segment));
                continue;
            }
        }
        // The path ends with a slash: an empty last segment.
        if last {
            kept.push(Cow::Borrowed(""));
        }
    }
    let mut path = String::with_capacity(path.len());
    for segment in kept {
        path.push('/');
        path.push_str(&segment);
    }
    Ok(Normal {
        path: Cow::Owned(path),
        forward,
    })
}

/// Whether nothing in a path can be a dot segment, an empty one or encoded: nearly all are so.
fn is_plain(path: &[u8]) -> bool {
    !path.contains(&b'%') && path.windows(2).all(|pair| !matches!(pair, b"//" | b"/."))
}

/// A segment as all who read it alike would spell it. One that is not encoded well stays as it is:
/// readers differ about it, and taken apart it could come together as another escape.
fn respelled(segment: &str) -> Cow<'_, str> {
    let mut parts = segment.split('%');
    let mut spelled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let escape = match part.as_bytes() {
            [high, low, ..] => digit(*high).zip(digit(*low)),
            _ => None,
        };
        let Some((high, low)) = escape else {
            return Cow::Borrowed(segment);
        };
        let byte = high << 4 | low;
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                spelled.push(char::from(byte));
            }
            _ => spelled.push_str(&format!("%{byte:02X}")),
        }
        spelled.push_str(&part[2..]);
    }
    Cow::Owned(spelled)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_paths_are_left_alone() {
        for path in [
            "/",
            "/a/b.c",
            "/a/b/",
            "/a..b/..c/d...",
            "/.well-known/x",
            "/...",
            "/a;v=1/b",
            "/caf%C3%A9",
            "/%3Clogs-%7Bnow%2Fd%7D%3E/_search",
            "/db/org%2Fcouchdb%2Fuser%3Ax",
            "/%2",
            "/%61%%32f",
            "/%5B%zz",
        ] {
            let normal = normalize(path).unwrap();
            assert_eq!(normal.path, path);
            assert_eq!(normal.forward, Forward::Raw, "{path}");
        }
    }

    #[test]
    fn dot_segments_are_gone_for_everybody() {
        for (raw, path) in [
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/.", "/"),
            ("/a/..", "/"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/a//../b", "/b"),
            ("/a/../%3Fx", "/%3Fx"),
        ] {
            let normal = normalize(raw).unwrap();
            assert_eq!(normal.path, path, "{raw}");
            assert_eq!(normal.forward, Forward::Normal, "{raw}");
        }
    }

    /// A route for `/admin` could be walked around.
    #[test]
    fn characters_that_need_no_encoding_match_as_themselves_and_go_on_as_sent() {
        for (raw, path) in [
            ("/%61dmin", "/admin"),
            ("/adm%69n/%7Eroot%2D%5F", "/admin/~root-_"),
            ("/file%2etxt", "/file.txt"),
            ("/db/a%2fb%3a", "/db/a%2Fb%3A"),
            ("/%2561dmin", "/%2561dmin"),
        ] {
            let normal = normalize(raw).unwrap();
            assert_eq!(normal.path, path, "{raw}");
            assert_eq!(normal.forward, Forward::Raw, "{raw}");
        }
    }

    #[test]
    fn repeated_slashes_match_as_one_and_go_on_as_sent() {
        for (raw, path) in [("//", "/"), ("//a", "/a"), ("/a//b///", "/a/b/")] {
            let normal = normalize(raw).unwrap();
            assert_eq!(normal.path, path, "{raw}");
            assert_eq!(normal.forward, Forward::Raw, "{raw}");
        }
    }

    #[test]
    fn dot_segments_in_disguise_are_refused() {
        for path in [
            "/..",
            "/a/../..",
            "/../etc/passwd",
            "//..",
            "/public/%2e%2e/private",
            "/public/%2E./private",
            "/public/.%2e",
            "/public/%2e",
            "/public/%252e%252e/private",
            "/public/..%2fprivate",
            "/public/x%2f..%2F..%2fprivate",
            "/public/..%5cprivate",
            "/public/..%255cprivate",
            "/public\\..\\private",
            "/public/..;/private",
            "/public/..;x=1/private",
            "/public/%2e%2e;/private",
            "/public/.;/private",
        ] {
            assert_eq!(normalize(path), Err(BadTarget::Path), "{path}");
        }
    }

    #[test]
    fn a_path_full_of_encoded_percent_signs_takes_one_pass() {
        let path = format!("/{}2e", "%25".repeat(100_000));
        assert!(normalize(&path).is_ok());
    }

    /// Of pieces that make dot segments in every way.
    fn path() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "/", ".", "..", "a", "b", "%2e", "%2E", "%2f", "%25", "%5c", "%32", "%", ";",
            "2e",
        ]);
        prop::collection::vec(piece, 0..14).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn no_reader_finds_dot_segments_in_what_is_passed_on(raw in path()) {
            let Ok(normal) = normalize(&raw) else {
                return Ok(());
            };
            let forwarded = match normal.forward {
                Forward::Raw => raw.as_str(),
                Forward::Normal => &normal.path,
            };
            let once = decode(forwarded.as_bytes());
            let twice = decode(&once);
            for reading in [forwarded.as_bytes(), &once, &twice] {
                let mut segments = reading.split(|byte| matches!(byte, b'/' | b'\\'));
                prop_assert!(!segments.any(|one| one == b"." || one == b".."), "{}", forwarded);
            }
        }

        #[test]
        fn a_normal_path_is_its_own(raw in path()) {
            if let Ok(normal) = normalize(&raw) {
                let again = normalize(&normal.path).unwrap();
                prop_assert_eq!(&again.path, &normal.path);
                prop_assert_eq!(again.forward, Forward::Raw);
                prop_assert!(normal.path.starts_with('/') && !normal.path.contains("//"));
            }
        }
    }
}
