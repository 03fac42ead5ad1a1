//! A small PostgreSQL that answers as told, and some that are evil.

use super::databases::converses;
use super::databases::kept;
use super::*;
use crate::config::DatabaseCheck;
use crate::config::Secret;
use crate::control::evidence::PostgresEvidence;
use crate::protocol::postgres::TransactionStatus;
use crate::protocol::postgres::backend;
use crate::protocol::postgres::backend::Authentication;
use crate::protocol::postgres::error::ErrorResponse;
use crate::protocol::postgres::sqlstate::SqlState;
use std::num::NonZeroU16;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

const COLUMNS: [&str; 9] = [
    "in_recovery",
    "writable",
    "system_identifier",
    "wal_file",
    "timeline",
    "received_lsn",
    "replayed_lsn",
    "connections_used",
    "connections_allowed",
];

type Row = [Option<&'static str>; 9];

const PRIMARY: Row = [
    Some("f"),
    Some("t"),
    Some("-2"),
    Some("00000003000000160000005C"),
    None,
    Some("16/5C000010"),
    None,
    Some("5"),
    Some("97"),
];

const REPLICA: Row = [
    Some("t"),
    Some("t"),
    Some("7"),
    None,
    Some("2"),
    Some("0/20"),
    Some("0/10"),
    Some("95"),
    Some("97"),
];

fn postgres() -> CheckKind {
    CheckKind::Postgres(DatabaseCheck {
        user: Some("probe".to_owned()),
        password: Some(Secret::new("secret".to_owned())),
        database: None,
    })
}

fn fatal(code: &[u8; 5], message: &str) -> Vec<u8> {
    let code = SqlState::new(code).unwrap();
    ErrorResponse::fatal(code, message).encode()
}

fn welcome() -> Vec<u8> {
    [
        backend::authentication(Authentication::Ok),
        backend::parameter_status("server_version", "15.1"),
        backend::ready_for_query(TransactionStatus::Idle),
    ]
    .concat()
}

fn row(values: &Row) -> Vec<u8> {
    [
        backend::row_description(&COLUMNS),
        backend::data_row(values),
        backend::command_complete("SELECT 1"),
        backend::ready_for_query(TransactionStatus::Idle),
    ]
    .concat()
}

async fn replies(replies: Vec<Vec<u8>>) -> Server {
    converses(Vec::new(), replies).await
}

async fn outcome(server: &Server, link: Option<Link>, timeout: Duration) -> Outcome {
    let target = target(postgres(), timeout);
    probe(&target, server.address, link, &Semaphore::new(1)).await
}

async fn cause(server: &Server) -> Cause {
    outcome(server, None, PATIENT)
        .await
        .observation
        .result
        .unwrap_err()
}

fn evidence(outcome: &Outcome) -> PostgresEvidence {
    match &outcome.observation.result {
        Ok(Evidence::Postgres(evidence)) => evidence.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_primary_is_read() {
    let server = replies(vec![welcome(), row(&PRIMARY)]).await;
    let outcome = outcome(&server, None, PATIENT).await;
    let expected = PostgresEvidence {
        is_in_recovery: false,
        is_writable: true,
        system_identifier: u64::MAX - 1,
        timeline: 3,
        received_lsn: 0x16_5C00_0010,
        replayed_lsn: 0x16_5C00_0010,
        connections_used: 5,
        connections_allowed: 97,
    };
    assert_eq!(evidence(&outcome), expected);
    assert_eq!(outcome.complaint, None);
    kept(outcome);
}

#[tokio::test]
async fn a_replica_is_read_and_one_short_of_connections_gets_its_own_back() {
    let server = replies(vec![welcome(), row(&REPLICA)]).await;
    let outcome = outcome(&server, None, PATIENT).await;
    let evidence = evidence(&outcome);
    assert!(evidence.is_in_recovery);
    let lsns = (evidence.received_lsn, evidence.replayed_lsn);
    assert_eq!((evidence.timeline, lsns), (2, (0x20, 0x10)));
    assert!(matches!(outcome.leftover, Leftover::Ended(_)));
}

#[tokio::test]
async fn an_answer_that_no_postgres_gives_is_refused() {
    for at in 0..PRIMARY.len() {
        for nonsense in [None, Some(""), Some("x")] {
            // Those two belong to a replica.
            if matches!(COLUMNS[at], "timeline" | "replayed_lsn") {
                continue;
            }
            let mut values = PRIMARY;
            values[at] = nonsense;
            let server = replies(vec![welcome(), row(&values)]).await;
            assert_eq!(cause(&server).await, Cause::UnexpectedAnswer, "{at}");
        }
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    for (code, message, expected) in [
        (
            b"57P03",
            "the database system is starting up",
            Cause::StartingUp,
        ),
        (
            b"57P03",
            "the database system is shutting down",
            Cause::ShuttingDown,
        ),
        (b"57P01", "terminating", Cause::ShuttingDown),
        (b"57P02", "terminating", Cause::ShuttingDown),
        (
            b"53300",
            "sorry, too many clients already",
            Cause::TooManyConnections,
        ),
        (
            b"28P01",
            "password authentication failed",
            Cause::LoginFailed,
        ),
        (b"28000", "no pg_hba.conf entry", Cause::LoginFailed),
        (b"3D000", "no such database", Cause::LoginFailed),
        (b"42501", "permission denied", Cause::LoginFailed),
        (b"XX000", "oops", Cause::UnexpectedAnswer),
    ] {
        for before in [vec![], vec![welcome()]] {
            let server = replies([before, vec![fatal(code, message)]].concat()).await;
            let outcome = outcome(&server, None, PATIENT).await;
            assert_eq!(outcome.observation.result, Err(expected), "{message}");
            let complains = expected == Cause::LoginFailed;
            assert_eq!(outcome.complaint.is_some(), complains, "{message}");
        }
    }
}

#[tokio::test]
async fn a_password_is_not_told_to_whoever_asks_in_the_clear() {
    let asks = backend::authentication(Authentication::CleartextPassword);
    let server = replies(vec![asks, welcome()]).await;
    let outcome = outcome(&server, None, PATIENT).await;
    assert_eq!(outcome.observation.result, Err(Cause::LoginFailed));
    assert!(outcome.complaint.unwrap().contains("clear text"));
}

#[tokio::test]
async fn evil_servers_are_given_up() {
    let garbage = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
    let huge = [b"R\x7f\xff\xff\xff".to_vec(), vec![0; 1 << 20]].concat();
    let sasl = backend::authentication(Authentication::Sasl {
        mechanisms: &["SCRAM-SHA-256"],
    });
    let bomb = b"r=x,s=c2FsdA==,i=2000000000";
    let bomb = backend::authentication(Authentication::SaslContinue(bomb));
    let notices = b"N\0\0\0\x05\0".repeat(1000);
    for (replies_of, expected) in [
        (vec![garbage.clone()], Cause::UnexpectedAnswer),
        (vec![huge.clone()], Cause::UnexpectedAnswer),
        (vec![notices], Cause::UnexpectedAnswer),
        (vec![vec![]], Cause::EarlyClose),
        (vec![b"R\0\0\0".to_vec()], Cause::EarlyClose),
        (
            vec![welcome(), row(&PRIMARY)[..50].to_vec()],
            Cause::EarlyClose,
        ),
        (vec![welcome(), garbage], Cause::UnexpectedAnswer),
        (vec![welcome(), huge], Cause::UnexpectedAnswer),
        (vec![sasl, bomb], Cause::LoginFailed),
    ] {
        let server = replies(replies_of).await;
        let seen = cause(&server).await;
        // Closing while more is on its way resets.
        assert!(
            seen == expected || seen == Cause::Reset,
            "{seen} {expected}"
        );
    }
    let slow = dribbles("R\0\0\x10\0").await;
    let outcome = outcome(&slow, None, HASTY).await;
    assert_eq!(outcome.observation.result, Err(Cause::CheckTimeout));
}

#[tokio::test]
async fn one_connection_serves_many_probes() {
    let rows = || row(&PRIMARY);
    let server = replies(vec![welcome(), rows(), rows(), rows()]).await;
    let mut link = None;
    for _ in 0..3 {
        let outcome = outcome(&server, link, PATIENT).await;
        assert_eq!(evidence(&outcome).timeline, 3);
        link = Some(kept(outcome));
    }
}

/// The next probe's link, after one that rested with this target.
async fn taken(before: &Target, after: &Target) -> Option<Link> {
    // One reply more: a server that has said all hangs up.
    let server = replies(vec![welcome(), row(&PRIMARY), row(&PRIMARY)]).await;
    let link = kept(outcome(&server, None, PATIENT).await);
    let (recall, recalled) = recall();
    let resting = Resting {
        link,
        target: Arc::new(before.clone()),
    };
    let (rest, taken) = tokio::join!(resting.rest(recalled), recall.take(after));
    assert!(matches!(rest, Rest::Recalled));
    taken
}

/// Went wrong once: after every reload all databases were logged in to anew.
#[tokio::test]
async fn a_reload_that_changes_nothing_keeps_the_link() {
    let before = target(postgres(), PATIENT);
    let changed = |change: fn(&mut crate::config::ClusterConfig)| {
        let mut cluster = before.cluster.as_ref().clone();
        change(&mut cluster);
        Target {
            cluster: Arc::new(cluster),
            ..before.clone()
        }
    };
    for same in [
        changed(|_| {}),
        changed(|cluster| cluster.health_check.interval *= 2),
        changed(|cluster| cluster.backends[0].weight = 7),
    ] {
        assert!(taken(&before, &same).await.is_some());
    }
    let mut moved = before.clone();
    moved.backend.port = NonZeroU16::new(5433).unwrap();
    let tls = secured(postgres(), VerifyMode::Insecure, None).tls;
    let encrypts = Target {
        tls,
        ..before.clone()
    };
    let renamed = changed(|cluster| {
        cluster.health_check.kind = CheckKind::Postgres(DatabaseCheck {
            user: Some("other".to_owned()),
            password: None,
            database: None,
        });
    });
    for other in [moved, encrypts, renamed] {
        assert!(taken(&before, &other).await.is_none());
    }
}

/// A fast shutdown and start in between.
#[tokio::test]
async fn a_link_that_died_is_no_server_that_is_down() {
    let rests = fatal(b"57P01", "terminating connection");
    let server = replies(vec![welcome(), [row(&PRIMARY), rests].concat()]).await;
    let first = outcome(&server, None, PATIENT).await;
    let second = outcome(&server, Some(kept(first)), PATIENT).await;
    assert_eq!(evidence(&second).timeline, 3);
}

#[tokio::test]
async fn a_resting_link_hears_what_happens_to_its_server() {
    let idle = backend::parameter_status("TimeZone", "UTC");
    let notice = b"N\0\0\0\x05\0".to_vec();
    let promoted = backend::parameter_status("in_hot_standby", "off");
    let stops = fatal(b"57P01", "terminating connection");
    for (said, expected) in [
        (vec![], Cause::Reset),
        (idle.clone(), Cause::Reset),
        ([idle, notice, stops].concat(), Cause::ShuttingDown),
        (promoted, Cause::UnexpectedAnswer),
        (b"D\0\0\0\0".to_vec(), Cause::UnexpectedAnswer),
    ] {
        let server = replies(vec![welcome(), [row(&PRIMARY), said].concat()]).await;
        let mut link = kept(outcome(&server, None, PATIENT).await);
        assert_eq!(link.disturbed().await, expected);
        link.close().await;
    }
}

/// SSLRequest and what the server answers to it; then the handshake, if it agrees.
async fn encrypting(answer: &'static [u8]) -> (Server, Arc<AtomicUsize>) {
    let spoken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&spoken);
    let server = serve(move |mut stream: TcpStream| {
        let counter = Arc::clone(&counter);
        async move {
            assert_eq!(read_some(&mut stream).await?, b"\0\0\0\x08\x04\xd2\x16\x2f");
            stream.write_all(answer).await?;
            let said = read_some(&mut stream).await?;
            counter.fetch_add(said.len(), Relaxed);
            Ok(())
        }
    })
    .await;
    (server, spoken)
}

#[tokio::test]
async fn nothing_is_said_to_a_server_that_does_not_encrypt() {
    for (answer, expected) in [
        (&b"N"[..], Cause::TlsFailed),
        (b"X", Cause::UnexpectedAnswer),
        (b"", Cause::CheckTimeout),
        (b"E\0\0\0\x0cC53300\0\0", Cause::TooManyConnections),
        // Bytes in the clear behind the agreement.
        (b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", Cause::UnexpectedAnswer),
    ] {
        let (server, spoken) = encrypting(answer).await;
        let timeout = if answer.is_empty() { HASTY } else { PATIENT };
        let target = Target {
            tls: secured(postgres(), VerifyMode::Insecure, None).tls,
            ..target(postgres(), timeout)
        };
        let outcome = probe(&target, server.address, None, &Semaphore::new(1)).await;
        assert_eq!(
            outcome.observation.result,
            Err(expected),
            "{}",
            answer.escape_ascii()
        );
        assert_eq!(spoken.load(Relaxed), 0);
    }
}
