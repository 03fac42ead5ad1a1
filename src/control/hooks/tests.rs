//! Hooks with real scripts and a real server.

use super::*;
use crate::cluster::Cause;
use crate::control::fixtures::cluster;
use crate::control::fixtures::config;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

const DEADLINE: Duration = Duration::from_secs(20);

struct Bench {
    dir: tempfile::TempDir,
    metrics: Arc<Metrics>,
    hooks: Hooks,
}

impl Bench {
    fn new() -> Self {
        let metrics: Arc<Metrics> = Arc::default();
        Self {
            dir: tempfile::tempdir().unwrap(),
            hooks: Hooks::new(Arc::clone(&metrics)),
            metrics,
        }
    }

    /// A hook for all events that runs a shell script; `$1` is the directory.
    fn script(&self, script: &str, timeout: Duration) -> HookConfig {
        let words = ["/bin/sh", "-c", script, "sh", self.path().to_str().unwrap()];
        HookConfig {
            events: HookEvent::ALL.to_vec(),
            action: HookAction::Command(words.map(str::to_owned).into()),
            timeout,
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn apply(&mut self, hooks: Vec<HookConfig>) {
        let mut cluster = cluster("a", &["db1"]);
        cluster.failover.hooks = hooks;
        self.hooks.apply(&config(vec![cluster]));
    }

    fn tell(&mut self, event: HookEvent, number: usize) {
        self.hooks.tell(Event {
            event,
            cluster: "a".into(),
            backend: Some("db1".into()),
            json: format!("{{\"number\":{number}}}\n"),
        });
    }

    fn count(&self, metric: &str) -> u64 {
        let text = self.metrics.render(|_| {});
        let samples = text.lines().filter(|line| line.starts_with(metric));
        let counts = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        counts.sum()
    }

    fn runs(&self, result: &str) -> u64 {
        let text = self.metrics.render(|_| {});
        let label = format!("result=\"{result}\"");
        let samples = text.lines().filter(|line| line.contains(&label));
        let counts = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        counts.sum()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path().join(file)).unwrap_or_default()
    }
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_command_gets_the_event_on_its_input_and_few_variables() {
    let mut bench = Bench::new();
    let script = "cat > $1/event; env > $1/env; echo $EVERGATE_EVENT $EVERGATE_CLUSTER $EVERGATE_BACKEND > $1/names";
    bench.apply(vec![bench.script(script, DEADLINE)]);
    bench.tell(HookEvent::PrimaryLost, 1);
    wait_until("it ran", || bench.runs("ok") == 1);
    assert_eq!(bench.read("event"), "{\"number\":1}\n");
    assert_eq!(bench.read("names"), "primary_lost a db1\n");
    let env = bench.read("env");
    assert!(env.contains("PATH=") && !env.contains("CARGO"), "{env}");
}

#[test]
fn events_of_one_hook_stay_in_order_and_only_those_it_wants() {
    let mut bench = Bench::new();
    let mut hook = bench.script(
        "sleep 0.0$(od -An -N1 -tu1 /dev/urandom | tr -d ' '); cat >> $1/events",
        DEADLINE,
    );
    hook.events = vec![HookEvent::BackendDown];
    bench.apply(vec![hook]);
    for number in 0..10 {
        bench.tell(HookEvent::BackendUp, 99);
        bench.tell(HookEvent::BackendDown, number);
    }
    wait_until("all ran", || bench.runs("ok") == 10);
    let expected: String = (0..10).map(|it| format!("{{\"number\":{it}}}\n")).collect();
    assert_eq!(bench.read("events"), expected);
    assert_eq!(bench.count("evergate_hook_events_dropped_total"), 0);
}

#[test]
fn a_command_that_fails_or_is_not_there_is_counted_and_the_next_runs() {
    let mut bench = Bench::new();
    let mut missing = bench.script("", DEADLINE);
    missing.action = HookAction::Command(vec!["/no/such/program".to_owned()]);
    let failing = bench.script("echo oh no >&2; exit 3", DEADLINE);
    bench.apply(vec![failing, missing]);
    bench.tell(HookEvent::BackendDown, 1);
    bench.tell(HookEvent::BackendDown, 2);
    wait_until("both failed twice", || bench.runs("failed") == 4);
}

#[test]
fn a_command_that_hangs_is_killed_with_all_it_started() {
    let mut bench = Bench::new();
    let script = "sleep 600 & echo $! > $1/child; wait";
    bench.apply(vec![bench.script(script, Duration::from_millis(500))]);
    bench.tell(HookEvent::BackendDown, 1);
    wait_until("it ran out of time", || bench.runs("timeout") == 1);
    let child = bench.read("child").trim().to_owned();
    assert!(!child.is_empty());
    let stat = format!("/proc/{child}/stat");
    wait_until("its child is gone", || {
        // A zombie that nobody has collected yet is dead, too.
        fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn a_command_that_does_not_read_and_talks_a_lot_ends() {
    let mut bench = Bench::new();
    let script = "exec <&-; head -c 1000000 /dev/zero >&2; exit 1";
    bench.apply(vec![bench.script(script, DEADLINE)]);
    bench.tell(HookEvent::BackendDown, 1);
    wait_until("it failed", || bench.runs("failed") == 1);
}

#[test]
fn a_flood_is_dropped_and_counted_and_tells_nobody_to_wait() {
    let mut bench = Bench::new();
    bench.apply(vec![bench.script("sleep 600", DEADLINE)]);
    let started = Instant::now();
    for number in 0..10_000 {
        bench.tell(HookEvent::BackendDown, number);
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    let dropped = bench.count("evergate_hook_events_dropped_total");
    let kept = MAX_QUEUED as u64;
    assert!(
        (10_000 - kept - 1..=10_000 - kept).contains(&dropped),
        "{dropped}"
    );
    // What hangs ends with the process.
    drop(bench);
}

#[test]
fn a_hook_that_is_removed_works_its_queue_off_and_one_that_stays_keeps_it() {
    let mut bench = Bench::new();
    let removed = bench.script("sleep 0.1; cat >> $1/removed", DEADLINE);
    let stays = bench.script("sleep 0.1; cat >> $1/stays", DEADLINE);
    bench.apply(vec![removed, stays.clone()]);
    bench.tell(HookEvent::BackendDown, 1);
    bench.tell(HookEvent::BackendDown, 2);
    bench.apply(vec![stays]);
    bench.tell(HookEvent::BackendDown, 3);
    wait_until("all ran", || bench.runs("ok") == 5);
    assert_eq!(bench.read("removed").lines().count(), 2);
    assert_eq!(bench.read("stays").lines().count(), 3);
}

/// Answers one request with this head after the whole body has come; returns the request.
fn server(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?a=b", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}\n") {
            let mut part = [0; 1024];
            let count = stream.read(&mut part).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&request));
            request.extend_from_slice(&part[..count]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (url, served)
}

fn post(url: &str, timeout: Duration) -> HookConfig {
    HookConfig {
        events: HookEvent::ALL.to_vec(),
        action: HookAction::Post(url.to_owned()),
        timeout,
    }
}

#[test]
fn a_url_gets_the_event_as_json() {
    let mut bench = Bench::new();
    let (url, served) = server("HTTP/1.1 204 No Content\r\n\r\n");
    bench.apply(vec![post(&url, DEADLINE)]);
    bench.tell(HookEvent::SplitBrain, 1);
    let request = served.join().unwrap();
    assert!(
        request.starts_with("POST /hook?a=b HTTP/1.1\r\n"),
        "{request}"
    );
    let lower = request.to_ascii_lowercase();
    assert!(
        lower.contains("content-type: application/json\r\n"),
        "{request}"
    );
    assert!(request.ends_with("\r\n\r\n{\"number\":1}\n"), "{request}");
    wait_until("it was counted", || bench.runs("ok") == 1);
}

#[test]
fn a_url_that_refuses_redirects_or_is_no_server_has_failed() {
    for answer in [
        "HTTP/1.1 500 Oh No\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
        "nonsense\r\n\r\n",
        "",
    ] {
        let mut bench = Bench::new();
        let (url, served) = server(answer);
        bench.apply(vec![post(&url, DEADLINE)]);
        bench.tell(HookEvent::SplitBrain, 1);
        served.join().unwrap();
        wait_until(answer, || bench.runs("failed") == 1);
    }
    let mut bench = Bench::new();
    bench.apply(vec![post("http://127.0.0.1:1/", DEADLINE)]);
    bench.tell(HookEvent::SplitBrain, 1);
    wait_until("refused", || bench.runs("failed") == 1);
}

#[test]
fn a_url_that_never_answers_or_speaks_no_tls_runs_out_of_time_or_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut bench = Bench::new();
    let soon = Duration::from_millis(200);
    bench.apply(vec![post(&format!("http://{address}/"), soon)]);
    bench.tell(HookEvent::SplitBrain, 1);
    wait_until("timeout", || bench.runs("timeout") == 1);

    let mut bench = Bench::new();
    let (url, _) = server("HTTP/1.1 200 OK\r\n\r\n");
    let url = url.replace("http://", "https://");
    bench.apply(vec![post(&url, Duration::from_secs(2))]);
    bench.tell(HookEvent::SplitBrain, 1);
    wait_until("no TLS", || {
        bench.runs("failed") + bench.runs("timeout") == 1
    });
}

#[test]
fn the_core_s_happenings_become_events() {
    let now = crate::control::backend::Moment {
        // Of a finer one the last digit may be lost on its way through JSON.
        epoch_seconds: 1_700_000_000.25,
        ..crate::control::backend::Moment::now()
    };
    let mut core = Core::seeded(1);
    let config = config(vec![cluster("a", &["db1", "db2"])]);
    core.apply(&config, &Default::default(), Default::default(), now);
    let happening = |what| Happening {
        at: now,
        cluster: "a".into(),
        backend: Some("db2".into()),
        cause: Cause::ClaimsPrimary,
        what,
    };
    let before = crate::control::happening::Before::default();
    let changed = happening(What::PrimarySeen {
        last: Some("db1".into()),
        timeline: Some(4),
        before,
    });
    let event = event_of(&changed, Some(7), &core).unwrap();
    let json: serde_json::Value = serde_json::from_str(&event.json).unwrap();
    let expected = json!({
        "version": 1, "event": "primary_changed", "at": now.epoch_seconds, "cluster": "a",
        "backend": "db2", "host": "10.0.0.2", "port": 5432, "cause": "claims_primary",
        "previous": "db1", "timeline": 4, "incident": 7,
    });
    assert_eq!(json, expected);

    let health = |from, to| What::Health { from, to, before };
    for (what, expected) in [
        (What::PrimaryLost { before }, Some(HookEvent::PrimaryLost)),
        (What::SplitBrain, Some(HookEvent::SplitBrain)),
        (
            health(Health::Up, Health::Down),
            Some(HookEvent::BackendDown),
        ),
        (
            health(Health::Unknown, Health::Down),
            Some(HookEvent::BackendDown),
        ),
        (health(Health::Down, Health::Up), Some(HookEvent::BackendUp)),
        // Every backend comes up once after the start: that is no news.
        (health(Health::Unknown, Health::Up), None),
        (What::Error, None),
    ] {
        let event = event_of(&happening(what.clone()), None, &core);
        assert_eq!(event.map(|it| it.event), expected, "{what:?}");
    }
}
