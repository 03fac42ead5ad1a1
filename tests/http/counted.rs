//! What is counted of retries, hedges, ejections and refusals is what happened: no more, no less.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::harness::Plan;
use crate::harness::Stage;
use crate::harness::status;
use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::relay::FaultRelay;
use crate::support::wait_until;
use crate::world::CHECK;
use crate::world::Client;
use crate::world::stage;

const IN_TURN: &str = "balance: {policy: round_robin}";
const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";

fn saying(answer: &'static [u8]) -> Recorder {
    Recorder::answering(move |head| match head.starts_with("GET /check ") {
        true => ok("fine"),
        false => answer.to_vec(),
    })
}

fn asked(recorder: &Recorder) -> f64 {
    recorder.text().matches(" /x HTTP/1.1\r\n").count() as f64
}

/// Sum of a metric; 0 where it has no series.
fn count(stage: &Stage, name: &str, labels: &[(&str, &str)]) -> f64 {
    let name = format!("evergate_{name}");
    stage.evergate.metric(&name, labels).unwrap_or(0.0)
}

fn retries(stage: &Stage, reason: &str) -> f64 {
    count(stage, "http_retries_total", &[("reason", reason)])
}

/// Nothing but these reasons was counted.
#[track_caller]
fn assert_only(stage: &Stage, reason: &str, times: f64) {
    assert_eq!(retries(stage, reason), times, "{reason}");
    assert_eq!(count(stage, "http_retries_total", &[]), times, "all");
}

#[test]
fn a_retry_counts_under_its_reason() {
    let cases: [(&[u8], &str, &str); 3] = [
        (BUSY, "http: {retry: {statuses: [503]}}", "status"),
        (b"", "http: {retry: {attempts: 1}}", "lost"),
        (
            b"HTTP/1.1 421 Not here\r\nContent-Length: 0\r\n\r\n",
            "http: {retry: {attempts: 1}}",
            "refused",
        ),
    ];
    for (answer, keys, reason) in cases {
        let (bad, good) = (saying(answer), Recorder::named("good"));
        let cluster = format!("{CHECK}, {IN_TURN}, {keys}");
        let stage = stage(&[bad.addr(), good.addr()], &cluster, "");
        for _ in 0..6 {
            let mut client = Client::connect(stage.addr).unwrap();
            assert_eq!(client.get("/x").unwrap().status, 200, "{reason}");
        }
        assert!(asked(&bad) > 0.0, "{reason}: it was never asked");
        assert_only(&stage, reason, asked(&bad));
    }
}

/// Refused by a backend means that it has not looked at it: what it was does not matter.
#[test]
fn a_write_that_is_misdirected_goes_to_another_backend() {
    let elsewhere = saying(b"HTTP/1.1 421 Not here\r\nContent-Length: 0\r\n\r\n");
    let good = Recorder::named("good");
    let cluster = format!("{CHECK}, {IN_TURN}");
    let stage = stage(&[elsewhere.addr(), good.addr()], &cluster, "");
    let mut client = Client::connect(stage.addr).unwrap();
    for _ in 0..4 {
        let post = "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(client.ask(post).unwrap().status, 200);
    }
    assert_eq!(asked(&good), 4.0);
    assert_only(&stage, "refused", asked(&elsewhere));
}

#[test]
fn a_connect_that_failed_counts_once_and_only_where_another_attempt_followed() {
    let (gone, good) = (Recorder::named("gone"), Recorder::named("good"));
    let mut relay = FaultRelay::to(gone.addr());
    // Nobody notices that it refuses but the requests.
    let check = "health_check: {interval: 1h, timeout: 20s, path: /check, expect: [200-499]}";
    let cluster =
        format!("{check}, {IN_TURN}, failover: {{hold: {{for: 300ms, max_sessions: 9}}}}");
    let stage = stage(&[relay.addr(), good.addr()], &cluster, "");
    relay.refuse();
    for _ in 0..4 {
        let mut client = Client::connect(stage.addr).unwrap();
        assert_eq!(client.get("/x").unwrap().status, 200);
    }
    let labels = [("reason", "connect_refused")];
    let refused = count(&stage, "backend_connect_errors_total", &labels);
    assert!(refused > 0.0, "it was never tried");
    assert_only(&stage, "connect", refused);
}

#[test]
fn a_request_that_found_nobody_is_no_retry() {
    let gone = Recorder::named("gone");
    let mut relay = FaultRelay::to(gone.addr());
    let check = "health_check: {interval: 1h, timeout: 20s, path: /check, expect: [200-499]}";
    let keys = "connect: {attempts: 1}, failover: {hold: {for: 200ms, max_sessions: 9}}";
    let stage = stage(&[relay.addr()], &format!("{check}, {keys}"), "");
    relay.refuse();
    let mut client = Client::connect(stage.addr).unwrap();
    assert!(client.get("/x").unwrap().status >= 502);
    let tried = count(&stage, "backend_connect_errors_total", &[]);
    assert!(tried >= 1.0);
    // Of so many attempts all but the first were retries.
    assert_only(&stage, "connect", tried - 1.0);
}

#[test]
fn retries_and_those_that_the_budget_denied_add_up() {
    const ASKED: usize = 100;
    let backends = [(); 2].map(|()| saying(BUSY));
    let addrs = backends.each_ref().map(Recorder::addr);
    let retry = "http: {retry: {attempts: 1, statuses: [503], budget: 0.1, min_per_second: 1}}";
    let stage = stage(&addrs, &format!("{CHECK}, {IN_TURN}, {retry}"), "");
    let mut client = Client::connect(stage.addr).unwrap();
    for _ in 0..ASKED {
        assert_eq!(client.get("/x").unwrap().status, 503);
    }
    let sent: f64 = backends.iter().map(asked).sum();
    let again = sent - ASKED as f64;
    let denied = count(&stage, "http_retries_denied_total", &[]);
    assert!(again > 0.0 && denied > 0.0, "{again}, {denied}");
    assert_only(&stage, "status", again);
    // Each request was either sent again or denied it.
    assert_eq!(again + denied, ASKED as f64);
    let class = [("status_class", "5xx")];
    let requests = count(&stage, "http_requests_total", &class);
    assert_eq!(requests, ASKED as f64, "what clients were answered");
    let answers = count(&stage, "http_backend_answers_total", &class);
    assert_eq!(answers, sent, "what backends answered");
}

#[test]
fn hedges_are_the_second_copies_that_were_sent() {
    let is_slow = Arc::<AtomicBool>::default();
    let slow = Arc::clone(&is_slow);
    let first = Recorder::answering(move |head| {
        while slow.load(Ordering::Acquire) && !head.starts_with("GET /check ") {
            thread::sleep(Duration::from_millis(2));
        }
        ok("first")
    });
    let second = Recorder::named("second");
    // Only what waits for the slow one takes so long.
    let hedge = "http: {retry: {hedge: {percentile: 0.9, min_delay: 1s}}}";
    let cluster = format!("{CHECK}, {IN_TURN}, {hedge}");
    let stage = stage(&[first.addr(), second.addr()], &cluster, "");
    let mut client = Client::connect(stage.addr).unwrap();
    for _ in 0..100 {
        assert_eq!(client.get("/x").unwrap().status, 200);
    }
    let before = asked(&first);
    let hedges = count(&stage, "http_hedges_total", &[]);
    let won = count(&stage, "http_hedges_won_total", &[]);
    is_slow.store(true, Ordering::Release);
    for _ in 0..4 {
        let mut client = Client::connect(stage.addr).unwrap();
        assert_eq!(client.get("/x").unwrap().body, b"second");
    }
    let slow_ones = asked(&first) - before;
    assert!(slow_ones > 0.0, "the slow one was never asked");
    assert_eq!(count(&stage, "http_hedges_total", &[]) - hedges, slow_ones);
    assert_eq!(count(&stage, "http_hedges_won_total", &[]) - won, slow_ones);
    // A hedge is no retry, and the request is answered once.
    assert_eq!(count(&stage, "http_retries_total", &[]), 0.0);
    assert_eq!(count(&stage, "http_requests_total", &[]), 104.0);
    is_slow.store(false, Ordering::Release);
}

#[test]
fn an_ejection_counts_once_and_its_end_is_seen() {
    let bad = saying(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    let good = [Recorder::named("b"), Recorder::named("c")];
    let addrs = [bad.addr(), good[0].addr(), good[1].addr()];
    let outlier = "http: {outlier: {consecutive_5xx: 3, interval: 100ms, base_ejection: 2s, max_ejection: 10s}}";
    let stage = stage(&addrs, &format!("{CHECK}, {IN_TURN}, {outlier}"), "");
    let backend = bad.addr().to_string();
    let of_bad = [("backend", backend.as_str())];
    let mut client = Client::connect(stage.addr).unwrap();
    let mut failed = 0.0;
    wait_until(PATIENCE, "it is ejected", || {
        failed += f64::from(client.get("/x").unwrap().status == 500);
        count(&stage, "backend_ejected", &of_bad) == 1.0
    });
    assert_eq!(count(&stage, "backend_ejections_total", &of_bad), 1.0);
    assert_eq!(
        count(&stage, "backend_ejections_total", &[]),
        1.0,
        "nobody else"
    );
    let class = [of_bad[0], ("status_class", "5xx")];
    assert_eq!(count(&stage, "http_backend_answers_total", &class), failed);
    stage
        .evergate
        .wait_for_metric("evergate_backend_ejected", &of_bad, 0.0);
    assert_eq!(count(&stage, "backend_ejections_total", &of_bad), 1.0);
}

#[test]
fn what_is_refused_is_counted_where_it_was_refused() {
    let backend = Recorder::named("a");
    let limit = "rate_limit: {requests: 1, per: 1h, burst: 2}";
    let routes =
        format!("routes: [{{path: /api, cluster: web, {limit}}}, {{path: /x, cluster: web}}]");
    let plan = Plan::new(&[backend.addr()]).without_default();
    let stage = plan
        .listener(&format!("{routes}, http: {{max_uri: 1KiB}}"))
        .start();
    let get = |path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
        status(&stage.raw(head.as_bytes()))
    };
    assert_eq!([(); 5].map(|()| get("/api")), [200, 200, 429, 429, 429]);
    assert_eq!([get("/x"), get("/none"), get("/none")], [200, 404, 404]);
    // Refused before they were requests.
    let smuggled = "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(status(&stage.raw(smuggled.as_bytes())), 400);
    assert_eq!(get(&format!("/{}", "y".repeat(2000))), 414);
    let requests = |cluster, class| {
        let labels = [("cluster", cluster), ("status_class", class)];
        count(&stage, "http_requests_total", &labels)
    };
    let sum = |name| count(&stage, name, &[]);
    wait_until(PATIENCE, "all have ended", || {
        sum("sessions_ended_total") == 10.0
    });
    assert_eq!(sum("http_rate_limited_total"), 3.0);
    assert_eq!(requests("web", "2xx"), 3.0);
    assert_eq!(requests("web", "4xx"), 3.0, "over the rate");
    assert_eq!(requests("", "4xx"), 2.0, "without a route");
    assert_eq!(sum("http_requests_total"), 8.0);
    let bad = [("cause", "bad_request")];
    assert_eq!(count(&stage, "sessions_ended_total", &bad), 2.0);
    assert_eq!(asked(&backend), 1.0);
}
