//! Request targets (RFC 9112, section 3.2) and hosts.

use super::scan::is_host_name;
use super::scan::is_path_and_query;
use super::scan::position;
use super::violation::Violation;

/// A name of 253 bytes, a colon and a port, with room for an address in brackets.
const MAX_AUTHORITY_BYTES: usize = 262;

/// The host that the target names, if it names one.
pub fn authority<'a>(method: &[u8], target: &'a [u8]) -> Result<Option<&'a [u8]>, Violation> {
    if method == b"CONNECT" {
        // `host:port`, both of them needed.
        let has_port = target.last().is_some_and(u8::is_ascii_digit) && target.contains(&b':');
        if !has_port || target[0] == b':' || !is_authority(target) {
            return Err(Violation::Target);
        }
        return Ok(Some(target));
    }
    match target {
        [b'/', ..] if is_path_and_query(target) => Ok(None),
        b"*" if method == b"OPTIONS" => Ok(None),
        _ => absolute(target).map(Some),
    }
}

/// `http://host:port/path`; nothing in front of the host, and a path or nothing behind it.
fn absolute(target: &[u8]) -> Result<&[u8], Violation> {
    let scheme_length = [&b"http://"[..], b"https://"]
        .iter()
        .find(|scheme| starts_with_ignoring_case(target, scheme))
        .map(|scheme| scheme.len());
    let rest = &target[scheme_length.ok_or(Violation::Target)?..];
    let end = position(rest, b'/');
    let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
    if authority.is_empty() || !is_authority(authority) || !is_path_and_query(path) {
        return Err(Violation::Target);
    }
    Ok(authority)
}

/// A host name or an address in brackets, with or without a port.
pub fn is_authority(bytes: &[u8]) -> bool {
    if bytes.len() > MAX_AUTHORITY_BYTES {
        return false;
    }
    if let Some(literal) = bytes.strip_prefix(b"[") {
        let Some(end) = position(literal, b']') else {
            return false;
        };
        let address = &literal[..end];
        let is_address = str::from_utf8(address)
            .is_ok_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
        return is_address && is_port(&literal[end + 1..]);
    }
    let end = position(bytes, b':');
    let (name, port) = bytes.split_at(end.unwrap_or(bytes.len()));
    is_host_name(name) && is_port(port) && (port.is_empty() || !name.is_empty())
}

/// Nothing, or a colon and a number that fits.
fn is_port(bytes: &[u8]) -> bool {
    match bytes {
        [] => true,
        [b':', digits @ ..] => {
            digits.iter().all(u8::is_ascii_digit)
                && str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u16>().is_ok())
        }
        _ => false,
    }
}

fn starts_with_ignoring_case(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}
