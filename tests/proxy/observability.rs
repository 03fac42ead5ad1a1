//! What an operator looks at, and that looking costs little.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::support::PATIENCE;
use crate::support::SetWhenDropped;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::backend::End;
use crate::support::evergate::Evergate;
use crate::support::evergate::evergate;
use crate::support::evergate::sum_of;
use crate::support::http;
use crate::support::ports::free_addr;
use crate::support::ports::free_port;
use crate::support::process::installed;
use crate::support::talk::connect;
use crate::support::talk::echoes;
use crate::support::talk::file;
use crate::support::talk::name_at;
use crate::support::talk::plain;
use crate::support::talk::rest;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
const TOKEN: &str = "a-token-of-some-length";

fn echo_behind(keys: &str) -> (Backend, SocketAddr, Evergate) {
    let (echo, listens) = (Backend::echo(), free_addr());
    let yaml = file(listens, &plain(&[echo.addr()]), &[]) + keys;
    let evergate = Evergate::start(&yaml);
    (echo, listens, evergate)
}

/// Short sessions, one after another, until told to stop; the slowest tell most.
fn load(listens: SocketAddr, stop: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        echoes(&mut connect(listens), b"a short session").unwrap();
        took.push(started.elapsed());
    }
    took.sort_unstable();
    took
}

fn percentile_99(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 99 / 100]
}

fn promtool_says(text: &str) -> Output {
    let promtool = installed("promtool", "prometheus");
    let mut checker = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = checker.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    checker.wait_with_output().unwrap()
}

/// O1
#[test]
fn fifty_scrapes_a_second_disturb_no_session_and_promtool_finds_nothing() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (_echo, listens, evergate) = echo_behind("");
    let stop = AtomicBool::new(false);
    let (alone, scraped, scrapes, last) = thread::scope(|scope| {
        let end = SetWhenDropped(&stop);
        let quiet = scope.spawn(|| load(listens, &stop));
        thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        let alone = quiet.join().unwrap();

        stop.store(false, Ordering::Relaxed);
        let watched = scope.spawn(|| load(listens, &stop));
        let started = Instant::now();
        let mut last = String::new();
        let mut scrapes = 0;
        // Enough of them, however slow the machine is.
        while started.elapsed() < Duration::from_secs(3) || scrapes < 50 {
            let answer = evergate.get("/metrics");
            assert_eq!(answer.status, 200);
            last = answer.text();
            scrapes += 1;
            let next = started + Duration::from_millis(20) * scrapes;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        drop(end);
        (alone, watched.join().unwrap(), scrapes, last)
    });
    println!(
        "{scrapes} scrapes; sessions: {} alone, p99 {:?}; {} scraped, p99 {:?}",
        alone.len(),
        percentile_99(&alone),
        scraped.len(),
        percentile_99(&scraped)
    );
    assert!(!scraped.is_empty());
    let checked = promtool_says(&last);
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(
        checked.status.success() && said.is_empty(),
        "{said}\n{last}"
    );
}

/// O2
#[test]
fn a_hammered_admin_api_is_bounded_and_disturbs_no_session() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (_echo, listens, evergate) = echo_behind("");
    let mut session = connect(listens);
    let (stop, answered, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let before = evergate.rss_bytes();
    let (threads, admin) = (evergate.threads(), evergate.admin());
    // More than the 64 places that there are, and they never say what they want.
    let mut idle: Vec<_> = (0..100).map(|_| TcpStream::connect(admin)).collect();
    drop(idle.split_off(40));
    thread::scope(|scope| {
        let _stop = SetWhenDropped(&stop);
        for _ in 0..32 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for path in ["/metrics", "/api/v1/status", "/api/v1/sessions", "/nowhere"] {
                        match http::get(admin, path) {
                            Ok(_) => answered.fetch_add(1, Ordering::Relaxed),
                            Err(_) => refused.fetch_add(1, Ordering::Relaxed),
                        };
                    }
                }
            });
        }
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            echoes(&mut session, b"undisturbed").unwrap();
            echoes(&mut connect(listens), b"new ones too").unwrap();
        }
    });
    let grown = evergate.rss_bytes().saturating_sub(before);
    println!("{answered:?} answered, {refused:?} closed, memory +{grown} bytes");
    assert!(answered.load(Ordering::Relaxed) > 0);
    assert!(grown < 32 << 20, "{grown} bytes for admin requests");
    assert!(evergate.threads() <= threads + 4);
    drop(idle);
    wait_until(PATIENCE, "the API is open again", || {
        http::get(admin, "/healthz").is_ok_and(|answer| answer.status == 200)
    });
}

/// O2
#[test]
fn a_huge_body_and_a_huge_head_are_refused_and_cost_no_memory() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (_echo, _, evergate) = echo_behind("");
    let before = evergate.rss_bytes();
    let declared =
        "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n";
    let chunked = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let head = "GET / HTTP/1.1\r\nHost: localhost\r\nX: ";
    let bodies = [
        (declared, "x".repeat(1 << 16)),
        (chunked, format!("10000\r\n{}\r\n", "x".repeat(1 << 16))),
    ];
    for (head, piece) in bodies.into_iter().chain([(head, "x".repeat(1 << 16))]) {
        let mut client = connect(evergate.admin());
        client.write_all(head.as_bytes()).unwrap();
        let mut sent = 0;
        while sent < 100 << 20 && client.write_all(piece.as_bytes()).is_ok() {
            sent += piece.len();
        }
        assert!(sent < 100 << 20, "100 MB were taken after {head:?}");
        // A reset may destroy the answer that came before it.
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let refused = [
            "HTTP/1.1 403",
            "HTTP/1.1 413",
            "HTTP/1.1 431",
            "HTTP/1.1 400",
        ];
        let refused = refused.iter().any(|status| answer.starts_with(status));
        assert!(answer.is_empty() || refused, "{answer}");
    }
    let grown = evergate.rss_bytes().saturating_sub(before);
    assert!(
        grown < 16 << 20,
        "{grown} bytes for requests that were refused"
    );
    assert_eq!(evergate.get("/healthz").status, 200);
}

/// O3
#[test]
fn five_hundred_backends_at_100_ms_cost_less_than_a_core_and_no_thread_each() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let port = free_port();
    let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
    let backends = Backend::at(everywhere, Behaviour::Echo);
    let listed: String = (0..500)
        .map(|index| {
            format!(
                "      - 127.0.{}.{}:{port}\n",
                1 + index / 250,
                1 + index % 250
            )
        })
        .collect();
    let yaml = |interval: &str| {
        format!(
            "clusters:\n  c:\n    health_check: {{interval: {interval}, timeout: {interval}, fast_interval: 100ms}}\n    \
             backends:\n{listed}listeners:\n  l: {{bind: \"{}\", cluster: c}}\n",
            free_addr()
        )
    };
    let evergate = Evergate::start(&yaml("100ms"));
    wait_until(PATIENCE, "all are up", || {
        evergate.metric("evergate_backend_up", &[]) == Some(500.0)
    });
    let (cpu, since) = (evergate.cpu_time(), Instant::now());
    let mut buckets = Vec::new();
    let mut last = backends.accepted();
    while since.elapsed() < Duration::from_secs(3) {
        thread::sleep(Duration::from_millis(20));
        let now = backends.accepted();
        buckets.push(now - last);
        last = now;
    }
    let (cpu, wall) = (evergate.cpu_time() - cpu, since.elapsed());
    let probes: u64 = buckets.iter().sum();
    let rate = probes as f64 / wall.as_secs_f64();
    let share = cpu.as_secs_f64() / wall.as_secs_f64();
    let most = buckets.iter().max().unwrap();
    println!(
        "{rate:.0} probes/s, {share:.2} cores, {} threads, at most {most} probes in 20 ms",
        evergate.threads()
    );
    assert!(rate > 500.0, "too few probes: {rate}");
    assert!(share < 1.0, "health checks took {share} cores");
    assert!(evergate.threads() < 20, "{} threads", evergate.threads());
    assert_eq!(evergate.metric("evergate_backend_up", &[]), Some(500.0));
}

/// O4
#[test]
fn a_client_that_fails_all_the_time_gets_ten_lines_a_second_and_a_count() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (echo, listens) = (Backend::echo(), free_addr());
    let denies = "deny: [127.0.0.0/8]}";
    let yaml = file(listens, &plain(&[echo.addr()]), &[])
        .replace("cluster: c}", &format!("cluster: c, {denies}"));
    let evergate = Evergate::start(&yaml);
    let started = Instant::now();
    let mut tries = 0_u64;
    while started.elapsed() < Duration::from_secs(3) {
        let mut refused = connect(listens);
        assert!(rest(&mut refused).is_empty());
        tries += 1;
    }
    // One more, a window later, tells how many were left out since.
    thread::sleep(Duration::from_millis(1100));
    rest(&mut connect(listens));
    tries += 1;
    let seconds = started.elapsed().as_secs() + 1;
    let mine = |event: &Value| event["message"] == "connection refused";
    let rejected = [("reason", "denied")];
    evergate.wait_for_metric(
        "evergate_listener_connections_rejected_total",
        &rejected,
        tries as f64,
    );
    let told = || {
        let lines: Vec<_> = evergate.logs().into_iter().filter(mine).collect();
        let suppressed = |event: &Value| event["suppressed"].as_u64().unwrap();
        (
            lines.len() as u64,
            lines.iter().map(suppressed).sum::<u64>(),
        )
    };
    wait_until(PATIENCE, "all are told of", || told().0 + told().1 == tries);
    let (lines, suppressed) = told();
    println!("{tries} tries, {lines} lines, {suppressed} left out");
    assert!(lines <= 10 * (seconds + 1), "{lines} lines in {seconds} s");
    assert!(suppressed > 0, "no flood on this machine: {tries} tries");
}

/// Issue, part 6: every session end has side, phase and cause
#[test]
fn every_session_that_was_accepted_ends_once_in_the_counters() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut echo = Backend::echo();
    let (listens, full, closed) = (free_addr(), free_addr(), free_addr());
    let yaml = file(
        listens,
        &plain(&[echo.addr()]),
        &["failover: {hold: {for: 0s, max_sessions: 0}}"],
    ) + &format!(
        "  full: {{bind: \"{full}\", cluster: c, max_connections: 1}}\n  \
             closed: {{bind: \"{closed}\", cluster: c, deny: [0.0.0.0/0]}}\n"
    );
    let evergate = Evergate::start(&yaml);
    let mut kept = connect(full);
    echoes(&mut kept, b"the only place").unwrap();
    for turn in 0..20 {
        let mut orderly = connect(listens);
        echoes(&mut orderly, b"hello").unwrap();
        orderly.shutdown(Shutdown::Write).unwrap();
        assert!(rest(&mut orderly).is_empty());
        rest(&mut connect(full));
        rest(&mut connect(closed));
        if turn % 5 == 0 {
            let abrupt = connect(listens);
            socket2::SockRef::from(&abrupt)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
    }
    echo.kill(End::Rst);
    assert!(rest(&mut kept).is_empty());
    let ended = |labels: &[(&str, &str)]| {
        let ended = evergate.metric("evergate_sessions_ended_total", labels);
        ended.unwrap_or(0.0)
    };
    wait_until(PATIENCE, "all have ended", || {
        evergate.metric("evergate_listener_connections_active", &[]) == Some(0.0)
    });
    let text = evergate.get("/metrics").text();
    let sum = |name: &str, labels: &[(&str, &str)]| sum_of(&text, name, labels).unwrap_or(0.0);
    let accepted = sum("evergate_listener_connections_total", &[]);
    let refused_at_the_door = sum(
        "evergate_listener_connections_rejected_total",
        &[("reason", "denied")],
    ) + sum(
        "evergate_listener_connections_rejected_total",
        &[("reason", "listener_full")],
    );
    assert_eq!(refused_at_the_door, 40.0);
    assert_eq!(ended(&[]), accepted + refused_at_the_door, "{text}");
    assert_eq!(
        ended(&[("cause", "denied"), ("side", "proxy"), ("phase", "accept")]),
        20.0
    );
    assert_eq!(ended(&[("cause", "listener_full")]), 20.0);
    assert_eq!(
        ended(&[("phase", "relay"), ("cause", "closed"), ("side", "client")]),
        20.0,
        "{text}"
    );
}

/// Issue, part 7: sessions
#[test]
fn the_api_shows_live_sessions_and_forgets_dead_ones() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (echo, listens, evergate) = echo_behind("");
    let mut live: Vec<_> = (0..3).map(|_| connect(listens)).collect();
    for session in &mut live {
        echoes(session, b"12345678").unwrap();
    }
    let sessions = |query: &str| evergate.get(&format!("/api/v1/sessions{query}")).json();
    // An answer is counted after it was sent.
    wait_until(PATIENCE, "all bytes are counted", || {
        let shown = sessions("");
        let mut all = shown["sessions"].as_array().unwrap().iter();
        all.all(|session| session["sent_bytes"] == 8)
    });
    let shown = sessions("");
    assert_eq!(
        (&shown["total"], &shown["truncated"]),
        (&3.into(), &false.into())
    );
    let shown = shown["sessions"].as_array().unwrap();
    for client in &live {
        let client = client.local_addr().unwrap().to_string();
        let session = shown.iter().find(|session| session["client"] == client);
        let session = session.unwrap_or_else(|| panic!("no {client} in {shown:?}"));
        assert_eq!(
            (&session["listener"], &session["cluster"]),
            (&"l".into(), &"c".into())
        );
        assert_eq!(
            (&session["backend"], &session["phase"]),
            (&"a".into(), &"relay".into())
        );
        assert_eq!(session["received_bytes"], 8);
        assert_eq!(session["sent_bytes"], 8);
        assert!(
            session["age_seconds"].as_f64().unwrap() >= session["idle_seconds"].as_f64().unwrap()
        );
    }
    let first = sessions("?limit=1");
    assert_eq!(
        (&first["total"], &first["truncated"]),
        (&3.into(), &true.into())
    );
    assert_eq!(first["sessions"].as_array().unwrap().len(), 1);
    drop(live);
    wait_until(PATIENCE, "nobody is left", || sessions("")["total"] == 0);
    assert!(echo.accepted() >= 3);
}

/// Issue, part 7: token or unix socket
#[test]
fn a_change_needs_the_token_or_the_unix_socket() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (echo, listens, admin) = (Backend::echo(), free_addr(), free_addr());
    let keys = format!("admin: {{bind: \"{admin}\", token_file: token, socket: admin.sock}}\n");
    let launch = Evergate::with(&(file(listens, &plain(&[echo.addr()]), &[]) + &keys));
    fs::write(launch.dir().join("token"), TOKEN).unwrap();
    let evergate = launch.start();
    let drain = "/api/v1/clusters/c/backends/a/drain";
    let with = |authorization: &str| {
        let headers = [("Authorization", authorization)];
        evergate.post(drain, &headers, b"").status
    };
    let state = || {
        let labels = [("backend", "a"), ("state", "drain")];
        evergate.metric("evergate_backend_admin_state", &labels)
    };
    assert_eq!(evergate.post(drain, &[], b"").status, 401);
    assert_eq!(with("Bearer a-token-of-some-other"), 401);
    assert_eq!(with(&format!("Basic {TOKEN}")), 401);
    assert_eq!(state(), Some(0.0));
    assert_eq!(with(&format!("Bearer {TOKEN}")), 200);
    assert_eq!(state(), Some(1.0));

    let mut socket = UnixStream::connect(evergate.dir().join("admin.sock")).unwrap();
    let ready = "/api/v1/clusters/c/backends/a/ready";
    let answer = http::exchange(&mut socket, "localhost", "POST", ready, &[], b"").unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(state(), Some(0.0));
    assert!(
        !evergate.stderr().contains(TOKEN),
        "the log tells the token"
    );
    let served = evergate.get("/api/v1/config").text();
    assert!(!served.contains(TOKEN), "the API tells the token");
}

/// Issue, part 7: commands
#[test]
fn backends_are_drained_readied_and_maintained_from_the_command_line() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, b, listens, admin) = (
        Backend::named("a"),
        Backend::named("b"),
        free_addr(),
        free_addr(),
    );
    let keys = format!("admin: {{bind: \"{admin}\", token_file: token, socket: admin.sock}}\n");
    let launch = Evergate::with(&(file(listens, &plain(&[a.addr(), b.addr()]), &[]) + &keys));
    let token = launch.dir().join("token");
    fs::write(&token, TOKEN).unwrap();
    let running = launch.start();
    let (tcp, token) = (admin.to_string(), token.to_str().unwrap().to_owned());
    let unix = format!("unix:{}", running.dir().join("admin.sock").display());
    let says = |arguments: &[&str]| {
        let output = evergate(arguments);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let names = || {
        let mut seen = BTreeMap::new();
        for _ in 0..10 {
            *seen.entry(name_at(listens)).or_insert(0) += 1;
        }
        seen.into_keys().collect::<Vec<_>>()
    };
    wait_until(PATIENCE, "both serve", || names() == ["a", "b"]);

    let drained = says(&["drain", "c/a", "--admin", &unix]);
    assert_eq!(drained, (Some(0), "c/a is now drain\n".to_owned()));
    assert_eq!(names(), ["b"]);
    let ready = says(&["ready", "c/a", "--admin", &tcp, "--token-file", &token]);
    assert_eq!(ready, (Some(0), "c/a is now ready\n".to_owned()));
    assert_eq!(names(), ["a", "b"]);
    let maintained = says(&["maintenance", "c/b", "--admin", &unix]);
    assert_eq!(maintained, (Some(0), "c/b is now maintenance\n".to_owned()));
    assert_eq!(names(), ["a"]);

    let (code, picture) = says(&["status", "--admin", &tcp]);
    assert_eq!(code, Some(0));
    let row = picture.lines().find(|line| line.contains(" b ")).unwrap();
    assert!(
        row.contains("maintenance") && row.starts_with("c "),
        "{picture}"
    );
    let (code, json) = says(&["status", "--json", "--admin", &unix]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["ready"]), (Some(0), &true.into()));
    assert_eq!(
        json["clusters"][0]["backends"][1]["admin_state"],
        "maintenance"
    );

    let (code, text) = says(&["drain", "c/nobody", "--admin", &unix]);
    assert_eq!(code, Some(1));
    assert!(text.contains("nobody"), "{text}");
    let (code, text) = says(&["drain", "c/a", "--admin", &tcp]);
    assert_eq!(code, Some(1));
    assert!(text.contains("--token-file"), "{text}");
    assert_eq!(names(), ["a"], "a refused change changed something");
}
