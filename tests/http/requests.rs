//! Requests on their way: balanced one by one, rewritten by the rules, answered whatever happens.

use std::io::Read;
use std::io::Write;

use crate::harness::Plan;
use crate::harness::status;
use crate::recorder::Recorder;
use crate::recorder::field;
use crate::support::evergate::Until;
use crate::support::http;

#[test]
fn requests_of_one_connection_go_to_all_backends() {
    let backends = ["a", "b", "c"].map(Recorder::named);
    let addrs = backends.each_ref().map(Recorder::addr);
    let balance = "balance: {policy: round_robin}";
    let stage = Plan::default().cluster("web", &addrs, balance).start();
    let evergate = &stage.evergate;
    evergate.wait_for_metric("evergate_backend_up", &[], 3.0);
    let one = "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n".repeat(8);
    let last = "GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let answers = stage.raw(format!("{one}{last}").as_bytes());
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 9, "{answers}");
    for (backend, name) in backends.iter().zip(["a", "b", "c"]) {
        let requests = backend.text().matches("GET /x HTTP/1.1\r\n").count();
        assert_eq!(requests, 3, "{name}: {}", backend.text());
    }
}

#[test]
fn a_backend_is_told_who_asks_and_not_what_was_meant_for_the_proxy() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let answer = stage.raw(
        b"GET /x?y=1 HTTP/1.1\r\nHost: Shop.Test:8080\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\n\
          Keep-Alive: timeout=5\r\nX-Forwarded-For: 9.9.9.9\r\nX-Own: kept\r\n\r\n",
    );
    assert_eq!(status(&answer), 200, "{answer}");
    let head = backend.text().to_ascii_lowercase();
    assert!(head.starts_with("get /x?y=1 http/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "host"), Some("shop.test:8080"));
    assert_eq!(field(&head, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(field(&head, "x-own"), Some("kept"));
    assert!(field(&head, "x-request-id").is_some(), "{head}");
    for gone in ["connection", "x-mine", "keep-alive"] {
        assert_eq!(field(&head, gone), None, "{head}");
    }
}

#[test]
fn without_a_backend_the_answer_says_so_and_names_nobody() {
    let gone = crate::support::ports::free_addr();
    let keys = "failover: {hold: {for: 300ms, max_sessions: 10}}";
    let plan = Plan::default().cluster("web", &[gone], keys);
    let stage = plan.start_until(Until::Alive);
    let headers = [("Accept", "application/json")];
    let answer = http::request(stage.addr, "GET", "/", &headers, b"").unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.json()["cause"], "hold_timeout");
    assert!(answer.header("retry-after").is_some());
    let port = gone.port().to_string();
    assert!(!answer.text().contains(&port), "{answer:?}");
}

#[test]
fn an_idle_client_is_put_away_and_served_again() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let mut client = stage.connect();
    for _ in 0..3 {
        client
            .write_all(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
            .unwrap();
        let mut answer = [0; 4096];
        let read = client.read(&mut answer).unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
        // Longer than it takes to put it away.
        std::thread::sleep(std::time::Duration::from_millis(1600));
    }
}
