//! The server name in a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3).
//!
//! For routing only: nothing is decrypted and nothing is answered. Extensions that are not
//! understood (GREASE, Encrypted ClientHello, later ones) are skipped by their length.

use std::net::IpAddr;

use self::ClientHelloError::Malformed;
use self::ClientHelloError::NotTls;
use self::ClientHelloError::TooLong;

/// What the first bytes of a connection say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientHello {
    /// A prefix of a valid ClientHello: read more.
    Incomplete,
    /// Complete. `sni` is lower case.
    Complete { sni: Option<String> },
}

/// The bytes are no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientHelloError {
    #[error("not a TLS handshake")]
    NotTls,
    #[error("malformed ClientHello")]
    Malformed,
    #[error("ClientHello longer than {MAX_CLIENT_HELLO_BYTES} bytes")]
    TooLong,
}

/// Post-quantum key shares and many extensions fit; a flood does not.
pub const MAX_CLIENT_HELLO_BYTES: usize = 16 * 1024;

const RECORD_HANDSHAKE: u8 = 22;
/// SSL 3.0 and every TLS share it; the minor version says nothing since TLS 1.3.
const VERSION_MAJOR: u8 = 3;
const RECORD_HEADER_BYTES: usize = 5;
const MAX_RECORD_BYTES: usize = 1 << 14;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const HANDSHAKE_HEADER_BYTES: usize = 4;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST_NAME: u8 = 0;
const MAX_SESSION_ID_BYTES: usize = 32;
/// The longest name that DNS can hold, as text (RFC 1035 §2.3.4).
const MAX_HOST_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Parses the bytes received so far (TLS records, possibly fragmented).
///
/// # Errors
/// As soon as the bytes cannot become a ClientHello, not only when they are complete.
pub fn parse(bytes: &[u8]) -> Result<ClientHello, ClientHelloError> {
    let within_limit = &bytes[..bytes.len().min(MAX_CLIENT_HELLO_BYTES)];
    match reassemble(within_limit)? {
        Some(body) => Ok(ClientHello::Complete {
            sni: server_name(&body)?,
        }),
        None if bytes.len() >= MAX_CLIENT_HELLO_BYTES => Err(TooLong),
        None => Ok(ClientHello::Incomplete),
    }
}

/// The ClientHello's body out of its records; `None` if more bytes are needed.
///
/// A record may hold as little as one byte of the message, but not none: empty handshake
/// records are forbidden (RFC 8446 §5.1) and would let a client talk forever.
fn reassemble(bytes: &[u8]) -> Result<Option<Vec<u8>>, ClientHelloError> {
    let mut message = Vec::new();
    let mut announced_bytes = 0;
    let mut rest = bytes;
    loop {
        let is_first = announced_bytes == 0;
        for (at, expected) in [RECORD_HANDSHAKE, VERSION_MAJOR].into_iter().enumerate() {
            if rest.get(at).is_some_and(|byte| *byte != expected) {
                return Err(if is_first { NotTls } else { Malformed });
            }
        }
        let Some((header, after)) = rest.split_first_chunk::<RECORD_HEADER_BYTES>() else {
            return Ok(None);
        };
        let record_bytes = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if record_bytes == 0 || record_bytes > MAX_RECORD_BYTES {
            return Err(Malformed);
        }
        let (fragment, next) = after.split_at(record_bytes.min(after.len()));
        message.extend_from_slice(fragment);
        announced_bytes += record_bytes;
        if let Some(end) = message_end(&message)? {
            // Nothing may follow a ClientHello before the server has answered.
            if announced_bytes > end {
                return Err(Malformed);
            }
            if message.len() == end {
                return Ok(Some(message.split_off(HANDSHAKE_HEADER_BYTES)));
            }
        }
        if fragment.len() < record_bytes {
            return Ok(None);
        }
        rest = next;
    }
}

/// Where the handshake message ends, once its length has arrived.
fn message_end(message: &[u8]) -> Result<Option<usize>, ClientHelloError> {
    if message
        .first()
        .is_some_and(|kind| *kind != HANDSHAKE_CLIENT_HELLO)
    {
        return Err(Malformed);
    }
    let [_, high, middle, low, ..] = *message else {
        return Ok(None);
    };
    let body_bytes = u32::from_be_bytes([0, high, middle, low]) as usize;
    let end = HANDSHAKE_HEADER_BYTES + body_bytes;
    if RECORD_HEADER_BYTES + end > MAX_CLIENT_HELLO_BYTES {
        return Err(TooLong);
    }
    Ok(Some(end))
}

/// The server name in a complete ClientHello without its handshake header.
fn server_name(body: &[u8]) -> Result<Option<String>, ClientHelloError> {
    let mut body = Reader(body);
    if body.u8()? != VERSION_MAJOR {
        return Err(Malformed);
    }
    let _minor_version = body.u8()?;
    let _random = body.take(32)?;
    let session_id_bytes = usize::from(body.u8()?);
    if session_id_bytes > MAX_SESSION_ID_BYTES {
        return Err(Malformed);
    }
    let _session_id = body.take(session_id_bytes)?;
    let cipher_suites = body.vector_u16()?;
    if cipher_suites.0.is_empty() || cipher_suites.0.len() % 2 != 0 {
        return Err(Malformed);
    }
    let compression_bytes = usize::from(body.u8()?);
    if compression_bytes == 0 {
        return Err(Malformed);
    }
    let _compression = body.take(compression_bytes)?;
    if body.0.is_empty() {
        return Ok(None); // Before TLS 1.3 a client may have no extensions at all.
    }
    let mut extensions = body.vector_u16()?;
    body.end()?;
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector_u16()?;
        if kind == EXTENSION_SERVER_NAME && found.replace(content).is_some() {
            return Err(Malformed);
        }
    }
    found.map_or(Ok(None), host_name)
}

/// The one host name in a server_name extension.
fn host_name(mut extension: Reader<'_>) -> Result<Option<String>, ClientHelloError> {
    let mut names = extension.vector_u16()?;
    extension.end()?;
    if names.0.is_empty() {
        return Err(Malformed);
    }
    let mut found = None;
    while !names.0.is_empty() {
        let kind = names.u8()?;
        let name = names.vector_u16()?;
        if kind == NAME_TYPE_HOST_NAME && found.replace(name.0).is_some() {
            return Err(Malformed);
        }
    }
    let Some(name) = found else {
        return Ok(None);
    };
    let name = str::from_utf8(name).map_err(|_| Malformed)?;
    if name.parse::<IpAddr>().is_ok() {
        // Not permitted, yet sent by clients that were given an address: same as no name.
        return Ok(None);
    }
    if !is_host_name(name) {
        return Err(Malformed);
    }
    Ok(Some(name.to_ascii_lowercase()))
}

/// Labels as in DNS; `_` is allowed because real names carry it.
fn is_host_name(name: &str) -> bool {
    name.len() <= MAX_HOST_NAME_BYTES
        && name.split('.').all(|label| {
            (1..=MAX_LABEL_BYTES).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

/// What is left to read.
#[derive(Debug, Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ClientHelloError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, ClientHelloError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, ClientHelloError> {
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    /// Bytes behind a 16-bit length.
    fn vector_u16(&mut self) -> Result<Reader<'a>, ClientHelloError> {
        let count = usize::from(self.u16()?);
        self.take(count).map(Reader)
    }

    fn end(&self) -> Result<(), ClientHelloError> {
        self.0.is_empty().then_some(()).ok_or(Malformed)
    }
}

/// Body of the fuzz target: no panic; what was decided stays decided when more bytes come.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    match parse(data) {
        Ok(ClientHello::Complete { sni }) => {
            if let Some(name) = sni {
                assert!(is_host_name(&name) && name == name.to_ascii_lowercase());
            }
        }
        Ok(ClientHello::Incomplete) => assert!(data.len() < MAX_CLIENT_HELLO_BYTES),
        Err(error) => {
            let more = [data, &[RECORD_HANDSHAKE]].concat();
            assert_eq!(parse(&more), Err(error));
        }
    }
    if let Some((_, shorter)) = data.split_last()
        && let Ok(decided @ ClientHello::Complete { .. }) = parse(shorter)
    {
        assert_eq!(parse(data), Ok(decided));
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::corpus::seeds;

    fn with_length(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &with_length(content)].concat()
    }

    fn server_name_extension(name: &[u8]) -> Vec<u8> {
        extension(0, &with_length(&[&[0], &with_length(name)[..]].concat()))
    }

    /// The handshake message; `tail` is what follows the compression methods.
    fn message(tail: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(&[7; 32]);
        body.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend_from_slice(tail);
        let length = (body.len() as u32).to_be_bytes();
        [&[1], &length[1..], &body].concat()
    }

    fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
        message
            .chunks(fragment_bytes)
            .flat_map(|fragment| [&[22, 3, 1], &with_length(fragment)[..]].concat())
            .collect()
    }

    fn hello(extensions: &[u8]) -> Vec<u8> {
        records(&message(&with_length(extensions)), MAX_RECORD_BYTES)
    }

    fn named(name: &str) -> Result<ClientHello, ClientHelloError> {
        parse(&hello(&server_name_extension(name.as_bytes())))
    }

    fn complete(sni: Option<&str>) -> Result<ClientHello, ClientHelloError> {
        Ok(ClientHello::Complete {
            sni: sni.map(str::to_owned),
        })
    }

    #[test]
    fn the_server_name_is_found_in_lower_case() {
        assert_eq!(
            named("DB_1.Example.COM"),
            complete(Some("db_1.example.com"))
        );
        assert_eq!(named("localhost"), complete(Some("localhost")));
    }

    #[test]
    fn a_hello_without_a_name_is_complete() {
        assert_eq!(parse(&hello(&[])), complete(None));
        let without_extensions = records(&message(&[]), MAX_RECORD_BYTES);
        assert_eq!(parse(&without_extensions), complete(None));
        assert_eq!(named("192.0.2.1"), complete(None));
        assert_eq!(named("2001:db8::1"), complete(None));
    }

    #[test]
    fn names_that_are_no_host_names_are_refused() {
        let long_label = "a".repeat(64);
        let long_name = ["a"; 128].join(".");
        for name in [
            "",
            ".",
            "a..b",
            "a.",
            ".a",
            "a\0b",
            "a b",
            "a\nb",
            "a/b",
            "\u{e9}.com",
            &long_label,
            &long_name,
        ] {
            assert_eq!(named(name), Err(Malformed), "{name:?}");
        }
    }

    #[test]
    fn unknown_extensions_are_skipped() {
        let extensions = [
            extension(0x0a0a, &[]),
            extension(0xfe0d, &[0xff; 300]),
            server_name_extension(b"a.example"),
            extension(0xfafa, &[0]),
        ];
        assert_eq!(
            parse(&hello(&extensions.concat())),
            complete(Some("a.example"))
        );
    }

    #[test]
    fn records_of_any_size_are_joined() {
        let message = message(&with_length(&server_name_extension(b"a.example")));
        for fragment_bytes in 1..=message.len() {
            let bytes = records(&message, fragment_bytes);
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(ClientHello::Incomplete));
            }
            assert_eq!(parse(&bytes), complete(Some("a.example")));
        }
    }

    #[test]
    fn other_protocols_are_recognised_from_their_first_bytes() {
        for bytes in [
            &b"G"[..],
            b"GET / HTTP/1.1",
            b"SSH-2.0",
            b"PROXY",
            b"\x80\x2e\x01\x03\x01",
            b"\x15\x03\x03\0\x02\x02\x28",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"\x16\x02",
        ] {
            assert_eq!(parse(bytes), Err(NotTls), "{}", bytes.escape_ascii());
        }
        assert_eq!(
            parse(b"\x16\x03\x01\0\x05\x02"),
            Err(Malformed),
            "a ServerHello"
        );
    }

    #[test]
    fn malformed_lengths_are_refused() {
        let name = server_name_extension(b"a.example");
        let extensions = with_length(&name);
        let wrong = [
            records(
                &message(&[&extensions[..], b"x"].concat()),
                MAX_RECORD_BYTES,
            ),
            records(
                &message(&extensions[..extensions.len() - 1]),
                MAX_RECORD_BYTES,
            ),
            records(
                &[&message(&extensions)[..], b"x"].concat(),
                MAX_RECORD_BYTES,
            ),
            hello(&[&name[..], &name[..]].concat()),
            hello(&extension(0, &[])),
            hello(&extension(0, &[0, 0])),
            hello(&extension(0, b"\0\x04\0\0\x02a")),
            hello(&name[..name.len() - 1]),
            b"\x16\x03\x01\0\0".to_vec(),
            b"\x16\x03\x01\x40\x01".to_vec(),
            b"\x16\x03\x01\0\x01\x01\x16\x03\x01\0\0".to_vec(),
            b"\x16\x03\x01\0\x01\x01\x17\x03\x01\0\x01".to_vec(),
        ];
        for bytes in wrong {
            assert_eq!(parse(&bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_flood_is_cut_off() {
        let announced = b"\x16\x03\x01\0\x04\x01\0\x40\0";
        assert_eq!(parse(announced), Err(TooLong), "before it arrives");
        let message = message(&with_length(&extension(0x0a0a, &[0; 4000])));
        let in_small_records = records(&message, 1);
        assert_eq!(parse(&in_small_records), Err(TooLong));
        assert_eq!(
            parse(&in_small_records[..MAX_CLIENT_HELLO_BYTES]),
            Err(TooLong)
        );
        assert_eq!(
            parse(&in_small_records[..MAX_CLIENT_HELLO_BYTES - 1]),
            Ok(ClientHello::Incomplete)
        );
    }

    #[test]
    fn hellos_of_openssl_are_understood() {
        for seed in ["openssl_tls12", "openssl_tls13"] {
            let bytes = std::fs::read(format!("fuzz/corpus/client_hello/{seed}")).unwrap();
            assert_eq!(parse(&bytes), complete(Some("db.example.com")), "{seed}");
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(ClientHello::Incomplete));
            }
        }
    }

    #[test]
    fn the_corpus_holds() {
        for seed in seeds("client_hello") {
            fuzz(&seed);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(
            bytes in vec(any::<u8>(), 0..400),
            fragment_bytes in 1_usize..100,
        ) {
            fuzz(&bytes);
            fuzz(&records(&bytes, fragment_bytes));
            fuzz(&records(&message(&bytes), fragment_bytes));
            fuzz(&hello(&bytes));
            fuzz(&hello(&extension(0, &bytes)));
        }

        #[test]
        fn changed_hellos_never_panic(at: usize, byte: u8, fragment_bytes in 1_usize..100) {
            let mut bytes = records(
                &message(&with_length(&server_name_extension(b"a.example"))),
                fragment_bytes,
            );
            let at = at % bytes.len();
            bytes[at] = byte;
            fuzz(&bytes);
        }
    }
}
