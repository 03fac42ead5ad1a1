//! Fields as RFC 7541 encodes them, rightly and wrongly.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let name = b"\x06x-test";
    let value = b"\x06h2spec";
    let huffman_name = b"\x85\xf2\xb2\x4a\x84\xff";
    let huffman_value = b"\x84\x9c\x48\xac\xa4";
    let long = |first: u8| encoded(&[&[first][..], name, value].concat());
    let short = |first: u8| encoded(&[&[first][..], huffman_name, huffman_value].concat());
    // Entry 58 is user-agent.
    let named = |entry: &[u8], value: &[u8]| encoded(&[entry, value].concat());
    let resized = |update: &[u8]| {
        let payload = [update, &block(&GET)].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &payload)
    };
    vec![
        case(
            "indexed field of the static table",
            encoded(b"\xba"),
            Then::Answer,
        ),
        case("literal with indexing", long(0x40), Then::Answer),
        case("literal with indexing, Huffman", short(0x40), Then::Answer),
        case("literal without indexing", long(0), Then::Answer),
        case("literal without indexing, Huffman", short(0), Then::Answer),
        case("literal never indexed", long(0x10), Then::Answer),
        case("literal never indexed, Huffman", short(0x10), Then::Answer),
        case(
            "literal with an indexed name",
            encoded(b"\x7a\x06h2spec"),
            Then::Answer,
        ),
        case(
            "literal with an indexed name, Huffman",
            named(b"\x7a", huffman_value),
            Then::Answer,
        ),
        case(
            "literal without indexing, indexed name",
            named(b"\x0f\x2b", value),
            Then::Answer,
        ),
        case(
            "literal without indexing, indexed name, Huffman",
            named(b"\x0f\x2b", huffman_value),
            Then::Answer,
        ),
        case(
            "literal never indexed, indexed name",
            named(b"\x1f\x2b", value),
            Then::Answer,
        ),
        case(
            "literal never indexed, indexed name, Huffman",
            named(b"\x1f\x2b", huffman_value),
            Then::Answer,
        ),
        case("table size update", resized(b"\x3f\x61"), Then::Answer),
        case(
            "two table size updates",
            resized(b"\x3f\x61\x3f\xe1\x1f"),
            Then::Answer,
        ),
        case(
            "2.3.3 index out of the table",
            encoded(b"\xc6"),
            COMPRESSION,
        ),
        case(
            "2.3.3 name out of the table",
            encoded(b"\x7f\x07\x00"),
            COMPRESSION,
        ),
        case(
            "4.2 table size update at the end",
            encoded(b"\x21"),
            COMPRESSION,
        ),
        case(
            "5.2 Huffman padding of more than 7 bits",
            encoded(b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
            COMPRESSION,
        ),
        case(
            "5.2 Huffman padding of zeros",
            encoded(b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
            COMPRESSION,
        ),
        case(
            "5.2 EOS in Huffman's code",
            encoded(b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f"),
            COMPRESSION,
        ),
        case("6.1 index 0", encoded(b"\x80"), COMPRESSION),
        case(
            "6.3 table size above the allowed one",
            resized(b"\x3f\xe2\x1f"),
            COMPRESSION,
        ),
    ]
}

/// A request with these bytes behind its fields.
fn encoded(tail: &[u8]) -> Vec<u8> {
    let payload = [&block(&GET)[..], tail].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &payload)
}
