//! The PROXY protocol, versions 1 and 2 (haproxy.org proxy-protocol.txt, 2020/03/05).

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::str::FromStr;

use self::ProxyHeaderError::Malformed;

/// Longest version 1 line, CRLF included.
pub const MAX_V1_BYTES: usize = 107;
/// Longest version 2 header we accept: addresses plus a sane amount of TLVs.
pub const MAX_V2_BYTES: usize = 16 + 4096;

const V1_START: &[u8] = b"PROXY ";
/// The shortest lines there are: what can be asked for before the end is in sight.
const MIN_V1_UNKNOWN_BYTES: usize = "PROXY UNKNOWN\r\n".len();
const MIN_V1_TCP4_BYTES: usize = "PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n".len();
const MIN_V1_TCP6_BYTES: usize = "PROXY TCP6 :: :: 0 0\r\n".len();

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;
const V2_COMMAND_LOCAL: u8 = 0x20;
const V2_COMMAND_PROXY: u8 = 0x21;
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;
const V2_IPV4_ADDRESS_BYTES: usize = 12;
const V2_IPV6_ADDRESS_BYTES: usize = 36;
const V2_UNIX_ADDRESS_BYTES: usize = 216;
const V2_TLV_CRC32C: u8 = 0x03;

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// A prefix of a valid header; at least `needed` bytes in all are required.
    ///
    /// `needed` is more than was given, and no header is shorter, so reading exactly up to it never
    /// reads past the header: the first byte of the session stays in the socket.
    Incomplete { needed: usize },
    /// The header is the first `length` bytes.
    Complete { length: usize, source: Source },
}

/// Whom the header speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// LOCAL, UNKNOWN or an address family we cannot use: keep the socket's own addresses.
    Unchanged,
    Addresses {
        client: SocketAddr,
        server: SocketAddr,
    },
}

/// Why the first bytes of a connection are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    #[error("no PROXY header")]
    Missing,
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
}

/// Parses the bytes received so far.
///
/// # Errors
/// As soon as the bytes cannot become a header, not only when they are complete.
pub fn parse(bytes: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    if starts_alike(bytes, V1_START) {
        parse_v1(bytes)
    } else if starts_alike(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else {
        Err(ProxyHeaderError::Missing)
    }
}

/// A version 2 header for a connection of `client` to `server`.
///
/// An IPv4 address written as IPv6 (`::ffff:192.0.2.1`) goes out as IPv4; if only one of
/// the two is IPv4 it is mapped, because a header has one family.
pub fn encode_v2(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let mut header = Vec::with_capacity(V2_FIXED_BYTES + V2_IPV6_ADDRESS_BYTES);
    header.extend_from_slice(V2_SIGNATURE);
    header.push(V2_COMMAND_PROXY);
    match (client.ip().to_canonical(), server.ip().to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            header.extend_from_slice(&[V2_TCP4, 0, V2_IPV4_ADDRESS_BYTES as u8]);
            header.extend_from_slice(&client.octets());
            header.extend_from_slice(&server.octets());
        }
        (client, server) => {
            header.extend_from_slice(&[V2_TCP6, 0, V2_IPV6_ADDRESS_BYTES as u8]);
            header.extend_from_slice(&as_ipv6(client).octets());
            header.extend_from_slice(&as_ipv6(server).octets());
        }
    }
    header.extend_from_slice(&client.port().to_be_bytes());
    header.extend_from_slice(&server.port().to_be_bytes());
    header
}

fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// One is a prefix of the other.
fn starts_alike(a: &[u8], b: &[u8]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b)
}

fn parse_v1(bytes: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    let rest = bytes.get(V1_START.len()..).unwrap_or_default();
    let minimum = if rest.is_empty() || starts_alike(rest, b"TCP") && rest.len() < 4 {
        MIN_V1_UNKNOWN_BYTES
    } else if starts_alike(rest, b"TCP4 ") {
        v1_alphabet(rest, 5, |byte| byte.is_ascii_digit() || byte == b'.')?;
        MIN_V1_TCP4_BYTES
    } else if starts_alike(rest, b"TCP6 ") {
        v1_alphabet(rest, 5, |byte| {
            byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')
        })?;
        MIN_V1_TCP6_BYTES
    } else if starts_alike(rest, b"UNKNOWN ") || starts_alike(rest, b"UNKNOWN\r") {
        MIN_V1_UNKNOWN_BYTES
    } else {
        return Err(Malformed("protocol is not TCP4, TCP6 or UNKNOWN"));
    };

    let line_end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let needed = match line_end {
        // The shortest end is CRLF, or LF after a CR that is the last byte so far.
        None => minimum.max(bytes.len() + 2),
        Some(end) if bytes[end] == b'\n' => return Err(Malformed("line ends without CR")),
        Some(end) if end + 1 == bytes.len() => bytes.len() + 1,
        Some(end) if bytes[end + 1] != b'\n' => return Err(Malformed("CR without LF")),
        Some(end) => end + 2,
    };
    if needed > MAX_V1_BYTES {
        return Err(Malformed("line longer than 107 bytes"));
    }
    match line_end {
        Some(end) if bytes.len() >= needed => Ok(ProxyHeader::Complete {
            length: needed,
            source: v1_source(&bytes[V1_START.len()..end])?,
        }),
        _ => Ok(ProxyHeader::Incomplete { needed }),
    }
}

/// Refuses a byte that no address or port has, before the line's end has arrived.
fn v1_alphabet(
    rest: &[u8],
    skip: usize,
    in_address: impl Fn(u8) -> bool,
) -> Result<(), ProxyHeaderError> {
    let line = rest
        .split(|byte| matches!(byte, b'\r' | b'\n'))
        .next()
        .unwrap_or_default();
    let fields = line.get(skip..).unwrap_or_default();
    if fields.iter().all(|byte| *byte == b' ' || in_address(*byte)) {
        Ok(())
    } else {
        Err(Malformed("unexpected byte in an address or port"))
    }
}

/// `line` is what stands between `PROXY ` and CRLF.
fn v1_source(line: &[u8]) -> Result<Source, ProxyHeaderError> {
    if line.starts_with(b"UNKNOWN") {
        return Ok(Source::Unchanged);
    }
    let line = str::from_utf8(line).map_err(|_| Malformed("not ASCII"))?;
    let fields: Vec<&str> = line.splitn(6, ' ').collect();
    let [family, client, server, client_port, server_port] = fields[..] else {
        return Err(Malformed("not two addresses and two ports"));
    };
    let (client, server) = if family == "TCP4" {
        (v1_ip::<Ipv4Addr>(client)?, v1_ip::<Ipv4Addr>(server)?)
    } else {
        (v1_ip::<Ipv6Addr>(client)?, v1_ip::<Ipv6Addr>(server)?)
    };
    Ok(Source::Addresses {
        client: SocketAddr::new(client, v1_port(client_port)?),
        server: SocketAddr::new(server, v1_port(server_port)?),
    })
}

fn v1_ip<A: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, ProxyHeaderError> {
    let address: A = text
        .parse()
        .map_err(|_| Malformed("not an address of the family"))?;
    Ok(address.into())
}

/// Decimal without sign or leading zeros: what another parser reads must be the same number.
fn v1_port(text: &str) -> Result<u16, ProxyHeaderError> {
    let port: u16 = text.parse().map_err(|_| Malformed("not a port"))?;
    let canonical = text.starts_with(|c: char| c.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    canonical.then_some(port).ok_or(Malformed("not a port"))
}

fn parse_v2(bytes: &[u8]) -> Result<ProxyHeader, ProxyHeaderError> {
    let command = bytes.get(12).copied();
    if command.is_some_and(|byte| byte != V2_COMMAND_LOCAL && byte != V2_COMMAND_PROXY) {
        return Err(Malformed("unknown version or command"));
    }
    let Some((fixed, _)) = bytes.split_first_chunk::<V2_FIXED_BYTES>() else {
        let needed = match bytes.len() {
            // A version 1 line may be one byte shorter than the fixed part of version 2.
            0 => MIN_V1_UNKNOWN_BYTES,
            _ => V2_FIXED_BYTES,
        };
        return Ok(ProxyHeader::Incomplete { needed });
    };
    let family = fixed[13];
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > MAX_V2_BYTES {
        return Err(Malformed("longer than we accept"));
    }
    let is_local = command == Some(V2_COMMAND_LOCAL);
    let address_bytes = if is_local {
        // The sender speaks for itself; whatever follows is to be skipped.
        0
    } else {
        v2_address_bytes(family)?
    };
    if length < V2_FIXED_BYTES + address_bytes {
        return Err(Malformed("too short for its address family"));
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(ProxyHeader::Incomplete { needed: length });
    };
    if address_bytes > 0 {
        check_tlvs(header, V2_FIXED_BYTES + address_bytes)?;
    }
    let source = match family {
        _ if is_local => Source::Unchanged,
        V2_TCP4 => v2_addresses(header, |octets: [u8; 4]| IpAddr::from(octets)),
        V2_TCP6 => v2_addresses(header, |octets: [u8; 16]| IpAddr::from(octets)),
        _ => Source::Unchanged,
    };
    Ok(ProxyHeader::Complete { length, source })
}

/// The specification's table; anything else must be refused.
fn v2_address_bytes(family: u8) -> Result<usize, ProxyHeaderError> {
    match family {
        0x00 => Ok(0),
        0x11 | 0x12 => Ok(V2_IPV4_ADDRESS_BYTES),
        0x21 | 0x22 => Ok(V2_IPV6_ADDRESS_BYTES),
        0x31 | 0x32 => Ok(V2_UNIX_ADDRESS_BYTES),
        _ => Err(Malformed("unknown address family or transport")),
    }
}

fn v2_addresses<const N: usize>(header: &[u8], to_ip: impl Fn([u8; N]) -> IpAddr) -> Source {
    let addresses = &header[V2_FIXED_BYTES..];
    let ip = |at: usize| to_ip(std::array::from_fn(|index| addresses[at + index]));
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    Source::Addresses {
        client: SocketAddr::new(ip(0), port(2 * N)),
        server: SocketAddr::new(ip(N), port(2 * N + 2)),
    }
}

/// Walks the type-length-values from `start` to the end of `header`; verifies a checksum if there is one.
fn check_tlvs(header: &[u8], start: usize) -> Result<(), ProxyHeaderError> {
    let mut at = start;
    let mut has_checksum = false;
    while at < header.len() {
        let [kind, high, low, ..] = header[at..] else {
            return Err(Malformed("truncated TLV"));
        };
        let value_at = at + 3;
        let end = value_at + usize::from(u16::from_be_bytes([high, low]));
        let Some(value) = header.get(value_at..end) else {
            return Err(Malformed("TLV longer than the header"));
        };
        if kind == V2_TLV_CRC32C {
            let Ok(sent) = <[u8; 4]>::try_from(value) else {
                return Err(Malformed("checksum of a wrong length"));
            };
            if has_checksum {
                return Err(Malformed("two checksums"));
            }
            has_checksum = true;
            // The sum is taken over the header with its own field zeroed.
            let sum = crc32c(&[&header[..value_at], &[0; 4], &header[end..]]);
            if sum != u32::from_be_bytes(sent) {
                return Err(Malformed("wrong checksum"));
            }
        }
        at = end;
    }
    Ok(())
}

/// RFC 9260 appendix A; one header per connection, so a bit at a time is fast enough.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = !0_u32;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry == 1 {
                crc ^= 0x82F6_3B78;
            }
        }
    }
    !crc
}

/// Body of the fuzz target: no panic, and the answer does not depend on how the bytes were cut.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    match parse(data) {
        Ok(ProxyHeader::Complete { length, source }) => {
            assert!(length <= data.len() && length <= MAX_V2_BYTES);
            for cut in 0..length {
                let prefix = parse(&data[..cut]);
                let Ok(ProxyHeader::Incomplete { needed }) = prefix else {
                    panic!("prefix of {cut} bytes of a header: {prefix:?}");
                };
                assert!(cut < needed && needed <= length, "{cut} {needed} {length}");
            }
            if let Source::Addresses { client, server } = source {
                let encoded = encode_v2(client, server);
                assert!(matches!(parse(&encoded), Ok(ProxyHeader::Complete { .. })));
            }
        }
        Ok(ProxyHeader::Incomplete { needed }) => {
            assert!(needed > data.len() && needed <= MAX_V2_BYTES);
        }
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests;
