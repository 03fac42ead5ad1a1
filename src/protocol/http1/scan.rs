//! Which bytes may stand where, and a fast search for those that end a line.

const TOKEN: u8 = 1;
const PATH: u8 = 2;
const QUERY: u8 = 4;
const HOST: u8 = 8;
/// Allowed in a path and in a query, or between them.
const PLAIN: u8 = 16;

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGH_BITS: u64 = ONES << 7;

/// For each byte the places where it is allowed.
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = class(byte as u8);
        byte += 1;
    }
    table
}

/// Path and query are what RFC 3986 allows and what clients send all the same (`"{}|^`), as the
/// HTTP library takes it. Not `\`: some readers take it for `/`. Not `#`: the library would cut
/// the target there. A host is a registered name without the escapes and delimiters that nobody
/// uses.
const fn class(byte: u8) -> u8 {
    let is_token = byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+')
        || matches!(byte, b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
    let is_query = matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'~');
    let is_path = (is_query && !matches!(byte, b'?' | b'\\' | b'`')) || byte == b'"';
    let is_host = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let is_plain = is_path && is_query || byte == b'?';
    (is_token as u8 * TOKEN)
        | (is_path as u8 * PATH)
        | (is_query as u8 * QUERY)
        | (is_host as u8 * HOST)
        | (is_plain as u8 * PLAIN)
}

/// Whether these are a token (RFC 9110, 5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && are_all(bytes, TOKEN)
}

/// Whether these are a path, and what comes after its `?`.
pub fn is_path_and_query(bytes: &[u8]) -> bool {
    if are_all(bytes, PLAIN) {
        return true;
    }
    let end = bytes.iter().position(|byte| *byte == b'?');
    let (path, query) = bytes.split_at(end.unwrap_or(bytes.len()));
    are_all(path, PATH) && are_all(query, QUERY)
}

pub fn is_host_name(bytes: &[u8]) -> bool {
    are_all(bytes, HOST)
}

/// Without a way out in the middle: nearly all bytes are what they should be.
fn are_all(bytes: &[u8], class: u8) -> bool {
    let common = bytes
        .iter()
        .fold(class, |common, byte| common & CLASSES[usize::from(*byte)]);
    common != 0
}

/// Where this byte is first, in lines too short for a call of memchr to be worth it.
pub fn position(bytes: &[u8], wanted: u8) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk::<8>() {
        let differs = u64::from_le_bytes(*word) ^ (ONES * u64::from(wanted));
        let found = differs.wrapping_sub(ONES) & !differs & HIGH_BITS;
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = bytes[at..].iter().position(|byte| *byte == wanted);
    rest.map(|found| at + found)
}

/// Spaces and tabs around a field's value do not belong to it (OWS).
pub fn trim(value: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(start) = value.iter().position(|byte| !is_space(byte)) else {
        return &[];
    };
    let end = value.iter().rposition(|byte| !is_space(byte));
    &value[start..end.map_or(start, |last| last + 1)]
}

/// How many of the first bytes are no control bytes, of which a tab is none here.
pub fn text_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk::<8>() {
        match first_below_space_or_delete(*word) {
            None => at += 8,
            Some(found) if word[found] == b'\t' => at += found + 1,
            Some(found) => return at + found,
        }
    }
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    let rest = &bytes[at..];
    at + rest.iter().position(is_control).unwrap_or(rest.len())
}

/// Eight bytes at once, as in "Bit Twiddling Hacks" (`hasless`, `haszero`): the lowest bit that
/// is set is exact, those above it may be wrong.
fn first_below_space_or_delete(word: [u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(word);
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let not_delete = word ^ (ONES * 0x7f);
    let delete = not_delete.wrapping_sub(ONES) & !not_delete;
    let found = (below_space | delete) & HIGH_BITS;
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_bytes_are_found_wherever_they_are() {
        for byte in 0..=u8::MAX {
            let is_control = byte.is_ascii_control() && byte != b'\t';
            for length in 1..20 {
                for at in 0..length {
                    let mut bytes = vec![b'a'; length];
                    bytes[at] = byte;
                    let expected = if is_control { at } else { length };
                    assert_eq!(text_length(&bytes), expected, "{byte:#x} at {at}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_fast_search_finds_what_a_slow_one_finds(
            bytes in vec(prop_oneof![any::<u8>(), 0x08..0x0b_u8, 0x1e..0x22_u8, 0x7d..0x82_u8], 0..64),
        ) {
            let slow = bytes.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t');
            prop_assert_eq!(text_length(&bytes), slow.unwrap_or(bytes.len()));
            for wanted in [b' ', b'\t', 0x7f, 0x80] {
                let slow = bytes.iter().position(|byte| *byte == wanted);
                prop_assert_eq!(position(&bytes, wanted), slow);
            }
        }
    }
}
