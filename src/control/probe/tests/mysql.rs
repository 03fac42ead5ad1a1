//! A small MySQL and a small MariaDB that answer as told, and some that are evil.

use super::databases::converses;
use super::databases::kept;
use super::databases::outcome_of;
use super::*;
use crate::config::DatabaseCheck;
use crate::config::Secret;
use crate::control::evidence::MySqlDialect;
use crate::control::evidence::MySqlEvidence;
use crate::protocol::mysql::Capabilities;
use crate::protocol::mysql::Status;
use crate::protocol::mysql::greeting::Greeting;
use crate::protocol::mysql::packet;
use crate::protocol::mysql::response::EofPacket;
use crate::protocol::mysql::response::OkPacket;
use crate::protocol::mysql::response::ServerError;

type Table<'a> = (&'a [&'a str], &'a [&'a [Option<&'a str>]]);

const FACTS: [&str; 4] = [
    "read_only",
    "innodb_read_only",
    "gtid_set",
    "max_connections",
];
const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5";
const CONNECTED: Table = (
    &["Variable_name", "Value"],
    &[&[Some("Threads_connected"), Some("7")]],
);
const NOBODY: Table = (&["Seconds_Behind_Source"], &[]);

fn mysql() -> CheckKind {
    CheckKind::MySql(DatabaseCheck {
        user: Some("probe".to_owned()),
        password: Some(Secret::new("secret".to_owned())),
        database: None,
    })
}

fn greeting(version: &str, plugin: &str) -> Vec<u8> {
    let greeting = Greeting {
        server_version: version.to_owned(),
        connection_id: 7,
        nonce: *b"abcdefghijklmnopqrst",
        capabilities: Capabilities::PROTOCOL_41
            | Capabilities::LONG_PASSWORD
            | Capabilities::SECURE_CONNECTION
            | Capabilities::PLUGIN_AUTH,
        character_set: 45,
        status: Status::AUTOCOMMIT,
        auth_plugin: plugin.to_owned(),
    };
    packet::message(0, &greeting.encode())
}

fn mysql8() -> Vec<u8> {
    greeting("8.4.6", "caching_sha2_password")
}

fn welcome() -> Vec<u8> {
    packet::message(2, &OkPacket::default().encode())
}

fn refusal(sequence: u8, code: u16) -> Vec<u8> {
    let error = ServerError::new(code, *b"HY000", "no,\nas the server says");
    packet::message(sequence, &error.encode())
}

fn short_text(payload: &mut Vec<u8>, text: &str) {
    payload.push(u8::try_from(text.len()).unwrap());
    payload.extend_from_slice(text.as_bytes());
}

/// The answer to a query.
fn table((columns, rows): Table) -> Vec<u8> {
    let eof = EofPacket {
        warnings: 0,
        status: Status::AUTOCOMMIT,
    };
    let mut payloads = vec![vec![u8::try_from(columns.len()).unwrap()]];
    for column in columns {
        let mut payload = Vec::new();
        ["def", "", "", "", column, column]
            .iter()
            .for_each(|text| short_text(&mut payload, text));
        payload.extend_from_slice(&[12, 45, 0, 255, 0, 0, 0, 253, 0, 0, 0, 0, 0]);
        payloads.push(payload);
    }
    payloads.push(eof.encode());
    for row in rows {
        let mut payload = Vec::new();
        for value in *row {
            match value {
                Some(value) => short_text(&mut payload, value),
                None => payload.push(0xFB),
            }
        }
        payloads.push(payload);
    }
    payloads.push(eof.encode());
    let numbered = (1..).zip(payloads);
    let packets = numbered.map(|(sequence, payload)| packet::message(sequence, &payload));
    packets.collect::<Vec<_>>().concat()
}

fn facts(read_only: &str, gtid_set: &str) -> Vec<u8> {
    let row = [Some(read_only), Some("0"), Some(gtid_set), Some("151")];
    table((&FACTS, &[&row]))
}

async fn heard(greeting: Vec<u8>, answers: [Vec<u8>; 3]) -> MySqlEvidence {
    let server = converses(greeting, [vec![welcome()], answers.into()].concat()).await;
    let outcome = outcome_of(mysql(), &server, None).await;
    let evidence = evidence(&outcome);
    kept(outcome);
    evidence
}

fn evidence(outcome: &Outcome) -> MySqlEvidence {
    match &outcome.observation.result {
        Ok(Evidence::MySql(evidence)) => evidence.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_mysql_primary_is_read() {
    let two_lines = format!("{UUID},\n4e11fa47-71ca-11e1-9e33-c80aa9429562:1-9");
    let answers = [table(NOBODY), facts("0", &two_lines), table(CONNECTED)];
    let expected = MySqlEvidence {
        is_read_only: false,
        is_replica: false,
        gtid_set: two_lines.replace('\n', ""),
        dialect: MySqlDialect::MySql,
        lag: None,
        connections_used: 7,
        connections_allowed: 151,
    };
    assert_eq!(heard(mysql8(), answers).await, expected);
}

#[tokio::test]
async fn replicas_of_all_dialects_tell_how_far_behind_they_are() {
    let mariadb = greeting("5.5.5-10.11.11-MariaDB", "mysql_native_password");
    let mysql57 = greeting("5.7.44-log", "mysql_native_password");
    for (greeting, column, dialect) in [
        (mysql8(), "Seconds_Behind_Source", MySqlDialect::MySql),
        (mysql57, "Seconds_Behind_Master", MySqlDialect::MySql),
        (mariadb, "Seconds_Behind_Master", MySqlDialect::MariaDb),
    ] {
        for (rows, lag) in [
            (&[&[Some("3")][..]][..], Some(3)),
            (&[&[Some("3")], &[Some("60")]], Some(60)),
            (&[&[Some("3")], &[None]], None),
        ] {
            let follows = table((&[column], rows));
            let answers = [follows, facts("1", ""), table(CONNECTED)];
            let evidence = heard(greeting.clone(), answers).await;
            assert_eq!(evidence.lag, lag.map(Duration::from_secs), "{column}");
            assert!(evidence.is_replica && evidence.is_read_only);
            assert_eq!(evidence.dialect, dialect);
        }
    }
}

#[tokio::test]
async fn every_word_for_read_only_is_understood() {
    for (word, is_read_only) in [
        ("0", false),
        ("OFF", false),
        ("1", true),
        ("ON", true),
        ("NO_LOCK_NO_ADMIN", true),
    ] {
        let answers = [table(NOBODY), facts(word, UUID), table(CONNECTED)];
        let evidence = heard(mysql8(), answers).await;
        assert_eq!(evidence.is_read_only, is_read_only, "{word}");
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    for (code, expected) in [
        (1040, Cause::TooManyConnections),
        (1045, Cause::LoginFailed),
        (1227, Cause::LoginFailed),
        (1053, Cause::ShuttingDown),
        (3032, Cause::StartingUp),
        (1105, Cause::UnexpectedAnswer),
    ] {
        for (opening, replies) in [
            (refusal(0, code), vec![]),
            (mysql8(), vec![refusal(2, code)]),
            (mysql8(), vec![welcome(), refusal(1, code)]),
            (mysql8(), vec![welcome(), table(NOBODY), refusal(1, code)]),
        ] {
            let server = converses(opening, replies).await;
            let outcome = outcome_of(mysql(), &server, None).await;
            assert_eq!(outcome.observation.result, Err(expected), "{code}");
            let complains = expected == Cause::LoginFailed;
            assert_eq!(outcome.complaint.is_some(), complains, "{code}");
            assert!(!outcome.complaint.unwrap_or_default().contains('\n'));
        }
    }
}

#[tokio::test]
async fn what_the_user_lacks_is_named() {
    let server = converses(mysql8(), vec![welcome(), refusal(1, 1227)]).await;
    let outcome = outcome_of(mysql(), &server, None).await;
    assert!(outcome.complaint.unwrap().contains("REPLICATION CLIENT"));
}

#[tokio::test]
async fn evil_servers_are_given_up() {
    let garbage = b"SSH-2.0-OpenSSH_9.2\r\n".to_vec();
    let huge = [&[0xff, 0xff, 0xff, 0][..], &[0; 1 << 20]].concat();
    let endless = packet::message(1, b"\x01").repeat(100);
    let local_file = packet::message(1, b"\xfb/etc/passwd");
    let plugin = packet::message(2, b"\xfemysql_clear_password\0\0");
    for (opening, replies, expected) in [
        (garbage, vec![], Cause::UnexpectedAnswer),
        (huge.clone(), vec![], Cause::UnexpectedAnswer),
        (vec![], vec![], Cause::EarlyClose),
        (mysql8()[..20].to_vec(), vec![], Cause::EarlyClose),
        (mysql8(), vec![plugin], Cause::LoginFailed),
        (mysql8(), vec![welcome(), huge], Cause::UnexpectedAnswer),
        (mysql8(), vec![welcome(), endless], Cause::UnexpectedAnswer),
        (
            mysql8(),
            vec![welcome(), local_file],
            Cause::UnexpectedAnswer,
        ),
        (
            mysql8(),
            vec![welcome(), welcome()],
            Cause::UnexpectedAnswer,
        ),
    ] {
        let server = converses(opening, replies).await;
        let outcome = outcome_of(mysql(), &server, None).await;
        let seen = outcome.observation.result.unwrap_err();
        // Closing while more is on its way resets.
        assert!(
            seen == expected || seen == Cause::Reset,
            "{seen} {expected}"
        );
    }
}

#[tokio::test]
async fn a_resting_link_hears_what_happens_to_its_server() {
    for (said, expected) in [
        (vec![], Cause::Reset),
        (refusal(0, 1053), Cause::ShuttingDown),
        (refusal(0, 1927), Cause::Closed),
        (welcome(), Cause::UnexpectedAnswer),
    ] {
        let last = [table(CONNECTED), said].concat();
        let answers = vec![welcome(), table(NOBODY), facts("0", UUID), last];
        let server = converses(mysql8(), answers).await;
        let mut link = kept(outcome_of(mysql(), &server, None).await);
        assert_eq!(link.disturbed().await, expected);
        link.close().await;
    }
}

/// A login sent before TLS could be read by anybody.
#[tokio::test]
async fn nothing_is_said_to_a_server_that_does_not_encrypt() {
    let server = converses(mysql8(), vec![welcome()]).await;
    let target = secured(mysql(), VerifyMode::Insecure, None);
    let outcome = probe(&target, server.address, None, &Semaphore::new(1)).await;
    assert_eq!(outcome.observation.result, Err(Cause::TlsFailed));
    assert!(outcome.complaint.unwrap().contains("TLS"));
}
