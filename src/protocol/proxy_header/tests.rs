//! What a PROXY header is, case by case and by property.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::protocol::corpus::seeds;

fn addresses(client: &str, server: &str) -> Source {
    Source::Addresses {
        client: client.parse().unwrap(),
        server: server.parse().unwrap(),
    }
}

fn complete(bytes: &[u8]) -> Source {
    match parse(bytes) {
        Ok(ProxyHeader::Complete { length, source }) if length == bytes.len() => source,
        other => panic!("{other:?} for {}", bytes.escape_ascii()),
    }
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    header.extend_from_slice(&[command, family]);
    header.extend_from_slice(&(block.len() as u16).to_be_bytes());
    header.extend_from_slice(block);
    header
}

/// A TCP4 header with these TLVs.
fn v2_with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    v2(V2_COMMAND_PROXY, V2_TCP4, &[&[0; 12], tlvs].concat())
}

fn v2_with_checksum() -> Vec<u8> {
    let mut header = v2_with_tlvs(b"\x04\0\x02ok\x03\0\x04\0\0\0\0");
    let sum = crc32c(&[&header]);
    let at = header.len() - 4;
    header[at..].copy_from_slice(&sum.to_be_bytes());
    header
}

#[test]
fn version_1_lines_carry_addresses_of_their_family() {
    assert_eq!(
        complete(b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 5432\r\n"),
        addresses("192.0.2.1:56324", "198.51.100.7:5432")
    );
    assert_eq!(
        complete(b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n"),
        addresses("[2001:db8::1]:0", "[::1]:65535")
    );
    assert_eq!(complete(b"PROXY UNKNOWN\r\n"), Source::Unchanged);
    assert_eq!(complete(b"PROXY UNKNOWN ffff:: x 1\r\n"), Source::Unchanged);
}

#[test]
fn version_1_accepts_its_longest_line_and_no_longer_one() {
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    assert_eq!(longest.len(), MAX_V1_BYTES);
    assert_eq!(complete(longest.as_bytes()), Source::Unchanged);
    let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    let too_long = Err(Malformed("line longer than 107 bytes"));
    assert_eq!(parse(longer.as_bytes()), too_long);
    assert_eq!(parse(&longer.as_bytes()[..106]), too_long, "before its end");
}

#[test]
fn version_1_is_strict() {
    let wrong = [
        "PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 1 2\rx",
        "PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 1 2 \r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.7 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 65536 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.7 -1 2\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.7 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n",
        "PROXY TCP5 192.0.2.1 198.51.100.7 1 2\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 \u{e9}",
    ];
    for line in wrong {
        let parsed = parse(line.as_bytes());
        assert!(matches!(parsed, Err(Malformed(_))), "{line:?}: {parsed:?}");
    }
}

#[test]
fn bytes_that_cannot_become_a_header_are_refused_at_once() {
    for bytes in [
        &b"G"[..],
        b"\x16",
        b"PX",
        b"PROXYTCP4",
        b"\r\n\r\nQ",
        b"\n",
        b"\0",
    ] {
        assert_eq!(parse(bytes), Err(ProxyHeaderError::Missing), "{bytes:?}");
    }
    assert!(parse(b"PROXY X").is_err());
    assert!(parse(b"PROXY TCP4 G").is_err());
    assert!(parse(&v2(0x31, 0x11, &[])[..13]).is_err(), "version 3");
    assert!(
        parse(&v2(0x22, 0x11, &[])[..13]).is_err(),
        "no such command"
    );
    assert!(parse(&v2(0x21, 0x13, &[0; 12])[..16]).is_err(), "transport");
    assert!(parse(&v2(0x21, 0x11, &[0; 11])[..16]).is_err(), "length");
}

#[test]
fn version_2_uses_tcp_addresses_and_skips_the_rest() {
    assert_eq!(complete(&v2(V2_COMMAND_LOCAL, 0, &[])), Source::Unchanged);
    assert_eq!(
        complete(&v2(V2_COMMAND_LOCAL, 0xff, b"junk")),
        Source::Unchanged
    );
    assert_eq!(
        complete(&v2(V2_COMMAND_PROXY, 0, b"junk")),
        Source::Unchanged
    );
    assert_eq!(
        complete(&v2(V2_COMMAND_PROXY, 0x12, &[1; 12])),
        Source::Unchanged
    );
    assert_eq!(
        complete(&v2(V2_COMMAND_PROXY, 0x31, &[1; 216])),
        Source::Unchanged
    );
    let tcp4 = [192, 0, 2, 1, 198, 51, 100, 7, 0x12, 0x34, 0x15, 0x38];
    assert_eq!(
        complete(&v2(V2_COMMAND_PROXY, V2_TCP4, &tcp4)),
        addresses("192.0.2.1:4660", "198.51.100.7:5432")
    );
}

#[test]
fn version_2_lengths_must_agree() {
    for (tlvs, problem) in [
        (&b"\x04"[..], "truncated TLV"),
        (b"\x04\0", "truncated TLV"),
        (b"\x04\0\x01", "TLV longer than the header"),
        (b"\x04\xff\xffab", "TLV longer than the header"),
        (b"\x03\0\x03abc", "checksum of a wrong length"),
        (b"\x03\0\x04abcd", "wrong checksum"),
    ] {
        assert_eq!(parse(&v2_with_tlvs(tlvs)), Err(Malformed(problem)));
    }
    let most = v2_with_tlvs(&[&b"\x04\x0f\xf1"[..], &[0; 4081]].concat());
    assert_eq!(most.len(), MAX_V2_BYTES);
    complete(&most);
    let more = v2_with_tlvs(&[&b"\x04\x0f\xf2"[..], &[0; 4082]].concat());
    assert_eq!(parse(&more[..16]), Err(Malformed("longer than we accept")));
}

#[test]
fn a_checksum_is_verified() {
    assert_eq!(crc32c(&[b"1234", b"56789"]), 0xE306_9283, "RFC 3720 B.4");
    let header = v2_with_checksum();
    complete(&header);
    for at in V2_FIXED_BYTES..V2_FIXED_BYTES + V2_IPV4_ADDRESS_BYTES {
        let mut changed = header.clone();
        changed[at] ^= 1;
        assert_eq!(parse(&changed), Err(Malformed("wrong checksum")));
    }
}

#[test]
fn mixed_families_are_written_as_ipv6() {
    let mixed = encode_v2("192.0.2.1:1".parse().unwrap(), "[::1]:2".parse().unwrap());
    assert_eq!(
        complete(&mixed),
        addresses("[::ffff:192.0.2.1]:1", "[::1]:2")
    );
    let mapped = "[::ffff:192.0.2.1]:1".parse().unwrap();
    let plain = encode_v2(mapped, "192.0.2.2:2".parse().unwrap());
    assert_eq!(complete(&plain), addresses("192.0.2.1:1", "192.0.2.2:2"));
}

#[test]
fn the_corpus_holds() {
    for seed in seeds("proxy_header") {
        fuzz(&seed);
    }
}

/// Random addresses are nearly never as short as addresses can be.
#[test]
fn no_start_of_the_shortest_lines_asks_for_more_than_the_line() {
    for line in [
        "PROXY UNKNOWN\r\n",
        "PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n",
        "PROXY TCP6 :: :: 0 0\r\n",
    ] {
        for end in 0..line.len() {
            let ProxyHeader::Incomplete { needed } = parse(&line.as_bytes()[..end]).unwrap() else {
                panic!("{:?} is no header", &line[..end]);
            };
            assert!(end < needed && needed <= line.len(), "{:?}", &line[..end]);
        }
    }
}

fn header() -> impl Strategy<Value = Vec<u8>> {
    let address = || any::<SocketAddr>();
    let line = (address(), address(), any::<bool>()).prop_map(|(client, server, known)| {
        match (client.ip(), server.ip(), known) {
            (IpAddr::V4(a), IpAddr::V4(b), true) => {
                format!("PROXY TCP4 {a} {b} {} {}\r\n", client.port(), server.port())
            }
            (IpAddr::V6(a), IpAddr::V6(b), true) => {
                format!("PROXY TCP6 {a} {b} {} {}\r\n", client.port(), server.port())
            }
            _ => format!("PROXY UNKNOWN {client}\r\n"),
        }
    });
    prop_oneof![
        line.prop_map(String::into_bytes),
        (address(), address()).prop_map(|(client, server)| encode_v2(client, server)),
        Just(v2_with_checksum()),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_parsed(client: SocketAddr, server: SocketAddr) {
        let Source::Addresses { client: c, server: s } = complete(&encode_v2(client, server))
        else { panic!("no addresses") };
        prop_assert_eq!(c.ip().to_canonical(), client.ip().to_canonical());
        prop_assert_eq!(s.ip().to_canonical(), server.ip().to_canonical());
        prop_assert_eq!((c.port(), s.port()), (client.port(), server.port()));
    }

    #[test]
    fn a_reader_that_obeys_needed_never_reads_past_the_header(
        header in header(),
        payload in vec(any::<u8>(), 0..20),
        chunks in vec(1_usize..20, 1..10),
    ) {
        let stream = [&header[..], &payload].concat();
        let mut chunks = chunks.into_iter().cycle();
        let mut read = 0;
        let length = loop {
            match parse(&stream[..read]).unwrap() {
                ProxyHeader::Incomplete { needed } => {
                    prop_assert!(read < needed && needed <= header.len());
                    read = needed.min(read + chunks.next().unwrap());
                }
                ProxyHeader::Complete { length, .. } => break length,
            }
        };
        prop_assert_eq!(read, header.len());
        prop_assert_eq!(length, header.len());
        prop_assert_eq!(parse(&stream), parse(&header));
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        fuzz(&bytes);
        fuzz(&[V1_START, &bytes].concat());
        fuzz(&[&V2_SIGNATURE[..], &bytes].concat());
    }

    #[test]
    fn changed_headers_never_panic(header in header(), at: usize, byte: u8) {
        let mut header = header;
        let at = at % header.len();
        header[at] = byte;
        fuzz(&header);
    }
}
