//! Which bytes may stand where, and a fast search for those that end a line.

const TOKEN: u8 = 1;
const PATH: u8 = 2;
const QUERY: u8 = 4;
const HOST: u8 = 8;

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
    (is_token as u8 * TOKEN)
        | (is_path as u8 * PATH)
        | (is_query as u8 * QUERY)
        | (is_host as u8 * HOST)
}

/// How many of the first bytes are those of a token (RFC 9110, 5.6.2).
pub fn token_length(bytes: &[u8]) -> usize {
    length_of(bytes, TOKEN)
}

/// Whether these are a path, and what comes after its `?`.
pub fn is_path_and_query(bytes: &[u8]) -> bool {
    match bytes[length_of(bytes, PATH)..].split_first() {
        None => true,
        Some((b'?', query)) => length_of(query, QUERY) == query.len(),
        Some(_) => false,
    }
}

pub fn is_host_name(bytes: &[u8]) -> bool {
    length_of(bytes, HOST) == bytes.len()
}

fn length_of(bytes: &[u8], class: u8) -> usize {
    let other = bytes
        .iter()
        .position(|byte| CLASSES[usize::from(*byte)] & class == 0);
    other.unwrap_or(bytes.len())
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
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = ONES << 7;
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
        }
    }
}
