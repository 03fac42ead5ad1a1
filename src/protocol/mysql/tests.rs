//! Greetings, logins and answers, case by case and by property.

mod edges;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::encoding::PublicKeyX509Der;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::rsa::OAEP_SHA1_MGF1SHA1;
use aws_lc_rs::rsa::OaepPrivateDecryptingKey;
use aws_lc_rs::rsa::PrivateDecryptingKey;
use proptest::collection::vec;
use proptest::prelude::*;

use super::auth::Plugin;
use super::auth::seal_password;
use super::greeting::Dialect;
use super::greeting::FirstPacket;
use super::greeting::Greeting;
use super::handshake_response::FirstMessage;
use super::handshake_response::HandshakeResponse;
use super::handshake_response::MAX_LOGIN_BYTES;
use super::handshake_response::MAX_USER_BYTES;
use super::handshake_response::SslRequest;
use super::handshake_response::encode_attributes;
use super::login::Credentials;
use super::login::Login;
use super::login::LoginError;
use super::login::ServerKey;
use super::login::Step;
use super::login::TlsUse;
use super::packet::Message;
use super::packet::MessageReader;
use super::query::Limits;
use super::query::Reply;
use super::query::ReplyError;
use super::query::ReplyReader;
use super::response::EofPacket;
use super::response::OkPacket;
use super::response::ServerError;
use super::wire::put_lenenc_bytes;
use super::*;

const NONCE: [u8; 20] =
    *b"\x0a\x2f\x4a\x6f\x4b\x49\x22\x30\x58\x4c\x72\x4a\x25\x0d\x03\x50\x52\x02\x17\x15";
const OTHER_NONCE: [u8; 20] = *b"abcdefghijklmnopqrst";

fn server_capabilities() -> Capabilities {
    Capabilities(0xFFFF_FFFF)
        .without(Capabilities::COMPRESS)
        .without(Capabilities::ZSTD_COMPRESSION)
}

fn greeting(plugin: &str) -> Greeting {
    Greeting {
        server_version: "8.4.6".to_owned(),
        connection_id: 77,
        nonce: NONCE,
        capabilities: server_capabilities(),
        character_set: 255,
        status: Status::AUTOCOMMIT,
        auth_plugin: plugin.to_owned(),
    }
}

fn response() -> HandshakeResponse {
    HandshakeResponse {
        capabilities: Capabilities::PROTOCOL_41
            | Capabilities::LONG_PASSWORD
            | Capabilities::SECURE_CONNECTION
            | Capabilities::CONNECT_WITH_DB
            | Capabilities::PLUGIN_AUTH
            | Capabilities::CONNECT_ATTRS,
        max_packet_bytes: 1 << 24,
        character_set: 45,
        user: b"app".to_vec(),
        auth_response: vec![7; 20],
        database: Some(b"shop".to_vec()),
        auth_plugin: Some(b"mysql_native_password".to_vec()),
        attributes: encode_attributes(&[("_pid", "42"), ("program_name", "psql")]),
        zstd_level: None,
    }
}

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

/// A login and a server that is played by the test.
struct Stage {
    login: Login,
    sequence: u8,
}

impl Stage {
    fn new(tls: TlsUse, server_key: ServerKey) -> Self {
        let credentials = Credentials {
            user: "probe".to_owned(),
            password: "secret".to_owned(),
            database: None,
        };
        Self {
            login: Login::new(credentials, tls, server_key),
            sequence: 0,
        }
    }

    fn server_says(&mut self, payload: &[u8]) -> Result<Step, LoginError> {
        let sequence = self.sequence;
        self.sequence += 1;
        let payload = payload.to_vec();
        self.login.on_message(&Message { sequence, payload })
    }

    /// The payload that the client writes now.
    fn client_answers(&mut self, payload: &[u8]) -> Vec<u8> {
        match self.server_says(payload).unwrap() {
            Step::Send(bytes) => self.sent(&bytes),
            other => panic!("{other:?}"),
        }
    }

    fn sent(&mut self, bytes: &[u8]) -> Vec<u8> {
        if bytes.is_empty() {
            return Vec::new();
        }
        let mut rest = bytes;
        let message = MessageReader::new(10_000).read(&mut rest).unwrap().unwrap();
        assert_eq!(message.sequence, self.sequence);
        self.sequence += 1;
        assert!(rest.is_empty());
        message.payload
    }
}

fn ok() -> Vec<u8> {
    OkPacket {
        status: Status::AUTOCOMMIT,
        ..OkPacket::default()
    }
    .encode()
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

const DEPRECATED: Capabilities = Capabilities::DEPRECATE_EOF;
const LIMITS: Limits = Limits {
    max_columns: 100,
    max_rows: 2,
    max_bytes: 10_000,
};

fn definition(name: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    for text in ["def", "", "", "", name, "org"] {
        put_lenenc_bytes(&mut payload, text.as_bytes());
    }
    payload.extend_from_slice(&[0x0c, 33, 0, 0, 1, 0, 0, 0xfd, 0, 0, 0, 0, 0]);
    payload
}

fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut payload = Vec::new();
    for value in values {
        match value {
            Some(value) => put_lenenc_bytes(&mut payload, value.as_bytes()),
            None => payload.push(0xFB),
        }
    }
    payload
}

fn end(capabilities: Capabilities, status: Status) -> Vec<u8> {
    if capabilities.has(DEPRECATED) {
        let mut payload = OkPacket {
            status,
            ..OkPacket::default()
        }
        .encode();
        payload[0] = 0xFE;
        payload
    } else {
        EofPacket {
            warnings: 0,
            status,
        }
        .encode()
    }
}

fn result_set(capabilities: Capabilities, names: &[&str], rows: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut payloads = vec![vec![names.len() as u8]];
    payloads.extend(names.iter().map(|name| definition(name)));
    if !capabilities.has(DEPRECATED) {
        payloads.push(end(capabilities, Status::AUTOCOMMIT));
    }
    payloads.extend_from_slice(rows);
    payloads.push(end(capabilities, Status::AUTOCOMMIT));
    payloads
}

fn reply(capabilities: Capabilities, payloads: &[Vec<u8>]) -> Result<Option<Reply>, ReplyError> {
    let mut reader = ReplyReader::new(capabilities, LIMITS);
    let mut last = Ok(None);
    for (index, payload) in payloads.iter().enumerate() {
        assert_eq!(last, Ok(None), "before message {index}");
        last = reader.on_message(&Message {
            sequence: index as u8 + 1,
            payload: payload.clone(),
        });
    }
    last
}

#[test]
fn rows_are_read_by_the_names_of_their_columns() {
    let names: Vec<String> = (0..60).map(|index| format!("Column_{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut values = vec![None; 60];
    values[7] = Some("Yes");
    values[8] = Some("");
    for capabilities in [Capabilities::default(), DEPRECATED] {
        let payloads = result_set(capabilities, &names, &[row(&values)]);
        let Ok(Some(Reply::Rows(rows))) = reply(capabilities, &payloads) else {
            panic!("no rows");
        };
        assert_eq!((rows.len(), rows.column_names().len()), (1, 60));
        let row = rows.first().unwrap();
        assert_eq!(row.text("column_7"), Some("Yes"));
        assert_eq!(row.text("Column_8"), Some(""));
        assert_eq!(row.text("Column_9"), None);
        assert_eq!(row.text("absent"), None);
        assert_eq!(row.text_of_any(&["absent", "Column_7"]), Some("Yes"));
        assert_eq!(rows.status, Status::AUTOCOMMIT);
    }
}

#[test]
fn an_empty_result_an_ok_and_an_error_are_answers() {
    for capabilities in [Capabilities::default(), DEPRECATED] {
        let payloads = result_set(capabilities, &["a"], &[]);
        let Ok(Some(Reply::Rows(rows))) = reply(capabilities, &payloads) else {
            panic!("no rows");
        };
        assert!(rows.is_empty());
        let answer = reply(capabilities, &[ok()]).unwrap().unwrap();
        assert!(matches!(answer, Reply::Ok(_)));
        let error = ServerError::new(1227, *b"42000", "Access denied; you need SUPER");
        let head = reply(capabilities, &[error.encode()]);
        assert_eq!(head, Ok(Some(Reply::Error(error.clone()))));
        let mut payloads = result_set(capabilities, &["a"], &[]);
        *payloads.last_mut().unwrap() = error.encode();
        let among_rows = reply(capabilities, &payloads);
        assert_eq!(among_rows, Ok(Some(Reply::Error(error))));
    }
}

#[test]
fn answers_over_a_limit_or_out_of_shape_are_refused() {
    let many = |what| Err(ReplyError::TooMany(what));
    assert_eq!(reply(DEPRECATED, &[vec![101]]), many("columns"));
    let huge = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff".to_vec();
    assert_eq!(reply(DEPRECATED, &[huge]), many("columns"));
    let mut rows = result_set(DEPRECATED, &["a"], &vec![row(&[Some("x")]); 3]);
    rows.pop();
    assert_eq!(reply(DEPRECATED, &rows), many("rows"));
    let mut long = result_set(DEPRECATED, &["a"], &[row(&[Some(&"x".repeat(9990))])]);
    long.pop();
    assert_eq!(reply(DEPRECATED, &long), many("bytes"));

    let more = OkPacket {
        status: Status::MORE_RESULTS,
        ..OkPacket::default()
    };
    for head in [
        more.encode(),
        b"\xfb/etc/passwd".to_vec(),
        vec![],
        vec![1, 1],
    ] {
        let refused = reply(DEPRECATED, std::slice::from_ref(&head));
        assert!(matches!(refused, Err(ReplyError::Malformed(_))), "{head:?}");
    }
    for bad in [b"\x01a\x01b".to_vec(), b"\x05a".to_vec(), b"".to_vec()] {
        let mut payloads = result_set(DEPRECATED, &["a"], std::slice::from_ref(&bad));
        payloads.pop();
        let refused = reply(DEPRECATED, &payloads);
        assert!(matches!(refused, Err(ReplyError::Malformed(_))), "{bad:?}");
    }
    let mut reader = ReplyReader::new(DEPRECATED, LIMITS);
    let message = Message {
        sequence: 2,
        payload: ok(),
    };
    assert_eq!(reader.on_message(&message), Err(ReplyError::OutOfOrder));
}

#[test]
fn the_corpus_holds() {
    let seeds = std::fs::read_dir("fuzz/corpus/mysql").unwrap();
    let count = seeds
        .map(|seed| fuzz(&std::fs::read(seed.unwrap().path()).unwrap()))
        .count();
    assert!(count > 0, "no seeds");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        for choice in 0..5 {
            fuzz(&[&[choice], &bytes[..]].concat());
        }
        fuzz(&[&[1], &response().encode()[..32], &bytes[..]].concat());
        fuzz(&[&[1], &greeting("").encode()[..30], &bytes[..]].concat());
    }

    #[test]
    fn changed_payloads_never_panic(at: usize, byte: u8, choice in 0_u8..2) {
        let mut payload = match choice {
            0 => greeting("caching_sha2_password").encode(),
            _ => response().encode(),
        };
        let at = at % payload.len();
        payload[at] = byte;
        fuzz(&[&[1], &payload[..]].concat());
        let mut framed = vec![2, payload.len() as u8];
        framed.extend_from_slice(&payload);
        fuzz(&framed);
    }

    #[test]
    fn any_cut_gives_the_same_messages(
        payloads in vec(vec(any::<u8>(), 0..40), 1..6),
        chunks in vec(1_usize..30, 1..10),
    ) {
        let mut stream = Vec::new();
        for (index, payload) in payloads.iter().enumerate() {
            packet::write_message(&mut stream, index as u8, payload);
        }
        let mut reader = MessageReader::new(40);
        let mut messages = Vec::new();
        let mut chunk_bytes = chunks.into_iter().cycle();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk_bytes.next().unwrap().min(rest.len()));
            rest = after;
            let mut chunk = chunk;
            while let Some(message) = reader.read(&mut chunk).unwrap() {
                messages.push(message.payload);
            }
        }
        prop_assert_eq!(messages, payloads);
        prop_assert!(reader.is_between_messages());
    }
}
