//! Greetings, and what a client says first.

use super::*;
use crate::protocol::mysql::greeting::Dialect;
use crate::protocol::mysql::greeting::FirstPacket;
use crate::protocol::mysql::handshake_response::MAX_USER_BYTES;

#[test]
fn greetings_go_round() {
    let mysql = greeting("caching_sha2_password");
    assert_eq!(Greeting::parse(&mysql.encode()), Ok(mysql.clone()));
    assert_eq!(mysql.dialect(), Dialect::MySql);
    assert_eq!(mysql.version(), (8, 4, 6));
}

#[test]
fn mariadb_is_told_by_its_prefix_its_name_or_its_flags() {
    let mut mariadb = greeting("mysql_native_password");
    mariadb.server_version = "5.5.5-10.11.11-MariaDB-0+deb12u1".to_owned();
    assert_eq!(mariadb.dialect(), Dialect::MariaDb);
    assert_eq!(mariadb.version(), (10, 11, 11));
    mariadb.server_version = "11.8.2-MariaDB-log".to_owned();
    assert_eq!(mariadb.dialect(), Dialect::MariaDb);
    mariadb.server_version = "11.8.2".to_owned();
    let own = mariadb.capabilities.without(Capabilities::LONG_PASSWORD);
    mariadb.capabilities = own | Capabilities::MARIADB_CACHE_METADATA;
    assert_eq!(mariadb.dialect(), Dialect::MariaDb);
    assert_eq!(Greeting::parse(&mariadb.encode()), Ok(mariadb));
}

#[test]
fn a_real_mariadb_greets() {
    let seed = std::fs::read("fuzz/corpus/mysql/mariadb_greeting").unwrap();
    let greeting = Greeting::parse(&seed[1..]).unwrap();
    assert_eq!(greeting.dialect(), Dialect::MariaDb);
    assert_eq!(greeting.version().0, 10);
    assert_eq!(greeting.auth_plugin, "mysql_native_password");
    assert!(greeting.capabilities.has(Capabilities::DEPRECATE_EOF));
    assert!(
        greeting
            .capabilities
            .has(Capabilities::MARIADB_CACHE_METADATA)
    );
}

#[test]
fn an_error_may_come_instead_of_a_greeting() {
    let error = ServerError::new(1040, *b"HY000", "Too many connections");
    let first = FirstPacket::parse(&error.encode_as_first_packet());
    assert_eq!(first, Ok(FirstPacket::Refused(error)));
}

#[test]
fn greetings_that_are_cut_or_foreign_are_refused() {
    let whole = greeting("").encode();
    for end in 0..whole.len() - 1 {
        assert!(Greeting::parse(&whole[..end]).is_err(), "{end}");
    }
    assert!(Greeting::parse(b"\x09old").is_err());
    assert!(Greeting::parse(b"SSH-2.0-OpenSSH_9.2p1\r\n").is_err());
    let mut ancient = greeting("");
    ancient.capabilities = Capabilities::LONG_PASSWORD;
    assert!(Greeting::parse(&ancient.encode()).is_err());
    let mut long = greeting("");
    long.server_version = "8".repeat(2000);
    assert!(Greeting::parse(&long.encode()).is_err());
}

#[test]
fn responses_go_round_in_all_their_forms() {
    let base = response();
    for extra in [
        Capabilities::default(),
        Capabilities::PLUGIN_AUTH_LENENC_DATA,
        Capabilities::SSL,
    ] {
        let mut response = base.clone();
        response.capabilities = response.capabilities | extra;
        assert_eq!(
            FirstMessage::parse(&response.encode()),
            Ok(FirstMessage::Response(response.clone()))
        );
        assert_eq!(response.attribute("program_name"), Some(&b"psql"[..]));
        assert_eq!(response.attribute("absent"), None);
    }
    let mut zstd = base;
    zstd.capabilities = zstd.capabilities | Capabilities::ZSTD_COMPRESSION;
    zstd.zstd_level = Some(3);
    assert_eq!(HandshakeResponse::parse(&zstd.encode()), Ok(zstd));
}

#[test]
fn a_request_for_tls_is_told_from_a_login() {
    let request = SslRequest {
        capabilities: Capabilities::PROTOCOL_41 | Capabilities::LONG_PASSWORD | Capabilities::SSL,
        max_packet_bytes: 1 << 24,
        character_set: 45,
    };
    assert_eq!(
        FirstMessage::parse(&request.encode()),
        Ok(FirstMessage::SslRequest(request))
    );
    let plain = SslRequest {
        capabilities: request.capabilities.without(Capabilities::SSL),
        ..request
    };
    assert!(FirstMessage::parse(&plain.encode()).is_err());
    let ancient = SslRequest {
        capabilities: Capabilities::SSL,
        ..request
    };
    assert!(FirstMessage::parse(&ancient.encode()).is_err());
}

#[test]
fn evil_lengths_in_a_login_are_refused() {
    let fixed = &response().encode()[..32];
    let lenenc = {
        let mut lenenc = response();
        lenenc.capabilities = lenenc.capabilities | Capabilities::PLUGIN_AUTH_LENENC_DATA;
        lenenc.encode()[..32].to_vec()
    };
    for (fixed, rest) in [
        (fixed, &b"no end of the user"[..]),
        (fixed, b"u\0"),
        (fixed, b"u\0\xff1234"),
        (
            fixed,
            b"u\0\0db\0plugin\0\xfe\xff\xff\xff\xff\xff\xff\xff\xff",
        ),
        (fixed, b"u\0\0db\0plugin\0\x05\x03abc\x09"),
        (&lenenc, b"u\0\xfd\xff\xff\xffabc"),
        (&lenenc, b"u\0\xfb"),
    ] {
        let payload = [fixed, rest].concat();
        assert!(FirstMessage::parse(&payload).is_err(), "{rest:?}");
    }
    let mut long = response();
    long.user = vec![b'u'; MAX_USER_BYTES + 1];
    assert!(HandshakeResponse::parse(&long.encode()).is_err());
    let mut huge = response();
    huge.attributes = encode_attributes(&[("a", &"x".repeat(MAX_LOGIN_BYTES))]);
    assert!(HandshakeResponse::parse(&huge.encode()).is_err());
}

#[test]
fn fields_that_a_client_announced_and_left_out_are_absent() {
    let payload = [&response().encode()[..32], b"u\0\0"].concat();
    let parsed = HandshakeResponse::parse(&payload).unwrap();
    assert_eq!((parsed.database, parsed.auth_plugin), (None, None));
}
