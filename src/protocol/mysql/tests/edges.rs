//! Limits to the byte, and what is seen on the wire only.

use super::super::gtid::GtidPosition;
use super::super::gtid::GtidSet;
use super::super::gtid::MAX_TEXT_BYTES;
use super::super::query;
use super::*;

#[test]
fn a_greeting_announces_the_nonce_and_its_nul() {
    let greeting = greeting("mysql_native_password");
    let before = 1 + greeting.server_version.len() + 1 + 4 + 8 + 1 + 2 + 1 + 2 + 2;
    assert_eq!(greeting.encode()[before], 21);
}

#[test]
fn a_login_may_be_as_long_as_the_limit() {
    let of_value = |bytes: usize| {
        let mut response = response();
        response.attributes = encode_attributes(&[("a", &"x".repeat(bytes))]);
        response.encode()
    };
    let around = of_value(70_000).len() - 70_000;
    let longest = of_value(MAX_LOGIN_BYTES - around);
    assert_eq!(longest.len(), MAX_LOGIN_BYTES);
    assert!(HandshakeResponse::parse(&longest).is_ok());
    let longer = of_value(MAX_LOGIN_BYTES - around + 1);
    assert!(HandshakeResponse::parse(&longer).is_err());
}

#[test]
fn gtids_may_be_as_long_as_the_limit() {
    for text in ["3e11fa47-71ca-11e1-9e33-c80aa9429562:1", "0-1-100"] {
        let parses = |bytes: usize| {
            let padded = text.to_owned() + &" ".repeat(bytes - text.len());
            GtidSet::parse(&padded).is_ok() || GtidPosition::parse(&padded).is_ok()
        };
        assert!(parses(MAX_TEXT_BYTES), "{text}");
        assert!(!parses(MAX_TEXT_BYTES + 1), "{text}");
    }
}

/// A flag that only the server has would change how its later packets are read.
#[test]
fn a_login_agrees_on_what_both_sides_can() {
    let mut stage = Stage::new(TlsUse::Never, ServerKey::Refuse);
    let greeting = greeting("mysql_native_password");
    assert!(greeting.capabilities.has(Capabilities::LOCAL_FILES));
    stage.client_answers(&greeting.encode());
    let Ok(Step::Done(done)) = stage.server_says(&ok()) else {
        panic!("not logged in");
    };
    assert!(!done.capabilities.has(Capabilities::LOCAL_FILES));
}

#[test]
fn a_login_to_a_database_says_which() {
    let credentials = Credentials {
        user: "probe".to_owned(),
        password: "secret".to_owned(),
        database: Some("shop".to_owned()),
    };
    let mut stage = Stage::new(TlsUse::Never, ServerKey::Refuse);
    stage.login = Login::new(credentials, TlsUse::Never, ServerKey::Refuse);
    let sent = stage.client_answers(&greeting("mysql_native_password").encode());
    let response = HandshakeResponse::parse(&sent).unwrap();
    assert_eq!(response.database.as_deref(), Some(&b"shop"[..]));
    assert!(response.capabilities.has(Capabilities::PROTOCOL_41));
}

#[test]
fn commands_are_one_packet_each() {
    assert_eq!(query::query("DO 1"), b"\x05\0\0\0\x03DO 1");
    assert_eq!(query::ping(), b"\x01\0\0\0\x0e");
    assert_eq!(query::quit(), b"\x01\0\0\0\x01");
}

#[test]
fn rows_are_counted_up_to_their_limit() {
    let payloads = result_set(
        DEPRECATED,
        &["a"],
        &vec![row(&[Some("x")]); LIMITS.max_rows],
    );
    let Ok(Some(Reply::Rows(rows))) = reply(DEPRECATED, &payloads) else {
        panic!("no rows");
    };
    assert_eq!(rows.len(), LIMITS.max_rows);
}

#[test]
fn a_request_for_a_local_file_is_called_so() {
    let refused = reply(DEPRECATED, &[b"\xfb/etc/passwd".to_vec()]);
    let expected = Malformed("request for a local file");
    assert_eq!(refused, Err(ReplyError::Malformed(expected)));
}

/// A length in eight bytes begins as EOF does.
#[test]
fn a_row_longer_than_an_eof_is_a_row() {
    let value = b"\xfe\x03\0\0\0\0\0\0\0abc".to_vec();
    let payloads = result_set(Capabilities::default(), &["a"], &[value]);
    let Ok(Some(Reply::Rows(rows))) = reply(Capabilities::default(), &payloads) else {
        panic!("no rows");
    };
    assert_eq!(rows.first().unwrap().text("a"), Some("abc"));
}
