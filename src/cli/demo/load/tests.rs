//! Against servers that misbehave: the load must see it, or the verdict is worth nothing.

use super::*;
use crate::cli::demo::backend::ReservedPort;
use crate::cli::demo::ledger::Clock;
use crate::cli::demo::measure::Failure;
use std::io::BufRead;
use std::io::BufReader as StdBufReader;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream as StdTcpStream;

/// Serves until the process ends; `answer` makes an answer to each request, or hangs up.
fn server(answer: fn(&str) -> Option<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || serve(&stream, answer));
        }
    });
    address
}

fn serve(mut stream: &StdTcpStream, answer: fn(&str) -> Option<String>) {
    // The client may have gone away already.
    let _ = stream.write_all(wire::greeting("db-1").as_bytes());
    for line in StdBufReader::new(stream).lines() {
        let Some(answer) = line.ok().and_then(|line| answer(&format!("{line}\n"))) else {
            return;
        };
        let _ = stream.write_all(answer.as_bytes());
    }
}

/// Runs the load until it sees a failure of this kind.
async fn assert_seen(target: SocketAddr, what: What) {
    let ledger = Arc::new(Ledger::new(Clock::start()));
    let _load = Load::start(target, Duration::from_millis(200), Arc::clone(&ledger)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let is_seen = |failures: &[_]| failures.iter().any(|one: &Failure| one.what == what);
        if ledger.read(|records| is_seen(&records.failures)) {
            return;
        }
        let failures = ledger.read(|records| records.failures.clone());
        assert!(Instant::now() < deadline, "no {what:?} in {failures:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_refused_connection_is_seen() {
    let nobody = ReservedPort::new().unwrap();
    assert_seen(nobody.address, What::NotGreeted).await;
}

#[tokio::test]
async fn a_request_without_an_answer_is_seen() {
    assert_seen(server(|_| None), What::Unanswered).await;
}

#[tokio::test]
async fn a_corrupted_answer_is_seen() {
    let target = server(|request| Some(wire::answer("db-1", request).replace("a", "b")));
    assert_seen(target, What::Wrong(WrongAnswer::Corrupted)).await;
}

#[tokio::test]
async fn an_answer_of_another_backend_is_seen() {
    let target = server(|request| Some(wire::answer("db-2", request)));
    assert_seen(target, What::Wrong(WrongAnswer::Corrupted)).await;
}

#[tokio::test]
async fn a_doubled_answer_is_seen() {
    let target = server(|request| Some(wire::answer("db-1", request).repeat(2)));
    assert_seen(target, What::Wrong(WrongAnswer::Duplicated)).await;
}
