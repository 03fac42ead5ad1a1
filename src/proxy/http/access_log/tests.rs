//! What a line tells, and what it cannot be made to tell.

use super::*;
use crate::config::HttpListenerConfig;
use crate::config::load_text;
use crate::lines::is_steering;
use serde_json::Value;
use serde_json::json;
use std::fs;

const PLENTY: Duration = Duration::from_secs(10);

fn exchange() -> Exchange {
    Exchange {
        began: UNIX_EPOCH + Duration::from_millis(1_795_256_511_042),
        request_id: Some(HeaderValue::from_static("4bf92f35")),
        listener: "web".into(),
        route: Some(3),
        cluster: Some("search".into()),
        backend: Some("es1".into()),
        client: "[2001:db8::7]:50123".parse().unwrap(),
        method: Method::GET,
        host: Some(HeaderValue::from_static("search.example.com")),
        target: Uri::from_static("/orders/_search?token=secret"),
        version: Version::HTTP_2,
        status: Some(StatusCode::OK),
        received_bytes: 0,
        sent_bytes: 5321,
        duration: Duration::from_micros(12_345),
        first_byte: Some(Duration::from_micros(9_001)),
        wait: Duration::ZERO,
        connect: Duration::from_micros(350),
        attempts: 2,
        cause: None,
        user_agent: Some(HeaderValue::from_static("curl/8.14.1")),
    }
}

fn line(exchange: &Exchange) -> String {
    let mut line = String::new();
    exchange.write(&mut line);
    line
}

fn parsed(exchange: &Exchange) -> Value {
    let line = line(exchange);
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.ends_with("}\n"), "{line}");
    serde_json::from_str(&line).unwrap()
}

#[test]
fn a_line_tells_everything_of_a_request() {
    let expected = json!({
        "time": "2026-11-21T10:21:51.042Z", "request_id": "4bf92f35",
        "listener": "web", "route": 3, "cluster": "search", "backend": "es1",
        "client": "[2001:db8::7]:50123", "method": "GET", "host": "search.example.com",
        "path": "/orders/_search", "protocol": "HTTP/2", "status": 200,
        "received_bytes": 0, "sent_bytes": 5321, "duration_ms": 12.345,
        "first_byte_ms": 9.001, "wait_ms": 0.0, "connect_ms": 0.35, "attempts": 2,
        "cause": null, "user_agent": "curl/8.14.1",
    });
    assert_eq!(parsed(&exchange()), expected);
}

#[test]
fn what_is_not_known_is_null() {
    let refused = Exchange {
        request_id: None,
        route: None,
        cluster: None,
        backend: None,
        host: None,
        status: None,
        first_byte: None,
        cause: Some(Cause::NoRoute),
        user_agent: None,
        ..exchange()
    };
    let line = parsed(&refused);
    assert_eq!(line["cause"], "no_route");
    let unknown = [
        "request_id",
        "route",
        "cluster",
        "backend",
        "host",
        "status",
        "first_byte_ms",
        "user_agent",
    ];
    for key in unknown {
        assert_eq!(line[key], Value::Null, "{key}");
    }
}

#[test]
fn an_absolute_target_tells_the_host_when_no_header_does() {
    let absolute = Exchange {
        host: None,
        target: Uri::from_static("http://es.example.com:9200/a?b=secret"),
        ..exchange()
    };
    let line = parsed(&absolute);
    assert_eq!(line["host"], "es.example.com:9200");
    assert_eq!(line["path"], "/a");
}

#[test]
fn a_query_is_never_written() {
    assert!(!line(&exchange()).contains("secret"));
}

/// Security class 40: one request, one line, whatever is in it.
#[test]
fn hostile_strings_stay_in_their_values() {
    let agent = b"a\"},{\"level\":\"x\"}\\\x80\xff \xe2\x80\xae \xc2\x9b31m\t";
    let hostile = Exchange {
        user_agent: Some(HeaderValue::from_bytes(agent).unwrap()),
        request_id: Some(HeaderValue::from_bytes(b"\"\\").unwrap()),
        listener: "l\n\u{1b}[31m\"".into(),
        ..exchange()
    };
    let text = line(&hostile);
    assert!(!text.trim_end().contains(is_steering), "{text:?}");
    let line = parsed(&hostile);
    let expected = "a\"},{\"level\":\"x\"}\\\u{fffd}\u{fffd} \u{202e} \u{9b}31m\t";
    assert_eq!(line["user_agent"], expected);
    assert_eq!(line["request_id"], "\"\\");
    assert_eq!(line["listener"], "l\n\u{1b}[31m\"");
    assert_eq!(line.as_object().unwrap().len(), 21);
}

#[test]
fn every_byte_that_a_header_may_have_comes_out_as_it_was_or_replaced() {
    for byte in (b' '..=255).filter(|byte| *byte != 127) {
        let value = [b'a', byte, b'z'];
        let one = Exchange {
            user_agent: Some(HeaderValue::from_bytes(&value).unwrap()),
            ..exchange()
        };
        let expected = String::from_utf8_lossy(&value).into_owned();
        assert_eq!(parsed(&one)["user_agent"], expected);
    }
}

#[test]
fn long_strings_are_cut_off_between_characters() {
    let path: Uri = format!("/{}", "x".repeat(4000)).parse().unwrap();
    // Two bytes each, after one: the limit falls inside a character.
    let agent = format!("a{}", "é".repeat(4000));
    let long = Exchange {
        target: path,
        user_agent: Some(HeaderValue::from_bytes(agent.as_bytes()).unwrap()),
        host: Some(HeaderValue::from_str(&"h".repeat(4000)).unwrap()),
        ..exchange()
    };
    let line = parsed(&long);
    let cut = |text: &str| format!("{text}…");
    assert_eq!(line["path"], cut(&format!("/{}", "x".repeat(1023))));
    assert_eq!(line["user_agent"], cut(&format!("a{}", "é".repeat(127))));
    assert_eq!(line["host"], cut(&"h".repeat(261)));
}

fn config(path: &Path, sample: f64) -> Config {
    let text = "version: 1\nlisteners: { web: { bind: \"127.0.0.1:1\", cluster: c } }\n\
                clusters: { c: { backends: [{ name: b, address: \"127.0.0.1:2\" }] } }\n";
    let mut config = load_text(Path::new("test.yaml"), text).unwrap().config;
    let http = HttpListenerConfig {
        access_log: Some(AccessLogConfig {
            path: Some(path.to_owned()),
            sample,
        }),
        ..Default::default()
    };
    config.listeners[0].http = Some(Arc::new(http));
    config
}

fn put_in_force(logs: &AccessLogs, config: &Config) {
    logs.commit(logs.open(config).unwrap(), config);
}

fn written(logs: &AccessLogs, path: &Path) -> usize {
    logs.flush(PLENTY);
    fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn a_sample_leaves_out_successes_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let logs = AccessLogs::default();
    put_in_force(&logs, &config(&path, 0.0));
    let log = logs.of("web").unwrap();
    let with = |status: Option<u16>, cause| Exchange {
        status: status.map(|status| StatusCode::from_u16(status).unwrap()),
        cause,
        ..exchange()
    };
    log.record(&with(Some(200), None));
    log.record(&with(Some(404), None));
    assert_eq!(written(&logs, &path), 0);
    log.record(&with(Some(500), None));
    log.record(&with(None, None));
    log.record(&with(Some(404), Some(Cause::NoRoute)));
    log.record(&with(Some(200), Some(Cause::Reset)));
    assert_eq!(written(&logs, &path), 4);
    put_in_force(&logs, &config(&path, 1.0));
    logs.of("web").unwrap().record(&with(Some(200), None));
    assert_eq!(written(&logs, &path), 5);
}

#[test]
fn a_renamed_file_is_left_at_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let renamed = folder.path().join("access.log.1");
    let (logs, config) = (AccessLogs::default(), config(&path, 1.0));
    put_in_force(&logs, &config);
    logs.of("web").unwrap().record(&exchange());
    assert_eq!(written(&logs, &path), 1);
    fs::rename(&path, &renamed).unwrap();
    put_in_force(&logs, &config);
    logs.of("web").unwrap().record(&exchange());
    logs.of("web").unwrap().record(&exchange());
    assert_eq!(written(&logs, &path), 2);
    assert_eq!(written(&logs, &renamed), 1);
}

#[test]
fn a_file_that_is_truncated_under_us_has_no_hole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let logs = AccessLogs::default();
    put_in_force(&logs, &config(&path, 1.0));
    logs.of("web").unwrap().record(&exchange());
    assert_eq!(written(&logs, &path), 1);
    File::options()
        .write(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    logs.of("web").unwrap().record(&exchange());
    assert_eq!(written(&logs, &path), 1);
    assert!(!fs::read(&path).unwrap().contains(&0));
}

#[test]
fn a_file_that_cannot_be_opened_is_named_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let logs = AccessLogs::default();
    put_in_force(&logs, &config(&path, 1.0));
    let missing = folder.path().join("missing/access.log");
    let error = logs.open(&config(&missing, 1.0)).unwrap_err().to_string();
    assert!(error.contains("missing/access.log"), "{error}");
    logs.of("web").unwrap().record(&exchange());
    assert_eq!(written(&logs, &path), 1);
}

#[test]
fn a_listener_without_an_access_log_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let logs = AccessLogs::default();
    let mut config = config(&path, 1.0);
    put_in_force(&logs, &config);
    assert!(logs.of("web").is_some());
    config.listeners[0].http = None;
    put_in_force(&logs, &config);
    assert!(logs.of("web").is_none());
}
