//! Sessions as stories: what passed, and what the follower says of it.

mod logins;
mod properties;

use super::SessionState::Busy;
use super::SessionState::Idle;
use super::SessionState::InTransaction;
use super::SessionState::Login;
use super::SessionState::Unknown;
use super::*;
use crate::protocol::mysql::packet::MAX_PAYLOAD_BYTES;
use crate::protocol::mysql::packet::message;
use crate::protocol::mysql::packet::write_message;
use crate::protocol::mysql::response::EofPacket;
use crate::protocol::mysql::response::ServerError;

const OLD: Capabilities = Capabilities::PROTOCOL_41;
/// With `LOAD DATA LOCAL`.
const LOADING: Capabilities = Capabilities(OLD.0 | Capabilities::LOCAL_FILES.0);
const DEPRECATED: Capabilities = Capabilities::DEPRECATE_EOF;
const AUTOCOMMIT: Status = Status::AUTOCOMMIT;
const IN_TRANSACTION: Status = Status(3);
const MORE: u16 = 8;

fn follower(capabilities: Capabilities) -> SessionFollower {
    SessionFollower::after_login(capabilities, AUTOCOMMIT)
}

fn ok(status: Status) -> Vec<u8> {
    OkPacket {
        status,
        affected_rows: 1 << 40,
        last_insert_id: 1 << 60,
        warnings: 0,
    }
    .encode()
}

/// The end of rows.
fn end(capabilities: Capabilities, status: Status) -> Vec<u8> {
    if !capabilities.has(DEPRECATED) {
        let warnings = 0;
        return EofPacket { warnings, status }.encode();
    }
    let mut payload = ok(status);
    payload[0] = EOF_HEADER;
    payload
}

fn error(code: u16, message: &str) -> Vec<u8> {
    ServerError::new(code, *b"HY000", message).encode()
}

fn packets(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sequence = 1;
    for payload in payloads {
        sequence = write_message(&mut out, sequence, payload);
    }
    out
}

fn command(code: u8, argument: &[u8]) -> Vec<u8> {
    message(0, &[&[code], argument].concat())
}

fn query(sql: &str) -> Vec<u8> {
    command(0x03, sql.as_bytes())
}

const DEFINITION: &[u8] = b"\x03def\0\0\0\x01a\x01a\x0c";

fn result_set(capabilities: Capabilities, rows: usize, status: Status) -> Vec<Vec<u8>> {
    let mut payloads = vec![vec![2], DEFINITION.to_vec(), DEFINITION.to_vec()];
    if !capabilities.has(DEPRECATED) {
        payloads.push(end(capabilities, status));
    }
    payloads.extend(vec![b"\x01x\xfb".to_vec(); rows]);
    payloads.push(end(capabilities, status));
    payloads
}

/// Passes a command and its answer; returns the state after it.
fn exchange(follower: &mut SessionFollower, sent: &[u8], answer: &[Vec<u8>]) -> SessionState {
    follower.on_client(sent);
    assert_eq!(follower.state(), Busy);
    let answer = packets(answer);
    let (last, rest) = answer.split_last().unwrap();
    follower.on_server(rest);
    assert_eq!(follower.state(), Busy, "before the last byte");
    follower.on_server(&[*last]);
    follower.state()
}

#[test]
fn transactions_are_seen_from_begin_to_commit() {
    for capabilities in [OLD, DEPRECATED] {
        let mut session = follower(capabilities);
        assert_eq!(session.state(), Idle);
        let begun = exchange(&mut session, &query("BEGIN"), &[ok(IN_TRANSACTION)]);
        assert_eq!(begun, InTransaction);
        let rows = result_set(capabilities, 3, IN_TRANSACTION);
        let selected = exchange(&mut session, &query("SELECT a, b FROM t"), &rows);
        assert_eq!(selected, InTransaction);
        let committed = exchange(&mut session, &query("COMMIT"), &[ok(AUTOCOMMIT)]);
        assert_eq!(committed, Idle);
        let empty = result_set(capabilities, 0, AUTOCOMMIT);
        assert_eq!(exchange(&mut session, &query("SELECT 1"), &empty), Idle);
    }
}

#[test]
fn a_command_is_busy_from_its_first_byte() {
    let mut session = follower(OLD);
    for byte in query("SELECT 1") {
        session.on_client(&[byte]);
        assert_eq!(session.state(), Busy);
    }
}

#[test]
fn several_results_are_one_answer() {
    for capabilities in [OLD, DEPRECATED] {
        let mut session = follower(capabilities);
        let more = Status(AUTOCOMMIT.0 | MORE);
        let answer = [
            result_set(capabilities, 2, more),
            vec![ok(more)],
            result_set(capabilities, 1, more),
            vec![ok(IN_TRANSACTION)],
        ]
        .concat();
        let state = exchange(&mut session, &query("SELECT 1; CALL p()"), &answer);
        assert_eq!(state, InTransaction);
    }
}

#[test]
fn an_error_leaves_a_plain_statement_idle_and_all_else_unknown() {
    let syntax = || vec![error(1064, "syntax")];
    for (sql, state) in [
        ("INSERT INTO t VALUES (1)", Idle),
        ("  \n select 1", Idle),
        ("CALL p()", Unknown),
        ("/*! CALL p() */", Unknown),
        ("SELECTED", Unknown),
        ("BEGIN NOT ATOMIC", Unknown),
    ] {
        let mut session = follower(OLD);
        assert_eq!(
            exchange(&mut session, &query(sql), &syntax()),
            state,
            "{sql}"
        );
        let ping = exchange(&mut session, &command(0x0e, b""), &[ok(AUTOCOMMIT)]);
        assert_eq!(ping, Idle, "the next status is sure again");
    }
    let mut open = SessionFollower::after_login(OLD, IN_TRANSACTION);
    let deadlock = [error(1213, "Deadlock found")];
    let state = exchange(&mut open, &query("UPDATE t SET a = 1"), &deadlock);
    assert_eq!(state, Unknown, "a deadlock rolls back, other errors do not");
    let mut manual = SessionFollower::after_login(OLD, Status(0));
    let state = exchange(&mut manual, &query("UPDATE t SET a = 1"), &syntax());
    assert_eq!(state, Unknown, "without autocommit it may have begun one");
    let mut later = follower(OLD);
    let second_fails = [ok(Status(AUTOCOMMIT.0 | MORE)), error(1064, "syntax")];
    let state = exchange(&mut later, &query("SELECT f(); CALL p()"), &second_fails);
    assert_eq!(state, Unknown);
}

#[test]
fn query_attributes_hide_the_statement_unless_there_are_none() {
    let capabilities = OLD | Capabilities::QUERY_ATTRIBUTES;
    for (argument, state) in [
        (&b"\0\x01INSERT INTO t"[..], Idle),
        (b"\x01\x01\0\x01INSERT", Unknown),
        (b"INSERT INTO t", Unknown),
    ] {
        let mut session = follower(capabilities);
        let failed = [error(1290, "--read-only")];
        let sent = command(0x03, argument);
        assert_eq!(exchange(&mut session, &sent, &failed), state);
    }
}

#[test]
fn errors_are_reported_with_what_they_prove() {
    let mut session = follower(OLD);
    session.on_client(&query("INSERT INTO t VALUES (1)"));
    let text = "The MariaDB server is running with the --read-only option so it cannot execute \
                this statement";
    let seen = session.on_server(&packets(&[error(1290, text)]));
    let proof = Some(Proof::ReadOnly);
    assert_eq!(seen, [SeenError { code: 1290, proof }]);
    session.on_client(&query("SELECT 1 INTO OUTFILE '/x'"));
    let text = text.replace("read-only", "secure-file-priv");
    let seen = session.on_server(&packets(&[error(1290, &text)]));
    let proof = None;
    assert_eq!(seen, [SeenError { code: 1290, proof }]);
}

#[test]
fn an_idle_session_may_be_told_goodbye() {
    let mut session = follower(OLD);
    let seen = session.on_server(&message(0, &error(1053, "Server shutdown in progress")));
    let proof = Some(Proof::ShuttingDown);
    assert_eq!(seen, [SeenError { code: 1053, proof }]);
    assert_eq!(session.state(), Unknown);
    let mut confused = follower(OLD);
    confused.on_server(&packets(&[ok(AUTOCOMMIT)]));
    assert!(confused.is_transparent(), "an answer without a question");
}

#[test]
fn progress_reports_of_mariadb_end_nothing() {
    let mut session = follower(OLD);
    session.on_client(&query("ALTER TABLE t ADD KEY (a)"));
    let report = [&b"\xff\xff\xff\x01\x01\x02\0\0\0\x05stage"[..]].concat();
    assert!(session.on_server(&packets(&[report])).is_empty());
    assert_eq!(session.state(), Busy);
    session.on_server(&message(2, &ok(AUTOCOMMIT)));
    assert_eq!(session.state(), Idle);
}

#[test]
fn a_prepared_statement_lives_through_its_commands() {
    for capabilities in [OLD, DEPRECATED] {
        let mut session = follower(capabilities);
        let eof = || end(capabilities, AUTOCOMMIT);
        let definition = || DEFINITION.to_vec();
        let mut prepared = vec![b"\0\x01\0\0\0\x02\0\x01\0\0\0\0".to_vec(), definition()];
        if !capabilities.has(DEPRECATED) {
            prepared.push(eof());
        }
        prepared.extend([definition(), definition()]);
        if !capabilities.has(DEPRECATED) {
            prepared.push(eof());
        }
        let sent = command(0x16, b"SELECT a, b FROM t WHERE c = ?");
        assert_eq!(exchange(&mut session, &sent, &prepared), Idle);
        let bare = vec![b"\0\x02\0\0\0\0\0\0\0\0\0\0".to_vec()];
        assert_eq!(
            exchange(&mut session, &command(0x16, b"BEGIN"), &bare),
            Idle
        );

        session.on_client(&command(0x18, b"\x01\0\0\0\0\0long data"));
        assert_eq!(session.state(), Idle, "is not answered");
        let mut rows = result_set(capabilities, 0, IN_TRANSACTION);
        let last = rows.pop().unwrap();
        rows.extend([b"\0\0\x01x\x01y".to_vec(), b"\0\x04\x01x".to_vec(), last]);
        let sent = command(0x17, b"\x01\0\0\0\0\x01\0\0\0");
        assert_eq!(exchange(&mut session, &sent, &rows), InTransaction);
        session.on_client(&command(0x19, b"\x01\0\0\0"));
        assert_eq!(session.state(), InTransaction, "is not answered");
        let failed = [error(1213, "Deadlock found")];
        assert_eq!(exchange(&mut session, &sent, &failed), Unknown);
    }
}

#[test]
fn a_cursor_keeps_a_session_from_being_idle() {
    for capabilities in [OLD, DEPRECATED] {
        let mut session = follower(capabilities);
        let open = Status(AUTOCOMMIT.0 | Status::CURSOR_EXISTS.0);
        let opened = [vec![1], DEFINITION.to_vec(), end(capabilities, open)];
        let sent = command(0x17, b"\x01\0\0\0\x01\x01\0\0\0");
        assert_eq!(exchange(&mut session, &sent, &opened), Unknown);
        let fetch = command(0x1c, b"\x01\0\0\0\x0a\0\0\0");
        let some = [b"\0\0\x01x".to_vec(), end(capabilities, open)];
        assert_eq!(exchange(&mut session, &fetch, &some), Unknown);
        let last = Status(AUTOCOMMIT.0 | Status::LAST_ROW_SENT.0);
        let rest = [b"\0\0\x01x".to_vec(), end(capabilities, last)];
        assert_eq!(exchange(&mut session, &fetch, &rest), Idle);
    }
}

#[test]
fn a_local_file_may_wrap_the_sequence_numbers() {
    let mut session = follower(LOADING);
    session.on_client(&query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t"));
    session.on_server(&message(1, b"\xfbx"));
    assert_eq!(session.state(), Busy);
    for sequence in 2..=600_u32 {
        // Packets number 256 and 512 look like commands.
        session.on_client(&message(sequence as u8, b"\x01rows"));
    }
    session.on_client(&message(89, b""));
    assert_eq!(session.state(), Busy);
    session.on_server(&message(90, &ok(AUTOCOMMIT)));
    assert_eq!(session.state(), Idle);
    assert_eq!(
        exchange(&mut session, &query("BEGIN"), &[ok(IN_TRANSACTION)]),
        InTransaction
    );
}

#[test]
fn a_file_that_nobody_offered_is_robbery() {
    let demand = message(1, b"\xfb/etc/passwd");
    let load = query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t");
    let mut session = follower(DEPRECATED);
    session.on_client(&load);
    session.on_server(&demand);
    assert!(session.is_robbed(), "the client cannot do that");

    for (statement, is_robbed) in [
        ("SELECT 1", true),
        (" insert into t values (1)", true),
        ("/* x */ LOAD DATA LOCAL INFILE 'x' INTO TABLE t", false),
        ("LOAD DATA LOCAL INFILE 'x' INTO TABLE t", false),
    ] {
        let mut session = follower(LOADING);
        session.on_client(&query(statement));
        let (first, last) = demand.split_at(5);
        session.on_server(first);
        assert!(!session.is_robbed());
        session.on_server(last);
        assert_eq!(session.is_robbed(), is_robbed, "{statement}");
        assert_eq!(session.is_transparent(), is_robbed, "{statement}");
    }

    // Two statements in one command: the second may be a LOAD.
    let mut session = follower(LOADING);
    session.on_client(&query("SELECT 1; LOAD DATA LOCAL INFILE 'x' INTO TABLE t"));
    let more = Status(AUTOCOMMIT.0 | Status::MORE_RESULTS.0);
    session.on_server(&packets(&[ok(more)]));
    session.on_server(&message(2, b"\xfbx"));
    assert!(!session.is_robbed());
}

#[test]
fn pipelined_commands_are_answered_in_turn() {
    let mut session = follower(DEPRECATED);
    session.on_client(&[query("BEGIN"), query("SELECT 1"), query("COMMIT")].concat());
    session.on_server(&packets(&[ok(IN_TRANSACTION)]));
    assert_eq!(session.state(), Busy);
    session.on_server(&packets(&result_set(DEPRECATED, 1, IN_TRANSACTION)));
    assert_eq!(session.state(), Busy);
    session.on_server(&packets(&[ok(AUTOCOMMIT)]));
    assert_eq!(session.state(), Idle);
    for _ in 0..MAX_PIPELINED {
        session.on_client(&query("DO 1"));
    }
    assert!(!session.is_transparent());
    session.on_client(&query("DO 1"));
    assert!(session.is_transparent(), "a flood is not kept");
}

#[test]
fn messages_of_16_megabytes_are_skipped() {
    let mut session = follower(DEPRECATED);
    let big = query(&"x".repeat(MAX_PAYLOAD_BYTES + 5));
    for chunk in big.chunks(1 << 20) {
        session.on_client(chunk);
    }
    let mut row = vec![0xfe];
    row.extend_from_slice(&(1_u64 << 25).to_le_bytes());
    row.resize(MAX_PAYLOAD_BYTES + 100, b'r');
    let answer = [
        vec![1],
        DEFINITION.to_vec(),
        row,
        end(DEPRECATED, IN_TRANSACTION),
    ];
    let answer = packets(&answer);
    for chunk in answer[..answer.len() - 1].chunks(1 << 20) {
        session.on_server(chunk);
        assert_eq!(session.state(), Busy);
    }
    session.on_server(&answer[answer.len() - 1..]);
    assert_eq!(session.state(), InTransaction);
}

#[test]
fn simple_commands_are_answered_by_one_packet() {
    for capabilities in [OLD, DEPRECATED] {
        let mut session = follower(capabilities);
        for code in [0x02, 0x05, 0x06, 0x07, 0x0c, 0x0e, 0x1a, 0x1f] {
            let sent = command(code, b"x");
            assert_eq!(exchange(&mut session, &sent, &[ok(AUTOCOMMIT)]), Idle);
        }
        for code in [0x08, 0x0d, 0x1b] {
            let answer = [end(capabilities, AUTOCOMMIT)];
            assert_eq!(exchange(&mut session, &command(code, b"x"), &answer), Idle);
        }
        let statistics = [b"Uptime: 4711".to_vec()];
        assert_eq!(
            exchange(&mut session, &command(0x09, b""), &statistics),
            Idle
        );
        let fields = [DEFINITION.to_vec(), end(capabilities, AUTOCOMMIT)];
        assert_eq!(
            exchange(&mut session, &command(0x04, b"t\0"), &fields),
            Idle
        );
    }
}

#[test]
fn replication_and_unknown_commands_are_not_followed() {
    for code in [0x12, 0x13, 0x1e, 0x20, 0x21, 0x42, 0xfe, 0x00] {
        let mut session = follower(OLD);
        session.on_client(&command(code, b"\x04\0\0\0"));
        assert_eq!(session.state(), Unknown, "{code:#x}");
        assert!(session.is_transparent());
    }
    let mut session = follower(OLD);
    session.on_client(&message(0, b""));
    assert!(session.is_transparent(), "a short COM_CHANGE_USER or less");
    let mut session = follower(OLD);
    session.on_client(&message(1, b"\x03SELECT 1"));
    assert!(session.is_transparent(), "no command starts at 1");
}

#[test]
fn changing_the_user_is_a_login() {
    let mut session = SessionFollower::after_login(OLD, IN_TRANSACTION);
    session.on_client(&command(0x11, b"u\0"));
    assert_eq!(session.state(), Login);
    session.on_server(&message(
        1,
        b"\xfemysql_native_password\0abcdefghijklmnopqrst\0",
    ));
    session.on_client(&message(2, b"01234567890123456789"));
    assert_eq!(session.state(), Login);
    session.on_server(&message(3, &ok(AUTOCOMMIT)));
    assert_eq!(session.state(), Idle);
}

#[test]
fn mariadb_leaves_out_columns_that_the_client_knows() {
    let capabilities = DEPRECATED | Capabilities::MARIADB_CACHE_METADATA;
    let mut session = follower(capabilities);
    let sent = command(0x17, b"\x01\0\0\0\0\x01\0\0\0");
    let whole = [
        vec![1, 1],
        DEFINITION.to_vec(),
        b"\0\0\x01x".to_vec(),
        end(capabilities, AUTOCOMMIT),
    ];
    assert_eq!(exchange(&mut session, &sent, &whole), Idle);
    let cached = [
        vec![1, 0],
        b"\0\0\x01x".to_vec(),
        end(capabilities, IN_TRANSACTION),
    ];
    assert_eq!(exchange(&mut session, &sent, &cached), InTransaction);
    session.on_client(&sent);
    session.on_server(&packets(&[vec![1]]));
    assert!(session.is_transparent(), "a count without the flag");
}
