//! Who the client is and what it asked for: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//!
//! Both are always sent. What a peer claims is believed, and added to, only when the peer is
//! trusted; else it is replaced. A trusted peer has to set `X-Forwarded-For`, or remove what its
//! own client sent: where both kinds are there, `X-Forwarded-For` counts.

use std::net::IpAddr;
use std::net::SocketAddr;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header::FORWARDED;
use ipnet::IpNet;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// What we write, and some that others add after us: request id, `Via`, the connection's.
const MAX_FIELDS: usize = 10;
/// The longest element without its authority: an address of IPv6.
const ELEMENT_BYTES: usize = 80;

/// How a request reached us.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// Behind a trusted PROXY header, the address in the header.
    pub peer: IpAddr,
    pub tls: bool,
    /// `Host` or `:authority` as written, checked by [`target`](super::target).
    pub authority: Option<&'a str>,
    /// The listener's.
    pub port: u16,
}

/// Whether what a peer says of others is believed.
pub fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    // Most listeners trust nobody.
    if trusted.is_empty() {
        return false;
    }
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

/// What was written for the last request of a connection: the next one nearly always says the same.
#[derive(Debug, Default)]
pub struct Written(Option<Box<Element>>);

impl Written {
    fn element(&mut self, arrival: &Arrival<'_>) -> &Element {
        self.0.take_if(|element| !element.is_of(arrival));
        self.0
            .get_or_insert_with(|| Box::new(Element::new(arrival)))
    }
}

/// Writes the fields for the backend and returns the client's address: the peer's, or where it is
/// trusted the last one that no trusted proxy has. `written`: of requests before this one.
pub fn apply(
    headers: &mut HeaderMap,
    arrival: &Arrival<'_>,
    trusted: &[IpNet],
    written: &mut Written,
) -> IpAddr {
    // Once instead of again and again.
    headers.reserve(MAX_FIELDS);
    let peer = arrival.peer.to_canonical();
    let element = written.element(arrival);
    if !is_trusted(trusted, peer) {
        remove_claims(headers);
        replace(headers, element);
        return peer;
    }
    let client = client(headers, peer, trusted);
    append(headers, element);
    client
}

fn remove_claims(headers: &mut HeaderMap) {
    if !headers.keys().any(is_claim) {
        return;
    }
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_claim(name))
        .cloned()
        .collect();
    for name in claims {
        headers.remove(name);
    }
}

/// `X-Real-IP` is not ours to set, and many applications believe it.
/// Also with underscores: many servers of applications see no difference (CGI, WSGI).
fn is_claim(name: &HeaderName) -> bool {
    match name.as_str().as_bytes() {
        b"forwarded" => true,
        [b'x', b'-' | b'_', rest @ ..] => {
            if matches!(rest, b"real-ip" | b"real_ip") {
                return true;
            }
            let rest = rest.strip_prefix(b"forwarded");
            rest.is_some_and(|rest| matches!(rest, [b'-' | b'_', ..]))
        }
        _ => false,
    }
}

fn replace(headers: &mut HeaderMap, element: &Element) {
    headers.insert(&X_FORWARDED_FOR, element.peer.clone());
    headers.insert(&X_FORWARDED_PROTO, element.proto.clone());
    set_host(headers, element);
    headers.insert(&X_FORWARDED_PORT, element.port.clone());
    headers.insert(FORWARDED, element.text.clone());
}

/// The first proxy knows best what the client asked for: its word stays.
fn append(headers: &mut HeaderMap, element: &Element) {
    extend(headers, &X_FORWARDED_FOR, &element.peer);
    if !headers.contains_key(&X_FORWARDED_PROTO) {
        headers.insert(&X_FORWARDED_PROTO, element.proto.clone());
    }
    if !headers.contains_key(&X_FORWARDED_HOST) {
        set_host(headers, element);
    }
    if !headers.contains_key(&X_FORWARDED_PORT) {
        headers.insert(&X_FORWARDED_PORT, element.port.clone());
    }
    extend(headers, &FORWARDED, &element.text);
}

/// Adds an address as `Display` writes it, for IPv4 in a fraction of the time.
fn push_address(text: &mut String, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        text.push_str(&address.to_string());
        return;
    };
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            text.push('.');
        }
        let digits = [octet / 100, octet / 10 % 10, octet % 10];
        let zeros = match octet {
            100.. => 0,
            10.. => 1,
            _ => 2,
        };
        let digits = digits[zeros..].iter();
        text.extend(digits.map(|digit| char::from(b'0' + digit)));
    }
}

fn set_host(headers: &mut HeaderMap, element: &Element) {
    if let Some(host) = &element.host {
        headers.insert(&X_FORWARDED_HOST, host.clone());
    }
}

fn port(port: u16) -> HeaderValue {
    match port {
        443 => HeaderValue::from_static("443"),
        80 => HeaderValue::from_static("80"),
        port => HeaderValue::from(port),
    }
}

fn scheme(arrival: &Arrival<'_>) -> &'static str {
    match arrival.tls {
        true => "https",
        false => "http",
    }
}

/// One element of `Forwarded`, and its parts as other fields say them: of one allocation.
#[derive(Debug)]
struct Element {
    /// Whose and of which listener it is.
    origin: (IpAddr, bool, u16),
    peer: HeaderValue,
    proto: HeaderValue,
    /// `None`: the request names none.
    host: Option<HeaderValue>,
    port: HeaderValue,
    text: HeaderValue,
}

impl Element {
    /// The authority has been checked: nothing in it ends a quoted string.
    fn new(arrival: &Arrival<'_>) -> Self {
        let peer = arrival.peer.to_canonical();
        let authority = arrival.authority.unwrap_or_default();
        let mut text = String::with_capacity(ELEMENT_BYTES + authority.len());
        let (before, after) = match peer {
            IpAddr::V4(_) => ("for=", ""),
            IpAddr::V6(_) => ("for=\"[", "]\""),
        };
        text.push_str(before);
        push_address(&mut text, peer);
        let peer = before.len()..text.len();
        text.push_str(after);
        let (before, after) = match authority.contains([':', '[']) {
            _ if authority.is_empty() => ("", ""),
            true => (";host=\"", "\""),
            false => (";host=", ""),
        };
        text.push_str(before);
        let start = text.len();
        text.push_str(authority);
        let host = start..text.len();
        text.push_str(after);
        text.push_str(";proto=");
        text.push_str(scheme(arrival));
        let text = Bytes::from(text);
        Self {
            origin: origin(arrival),
            peer: value(text.slice(peer)),
            proto: HeaderValue::from_static(scheme(arrival)),
            host: (!host.is_empty()).then(|| value(text.slice(host))),
            port: port(arrival.port),
            text: value(text),
        }
    }

    /// Whether it says what a new one would.
    fn is_of(&self, arrival: &Arrival<'_>) -> bool {
        let host = self.host.as_ref().map_or(&[][..], HeaderValue::as_bytes);
        let authority = arrival.authority.unwrap_or_default();
        self.origin == origin(arrival) && host == authority.as_bytes()
    }
}

fn origin(arrival: &Arrival<'_>) -> (IpAddr, bool, u16) {
    (arrival.peer.to_canonical(), arrival.tls, arrival.port)
}

/// An authority that was checked has no byte that a value may not have.
fn value(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static(""))
}

/// One field with all elements: there are readers that look only at the first field.
fn extend(headers: &mut HeaderMap, name: &HeaderName, element: &HeaderValue) {
    if !headers.contains_key(name) {
        headers.insert(name, element.clone());
        return;
    }
    let mut joined = Vec::new();
    for field in headers.get_all(name) {
        joined.extend_from_slice(field.as_bytes());
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(element.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(name, value);
    }
}

/// The last address that is not a trusted proxy's; all trusted: the first. What is no address ends
/// the search: nobody vouches for what stands before it.
fn client(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let name = match headers.contains_key(&X_FORWARDED_FOR) {
        true => &X_FORWARDED_FOR,
        false => &FORWARDED,
    };
    let mut client = peer;
    // `HeaderMap` iterates backwards, too: the last field is the nearest proxy's.
    for field in headers.get_all(name).iter().rev() {
        let Ok(text) = field.to_str() else {
            return client;
        };
        for element in text.rsplit(',') {
            let address = match *name == FORWARDED {
                true => forwarded_for(element),
                false => address(element),
            };
            let Some(address) = address else {
                return client;
            };
            client = address;
            if !is_trusted(trusted, address) {
                return client;
            }
        }
    }
    client
}

/// The `for` of one element of `Forwarded`. A quoted string with `,` or `;` in it is no address and
/// comes apart into pieces that are none, either.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    let value = value.trim();
    let quoted = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    address(quoted.unwrap_or(value))
}

/// An address as proxies write it: bare, in brackets, with a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let bare = bracketed.unwrap_or(text).parse::<IpAddr>().ok();
    let address = bare.or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests;
