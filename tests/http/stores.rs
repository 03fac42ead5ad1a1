//! Real servers: nginx, and etcd as a data store that speaks HTTP.

use std::io::Read;
use std::io::Write;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::PATIENCE;
use crate::support::etcd::Etcd;
use crate::support::http;
use crate::support::ports::free_addr;
use crate::support::process::run;
use crate::support::wait_until;
use crate::support::webserver::Nginx;
use crate::world::Client;
use crate::world::stage;

const ETCD_CHECK: &str = "health_check: {interval: 300ms, path: /health}";

fn post(addr: std::net::SocketAddr, path: &str, body: &serde_json::Value) -> serde_json::Value {
    let body = body.to_string();
    let answer = http::request(addr, "POST", path, &[], body.as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}

#[test]
fn etcd_is_written_read_and_watched_through_the_proxy() {
    let etcd = Etcd::start();
    let stage = stage(&[etcd.addr()], ETCD_CHECK, "");
    for at in 0..20 {
        let put = json!({ "key": encoded(&format!("k{at}")), "value": encoded(&format!("v{at}")) });
        post(stage.addr, "/v3/kv/put", &put);
    }
    let range = json!({ "key": encoded("k0"), "range_end": encoded("l") });
    let found = post(stage.addr, "/v3/kv/range", &range);
    assert_eq!(found["count"], "20", "{found}");
    assert_eq!(found["kvs"][0]["value"], encoded("v0"));

    // A watch is an answer that never ends: each event must come at once.
    let mut watch = stage.connect();
    let create = json!({ "create_request": { "key": encoded("watched") } }).to_string();
    let request = format!(
        "POST /v3/watch HTTP/1.1\r\nHost: etcd.test\r\nContent-Length: {}\r\n\r\n{create}",
        create.len()
    );
    watch.write_all(request.as_bytes()).unwrap();
    let mut seen = String::new();
    read_until(&mut watch, &mut seen, "\"created\":true");
    for value in ["one", "two", "three"] {
        let put = json!({ "key": encoded("watched"), "value": encoded(value) });
        post(stage.addr, "/v3/kv/put", &put);
        read_until(&mut watch, &mut seen, &encoded(value));
    }
    drop(watch);
    wait_until(PATIENCE, "the watch has ended at the backend", || {
        let active = stage
            .evergate
            .metric("evergate_backend_connections_active", &[]);
        active == Some(0.0)
    });
}

fn read_until(stream: &mut impl Read, seen: &mut String, wanted: &str) {
    let mut buffer = [0; 4096];
    while !seen.contains(wanted) {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "the watch ended: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

#[test]
fn a_request_waits_for_etcd_while_it_is_started_again() {
    let etcd = Etcd::start();
    let hold = "failover: {hold: {for: 20s, max_sessions: 100}}";
    let stage = stage(&[etcd.addr()], &format!("{ETCD_CHECK}, {hold}"), "");
    let put = json!({ "key": encoded("a"), "value": encoded("kept") });
    post(stage.addr, "/v3/kv/put", &put);
    etcd.stop();
    stage
        .evergate
        .wait_for_metric("evergate_backend_up", &[], 0.0);
    let mut client = Client::connect(stage.addr).unwrap();
    let range = json!({ "key": encoded("a") }).to_string();
    let request = format!(
        "POST /v3/kv/range HTTP/1.1\r\nHost: etcd.test\r\nContent-Length: {}\r\n\r\n{range}",
        range.len()
    );
    client.send(request.as_bytes()).unwrap();
    etcd.start_again();
    let reply = client.reply().unwrap();
    let body = String::from_utf8_lossy(&reply.body).into_owned();
    assert_eq!(reply.status, 200, "{body}");
    assert!(body.contains(&encoded("kept")), "{body}");
}

/// nginx with a large file in its root and WebDAV's PUT switched off: what it keeps is its log.
#[test]
fn nginx_and_curl_agree_with_and_without_the_proxy_in_both_versions() {
    let addr = free_addr();
    let dir = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(dir.path().join("large"), &large).unwrap();
    let root = dir.path().display();
    let server = format!(
        "server {{ listen {addr}; root {root}; absolute_redirect off; location /moved {{ return 302 /large; }} }}"
    );
    let _nginx = Nginx::http(&server, addr);
    // nginx's workers are another user.
    run(&["chmod", "-R", "a+rX", dir.path().to_str().unwrap()]);
    let check = "health_check: {interval: 300ms, path: /, expect: [200-499]}";
    let stage = Arc::new(stage(&[addr], check, ""));
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for (arguments, status) in [
            (&["/large"][..], "200"),
            (&["/missing"], "404"),
            (&["/moved"], "302"),
            (&["-L", "/moved"], "200"),
            (&["-I", "/large"], "200"),
            (&["-r", "100-199", "/large"], "206"),
        ] {
            // curl 7.88 gives a second request without TLS up by itself (error 16).
            if version != "--http1.1" && arguments.contains(&"-L") {
                continue;
            }
            let (options, path) = arguments.split_at(arguments.len() - 1);
            let fetch = |addr| {
                let url = format!("http://{addr}{}", path[0]);
                let mut words = vec!["curl", "-s", "-o", out, "-w", "%{http_code}", version];
                words.extend(options);
                words.push(&url);
                let told = run(&words);
                (told, std::fs::read(out).unwrap_or_default())
            };
            let (told, body) = fetch(stage.addr);
            assert_eq!(told, status, "{version} {arguments:?}");
            if status != "404" && !arguments.contains(&"-I") {
                let url = format!("http://{addr}{}", path[0]);
                let mut words = vec!["curl", "-s", "-o", out];
                words.extend(options);
                words.push(&url);
                run(&words);
                assert!(
                    body == std::fs::read(out).unwrap(),
                    "{version} {arguments:?}"
                );
            }
        }
    }
}
