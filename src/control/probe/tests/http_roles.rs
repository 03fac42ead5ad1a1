//! Services that tell their role by status, as Patroni does.

use super::databases::outcome_of;
use super::*;
use crate::config::RolePaths;
use crate::control::evidence::ToldEvidence;

const YES: &str = "200 OK";
const NO: &str = "503 Service Unavailable";
const ODD: &str = "500 Internal Server Error";
const PATRONI: &str = r#"{"state": "running", "role": "primary", "timeline": 7}"#;

fn roles() -> CheckKind {
    http(|check| {
        check.roles = Some(RolePaths {
            primary: "/primary".to_owned(),
            replica: "/replica".to_owned(),
        });
    })
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// Answers the two paths, whichever is asked first.
async fn service(primary: Vec<u8>, replica: Vec<u8>) -> Server {
    let answers = Arc::new((primary, replica));
    serve(move |mut stream: TcpStream| {
        let answers = Arc::clone(&answers);
        async move {
            let request = read_some(&mut stream).await?;
            let (primary, replica) = &*answers;
            let answer = match request.starts_with(b"GET /primary HTTP/1.1\r\n") {
                true => primary,
                false => replica,
            };
            stream.write_all(answer).await?;
            stream.shutdown().await
        }
    })
    .await
}

async fn told(primary: Vec<u8>, replica: Vec<u8>) -> Result<Evidence, Cause> {
    let server = service(primary, replica).await;
    outcome_of(roles(), &server, None).await.observation.result
}

fn evidence(is_primary: bool, timeline: Option<u32>) -> Result<Evidence, Cause> {
    Ok(Evidence::Told(ToldEvidence {
        is_primary,
        timeline,
    }))
}

#[tokio::test]
async fn the_path_that_says_yes_tells_the_role() {
    for (primary, replica, expected) in [
        (YES, NO, evidence(true, None)),
        (YES, ODD, evidence(true, None)),
        (NO, YES, evidence(false, None)),
        (ODD, YES, evidence(false, None)),
        (NO, NO, Err(Cause::StartingUp)),
        (YES, YES, Err(Cause::UnexpectedAnswer)),
        (ODD, NO, Err(Cause::UnexpectedAnswer)),
        (NO, ODD, Err(Cause::UnexpectedAnswer)),
        (ODD, ODD, Err(Cause::UnexpectedAnswer)),
    ] {
        let told = told(answer(primary, ""), answer(replica, "")).await;
        assert_eq!(told, expected, "{primary}, {replica}");
    }
}

#[tokio::test]
async fn patroni_tells_its_timeline_too() {
    let no = || answer(NO, PATRONI);
    let primary = told(answer(YES, PATRONI), no()).await;
    assert_eq!(primary, evidence(true, Some(7)));
    let replica = told(no(), answer(YES, PATRONI)).await;
    assert_eq!(replica, evidence(false, Some(7)));
    for other in ["ok", "{}", r#"{"timeline": -1}"#, r#"{"timeline": 0}"#] {
        let told = told(answer(YES, other), no()).await;
        assert_eq!(told, evidence(true, None), "{other}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_tells_no_role() {
    let no = || answer(NO, "");
    let huge = answer(YES, &"x".repeat(MAX_ANSWER_BYTES + 1));
    assert_eq!(told(huge, no()).await, Err(Cause::UnexpectedAnswer));
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".to_vec();
    assert_eq!(told(cut, no()).await, Err(Cause::EarlyClose));
    let garbage = b"SSH-2.0-OpenSSH_9.2\r\n".to_vec();
    assert_eq!(told(garbage, no()).await, Err(Cause::UnexpectedAnswer));
    assert_eq!(told(Vec::new(), no()).await, Err(Cause::EarlyClose));
}

#[tokio::test]
async fn a_slow_service_has_no_more_time_for_two_paths_than_for_one() {
    let slow = dribbles("HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n").await;
    let target = target(roles(), HASTY);
    let started = Instant::now();
    let outcome = probe(&target, slow.address, None, &Semaphore::new(1)).await;
    assert_eq!(outcome.observation.result, Err(Cause::CheckTimeout));
    assert!(started.elapsed() < PATIENT);
}
