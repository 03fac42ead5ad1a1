//! Sessions that begin with their login.

use super::*;

fn greeting(capabilities: Capabilities) -> Vec<u8> {
    let greeting = Greeting {
        server_version: "8.4.6".to_owned(),
        connection_id: 1,
        nonce: [7; 20],
        capabilities,
        character_set: 45,
        status: AUTOCOMMIT,
        auth_plugin: "caching_sha2_password".to_owned(),
    };
    message(0, &greeting.encode())
}

fn response(capabilities: Capabilities) -> Vec<u8> {
    let fixed = SslRequest {
        capabilities,
        max_packet_bytes: 1 << 24,
        character_set: 45,
    };
    message(1, &[&fixed.encode()[..], b"user\0\x03abc"].concat())
}

const CLIENT: Capabilities = Capabilities(
    Capabilities::LONG_PASSWORD.0
        | Capabilities::PROTOCOL_41.0
        | Capabilities::SECURE_CONNECTION.0
        | Capabilities::SSL.0,
);

#[test]
fn a_login_is_followed_to_its_end() {
    let all = Capabilities(0xFFFF_FFFF);
    for (client, after) in [
        (CLIENT, Idle),
        (CLIENT | DEPRECATED, Idle),
        (CLIENT | Capabilities::COMPRESS, Unknown),
        (CLIENT | Capabilities::ZSTD_COMPRESSION, Unknown),
        (CLIENT | Capabilities::OPTIONAL_RESULTSET_METADATA, Unknown),
    ] {
        let mut session = SessionFollower::new();
        assert_eq!(session.state(), Login);
        session.on_server(&greeting(all));
        session.on_client(&response(client));
        session.on_server(&message(
            2,
            b"\xfemysql_native_password\0abcdefghijklmnopqrst\0",
        ));
        session.on_client(&message(3, b""));
        session.on_server(&message(4, b"\x01\x03"));
        assert_eq!(session.state(), Login);
        session.on_server(&message(5, &ok(AUTOCOMMIT)));
        assert_eq!(session.state(), after, "{client:?}");
        assert_eq!(session.is_transparent(), after == Unknown);
        if after == Idle {
            let capabilities = client & DEPRECATED;
            let rows = result_set(capabilities, 1, IN_TRANSACTION);
            let state = exchange(&mut session, &query("SELECT 1"), &rows);
            assert_eq!(state, InTransaction);
        }
    }
}

#[test]
fn compression_that_the_server_does_not_offer_is_not_used() {
    let mut session = SessionFollower::new();
    session.on_server(&greeting(CLIENT));
    session.on_client(&response(CLIENT | Capabilities::COMPRESS | DEPRECATED));
    session.on_server(&message(2, &ok(AUTOCOMMIT)));
    assert_eq!(session.state(), Idle);
    let rows = result_set(OLD, 1, IN_TRANSACTION);
    assert_eq!(
        exchange(&mut session, &query("SELECT 1"), &rows),
        InTransaction
    );
}

#[test]
fn tls_from_end_to_end_is_not_followed() {
    let mut session = SessionFollower::new();
    session.on_server(&greeting(CLIENT));
    let request = SslRequest {
        capabilities: CLIENT,
        max_packet_bytes: 1,
        character_set: 45,
    };
    session.on_client(&message(1, &request.encode()));
    assert!(session.is_transparent());
    session.on_client(b"\x16\x03\x01\0\x05");
    assert_eq!(session.state(), Unknown);
}

#[test]
fn a_refused_login_tells_why() {
    let mut session = SessionFollower::new();
    let error = ServerError::new(1040, *b"08004", "Too many connections");
    let seen = session.on_server(&message(0, &error.encode_as_first_packet()));
    assert_eq!(seen.first().map(|seen| seen.code), Some(1040));
    assert_eq!(session.state(), Login);
    let mut session = SessionFollower::new();
    session.on_server(b"\x05\0\0\0SSH-2");
    assert!(session.is_transparent());
}
