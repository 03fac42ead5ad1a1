//! Passive health, end to end: a backend whose answers are bad is left alone for a while.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::evergate::evergate;
use crate::support::wait_until;
use crate::world::CHECK;
use crate::world::Client;
use crate::world::stage;

/// Healthy by its checks, whatever it answers.
fn switchable(bad: &'static [u8]) -> (Recorder, Arc<AtomicBool>) {
    let is_bad = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&is_bad);
    let recorder = Recorder::answering(move |head| {
        match state.load(Ordering::Acquire) && !head.starts_with("GET /check ") {
            true => bad.to_vec(),
            false => ok("fine"),
        }
    });
    (recorder, is_bad)
}

fn asked(recorder: &Recorder) -> usize {
    recorder.text().matches("GET /x HTTP").count()
}

#[test]
fn a_backend_that_answers_500_is_ejected_told_of_and_taken_back() {
    let (bad, is_bad) = switchable(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    let good = [Recorder::named("b"), Recorder::named("c")];
    let addrs = [bad.addr(), good[0].addr(), good[1].addr()];
    let outlier = "http: {outlier: {consecutive_5xx: 3, interval: 100ms, base_ejection: 3s, max_ejection: 10s}}";
    let cluster = format!("{CHECK}, balance: {{policy: round_robin}}, {outlier}");
    let stage = stage(&addrs, &cluster, "");
    let mut client = Client::connect(stage.addr).unwrap();
    let mut failed = 0;
    wait_until(PATIENCE, "it is ejected", || {
        failed += usize::from(client.get("/x").unwrap().status == 500);
        stage.evergate.metric("evergate_backend_ejected", &[]) == Some(1.0)
    });
    assert!(failed >= 3, "{failed}");
    let before = asked(&bad);
    for _ in 0..30 {
        assert_eq!(client.get("/x").unwrap().status, 200);
    }
    assert_eq!(asked(&bad), before, "ejected means left alone");
    let admin = stage.evergate.admin().to_string();
    let told = evergate(&[
        "explain",
        "--admin",
        &admin,
        "--listener",
        "web",
        "--path",
        "/x",
    ]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(
        told.contains("excluded") && told.contains("ejected: "),
        "{told}"
    );
    stage.evergate.wait_for_log("backend ejected");
    is_bad.store(false, Ordering::Release);
    wait_until(PATIENCE, "it is taken back", || {
        assert_eq!(client.get("/x").unwrap().status, 200);
        asked(&bad) > before
    });
}

#[test]
fn a_backend_that_asks_to_be_left_alone_is() {
    let (busy, is_busy) =
        switchable(b"HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n");
    let good = Recorder::named("b");
    let outlier = "http: {outlier: {interval: 100ms}, retry: {statuses: [503]}}";
    let cluster = format!("{CHECK}, balance: {{policy: round_robin}}, {outlier}");
    let stage = stage(&[busy.addr(), good.addr()], &cluster, "");
    let mut client = Client::connect(stage.addr).unwrap();
    wait_until(PATIENCE, "it is left alone", || {
        assert_eq!(client.get("/x").unwrap().status, 200);
        stage.evergate.metric("evergate_backend_ejected", &[]) == Some(1.0)
    });
    let before = asked(&busy);
    for _ in 0..20 {
        assert_eq!(client.get("/x").unwrap().status, 200);
    }
    assert_eq!(asked(&busy), before);
    is_busy.store(false, Ordering::Release);
    wait_until(PATIENCE, "it is asked again", || {
        assert_eq!(client.get("/x").unwrap().status, 200);
        asked(&busy) > before
    });
}

#[test]
fn a_read_that_takes_long_is_answered_by_a_second_backend() {
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = Arc::clone(&is_slow);
    let first = Recorder::answering(move |head| {
        while slow.load(Ordering::Acquire) && !head.starts_with("GET /check ") {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        ok("first")
    });
    let second = Recorder::named("second");
    let hedge = "http: {retry: {hedge: {percentile: 0.9, min_delay: 20ms}}}";
    let cluster = format!("{CHECK}, balance: {{policy: round_robin}}, {hedge}");
    let stage = stage(&[first.addr(), second.addr()], &cluster, "");
    let mut client = Client::connect(stage.addr).unwrap();
    for _ in 0..100 {
        assert_eq!(client.get("/x").unwrap().status, 200);
    }
    is_slow.store(true, Ordering::Release);
    let before = asked(&first);
    for _ in 0..6 {
        let mut client = Client::connect(stage.addr).unwrap();
        assert_eq!(client.get("/x").unwrap().body, b"second");
    }
    assert!(asked(&first) > before, "the slow one was never asked");
    is_slow.store(false, Ordering::Release);
}
