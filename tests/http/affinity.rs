//! The same client or key goes to the same backend: cookies that lead back, consistent hashes.

use std::collections::BTreeSet;

use crate::recorder::Recorder;
use crate::recorder::field;
use crate::support::PATIENCE;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::wait_until;
use crate::world::CHECK;
use crate::world::Client;
use crate::world::Reply;
use crate::world::file;
use crate::world::stage;

const STICKY: &str =
    "balance: {policy: round_robin}, http: {sticky: {secret: a-secret-of-16-characters}}";

fn ask(addr: std::net::SocketAddr, path: &str, header: &str) -> Reply {
    let mut client = Client::connect(addr).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{header}\r\n\r\n");
    client.ask(&request).unwrap()
}

/// The cookie that an answer sets; in the case in which it came.
fn cookie_of(stage: std::net::SocketAddr) -> (String, String) {
    let answer = crate::support::http::request(stage, "GET", "/x", &[], b"").unwrap();
    let cookie = answer.header("set-cookie").expect("a cookie").to_owned();
    let pair = cookie.split(';').next().unwrap().to_owned();
    (format!("Cookie: {pair}"), cookie)
}

#[test]
fn a_cookie_leads_back_to_its_backend_and_is_set_once() {
    let backends = ["a", "b", "c"].map(Recorder::named);
    let addrs = backends.each_ref().map(Recorder::addr);
    let stage = stage(&addrs, &format!("{CHECK}, {STICKY}"), "");
    let (cookie, whole) = cookie_of(stage.addr);
    assert!(whole.contains("HttpOnly"), "{whole}");
    assert!(!whole.contains("Secure"), "{whole}");
    for addr in &addrs {
        assert!(!whole.contains(&addr.port().to_string()), "{whole}");
    }
    let first = ask(stage.addr, "/x", &cookie);
    for _ in 0..6 {
        let reply = ask(stage.addr, "/x", &cookie);
        assert_eq!(reply.body, first.body);
        assert_eq!(field(&reply.head, "set-cookie"), None, "{}", reply.head);
    }
    let others: BTreeSet<Vec<u8>> = (0..6).map(|_| ask(stage.addr, "/x", "X: 1").body).collect();
    assert_eq!(others.len(), 3, "without a cookie there is no preference");
}

#[test]
fn a_cookie_outlives_a_restart_and_is_renewed_when_its_backend_is_gone() {
    let backends = ["a", "b", "c"].map(Recorder::named);
    let addrs = backends.each_ref().map(Recorder::addr);
    let listens = free_addr();
    let yaml = file(listens, &addrs, &format!("{CHECK}, {STICKY}"), "");
    let start = || {
        let evergate = Evergate::start(&yaml);
        evergate.wait_for_metric("evergate_backend_up", &[], 3.0);
        evergate
    };
    let mut evergate = start();
    let (cookie, _) = cookie_of(listens);
    let home = ask(listens, "/x", &cookie).body;
    assert_eq!(evergate.stop(PATIENCE).code(), Some(0));
    drop(evergate);
    let evergate = start();
    for _ in 0..4 {
        assert_eq!(ask(listens, "/x", &cookie).body, home);
    }
    let at = ["a", "b", "c"]
        .iter()
        .position(|name| name.as_bytes() == home);
    let gone = addrs[at.unwrap()];
    let text = yaml
        .replace(&format!("[{gone}, "), "[")
        .replace(&format!(", {gone}"), "");
    assert_ne!(text, yaml);
    evergate.reload(&text);
    let reply = ask(listens, "/x", &cookie);
    assert_eq!(reply.status, 200);
    assert_ne!(reply.body, home);
    assert!(field(&reply.head, "set-cookie").is_some(), "{}", reply.head);
}

#[test]
fn a_made_up_cookie_is_no_cookie() {
    let backends = ["a", "b"].map(Recorder::named);
    let addrs = backends.each_ref().map(Recorder::addr);
    let stage = stage(&addrs, &format!("{CHECK}, {STICKY}"), "");
    for made_up in ["evergate=0", "evergate=", "evergate=AAAAAAAAAAAAAAAAAAAAAA"] {
        let reply = ask(stage.addr, "/x", &format!("Cookie: {made_up}"));
        assert_eq!(reply.status, 200);
        assert!(field(&reply.head, "set-cookie").is_some(), "{made_up}");
    }
}

#[test]
fn one_key_has_one_backend_in_every_instance() {
    let backends = ["a", "b", "c"].map(Recorder::named);
    let addrs = backends.each_ref().map(Recorder::addr);
    for (key, path, header) in [
        ("header:x-tenant", "/x", "X-Tenant: KEY"),
        ("cookie:session", "/x", "Cookie: other=1; session=KEY"),
        ("query:user", "/x?a=1&user=KEY", "X: 1"),
        ("path", "/of/KEY", "X: 1"),
    ] {
        let balance =
            format!("{CHECK}, balance: {{policy: consistent_hash, hash: {{key: '{key}'}}}}");
        let instances = [(); 2].map(|()| stage(&addrs, &balance, ""));
        let mut met = BTreeSet::new();
        for value in 0..20 {
            let value = format!("key-{value}");
            let (path, header) = (path.replace("KEY", &value), header.replace("KEY", &value));
            let first = ask(instances[0].addr, &path, &header);
            for instance in instances.iter().chain(&instances) {
                let reply = ask(instance.addr, &path, &header);
                assert_eq!(reply.body, first.body, "{key} {value}");
            }
            met.insert(first.body);
        }
        assert_eq!(met.len(), 3, "{key}: all backends have some keys");
    }
}

#[test]
fn a_backend_that_comes_back_gets_its_clients_back() {
    let backends = ["a", "b"].map(Recorder::named);
    let addrs = backends.each_ref().map(Recorder::addr);
    let mut relay = crate::support::relay::FaultRelay::to(addrs[0]);
    let stage = stage(&[relay.addr(), addrs[1]], &format!("{CHECK}, {STICKY}"), "");
    let cookie = std::iter::repeat_with(|| cookie_of(stage.addr).0)
        .take(10)
        .find(|cookie| ask(stage.addr, "/x", cookie).body == b"a");
    let cookie = cookie.expect("a cookie of the first backend");
    relay.refuse();
    assert_eq!(ask(stage.addr, "/x", &cookie).body, b"b");
    relay.accept_again();
    wait_until(PATIENCE, "it is at home again", || {
        ask(stage.addr, "/x", &cookie).body == b"a"
    });
}
