//! What is done to requests and answers on their way, and what the proxy says itself.

use std::io::Write;
use std::net::Ipv4Addr;

use crate::harness::Plan;
use crate::harness::read_answer;
use crate::harness::status;
use crate::recorder::Recorder;
use crate::recorder::field;
use crate::support::evergate::Until;
use crate::support::talk::connect_from;

/// Sends a request without body and returns the answer, in lower case.
fn ask(plan: &crate::harness::Stage, head: &str) -> String {
    let request = format!("{head}\r\nConnection: close\r\n\r\n");
    plan.raw(request.as_bytes()).to_ascii_lowercase()
}

/// The heads that a backend has seen, in lower case.
fn heads(backend: &Recorder) -> Vec<String> {
    let text = backend.text().to_ascii_lowercase();
    text.split_inclusive("\r\n\r\n")
        .map(str::to_owned)
        .collect()
}

#[test]
fn header_rules_remove_set_and_add_on_both_ways() {
    let backend = Recorder::answering(|_| {
        b"HTTP/1.1 200 OK\r\nServer: secret/1.0\r\nX-Set: theirs\r\nX-Add: theirs\r\n\
          Content-Length: 0\r\n\r\n"
            .to_vec()
    });
    let rules = "{remove: [x-gone], set: {x-set: ours}, add: {x-add: ours}}";
    let back = "{remove: [server], set: {x-set: ours}, add: {x-add: ours}}";
    let routes = format!(
        "routes: [{{path: /, cluster: web, request_headers: {rules}, response_headers: {back}}}]"
    );
    let stage = Plan::new(&[backend.addr()]).listener(&routes).start();
    let answer = ask(
        &stage,
        "GET /x HTTP/1.1\r\nHost: a.test\r\nX-Gone: 1\r\nx-gone: 2\r\nX-Set: theirs\r\nX-Add: theirs",
    );
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = &heads(&backend)[0];
    assert_eq!(field(seen, "x-gone"), None, "{seen}");
    for head in [seen, &answer] {
        assert_eq!(head.matches("\r\nx-set: ours\r\n").count(), 1, "{head}");
        assert_eq!(head.matches("\r\nx-set: ").count(), 1, "{head}");
        assert!(head.contains("\r\nx-add: theirs\r\n"), "{head}");
        assert!(head.contains("\r\nx-add: ours\r\n"), "{head}");
    }
    assert_eq!(field(&answer, "server"), None, "{answer}");
}

/// Class 31.
#[test]
fn only_trusted_peers_say_who_asks() {
    let backend = Recorder::named("a");
    let claims = "GET /x HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.7\r\n\
                  X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\n\
                  X-Forwarded-For: 198.51.100.9\r\nForwarded: for=203.0.113.7;proto=https\r\n\
                  X-Real-IP: 203.0.113.7\r\nX-Request-Id: chosen";
    let plan = Plan::new(&[backend.addr()]);
    let stranger = plan.start();
    assert_eq!(status(&ask(&stranger, claims)), 200);
    let trusts = "http: {trusted: [127.0.0.0/8]}";
    let friend = Plan::new(&[backend.addr()]).listener(trusts).start();
    assert_eq!(status(&ask(&friend, claims)), 200);
    let heads = heads(&backend);
    let (replaced, appended) = (&heads[0], &heads[1]);
    assert_eq!(field(replaced, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(field(replaced, "x-forwarded-proto"), Some("http"));
    assert_eq!(field(replaced, "x-forwarded-host"), Some("a.test"));
    for claimed in ["203.0.113.7", "198.51.100.9", "evil.test", "chosen"] {
        assert!(!replaced.contains(claimed), "{claimed}: {replaced}");
    }
    let chain = "203.0.113.7, 198.51.100.9, 127.0.0.1";
    let values: Vec<&str> = appended
        .split("\r\n")
        .filter_map(|line| line.strip_prefix("x-forwarded-for: "))
        .collect();
    assert_eq!(values.join(", "), chain, "{appended}");
    assert_eq!(field(appended, "x-request-id"), Some("chosen"));
    assert_eq!(field(appended, "x-forwarded-proto"), Some("https"));
    assert!(
        appended.contains("for=203.0.113.7;proto=https"),
        "{appended}"
    );
    assert!(appended.contains("for=127.0.0.1"), "{appended}");
    assert_eq!(field(appended, "x-real-ip"), Some("203.0.113.7"));
}

#[test]
fn via_names_the_proxy_and_a_circle_ends() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let answer = ask(&stage, "GET /x HTTP/1.1\r\nHost: a.test\r\nVia: 1.0 other");
    assert_eq!(field(&answer, "via"), Some("1.1 evergate"), "{answer}");
    let seen = heads(&backend).remove(0);
    assert!(seen.contains("\r\nvia: 1.0 other"), "{seen}");
    assert!(seen.contains("1.1 evergate\r\n"), "{seen}");
    let circle = "Via: 1.1 evergate\r\n".repeat(40);
    let answer = ask(
        &stage,
        &format!("GET /x HTTP/1.1\r\nHost: a.test\r\n{}", circle.trim_end()),
    );
    assert_eq!(status(&answer), 508, "{answer}");
    assert_eq!(heads(&backend).len(), 1);
}

/// Point 10 of own answers: small, typed, with the cause, without an address.
#[test]
fn own_answers_are_typed_and_tell_no_address() {
    let gone = crate::support::ports::free_addr();
    let plan = Plan::default()
        .cluster(
            "web",
            &[gone],
            "failover: {hold: {for: 100ms, max_sessions: 10}}",
        )
        .listener("routes: [{path: {exact: /x}, cluster: web}], http: {access_log: {}}");
    let yaml = plan.yaml(gone);
    assert!(yaml.contains("cluster: web"));
    let stage = plan.start_until(Until::Alive);
    for (accept, content_type) in [
        ("application/json", "application/problem+json"),
        (
            "application/problem+json, */*;q=0.1",
            "application/problem+json",
        ),
        ("*/*", "text/plain; charset=utf-8"),
    ] {
        let head = format!("GET /x HTTP/1.1\r\nHost: a.test\r\nAccept: {accept}");
        let answer = ask(&stage, &head);
        assert_eq!(status(&answer), 503, "{answer}");
        assert_eq!(
            field(&answer, "content-type"),
            Some(content_type),
            "{answer}"
        );
        assert_eq!(
            field(&answer, "cache-control"),
            Some("no-store"),
            "{answer}"
        );
        assert!(field(&answer, "retry-after").is_some(), "{answer}");
        assert!(field(&answer, "x-request-id").is_some(), "{answer}");
        assert!(answer.contains("hold_timeout"), "{answer}");
        assert!(!answer.contains("127.0.0.1"), "{answer}");
        assert!(!answer.contains(&gone.port().to_string()), "{answer}");
        assert!(answer.len() < 1024, "{answer}");
    }
}

#[test]
fn a_client_over_its_rate_waits_and_others_do_not() {
    let backend = Recorder::named("a");
    let limit = "rate_limit: {requests: 5, per: 1h}";
    let routes = format!("routes: [{{path: /limited, cluster: web, {limit}}}]");
    let plan = Plan::new(&[backend.addr()]).listener(&routes);
    let stage = plan.start();
    let mut client = stage.connect();
    let ask = |client: &mut std::net::TcpStream, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        read_answer(client)
    };
    for _ in 0..5 {
        assert_eq!(status(&ask(&mut client, "/limited")), 200);
    }
    let refused = ask(&mut client, "/limited").to_ascii_lowercase();
    assert_eq!(status(&refused), 429, "{refused}");
    let wait: u64 = field(&refused, "retry-after").unwrap().parse().unwrap();
    // One token comes in a fifth of an hour.
    assert!((600..=720).contains(&wait), "{refused}");
    // Neither what has no limit, nor anyone else; and the connection lasts.
    assert_eq!(status(&ask(&mut client, "/free")), 200);
    let mut other = connect_from(Ipv4Addr::new(127, 0, 0, 2), stage.addr);
    assert_eq!(status(&ask(&mut other, "/limited")), 200);
    // A reload that does not change the limit gives nothing away.
    let yaml = plan.yaml(stage.addr) + "# another text\n";
    stage.evergate.reload(&yaml);
    assert_eq!(status(&ask(&mut client, "/limited")), 429);
    assert_eq!(status(&ask(&mut other, "/limited")), 200);
    assert_eq!(backend.text().matches("GET /limited ").count(), 7);
}
