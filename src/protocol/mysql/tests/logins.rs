//! Logins, with a server that is played by the test.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::encoding::PublicKeyX509Der;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::rsa::OAEP_SHA1_MGF1SHA1;
use aws_lc_rs::rsa::OaepPrivateDecryptingKey;
use aws_lc_rs::rsa::PrivateDecryptingKey;

use super::*;
use crate::protocol::mysql::auth::Plugin;
use crate::protocol::mysql::auth::seal_password;

#[test]
fn passwords_are_scrambled_as_servers_expect() {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let sha2 = Plugin::CachingSha2Password;
    assert_eq!(
        hex(&sha2.scramble("secret", &NONCE)),
        "f490e76f66d9d86665ce54d98c78d0acfe2fb0b08b423da807144873d30b312c"
    );
    assert_eq!(
        hex(&sha2.scramble("secret2", &NONCE)),
        "abc3934a012cf342e876071c8ee202de51785b430258a7a0138bc79c4d800bc6"
    );
    let native = Plugin::NativePassword.scramble("secret", &OTHER_NONCE);
    assert_eq!(native.len(), 20);
    assert_eq!(hex(&native), NATIVE_SECRET);
    assert_eq!(sha2.scramble("", &NONCE), b"");
    assert_eq!(Plugin::NativePassword.scramble("", &NONCE), b"");
    assert_eq!(Plugin::from_name(b"mysql_clear_password"), None);
}

/// SHA1(password) XOR SHA1(nonce + SHA1(SHA1(password))), computed with Python's hashlib.
const NATIVE_SECRET: &str = "8817c50fa779daef010ee7577825b0847df9842e";

fn pem(key: &PrivateDecryptingKey) -> Vec<u8> {
    let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    let text = base64(der.as_ref());
    format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n").into_bytes()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().chain([&0; 2]).take(3);
        let group = group.fold(0_usize, |group, byte| group << 8 | usize::from(*byte));
        for digit in 0..4 {
            let index = group >> (18 - 6 * digit) & 63;
            text.push(if digit > chunk.len() {
                '='
            } else {
                char::from(ALPHABET[index])
            });
        }
    }
    text
}

fn unseal(key: PrivateDecryptingKey, sealed: &[u8], nonce: &[u8; 20]) -> Vec<u8> {
    let key = OaepPrivateDecryptingKey::new(key).unwrap();
    let mut clear = vec![0; key.min_output_size()];
    let clear = key.decrypt(&OAEP_SHA1_MGF1SHA1, sealed, &mut clear, None);
    let masked = clear.unwrap().iter().zip(nonce.iter().cycle());
    masked.map(|(byte, mask)| byte ^ mask).collect()
}

#[test]
fn a_key_that_is_none_seals_nothing() {
    for pem in [
        &b""[..],
        b"junk",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ] {
        assert!(seal_password("secret", &NONCE, pem).is_err());
    }
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let too_long = "p".repeat(300);
    assert!(seal_password(&too_long, &NONCE, &pem(&key)).is_err());
}

fn switch_to(plugin: &str, nonce: &[u8]) -> Vec<u8> {
    [&b"\xfe"[..], plugin.as_bytes(), b"\0", nonce, b"\0"].concat()
}

#[test]
fn a_native_login_takes_one_answer() {
    let mut stage = Stage::new(TlsUse::Never, ServerKey::Refuse);
    let sent = stage.client_answers(&greeting("mysql_native_password").encode());
    let response = HandshakeResponse::parse(&sent).unwrap();
    assert_eq!(response.user, b"probe");
    let scramble = Plugin::NativePassword.scramble("secret", &NONCE);
    assert_eq!(response.auth_response, scramble);
    assert!(!response.capabilities.has(Capabilities::LOCAL_FILES));
    assert!(!response.capabilities.has(Capabilities::SSL));
    let Ok(Step::Done(done)) = stage.server_says(&ok()) else {
        panic!("not logged in");
    };
    assert!(done.capabilities.has(Capabilities::DEPRECATE_EOF));
    assert_eq!(done.greeting.connection_id, 77);
}

#[test]
fn a_switch_is_answered_with_the_new_nonce() {
    let mut stage = Stage::new(TlsUse::Never, ServerKey::Refuse);
    stage.client_answers(&greeting("parsec").encode());
    let answer = stage.client_answers(&switch_to("caching_sha2_password", &OTHER_NONCE));
    let sha2 = Plugin::CachingSha2Password;
    assert_eq!(answer, sha2.scramble("secret", &OTHER_NONCE));
    assert_eq!(stage.client_answers(b"\x01\x03"), b"", "fast path");
    assert!(matches!(stage.server_says(&ok()), Ok(Step::Done(_))));
}

#[test]
fn the_whole_password_goes_out_inside_tls_only() {
    let mut stage = Stage::new(TlsUse::IfOffered, ServerKey::Refuse);
    let hello = greeting("caching_sha2_password").encode();
    let Ok(Step::StartTls(bytes)) = stage.server_says(&hello) else {
        panic!("no TLS");
    };
    let request = stage.sent(&bytes);
    let first = FirstMessage::parse(&request).unwrap();
    assert!(matches!(first, FirstMessage::SslRequest(_)));
    let Ok(Step::Send(bytes)) = stage.login.tls_established() else {
        panic!("no response");
    };
    let response = HandshakeResponse::parse(&stage.sent(&bytes)).unwrap();
    assert!(response.capabilities.has(Capabilities::SSL));
    assert_eq!(stage.client_answers(b"\x01\x04"), b"secret\0");
    assert!(matches!(stage.server_says(&ok()), Ok(Step::Done(_))));
}

#[test]
fn a_protected_channel_needs_no_tls_of_its_own() {
    let mut stage = Stage::new(TlsUse::Always, ServerKey::Refuse);
    stage.login = stage.login.on_protected_channel();
    let sent = stage.client_answers(&greeting("caching_sha2_password").encode());
    let response = HandshakeResponse::parse(&sent).unwrap();
    assert!(!response.capabilities.has(Capabilities::SSL));
    assert_eq!(stage.client_answers(b"\x01\x04"), b"secret\0");
}

#[test]
fn without_tls_the_password_is_sealed_or_kept() {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let hello = greeting("caching_sha2_password").encode();
    let mut stage = Stage::new(TlsUse::Never, ServerKey::Trust);
    stage.client_answers(&hello);
    assert_eq!(stage.client_answers(b"\x01\x04"), b"\x02");
    let sealed = stage.client_answers(&[&b"\x01"[..], &pem(&key)].concat());
    assert_eq!(unseal(key, &sealed, &NONCE), b"secret\0");
    assert!(matches!(stage.server_says(&ok()), Ok(Step::Done(_))));

    let mut stage = Stage::new(TlsUse::Never, ServerKey::Refuse);
    stage.client_answers(&hello);
    let refused = stage.server_says(b"\x01\x04");
    assert_eq!(refused, Err(LoginError::NeedsTls));
}

#[test]
fn tls_that_must_be_is_not_done_without() {
    let mut stage = Stage::new(TlsUse::Always, ServerKey::Trust);
    let mut hello = greeting("caching_sha2_password");
    hello.capabilities = hello.capabilities.without(Capabilities::SSL);
    let refused = stage.server_says(&hello.encode());
    assert_eq!(refused, Err(LoginError::NoTls));
}

#[test]
fn an_evil_server_learns_nothing() {
    let hello = greeting("caching_sha2_password").encode();
    let after_hello = |payloads: &[&[u8]]| {
        let mut stage = Stage::new(TlsUse::Never, ServerKey::Trust);
        stage.client_answers(&hello);
        let mut last = None;
        for payload in payloads {
            let step = stage.server_says(payload);
            if let Ok(Step::Send(bytes)) = &step {
                stage.sent(bytes);
            }
            last = Some(step);
        }
        last.unwrap().unwrap_err()
    };
    let clear = switch_to("mysql_clear_password", &NONCE);
    assert_eq!(
        after_hello(&[&clear]),
        LoginError::UnsupportedPlugin("mysql_clear_password".to_owned())
    );
    assert_eq!(
        after_hello(&[b"\xfe"]),
        LoginError::UnsupportedPlugin("mysql_old_password".to_owned())
    );
    let short = switch_to("mysql_native_password", b"short");
    assert!(matches!(after_hello(&[&short]), LoginError::Malformed(_)));
    for payload in [
        &b""[..],
        b"\x01",
        b"\x01\x05",
        b"\x01-----BEGIN",
        b"\x02",
        b"\xfb/etc/passwd",
    ] {
        assert!(matches!(after_hello(&[payload]), LoginError::Malformed(_)));
    }
    let native = switch_to("mysql_native_password", &NONCE);
    assert!(matches!(
        after_hello(&[&native, b"\x01\x04"]),
        LoginError::Malformed(_)
    ));
    let endless: Vec<&[u8]> = vec![b"\x01\x03"; 8];
    assert_eq!(after_hello(&endless), LoginError::TooManyMessages);
    let denied = ServerError::new(1045, *b"28000", "Access denied");
    assert_eq!(
        after_hello(&[&denied.encode()]),
        LoginError::Refused(denied)
    );
}

#[test]
fn packets_out_of_order_end_a_login() {
    let mut stage = Stage::new(TlsUse::Never, ServerKey::Refuse);
    stage.client_answers(&greeting("mysql_native_password").encode());
    stage.sequence += 1;
    assert_eq!(stage.server_says(&ok()), Err(LoginError::OutOfOrder));
}
