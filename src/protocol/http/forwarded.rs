//! Who the client is and what it asked for: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//!
//! Both are always sent. What a peer claims is believed, and added to, only when the peer is
//! trusted; else it is replaced. A trusted peer has to set `X-Forwarded-For`, or remove what its
//! own client sent: where both kinds are there, `X-Forwarded-For` counts.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::ops::Range;

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

/// Writes the fields for the backend and returns the client's address: the peer's, or where it is
/// trusted the last one that no trusted proxy has.
pub fn apply(headers: &mut HeaderMap, arrival: &Arrival<'_>, trusted: &[IpNet]) -> IpAddr {
    // Once instead of again and again.
    headers.reserve(MAX_FIELDS);
    let peer = arrival.peer.to_canonical();
    if !is_trusted(trusted, peer) {
        remove_claims(headers);
        replace(headers, arrival, peer);
        return peer;
    }
    let client = client(headers, peer, trusted);
    append(headers, arrival, peer);
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

fn replace(headers: &mut HeaderMap, arrival: &Arrival<'_>, peer: IpAddr) {
    let element = Element::new(arrival, peer);
    insert(headers, &X_FORWARDED_FOR, element.peer());
    set_proto(headers, arrival);
    set_host(headers, &element);
    set_port(headers, arrival);
    insert(headers, &FORWARDED, element.text);
}

/// The first proxy knows best what the client asked for: its word stays.
fn append(headers: &mut HeaderMap, arrival: &Arrival<'_>, peer: IpAddr) {
    let element = Element::new(arrival, peer);
    extend(headers, &X_FORWARDED_FOR, element.peer());
    if !headers.contains_key(&X_FORWARDED_PROTO) {
        set_proto(headers, arrival);
    }
    if !headers.contains_key(&X_FORWARDED_HOST) {
        set_host(headers, &element);
    }
    if !headers.contains_key(&X_FORWARDED_PORT) {
        set_port(headers, arrival);
    }
    extend(headers, &FORWARDED, element.text);
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

fn set_proto(headers: &mut HeaderMap, arrival: &Arrival<'_>) {
    let scheme = HeaderValue::from_static(scheme(arrival));
    headers.insert(&X_FORWARDED_PROTO, scheme);
}

fn set_host(headers: &mut HeaderMap, element: &Element) {
    if let Some(authority) = element.authority() {
        insert(headers, &X_FORWARDED_HOST, authority);
    }
}

fn set_port(headers: &mut HeaderMap, arrival: &Arrival<'_>) {
    let port = match arrival.port {
        443 => HeaderValue::from_static("443"),
        80 => HeaderValue::from_static("80"),
        port => HeaderValue::from(port),
    };
    headers.insert(&X_FORWARDED_PORT, port);
}

fn scheme(arrival: &Arrival<'_>) -> &'static str {
    match arrival.tls {
        true => "https",
        false => "http",
    }
}

/// One element of `Forwarded`, which holds what other fields say: their values are parts of one
/// allocation.
struct Element {
    text: Bytes,
    peer: Range<usize>,
    authority: Range<usize>,
}

impl Element {
    /// The authority has been checked: nothing in it ends a quoted string.
    fn new(arrival: &Arrival<'_>, peer: IpAddr) -> Self {
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
        let authority = start..text.len();
        text.push_str(after);
        text.push_str(";proto=");
        text.push_str(scheme(arrival));
        Self {
            text: text.into(),
            peer,
            authority,
        }
    }

    fn peer(&self) -> Bytes {
        self.text.slice(self.peer.clone())
    }

    fn authority(&self) -> Option<Bytes> {
        let authority = self.authority.clone();
        (!authority.is_empty()).then(|| self.text.slice(authority))
    }
}

fn insert(headers: &mut HeaderMap, name: &HeaderName, value: Bytes) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value) {
        headers.insert(name, value);
    }
}

/// One field with all elements: there are readers that look only at the first field.
fn extend(headers: &mut HeaderMap, name: &HeaderName, element: Bytes) {
    if !headers.contains_key(name) {
        return insert(headers, name, element);
    }
    let mut joined = Vec::new();
    for field in headers.get_all(name) {
        joined.extend_from_slice(field.as_bytes());
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(&element);
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRUSTED: [&str; 2] = ["10.0.0.0/8", "fd00::/8"];

    fn trusted() -> Vec<IpNet> {
        TRUSTED.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn arrival(peer: &str) -> Arrival<'static> {
        Arrival {
            peer: peer.parse().unwrap(),
            tls: true,
            authority: Some("shop.example:8443"),
            port: 8443,
        }
    }

    fn with(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        };
        HeaderMap::from_iter(fields.iter().map(field))
    }

    /// What a stranger's claims are replaced by.
    fn strangers() -> HeaderMap {
        with(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example:8443"),
            ("x-forwarded-port", "8443"),
            (
                "forwarded",
                "for=192.0.2.1;host=\"shop.example:8443\";proto=https",
            ),
        ])
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_written_as_everybody_writes_them() {
        for octet in 0..=u8::MAX {
            let address = IpAddr::from([octet, 255 - octet, 0, octet]);
            let mut text = String::new();
            push_address(&mut text, address);
            assert_eq!(text, address.to_string());
        }
    }

    #[test]
    fn a_strangers_claims_are_replaced() {
        let mut headers = with(&[
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-prefix", "/admin"),
            ("x_forwarded_for", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1"),
        ]);
        let client = apply(&mut headers, &arrival("192.0.2.1"), &trusted());
        assert_eq!(client, ip("192.0.2.1"));
        assert_eq!(headers, strangers());
        // Nobody is trusted.
        let mut headers = with(&[("x-forwarded-for", "127.0.0.1")]);
        apply(&mut headers, &arrival("192.0.2.1"), &[]);
        assert_eq!(headers, strangers());
    }

    #[test]
    fn a_trusted_peers_word_stays_and_is_added_to() {
        let mut headers = with(&[
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-for", "10.0.0.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "www.example"),
            ("x-forwarded-port", "80"),
            ("forwarded", "for=198.51.100.7;proto=http"),
        ]);
        let client = apply(&mut headers, &arrival("10.0.0.1"), &trusted());
        assert_eq!(client, ip("198.51.100.7"));
        let all =
            "for=198.51.100.7;proto=http, for=10.0.0.1;host=\"shop.example:8443\";proto=https";
        let expected = with(&[
            ("x-forwarded-for", "198.51.100.7, 10.0.0.9, 10.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "www.example"),
            ("x-forwarded-port", "80"),
            ("forwarded", all),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_trusted_peer_that_says_nothing_is_the_client() {
        let mut headers = HeaderMap::new();
        let client = apply(&mut headers, &arrival("10.0.0.1"), &trusted());
        assert_eq!(client, ip("10.0.0.1"));
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1");
        assert_eq!(headers["x-forwarded-proto"], "https");
    }

    #[test]
    fn the_client_is_the_last_one_that_is_not_trusted() {
        for (list, client) in [
            ("203.0.113.9, 198.51.100.7", "198.51.100.7"),
            ("203.0.113.9, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("198.51.100.7:4711", "198.51.100.7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("::ffff:198.51.100.7, ::ffff:10.0.0.2", "198.51.100.7"),
            // What is no address hides what stands before it.
            ("198.51.100.7, unknown, 10.0.0.2", "10.0.0.2"),
            ("198.51.100.7,, 10.0.0.2", "10.0.0.2"),
            ("\u{e9}", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            let mut headers = with(&[("x-forwarded-for", list)]);
            let found = apply(&mut headers, &arrival("10.0.0.1"), &trusted());
            assert_eq!(found, ip(client), "{list}");
        }
    }

    #[test]
    fn the_client_is_read_from_forwarded_where_nothing_else_is() {
        for (list, client) in [
            ("for=198.51.100.7;proto=https", "198.51.100.7"),
            (
                "proto=https; For=\"[2001:db8::7]:4711\" , for=10.0.0.2",
                "2001:db8::7",
            ),
            ("for=\"198.51.100.7:80\"", "198.51.100.7"),
            ("for=198.51.100.7, proto=https", "10.0.0.1"),
            ("for=_hidden", "10.0.0.1"),
            ("for=\"a,for=198.51.100.7\"", "10.0.0.1"),
        ] {
            let mut headers = with(&[("forwarded", list)]);
            let found = apply(&mut headers, &arrival("10.0.0.1"), &trusted());
            assert_eq!(found, ip(client), "{list}");
        }
        let fields = [
            ("forwarded", "for=203.0.113.9"),
            ("x-forwarded-for", "198.51.100.7"),
        ];
        let found = apply(&mut with(&fields), &arrival("10.0.0.1"), &trusted());
        assert_eq!(found, ip("198.51.100.7"));
    }

    #[test]
    fn an_address_of_version_6_is_quoted() {
        let mut headers = HeaderMap::new();
        let plain = Arrival {
            tls: false,
            authority: Some("[2001:db8::1]"),
            ..arrival("2001:db8::5")
        };
        apply(&mut headers, &plain, &[]);
        assert_eq!(headers["x-forwarded-for"], "2001:db8::5");
        let element = "for=\"[2001:db8::5]\";host=\"[2001:db8::1]\";proto=http";
        assert_eq!(headers["forwarded"], element);
    }

    #[test]
    fn an_address_is_trusted_in_either_spelling() {
        assert!(is_trusted(&trusted(), ip("::ffff:10.1.2.3")));
        assert!(is_trusted(&trusted(), ip("fd00::1")));
        assert!(!is_trusted(&trusted(), ip("::ffff:192.0.2.1")));
        assert!(!is_trusted(&[], ip("10.1.2.3")));
    }

    proptest! {
        #[test]
        fn no_stranger_can_say_who_it_is(
            list in prop::collection::vec("[ -~]{0,20}", 0..4),
            names in prop::collection::vec("x[-_]forwarded[-_](for|host|server)", 4),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in names.iter().zip(&list) {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            let client = apply(&mut headers, &arrival("192.0.2.1"), &trusted());
            prop_assert_eq!(client, ip("192.0.2.1"));
            prop_assert_eq!(headers, strangers());
        }

        #[test]
        fn the_whole_list_is_kept_and_ends_with_the_peer(list in "[ -~]{0,40}") {
            let mut headers = with(&[("x-forwarded-for", &list)]);
            apply(&mut headers, &arrival("10.0.0.1"), &trusted());
            prop_assert_eq!(&headers["x-forwarded-for"], &format!("{list}, 10.0.0.1"));
        }

        #[test]
        fn a_chain_of_trusted_proxies_agrees_on_the_client(
            client: std::net::Ipv4Addr,
            hops in prop::collection::vec(0..=255_u8, 1..5),
        ) {
            let client = IpAddr::V4(client);
            prop_assume!(!is_trusted(&trusted(), client));
            let mut headers = HeaderMap::new();
            let mut peer = client;
            for hop in hops {
                let here = Arrival { peer, ..arrival("::") };
                prop_assert_eq!(apply(&mut headers, &here, &trusted()), client);
                peer = IpAddr::from([10, 0, 0, hop]);
            }
        }
    }
}
