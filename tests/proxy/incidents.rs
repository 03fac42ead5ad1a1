//! The flight recorder, `explain`, `switchover` and hooks, with the real binary.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::End;
use crate::support::evergate::Evergate;
use crate::support::evergate::evergate;
use crate::support::http;
use crate::support::ports::free_addr;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

/// One cluster `c` with these backends; `extra` goes into its failover section.
fn file(front: SocketAddr, admin: SocketAddr, backends: &[SocketAddr], extra: &str) -> String {
    let backends = backends.iter().enumerate();
    let backends: String = backends
        .map(|(at, address)| format!("      - {{name: b{at}, address: '{address}'}}\n"))
        .collect();
    format!(
        "version: 1\n\
         clusters:\n  c:\n    backends:\n{backends}\
         \x20   health_check: {{interval: 200ms, fast_interval: 20ms, timeout: 150ms, rise: 1, fall: 2}}\n\
         \x20   failover:\n      hold: {{for: 10s, max_sessions: 100}}\n{extra}\
         listeners:\n  write:\n    bind: {front}\n    cluster: c\n    deny: [10.9.9.0/24]\n\
         admin: {{bind: \"{admin}\"}}\n"
    )
}

fn says(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = evergate(arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn incidents(admin: SocketAddr) -> Vec<Value> {
    let (code, text, error) = says(&["incidents", "--json", "--admin", &admin.to_string()]);
    assert_eq!(code, Some(0), "{error}");
    let value: Value = serde_json::from_str(&text).unwrap();
    value["incidents"].as_array().unwrap().clone()
}

fn phase(incident: &Value, phase: &str) -> Option<f64> {
    let steps = incident["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["phase"] == phase)?;
    step["after_seconds"].as_f64()
}

fn fetched(admin: SocketAddr, path: &str) -> Value {
    http::get(admin, path).unwrap().json()
}

/// A session that has had an answer.
fn talking(front: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(front).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    client
}

#[test]
fn the_only_backend_dies_under_load_and_the_incident_tells_it_all() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut backend = Backend::echo();
    let (front, admin) = (free_addr(), free_addr());
    let directory = tempfile::tempdir().unwrap();
    let events = directory.path().join("events");
    let hook = format!(
        "      on_event:\n        - {{events: [backend_down, backend_up], command: [/bin/sh, -c, 'cat >> {}']}}\n",
        events.display()
    );
    let proxy = Evergate::start(&file(front, admin, &[backend.addr()], &hook));
    let (code, text, _) = says(&["incidents", "--admin", &admin.to_string()]);
    assert_eq!(
        (code, &*text),
        (Some(0), "no incident since the process started\n")
    );

    let mut sessions: Vec<_> = (0..5).map(|_| talking(front)).collect();
    backend.kill(End::Rst);
    for session in &mut sessions {
        // Each ends, in whatever way.
        let _ = session.read(&mut [0; 8]);
    }
    wait_until(PATIENCE, "the outage is noted", || {
        incidents(admin)
            .first()
            .is_some_and(|it| it["open"] == true)
    });
    let held = std::thread::spawn(move || talking(front));
    wait_until(PATIENCE, "a session is held", || {
        incidents(admin)[0]["sessions"]["held"].as_u64() >= Some(1)
    });
    backend.start_again();
    held.join().unwrap();
    wait_until(PATIENCE, "the incident is over", || {
        incidents(admin)[0]["open"] == false
    });

    let all = incidents(admin);
    assert_eq!(all.len(), 1, "{all:#?}");
    let incident = &all[0];
    assert_eq!(incident["kind"], "outage");
    assert_eq!(incident["lost"], "b0");
    assert_eq!(incident["found"], "b0");
    assert_eq!(incident["sessions"]["refused"], 0);
    let ended = |what: &str| incident["sessions"][what].as_u64().unwrap();
    assert_eq!(ended("lost") + ended("severed"), 5, "{incident:#}");
    let phases = [
        "last_good_answer",
        "first_error",
        "detected",
        "fenced",
        "holding",
        "served_again",
        "released",
        "first_good_answer",
        "closed",
    ];
    let times = phases.map(|name| phase(incident, name).unwrap_or_else(|| panic!("{name}")));
    assert!(times.is_sorted(), "{times:?}");
    assert!(times[0] < 0.0 && times[1] == 0.0, "{times:?}");
    assert_eq!(incident["duration_seconds"].as_f64(), Some(times[7]));

    let (_, text, _) = says(&["incidents", "--admin", &admin.to_string()]);
    assert!(text.starts_with("incident 1: outage in c, b0, "), "{text}");
    assert!(text.contains("first session held"), "{text}");
    proxy.wait_for_log("incident over");
    let logs = proxy.logs();
    let over = logs.iter().find(|line| line["message"] == "incident over");
    assert_eq!(over.unwrap()["kind"], "outage", "{logs:#?}");
    wait_until(PATIENCE, "the hook was told of both", || {
        fs::read_to_string(&events).is_ok_and(|text| text.lines().count() == 2)
    });
    let told = fs::read_to_string(&events).unwrap();
    let told: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(told[0]["event"], "backend_down");
    assert_eq!(told[0]["incident"], 1);
    assert_eq!(told[1]["event"], "backend_up");
}

#[test]
fn a_reload_keeps_the_incidents() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (mut one, two) = (Backend::echo(), Backend::echo());
    let (front, admin) = (free_addr(), free_addr());
    let text = file(front, admin, &[one.addr(), two.addr()], "");
    let proxy = Evergate::start(&text);
    wait_until(PATIENCE, "both are up", || {
        let status = fetched(admin, "/api/v1/status");
        status["clusters"][0]["eligible_backends"] == 2
    });
    one.kill(End::Rst);
    wait_until(PATIENCE, "it is noted", || incidents(admin).len() == 1);
    let before = incidents(admin);
    assert_eq!(before[0]["kind"], "backend_down");
    assert_eq!(before[0]["lost"], "b0");
    proxy.reload(&text.replace("max_sessions: 100", "max_sessions: 101"));
    assert_eq!(incidents(admin)[0]["id"], before[0]["id"]);
}

#[test]
fn explain_says_where_a_client_goes_and_where_a_session_is() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (one, two) = (Backend::echo(), Backend::echo());
    let (front, admin) = (free_addr(), free_addr());
    let _proxy = Evergate::start(&file(front, admin, &[one.addr(), two.addr()], ""));
    wait_until(PATIENCE, "both are up", || {
        let status = fetched(admin, "/api/v1/status");
        status["clusters"][0]["eligible_backends"] == 2
    });
    let place = admin.to_string();
    let explain = |arguments: &[&str]| {
        let arguments: Vec<&str> = [&["explain", "--admin", &place], arguments].concat();
        says(&arguments)
    };
    let (code, text, error) = explain(&["--listener", "write", "--source", "192.0.2.7"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(
        text.contains("=> the client goes to one of b0, b1\n"),
        "{text}"
    );
    assert!(text.contains("client    192.0.2.7\n"), "{text}");

    // What it says is what happens: with one session, the other backend is next.
    let _session = talking(front);
    let (_, json, _) = explain(&["--listener", "write", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let next = json["outcome"]["backends"].as_array().unwrap().clone();
    assert_eq!(next.len(), 1, "{json:#}");
    let _second = talking(front);
    let sessions = fetched(admin, "/api/v1/sessions");
    assert_eq!(sessions["sessions"][1]["backend"], next[0]);

    let id = sessions["sessions"][0]["id"].to_string();
    let (code, text, _) = explain(&["--session", &id]);
    assert_eq!(code, Some(0));
    assert!(
        text.contains(&format!("session   {id}, relay, for ")),
        "{text}"
    );
    assert!(text.contains("fate      it lives"), "{text}");

    let (_, text, _) = explain(&["--listener", "write", "--source", "10.9.9.1"]);
    assert!(text.contains("(denied)"), "{text}");
    for (arguments, complaint) in [
        (&["--listener", "wriet"][..], "did you mean \"write\"?"),
        (
            &["--listener", "write", "--source", "10.0.0"],
            "source must be an IP address",
        ),
        (&["--session", "4711"], "no session 4711 is alive"),
    ] {
        let (code, _, error) = explain(arguments);
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(error.contains(complaint), "{error}");
    }
    for wrong in [
        &[][..],
        &["--session", "x"],
        &["--session", "1", "--listener", "a"],
    ] {
        assert_eq!(explain(wrong).0, Some(2), "{wrong:?}");
    }
}

#[test]
fn a_switchover_needs_a_cluster_with_roles() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backend = Backend::echo();
    let (front, admin) = (free_addr(), free_addr());
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let text = file(front, admin, &[backend.addr()], "");
    let text = text.replace(
        "admin: {",
        &format!("admin: {{socket: '{}', ", socket.display()),
    );
    let _proxy = Evergate::start(&text);
    let place = format!("unix:{}", socket.display());
    let (code, _, error) = says(&["switchover", "c/b0", "--admin", &place]);
    assert_eq!(code, Some(1));
    assert!(error.contains("tells no roles"), "{error}");
    let (code, _, error) = says(&["switchover", "c/b9", "--admin", &place]);
    assert_eq!(code, Some(1));
    assert!(error.contains("did you mean \"b0\"?"), "{error}");
    let (code, _, error) = says(&["switchover", "c/b0", "--admin", &admin.to_string()]);
    assert_eq!(code, Some(1));
    assert!(error.contains("token"), "{error}");
    assert_eq!(says(&["switchover", "c"]).0, Some(2));
}
