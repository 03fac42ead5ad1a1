//! What a client may say first, case by case and by property.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::protocol::postgres::frontend;

const VERSION_3_0: u32 = 3 << 16;

fn message(code: u32, body: &[u8]) -> Vec<u8> {
    let length = (MIN_BYTES + body.len()) as u32;
    [&length.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

fn startup(parameters: &[u8]) -> Result<StartupMessage, StartupError> {
    let bytes = message(VERSION_3_0, parameters);
    match parse(&bytes)? {
        Opening::Complete {
            length,
            request: Request::Startup(startup),
        } => {
            assert_eq!(length, bytes.len());
            assert_eq!(startup.as_bytes(), bytes);
            Ok(startup)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_startup_message_names_user_and_database() {
    let both = startup(b"user\0alice\0database\0shop\0application_name\0psql\0\0").unwrap();
    assert_eq!(
        (both.user(), both.database()),
        (&b"alice"[..], &b"shop"[..])
    );
    assert_eq!(both.version(), (3, 0));
    assert_eq!(both.application_name(), Some("psql"));
    assert_eq!(both.parameter("User"), None);
    assert_eq!(both.parameters().count(), 3);
    let debugged = format!("{both:?}");
    assert!(debugged.contains("alice") && !debugged.contains("psql"));

    for only_user in [&b"user\0alice\0\0"[..], b"database\0\0user\0alice\0\0"] {
        assert_eq!(startup(only_user).unwrap().database(), b"alice");
    }
}

#[test]
fn the_last_of_two_users_counts_as_in_the_server() {
    let two = startup(b"user\0guest\0user\0admin\0\0").unwrap();
    assert_eq!(two.user(), b"admin");
}

#[test]
fn names_need_not_be_utf8() {
    let odd = startup(b"user\0\xff\xfe\0application_name\0\xff\0\0").unwrap();
    assert_eq!(odd.user(), b"\xff\xfe");
    assert_eq!(odd.application_name(), None);
}

#[test]
fn a_startup_message_without_a_user_is_refused() {
    for parameters in [
        &b"\0"[..],
        b"database\0shop\0\0",
        b"user\0\0\0",
        b"USER\0a\0\0",
    ] {
        let error = startup(parameters).unwrap_err();
        assert_eq!(error, StartupError::MissingUser);
        assert_eq!(error.sqlstate(), SqlState::INVALID_AUTHORIZATION);
    }
}

#[test]
fn a_wrong_layout_is_refused() {
    for parameters in [
        &b""[..],
        b"user",
        b"user\0",
        b"user\0alice",
        b"user\0alice\0",
        b"user\0alice\0\0x",
        b"user\0alice\0\0\0",
        b"user\0alice\0database\0",
    ] {
        let error = startup(parameters).unwrap_err();
        assert_eq!(error, StartupError::Layout, "{}", parameters.escape_ascii());
    }
}

#[test]
fn parameters_are_counted() {
    let at_limit = [
        &b"user\0a\0"[..],
        &b"a\0\0".repeat(MAX_PARAMETERS - 1),
        b"\0",
    ]
    .concat();
    assert!(startup(&at_limit).is_ok());
    let above = [&b"user\0a\0"[..], &b"a\0\0".repeat(MAX_PARAMETERS), b"\0"].concat();
    let error = startup(&above).unwrap_err();
    assert_eq!(error, StartupError::TooManyParameters);
}

#[test]
fn any_minor_version_is_left_to_the_server_and_no_other_major_is() {
    for minor in [0, 2, 9999] {
        let bytes = message(VERSION_3_0 | minor, b"user\0a\0\0");
        let Ok(Opening::Complete {
            request: Request::Startup(startup),
            ..
        }) = parse(&bytes)
        else {
            panic!("minor {minor}");
        };
        assert_eq!(startup.version(), (3, minor as u16));
    }
    for code in [0, 2 << 16, 4 << 16, 1234 << 16 | 5681, u32::MAX] {
        let error = parse(&message(code, b"")).unwrap_err();
        assert_eq!(error.sqlstate(), SqlState::FEATURE_NOT_SUPPORTED);
    }
    assert_eq!(
        parse(&message(2 << 16, b"")).unwrap_err().to_string(),
        "unsupported frontend protocol 2.0"
    );
}

#[test]
fn lengths_are_checked_before_the_body_arrives() {
    for length in [
        0,
        1,
        3,
        4,
        7,
        MAX_STARTUP_BYTES as u32 + 1,
        1 << 31,
        u32::MAX,
    ] {
        let header = [length.to_be_bytes(), VERSION_3_0.to_be_bytes()].concat();
        assert_eq!(parse(&header), Err(StartupError::Length), "{length}");
        assert_eq!(parse(&header[..4]), Err(StartupError::Length), "{length}");
    }
    let longest = (MAX_STARTUP_BYTES as u32).to_be_bytes();
    assert_eq!(
        parse(&[longest, VERSION_3_0.to_be_bytes()].concat()),
        Ok(Opening::Incomplete {
            needed: MAX_STARTUP_BYTES
        })
    );
    for first_bytes in [&b"G"[..], b"\x01", b"\0\x01", b"\0\0\x28", b"\x80"] {
        assert_eq!(parse(first_bytes), Err(StartupError::Length));
    }
}

#[test]
fn requests_for_encryption_have_no_body() {
    for code in [SSL_REQUEST, GSSENC_REQUEST] {
        assert_eq!(parse(&message(code, b"x")), Err(StartupError::Length));
    }
}

#[test]
fn every_cut_asks_for_no_more_than_the_message() {
    let messages = [
        message(VERSION_3_0, b"user\0alice\0\0"),
        message(CANCEL_REQUEST, b"\0\0\0\x07abcd"),
        message(SSL_REQUEST, b""),
        message(GSSENC_REQUEST, b""),
    ];
    for bytes in messages {
        for cut in 0..bytes.len() {
            let Ok(Opening::Incomplete { needed }) = parse(&bytes[..cut]) else {
                panic!("cut at {cut}");
            };
            assert!(needed > cut && needed <= bytes.len());
        }
        let length = bytes.len();
        assert!(
            matches!(parse(&bytes), Ok(Opening::Complete { length: found, .. }) if found == length)
        );
    }
}

#[test]
fn a_cancel_key_has_4_to_256_bytes() {
    for secret_bytes in [4, 32, 256] {
        let secret = vec![0xab; secret_bytes];
        let key = CancelKey::new(7, &secret).unwrap();
        let request = Request::Cancel(key.clone());
        let bytes = frontend::cancel_request(&key);
        let length = bytes.len();
        assert_eq!(parse(&bytes), Ok(Opening::Complete { length, request }));
        assert!(!format!("{key:?}").contains("171"), "the secret is shown");
    }
    for body_bytes in [0, 3, 4, 7, 261] {
        assert_eq!(
            parse(&message(CANCEL_REQUEST, &vec![1; body_bytes])),
            Err(StartupError::CancelLength)
        );
    }
}

#[test]
fn each_encryption_may_be_asked_for_once() {
    let [ssl, gssenc] = [SSL_REQUEST, GSSENC_REQUEST].map(|code| message(code, b""));
    for order in [[&ssl, &gssenc], [&gssenc, &ssl]] {
        let mut negotiation = Negotiation::new();
        for request in order {
            assert!(matches!(
                negotiation.next(request),
                Ok(Opening::Complete { length: 8, .. })
            ));
        }
        for request in order {
            assert_eq!(
                negotiation.next(request),
                Err(StartupError::RepeatedEncryption)
            );
        }
        let startup = message(VERSION_3_0, b"user\0a\0\0");
        assert!(negotiation.next(&startup).is_ok());
    }
}

#[test]
fn a_million_requests_end_at_the_third() {
    let mut negotiation = Negotiation::new();
    let requests = [SSL_REQUEST, GSSENC_REQUEST].map(|code| message(code, b""));
    let admitted = requests
        .iter()
        .cycle()
        .take(1_000_000)
        .take_while(|request| negotiation.next(request).is_ok());
    assert_eq!(admitted.count(), 2);
}

#[test]
fn an_incomplete_request_is_not_counted() {
    let mut negotiation = Negotiation::new();
    let ssl = message(SSL_REQUEST, b"");
    for cut in 0..ssl.len() {
        assert_eq!(
            negotiation.next(&ssl[..cut]),
            Ok(Opening::Incomplete { needed: 8 })
        );
    }
    assert!(negotiation.next(&ssl).is_ok());
}

#[test]
fn once_encrypted_nothing_but_a_session_or_a_cancel_may_begin() {
    for code in [SSL_REQUEST, GSSENC_REQUEST] {
        assert_eq!(
            Negotiation::encrypted().next(&message(code, b"")),
            Err(StartupError::RepeatedEncryption)
        );
    }
    assert_eq!(
        Negotiation::encrypted().next(b"\x16\x03\x01"),
        Err(StartupError::Length)
    );
    for (code, body) in [
        (VERSION_3_0, &b"user\0a\0\0"[..]),
        (CANCEL_REQUEST, b"\0\0\0\x01abcd"),
    ] {
        assert!(Negotiation::encrypted().next(&message(code, body)).is_ok());
    }
}

#[test]
fn bytes_behind_a_request_for_encryption_are_refused() {
    let startup = message(VERSION_3_0, b"user\0mallory\0\0");
    for code in [SSL_REQUEST, GSSENC_REQUEST] {
        for behind in [&startup[..], b"x", b"\x16\x03\x01"] {
            let stuffed = [&message(code, b""), behind].concat();
            let error = Negotiation::new().next(&stuffed).unwrap_err();
            assert_eq!(error, StartupError::StuffedBytes);
            assert_eq!(error.sqlstate(), SqlState::PROTOCOL_VIOLATION);
        }
    }
}

#[test]
fn direct_tls_is_the_very_first_byte_or_none() {
    let mut negotiation = Negotiation::new();
    assert_eq!(negotiation.next(b"\x16"), Ok(Opening::Tls));
    negotiation.next(&message(SSL_REQUEST, b"")).unwrap();
    assert_eq!(negotiation.next(b"\x16"), Err(StartupError::Length));
}

#[test]
fn options_are_found_wherever_the_server_would_look() {
    let option = |options: &str, name: &str| {
        let parameters = format!("user\0a\0{options}\0");
        let startup = startup(parameters.as_bytes()).unwrap();
        startup
            .option(name)
            .map(|value| String::from_utf8(value.into_owned()).unwrap())
    };
    for (options, expected) in [
        ("tenant.id\x007\0", Some("7")),
        ("TENANT.ID\x007\0", Some("7")),
        ("options\0-c tenant.id=7\0", Some("7")),
        ("options\0-ctenant.id=7\0", Some("7")),
        ("options\0--tenant.id=7\0", Some("7")),
        ("options\0--Tenant.Id=a=b\0", Some("a=b")),
        ("options\0  -c\ttenant.id=7 \0", Some("7")),
        ("options\0\r-c\x0btenant.id=7\r\0", Some("7")),
        ("options\0-c tenant.id=1 --tenant.id=2\0", Some("2")),
        ("options\0-c tenant.id=1\0tenant.id\x002\0", Some("2")),
        ("options\0-c tenant.id=a\\ b\\\\c\0", Some("a b\\c")),
        ("options\0-c tenant.id=\0", Some("")),
        ("options\0-c\0", None),
        ("options\0-c tenant.id\0", None),
        ("options\0tenant.id=7\0", None),
        ("options\0-c x.tenant.id=7\0", None),
        ("options\0-c tenant.id2=7\0", None),
        ("options\0\\\0", None),
        ("", None),
    ] {
        assert_eq!(
            option(options, "tenant.id").as_deref(),
            expected,
            "{options}"
        );
    }
    assert_eq!(
        option("options\0--my-key=1\0", "My_Key").as_deref(),
        Some("1")
    );
}

#[test]
fn replication_is_recognised_as_the_server_does() {
    for (value, expected) in [
        ("database", Replication::Logical),
        ("true", Replication::Physical),
        ("T", Replication::Physical),
        ("yes", Replication::Physical),
        ("on", Replication::Physical),
        ("1", Replication::Physical),
        ("o", Replication::None),
        ("", Replication::None),
        ("0", Replication::None),
        ("false", Replication::None),
        ("truely", Replication::None),
        ("Database", Replication::None),
    ] {
        let parameters = format!("user\0a\0replication\0{value}\0\0");
        let startup = startup(parameters.as_bytes()).unwrap();
        assert_eq!(startup.replication(), expected, "{value:?}");
    }
    let ordinary = startup(b"user\0a\0\0").unwrap();
    assert_eq!(ordinary.replication(), Replication::None);
}

#[test]
fn psql_is_understood() {
    let read = |seed| std::fs::read(format!("fuzz/corpus/postgres/{seed}")).unwrap();
    let Ok(Opening::Complete { request, .. }) = parse(&read("client_startup")) else {
        panic!("no startup message");
    };
    let Request::Startup(startup) = request else {
        panic!("{request:?}");
    };
    assert_eq!(
        (startup.user(), startup.database()),
        (&b"alice"[..], &b"shop"[..])
    );
    assert_eq!(startup.application_name(), Some("psql test"));
    assert_eq!(startup.option("tenant.id").as_deref(), Some(&b"7"[..]));
    assert_eq!(startup.option("work_mem").as_deref(), Some(&b"1MB"[..]));
    assert_eq!(
        parse(&read("client_ssl_request")),
        Ok(Opening::Complete {
            length: 8,
            request: Request::Ssl
        })
    );
    assert_eq!(
        parse(&read("client_gssenc_request")),
        Ok(Opening::Complete {
            length: 8,
            request: Request::GssEnc
        })
    );
    assert_eq!(parse(&read("client_direct_tls")), Ok(Opening::Tls));
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        pairs in vec(("[a-z_.]{1,20}", "[^\0]{0,30}"), 0..20),
        user in "[^\0]{1,20}",
    ) {
        let mut pairs: Vec<_> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
        pairs.push(("user", &*user));
        let bytes = frontend::startup_message(&pairs);
        let Ok(Opening::Complete { length, request: Request::Startup(startup) }) = parse(&bytes)
        else {
            return Err(TestCaseError::fail("not a startup message"));
        };
        prop_assert_eq!(length, bytes.len());
        let read: Vec<_> = startup.parameters().collect();
        let written: Vec<_> = pairs
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        prop_assert_eq!(read, written);
        prop_assert_eq!(startup.user(), user.as_bytes());
    }
}
