//! What operators see of requests: metrics and the access log.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::Plan;
use crate::harness::Stage;
use crate::harness::status;
use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::wait_until;

const PATIENCE: Duration = Duration::from_secs(20);

fn get(stage: &Stage, target: &str, headers: &str) -> String {
    let head =
        format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{headers}Connection: close\r\n\r\n");
    stage.raw(head.as_bytes())
}

/// Waits until the file has so many lines, and reads them.
fn lines(path: &Path, count: usize) -> Vec<Value> {
    let read = || fs::read_to_string(path).unwrap_or_default();
    let what = format!("{count} lines in {}", path.display());
    wait_until(PATIENCE, &what, || read().lines().count() >= count);
    let text = read();
    assert_eq!(text.lines().count(), count, "{text}");
    let parsed = text.lines().map(serde_json::from_str);
    parsed.collect::<Result<_, _>>().unwrap()
}

#[test]
fn requests_and_connections_are_counted_where_they_went() {
    let backend = Recorder::answering(|head| match head.contains("/broken") {
        true => b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
        false => ok("fine"),
    });
    let stage = Plan::new(&[backend.addr()]).start();
    let twice = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET /broken HTTP/1.1\r\nHost: a.test\r\n\
                 Connection: close\r\n\r\n";
    assert_eq!(status(&stage.raw(twice.as_bytes())), 200);
    let evergate = &stage.evergate;
    for (class, count) in [("2xx", 1.0), ("5xx", 1.0)] {
        let labels = [
            ("listener", "web"),
            ("cluster", "web"),
            ("status_class", class),
        ];
        evergate.wait_for_metric("evergate_http_requests_total", &labels, count);
        let of_cluster = &labels[1..];
        let timed = "evergate_http_request_duration_seconds_count";
        evergate.wait_for_metric(timed, of_cluster, count);
        evergate.wait_for_metric("evergate_http_backend_answers_total", of_cluster, count);
    }
    let upstream = "evergate_http_upstream_connections";
    evergate.wait_for_metric("evergate_http_requests_active", &[("cluster", "web")], 0.0);
    evergate.wait_for_metric(upstream, &[("state", "active")], 0.0);
    evergate.wait_for_metric(upstream, &[("state", "idle")], 1.0);
    evergate.wait_for_metric(&format!("{upstream}_opened_total"), &[], 1.0);
    evergate.wait_for_metric(&format!("{upstream}_reused_total"), &[], 1.0);
}

#[test]
fn each_request_has_a_line_and_a_renamed_file_is_left_at_a_reload() {
    let backend = Recorder::named("a");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let keys = format!("http: {{access_log: {{path: '{}'}}}}", path.display());
    let stage = Plan::new(&[backend.addr()]).listener(&keys).start();
    // Security class 40: what a client sends stays in its field.
    let forged = "User-Agent: x\"} {\"status\":999,\"a\":\"\u{9b}31m\r\n";
    assert_eq!(status(&get(&stage, "/a/b?token=secret", forged)), 200);
    let [line] = &lines(&path, 1)[..] else {
        panic!("one line")
    };
    assert_eq!(line["path"], "/a/b");
    assert_eq!(line["status"], 200);
    assert_eq!(line["listener"], "web");
    assert_eq!(line["cluster"], "web");
    assert_eq!(line["attempts"], 1);
    assert_eq!(line["user_agent"], "x\"} {\"status\":999,\"a\":\"\u{9b}31m");
    assert!(line["backend"].is_string() && line["request_id"].is_string());
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        !text.contains("secret") && !text.contains('\u{9b}'),
        "{text}"
    );

    let renamed = dir.path().join("access.log.1");
    fs::rename(&path, &renamed).unwrap();
    stage
        .evergate
        .reload(&fs::read_to_string(stage.evergate.file()).unwrap());
    assert_eq!(status(&get(&stage, "/later", "")), 200);
    assert_eq!(lines(&path, 1)[0]["path"], "/later");
    assert_eq!(lines(&renamed, 1).len(), 1);
}

#[test]
fn a_client_that_asks_too_often_is_told_when_to_come_back_and_a_reload_does_not_forget_it() {
    let backend = Recorder::named("a");
    let limit = "{requests: 1, per: 1h, burst: 2}";
    let keys = format!("routes: [{{path: /api, cluster: web, rate_limit: {limit}}}]");
    let plan = Plan::new(&[backend.addr()]).listener(&keys);
    let stage = plan.start();
    let asked = || status(&get(&stage, "/api", ""));
    assert_eq!([asked(), asked()], [200, 200]);
    let refused = get(&stage, "/api", "").to_ascii_lowercase();
    assert_eq!(status(&refused), 429, "{refused}");
    let seconds = refused.split("retry-after: ").nth(1).unwrap();
    let seconds: u64 = seconds.lines().next().unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&seconds), "{seconds}");
    assert_eq!(status(&get(&stage, "/other", "")), 200, "another route");
    let evergate = &stage.evergate;
    evergate.wait_for_metric(
        "evergate_http_rate_limited_total",
        &[("listener", "web")],
        1.0,
    );
    let changed = plan
        .listener(&format!("{keys}, max_connections: 777"))
        .yaml(stage.addr);
    evergate.reload(&changed);
    assert_eq!(asked(), 429);
}
