//! Who is believed about the client, and what is told to backends.

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

/// As for the first request of a connection.
fn apply(headers: &mut HeaderMap, arrival: &Arrival<'_>, trusted: &[IpNet]) -> IpAddr {
    super::apply(headers, arrival, trusted, &mut Written::default())
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

/// Each request of a connection may name another host, or none.
#[test]
fn what_was_written_for_another_request_is_not_written_again() {
    let usual = arrival("192.0.2.1");
    let arrivals = [
        usual,
        Arrival {
            authority: None,
            ..usual
        },
        Arrival {
            authority: Some("b.example"),
            ..usual
        },
        Arrival { port: 1, ..usual },
        Arrival {
            tls: !usual.tls,
            ..usual
        },
        Arrival {
            peer: ip("192.0.2.2"),
            ..usual
        },
        Arrival {
            peer: ip("10.0.0.1"),
            ..usual
        },
    ];
    for (first, second) in arrivals
        .iter()
        .flat_map(|one| arrivals.map(|other| (one, other)))
    {
        let mut written = Written::default();
        super::apply(&mut HeaderMap::new(), first, &trusted(), &mut written);
        let (mut again, mut alone) = (HeaderMap::new(), HeaderMap::new());
        super::apply(&mut again, &second, &trusted(), &mut written);
        apply(&mut alone, &second, &trusted());
        assert_eq!(again, alone, "after {first:?}");
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
    let all = "for=198.51.100.7;proto=http, for=10.0.0.1;host=\"shop.example:8443\";proto=https";
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
