//! What a follower sees of a server's stream, however it is cut.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::protocol::postgres::backend;
use crate::protocol::postgres::backend::Authentication;
use crate::protocol::postgres::error::ErrorResponse;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = (4 + body.len() as u32).to_be_bytes();
    [&[tag], &length[..], body].concat()
}

fn ready(status: TransactionStatus) -> Vec<u8> {
    backend::ready_for_query(status)
}

fn issued() -> IssuedKey {
    IssuedKey {
        process_id: None,
        random: std::array::from_fn(|at| 0x40 + at as u8),
    }
}

/// Feeds chunks of this size; returns what passed, what was seen, and the first error.
fn feed(
    follower: &mut ServerFollower,
    stream: &[u8],
    chunk_bytes: usize,
) -> (Vec<u8>, Vec<Event>, Option<FollowError>) {
    let (mut passed, mut events, mut failure) = (stream.to_vec(), Vec::new(), None);
    for chunk in passed.chunks_mut(chunk_bytes) {
        let fed = follower.feed(chunk, |event| events.push(event));
        failure = failure.or(fed.err());
    }
    (passed, events, failure)
}

/// The events of a valid stream, which must be the same for every size of chunk.
fn events(stream: &[u8]) -> Vec<Event> {
    let whole = feed(&mut ServerFollower::new(), stream, stream.len());
    assert_eq!(whole.0, stream, "bytes were changed");
    assert_eq!(whole.2, None);
    for chunk_bytes in 1..stream.len() {
        let cut = feed(&mut ServerFollower::new(), stream, chunk_bytes);
        assert_eq!(cut, whole, "chunks of {chunk_bytes}");
    }
    whole.1
}

fn error(severity: Severity, sqlstate: Option<SqlState>) -> Event {
    Event::Error {
        severity,
        sqlstate,
        is_orphaned: false,
    }
}

#[test]
fn a_session_is_seen_from_login_to_its_last_error() {
    let stream = [
        backend::authentication(Authentication::Sasl {
            mechanisms: &["SCRAM-SHA-256"],
        }),
        backend::authentication(Authentication::SaslContinue(b"r=x")),
        backend::authentication(Authentication::SaslFinal(b"v=x")),
        backend::authentication(Authentication::Ok),
        backend::parameter_status("server_version", "18.1"),
        backend::backend_key_data(&CancelKey::new(7, b"abcd").unwrap()),
        ready(TransactionStatus::Idle),
        backend::command_complete("BEGIN"),
        ready(TransactionStatus::InTransaction),
        ErrorResponse::error(SqlState::READ_ONLY_SQL_TRANSACTION, "no").encode(),
        ready(TransactionStatus::Failed),
        message(b'W', b"\0\0\0"),
        ErrorResponse::fatal(SqlState::ADMIN_SHUTDOWN, "bye").encode(),
    ]
    .concat();
    assert_eq!(
        events(&stream),
        [
            Event::AuthenticationOk,
            Event::ReadyForQuery(TransactionStatus::Idle),
            Event::ReadyForQuery(TransactionStatus::InTransaction),
            error(Severity::Error, Some(SqlState::READ_ONLY_SQL_TRANSACTION)),
            Event::ReadyForQuery(TransactionStatus::Failed),
            Event::CopyBoth,
            error(Severity::Fatal, Some(SqlState::ADMIN_SHUTDOWN)),
        ]
    );
}

#[test]
fn bodies_that_look_like_messages_are_not_looked_into() {
    let decoy = [
        ready(TransactionStatus::Failed),
        message(b'E', b"C57P01\0\0"),
    ]
    .concat();
    let stream = [
        message(b'D', &decoy),
        message(b'd', &decoy),
        message(b'N', &decoy),
        message(b'S', &decoy),
        ready(TransactionStatus::Idle),
    ]
    .concat();
    let seen = events(&stream);
    assert_eq!(seen, [Event::ReadyForQuery(TransactionStatus::Idle)]);
}

#[test]
fn an_error_tells_its_sqlstate_wherever_it_stands_and_none_if_it_has_none() {
    let filler = |bytes: usize| [&b"M"[..], &vec![b'x'; bytes], b"\0"].concat();
    for (body, expected) in [
        (b"".to_vec(), error(Severity::Error, None)),
        (b"\0".to_vec(), error(Severity::Error, None)),
        (
            b"SERROR\0Mno code\0\0".to_vec(),
            error(Severity::Error, None),
        ),
        (b"VFATAL\0\0".to_vec(), error(Severity::Fatal, None)),
        (b"C57P0\0\0".to_vec(), error(Severity::Error, None)),
        (b"C57P011\0\0".to_vec(), error(Severity::Error, None)),
        (b"C57p01\0\0".to_vec(), error(Severity::Error, None)),
        (b"C57P01".to_vec(), error(Severity::Error, None)),
        (b"\0C57P01\0".to_vec(), error(Severity::Error, None)),
        (
            b"SPANIQUE\0VPANIC\0C57P02\0\0".to_vec(),
            error(Severity::Fatal, Some(SqlState::CRASH_SHUTDOWN)),
        ),
        (
            b"C57P01\0C00000\0\0".to_vec(),
            error(Severity::Error, Some(SqlState::ADMIN_SHUTDOWN)),
        ),
        (
            [filler(503), b"C57P01\0".to_vec()].concat(),
            error(Severity::Error, Some(SqlState::ADMIN_SHUTDOWN)),
        ),
        (
            [filler(504), b"C57P01\0".to_vec()].concat(),
            error(Severity::Error, None),
        ),
        (
            [filler(300), filler(300), b"C57P01\0".to_vec()].concat(),
            error(Severity::Error, None),
        ),
    ] {
        let stream = [message(b'E', &body), ready(TransactionStatus::Idle)].concat();
        assert_eq!(
            events(&stream),
            [expected, Event::ReadyForQuery(TransactionStatus::Idle)],
            "{}",
            body.escape_ascii()
        );
    }
}

#[test]
fn an_error_is_told_before_its_end() {
    let bytes = ErrorResponse::fatal(SqlState::CANNOT_CONNECT_NOW, "terminating").encode();
    let (_, events, _) = feed(&mut ServerFollower::new(), &bytes[..bytes.len() - 10], 1);
    let expected = error(Severity::Fatal, Some(SqlState::CANNOT_CONNECT_NOW));
    assert_eq!(events, [expected]);
}

/// As PostgreSQL 15 sends it when its postmaster was killed, and when it is shut down.
#[test]
fn a_process_whose_postmaster_has_died_is_told_from_one_that_is_stopped() {
    let fields = |code: &str, routine: &str| {
        let fields = ["SFATAL", "VFATAL", code, "Mbye", "Fx.c", "L1", routine, ""];
        message(b'E', format!("{}\0", fields.join("\0")).as_bytes())
    };
    for (code, routine, expected) in [
        ("C57P01", "Rsecure_read", true),
        ("C57P01", "Rsecure_write", true),
        ("C57P01", "RProcessInterrupts", false),
        ("C57P02", "Rsecure_read", false),
    ] {
        let seen = events(&fields(code, routine));
        let [Event::Error { is_orphaned, .. }] = seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!(is_orphaned, expected, "{code} {routine}");
    }
}

#[test]
fn a_cancel_key_is_exchanged_at_every_cut() {
    for (secret_bytes, process_id) in [(4, None), (32, Some(9)), (33, None), (256, Some(9))] {
        let backend_key = CancelKey::new(7, &vec![0xee; secret_bytes]).unwrap();
        let issued_secret: Vec<u8> = (0..secret_bytes).map(|at| 0x40 + at as u8 % 32).collect();
        let issued_key = CancelKey::new(process_id.unwrap_or(7), &issued_secret).unwrap();
        let stream = |key| {
            [
                backend::authentication(Authentication::Ok),
                backend::backend_key_data(key),
                ready(TransactionStatus::Idle),
            ]
            .concat()
        };
        let sent = stream(&backend_key);
        for chunk_bytes in 1..=sent.len() {
            let key = IssuedKey {
                process_id,
                ..issued()
            };
            let mut follower = ServerFollower::issuing(key);
            let (passed, events, failure) = feed(&mut follower, &sent, chunk_bytes);
            assert_eq!(failure, None);
            assert_eq!(passed, stream(&issued_key), "chunks of {chunk_bytes}");
            assert_eq!(
                events,
                [
                    Event::AuthenticationOk,
                    Event::CancelKey {
                        issued: issued_key.clone(),
                        backend: backend_key.clone(),
                    },
                    Event::ReadyForQuery(TransactionStatus::Idle),
                ]
            );
        }
    }
}

#[test]
fn a_second_key_counts_and_one_after_the_login_is_left_alone() {
    let [first, second] = [b"1111", b"2222"].map(|secret| CancelKey::new(7, secret).unwrap());
    let mut follower = ServerFollower::issuing(issued());
    let login = [
        backend::backend_key_data(&first),
        backend::backend_key_data(&second),
        ready(TransactionStatus::Idle),
    ]
    .concat();
    let (passed, events, _) = feed(&mut follower, &login, 3);
    assert!(!passed.windows(4).any(|part| part == b"2222"));
    let backends: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::CancelKey { backend, .. } => Some(backend.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(backends, [first, second.clone()]);

    let late = backend::backend_key_data(&second);
    let (passed, events, _) = feed(&mut follower, &late, 3);
    assert_eq!((passed, events), (late, vec![]));
}

#[test]
fn keys_stay_secret_in_debug_output() {
    let mut follower = ServerFollower::issuing(issued());
    let key = backend::backend_key_data(&CancelKey::new(7, &[0xee; 32]).unwrap());
    feed(&mut follower, &key[..20], 1);
    let debugged = format!("{follower:?}");
    assert!(debugged.contains("15 bytes"), "{debugged}");
    assert!(
        !debugged.contains("238") && !debugged.contains("random"),
        "{debugged}"
    );
}

#[test]
fn impossible_lengths_are_refused_for_every_type() {
    for tag in 0..=u8::MAX {
        for length in [0, 1, 3, MAX_MESSAGE_BYTES + 1, 1 << 31, u32::MAX] {
            let header = [&[tag][..], &length.to_be_bytes()].concat();
            for chunk_bytes in 1..=header.len() {
                let mut follower = ServerFollower::issuing(issued());
                let (_, events, failure) = feed(&mut follower, &header, chunk_bytes);
                let tag = char::from(tag);
                assert_eq!(failure, Some(FollowError::Length { tag, length }));
                assert_eq!(events, []);
            }
        }
        let longest = [&[tag][..], &MAX_MESSAGE_BYTES.to_be_bytes()].concat();
        let (_, _, failure) = feed(&mut ServerFollower::issuing(issued()), &longest, 5);
        assert_eq!(failure.is_some(), matches!(tag, b'K' | b'Z'), "{tag}");
    }
}

#[test]
fn messages_of_fixed_shape_must_have_it() {
    for (tag, body) in [
        (b'Z', &b""[..]),
        (b'Z', b"II"),
        (b'R', b""),
        (b'R', b"\0\0\0"),
        (b'K', b"\0\0\0\x07abc"),
        (b'K', &[0; 261]),
    ] {
        let stream = message(tag, body);
        let (_, events, failure) = feed(&mut ServerFollower::issuing(issued()), &stream, 2);
        assert!(matches!(failure, Some(FollowError::Length { .. })), "{tag}");
        assert_eq!(events, []);
    }
    let (_, _, failure) = feed(&mut ServerFollower::new(), &message(b'Z', b"X"), 1);
    assert_eq!(failure, Some(FollowError::TransactionStatus(b'X')));
}

#[test]
fn after_an_error_everything_passes_unseen() {
    let stream = [
        ready(TransactionStatus::InTransaction),
        message(b'Z', b"X"),
        ready(TransactionStatus::Idle),
        b"\0\0\0\0\0\0".to_vec(),
    ]
    .concat();
    let mut follower = ServerFollower::new();
    let (passed, events, failure) = feed(&mut follower, &stream, stream.len());
    assert_eq!(failure, Some(FollowError::TransactionStatus(b'X')));
    assert_eq!(passed, stream);
    assert_eq!(
        events,
        [Event::ReadyForQuery(TransactionStatus::InTransaction)]
    );
    assert!(!follower.is_following());
    let status = follower.transaction_status();
    assert_eq!(status, Some(TransactionStatus::InTransaction));
    let (_, events, failure) = feed(&mut follower, &ready(TransactionStatus::Idle), 1);
    assert_eq!((events, failure), (vec![], None), "an error is told once");
}

#[test]
fn a_server_is_idle_until_it_begins_to_answer() {
    let mut follower = ServerFollower::new();
    assert!(!follower.is_idle(), "during the login");
    assert_eq!(follower.transaction_status(), None);
    for (bytes, is_idle) in [
        (ready(TransactionStatus::Idle), true),
        (message(b'A', b"notification"), true),
        (message(b'N', b"notice"), true),
        (backend::parameter_status("in_hot_standby", "off"), true),
        (backend::row_description(&["a"]), false),
        (ready(TransactionStatus::Idle), true),
        (message(b'E', b"C57014\0\0"), false),
        (ready(TransactionStatus::InTransaction), false),
        (ready(TransactionStatus::Failed), false),
        (ready(TransactionStatus::Idle), true),
    ] {
        feed(&mut follower, &bytes, bytes.len());
        assert_eq!(follower.is_idle(), is_idle, "{}", bytes.escape_ascii());
    }
}

#[test]
fn the_rest_of_a_large_body_may_be_skipped() {
    let body_bytes = 1_000_000;
    let large = message(b'D', &vec![0; body_bytes]);
    let mut follower = ServerFollower::new();
    assert_eq!(follower.remaining_in_body(), 0);
    feed(&mut follower, &large[..5], 5);
    assert_eq!(follower.remaining_in_body(), body_bytes);
    feed(&mut follower, &large[5..105], 100);
    assert_eq!(follower.remaining_in_body(), body_bytes - 100);
    follower.skip(body_bytes - 101);
    follower.skip(1);
    assert_eq!(follower.remaining_in_body(), 0);
    let (_, events, _) = feed(&mut follower, &ready(TransactionStatus::Idle), 6);
    assert_eq!(events, [Event::ReadyForQuery(TransactionStatus::Idle)]);
}

#[test]
fn a_body_that_is_looked_into_may_not_be_skipped() {
    let key = backend::backend_key_data(&CancelKey::new(7, b"abcd").unwrap());
    for stream in [
        key,
        message(b'E', b"C57P01\0\0"),
        ready(TransactionStatus::Idle),
    ] {
        let mut follower = ServerFollower::issuing(issued());
        feed(&mut follower, &stream[..5], 5);
        assert_eq!(follower.remaining_in_body(), 0);
    }
    let error = message(b'E', b"C57P03\0Mthe rest of an error\0\0");
    let mut follower = ServerFollower::new();
    feed(&mut follower, &error[..12], 12);
    assert_eq!(follower.remaining_in_body(), error.len() - 12);
}

#[test]
fn a_follower_is_small() {
    // One per session: an idle session owns its two sockets and little else.
    assert!(size_of::<ServerFollower>() <= 48);
}

#[test]
fn sessions_with_postgresql_15_are_followed() {
    let read = |seed| std::fs::read(format!("fuzz/corpus/postgres/{seed}")).unwrap();
    let idle = Event::ReadyForQuery(TransactionStatus::Idle);
    let code = |text: &[u8]| Some(SqlState::new(text).unwrap());
    assert_eq!(
        events(&read("server_trust_session")),
        [
            Event::AuthenticationOk,
            idle.clone(),
            Event::ReadyForQuery(TransactionStatus::InTransaction),
            Event::ReadyForQuery(TransactionStatus::InTransaction),
            error(Severity::Error, code(b"22012")),
            Event::ReadyForQuery(TransactionStatus::Failed),
            idle.clone(),
            idle.clone(),
            error(Severity::Error, code(b"25006")),
            idle.clone(),
            idle.clone(),
            idle.clone(),
        ]
    );
    assert_eq!(
        events(&read("server_scram_session")),
        [Event::AuthenticationOk, idle.clone(), idle.clone()]
    );
    assert_eq!(
        events(&read("server_fatal_terminated")),
        [
            Event::AuthenticationOk,
            idle,
            error(Severity::Fatal, code(b"57P01"))
        ]
    );
    assert_eq!(
        events(&read("server_no_database")),
        [
            Event::AuthenticationOk,
            error(Severity::Fatal, code(b"3D000"))
        ]
    );
}

/// Any message that a server may send, complete.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let status = prop_oneof![Just(b'I'), Just(b'T'), Just(b'E')];
    let code = prop_oneof![Just("25006"), Just("57P01"), Just("bad"), Just("")];
    prop_oneof![
        status.prop_map(|status| message(b'Z', &[status])),
        (code, any::<bool>()).prop_map(|(code, is_fatal)| {
            let severity = if is_fatal { "FATAL" } else { "ERROR" };
            message(b'E', format!("V{severity}\0C{code}\0Mm\0\0").as_bytes())
        }),
        vec(any::<u8>(), 4..40).prop_map(|body| message(b'R', &body)),
        vec(any::<u8>(), 8..100).prop_map(|body| message(b'K', &body)),
        Just(message(b'W', b"\0\0\0")),
        (any::<u8>(), vec(any::<u8>(), 0..200)).prop_map(|(tag, body)| {
            let tag = if is_watched(tag) { b'D' } else { tag };
            message(tag, &body)
        }),
    ]
}

proptest! {
    #[test]
    fn every_split_of_a_stream_gives_the_same_events(
        messages in vec(any_message(), 1..20),
        cuts in vec(0_usize..2000, 0..40),
    ) {
        let stream = messages.concat();
        let whole = feed(&mut ServerFollower::issuing(issued()), &stream, stream.len());
        prop_assert_eq!(whole.2, None);

        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % stream.len()).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut follower = ServerFollower::issuing(issued());
        let (mut passed, mut events) = (stream.clone(), Vec::new());
        for part in cuts.windows(2) {
            let fed = follower.feed(&mut passed[part[0]..part[1]], |event| events.push(event));
            prop_assert_eq!(fed, Ok(()));
        }
        prop_assert_eq!((passed, events), (whole.0, whole.1));
    }

    #[test]
    fn skipping_what_may_be_skipped_changes_nothing(messages in vec(any_message(), 1..20)) {
        let stream = messages.concat();
        let (_, expected, _) = feed(&mut ServerFollower::new(), &stream, stream.len());
        let (mut follower, mut events, mut at) = (ServerFollower::new(), Vec::new(), 0);
        while at < stream.len() {
            let skipped = follower.remaining_in_body();
            follower.skip(skipped);
            at += skipped;
            if let Some(byte) = stream.get(at) {
                follower.feed(&mut [*byte], |event| events.push(event)).unwrap();
                at += 1;
            }
        }
        prop_assert_eq!(events, expected);
    }
}
