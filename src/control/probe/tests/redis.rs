//! A small Redis that answers as told, and some that are evil.

use super::databases::converses;
use super::databases::kept;
use super::databases::outcome_of;
use super::*;
use crate::config::DatabaseCheck;
use crate::config::Secret;
use crate::control::evidence::RedisEvidence;

const ID: &str = "07d4d2502c5d1e62590b3405651bd508cbbb0614";
const OTHER_ID: &str = "17d4d2502c5d1e62590b3405651bd508cbbb0614";
const NO_ID: &str = "0000000000000000000000000000000000000000";
const CLIENTS: &str = "# Clients\r\nconnected_clients:4\r\nmaxclients:10000\r\n";

fn redis() -> CheckKind {
    CheckKind::Redis(DatabaseCheck {
        user: Some("probe".to_owned()),
        password: Some(Secret::new("secret".to_owned())),
        database: None,
    })
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn replication(role: &str, previous: &str) -> String {
    format!(
        "# Replication\r\nrole:{role}\r\nmaster_replid:{ID}\r\n\
         master_replid2:{previous}\r\nmaster_repl_offset:42\r\nsecond_repl_offset:-1\r\n"
    )
}

fn answer(ping: &str, clients: &str, replication: &str) -> Vec<u8> {
    format!("{ping}\r\n{}{}", bulk(clients), bulk(replication)).into_bytes()
}

fn welcome() -> Vec<Vec<u8>> {
    vec![b"+OK\r\n".to_vec(), b"+OK\r\n".to_vec()]
}

async fn server(answers: Vec<Vec<u8>>) -> Server {
    converses(Vec::new(), [welcome(), answers].concat()).await
}

async fn heard(clients: &str, replication: &str) -> Result<RedisEvidence, Cause> {
    let server = server(vec![answer("+PONG", clients, replication)]).await;
    match outcome_of(redis(), &server, None).await.observation.result {
        Ok(Evidence::Redis(evidence)) => Ok(evidence),
        Ok(other) => panic!("{other:?}"),
        Err(cause) => Err(cause),
    }
}

#[tokio::test]
async fn a_primary_is_read() {
    let expected = RedisEvidence {
        is_primary: true,
        is_linked: true,
        replication_id: ID.to_owned(),
        previous_id: Some(OTHER_ID.to_owned()),
        offset: 42,
        connections_used: 4,
        connections_allowed: 10_000,
    };
    let heard = heard(CLIENTS, &replication("master", OTHER_ID)).await;
    assert_eq!(heard, Ok(expected));
}

#[tokio::test]
async fn a_replica_tells_whether_it_follows() {
    for (status, is_linked) in [("up", true), ("down", false)] {
        let status = format!("master_link_status:{status}\r\n");
        let replica = replication("slave", NO_ID) + &status;
        let evidence = heard("connected_clients:1\r\n", &replica).await.unwrap();
        assert_eq!(
            (evidence.is_primary, evidence.is_linked),
            (false, is_linked)
        );
        assert_eq!(evidence.previous_id, None);
        assert_eq!(evidence.connections_allowed, u32::MAX, "an old server");
    }
}

#[tokio::test]
async fn an_answer_that_no_redis_gives_is_refused() {
    let primary = replication("master", NO_ID);
    for (clients, replication) in [
        ("", primary.as_str()),
        ("connected_clients:x\r\n", &primary),
        ("connected_clients:1\r\nmaxclients:-1\r\n", &primary),
        (CLIENTS, ""),
        (CLIENTS, &replication("slave", NO_ID)),
        (CLIENTS, &primary.replace(ID, "short")),
        (CLIENTS, &primary.replace("role:", "roll:")),
    ] {
        let heard = heard(clients, replication).await;
        assert_eq!(
            heard,
            Err(Cause::UnexpectedAnswer),
            "{clients}{replication}"
        );
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    for (words, expected) in [
        (
            "LOADING Redis is loading the dataset in memory",
            Cause::StartingUp,
        ),
        ("MASTERDOWN Link with MASTER is down", Cause::LostPrimary),
        ("BUSY Redis is busy running a script", Cause::CheckTimeout),
        ("MISCONF Redis is configured to save", Cause::ReadOnly),
        ("NOPERM this user has no permissions", Cause::LoginFailed),
        (
            "ERR max number of clients reached",
            Cause::TooManyConnections,
        ),
        ("ERR unknown command", Cause::UnexpectedAnswer),
    ] {
        let primary = replication("master", NO_ID);
        let server = server(vec![answer(&format!("-{words}"), CLIENTS, &primary)]).await;
        let outcome = outcome_of(redis(), &server, None).await;
        assert_eq!(outcome.observation.result, Err(expected), "{words}");
        let complains = expected == Cause::LoginFailed;
        assert_eq!(outcome.complaint.is_some(), complains, "{words}");
    }
}

#[tokio::test]
async fn a_refused_login_is_told_in_the_servers_words() {
    for words in ["WRONGPASS invalid password", "ERR no password is set"] {
        let refusal = format!("-{words}\r\n").into_bytes();
        let server = converses(Vec::new(), vec![refusal]).await;
        let outcome = outcome_of(redis(), &server, None).await;
        assert_eq!(outcome.observation.result, Err(Cause::LoginFailed));
        assert_eq!(outcome.complaint.as_deref(), Some(words));
    }
}

/// It closes with our login unread, which resets.
#[tokio::test]
async fn a_full_server_is_heard_before_its_reset() {
    let server = serve(async |mut stream: TcpStream| {
        stream
            .write_all(b"-ERR max number of clients reached\r\n")
            .await?;
        stream.readable().await
    })
    .await;
    let outcome = outcome_of(redis(), &server, None).await;
    assert_eq!(outcome.observation.result, Err(Cause::TooManyConnections));
}

#[tokio::test]
async fn evil_servers_are_given_up() {
    for (said, expected) in [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            Cause::UnexpectedAnswer,
        ),
        (b"$2000000000\r\n".to_vec(), Cause::UnexpectedAnswer),
        (b"*1\r\n".repeat(1000), Cause::UnexpectedAnswer),
        (vec![b'+'; 1 << 20], Cause::UnexpectedAnswer),
        (b"+OK".to_vec(), Cause::EarlyClose),
        (vec![], Cause::EarlyClose),
    ] {
        let server = server(vec![said]).await;
        let seen = outcome_of(redis(), &server, None).await.observation.result;
        let seen = seen.unwrap_err();
        // Closing while more is on its way resets.
        assert!(
            seen == expected || seen == Cause::Reset,
            "{seen} {expected}"
        );
    }
}

#[tokio::test]
async fn one_connection_serves_many_probes_until_it_is_disturbed() {
    let primary = answer("+PONG", CLIENTS, &replication("master", NO_ID));
    for (said, expected) in [
        (&b""[..], Cause::Reset),
        (b"+?\r\n", Cause::UnexpectedAnswer),
    ] {
        let last = [&primary, said].concat();
        let server = server(vec![primary.clone(), last]).await;
        let link = kept(outcome_of(redis(), &server, None).await);
        let mut link = kept(outcome_of(redis(), &server, Some(link)).await);
        assert_eq!(link.disturbed().await, expected);
        link.close().await;
    }
}
