//! From the start to the end: with backends that are away, clocks that jump, and signals of all kinds.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::PATIENCE;
use crate::support::SetWhenDropped;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::End;
use crate::support::evergate::BINARY;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::http;
use crate::support::ports::RefusingPort;
use crate::support::ports::free_addr;
use crate::support::postgres::Postgres;
use crate::support::postgres::pgbench;
use crate::support::postgres::pgbench_tables;
use crate::support::process::Process;
use crate::support::process::words;
use crate::support::talk::connect;
use crate::support::talk::echoes;
use crate::support::talk::file;
use crate::support::talk::greeted;
use crate::support::talk::name_at;
use crate::support::talk::plain;
use crate::support::talk::rest;
use crate::support::talk::wait_for_name;
use crate::support::wait_for;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

fn echo_behind(keys: &str) -> (Backend, SocketAddr, Evergate) {
    let (echo, listens) = (Backend::echo(), free_addr());
    let yaml = file(listens, &plain(&[echo.addr()]), &[]) + keys;
    let evergate = Evergate::start(&yaml);
    (echo, listens, evergate)
}

/// C10
#[test]
fn a_drain_under_pgbench_lets_every_transaction_finish_and_exits_0() {
    let _watchdog = Watchdog::bites_after(3 * LIMIT);
    let postgres = Postgres::start();
    pgbench_tables(postgres.addr());
    let listens = free_addr();
    let yaml = file(listens, &plain(&[postgres.addr()]), &[]) + "drain_timeout: 60s\n";
    let mut evergate = Evergate::start(&yaml);
    thread::scope(|scope| {
        let load = scope.spawn(|| pgbench(listens, &["-c4", "-T3"]));
        // One to look at the tables, then the four that stay.
        let listener = [("listener", "l")];
        evergate.wait_for_metric("evergate_listener_connections_total", &listener, 5.0);
        evergate.wait_for_metric("evergate_listener_connections_active", &listener, 4.0);
        evergate.signal(Signal::TERM);
        let draining = wait_for(PATIENCE, "readiness is false", || {
            let answer = evergate.get("/readyz");
            (answer.status == 503).then(|| answer.text())
        });
        assert!(draining.contains("draining"), "{draining}");
        wait_until(PATIENCE, "no new client gets in", || {
            TcpStream::connect(listens).is_err()
        });
        let result = load.join().unwrap();
        assert!(result.complete, "{}", result.output);
        assert!(
            result.transactions > 0 && result.failed == 0,
            "{}",
            result.output
        );
    });
    let status = evergate.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", evergate.stderr());
}

/// C10
#[test]
fn while_draining_the_process_is_alive_but_not_ready_and_sessions_go_on() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (echo, listens, admin) = (Backend::echo(), free_addr(), free_addr());
    let yaml = file(listens, &plain(&[echo.addr()]), &[])
        + &format!("drain_timeout: 60s\nadmin: {{bind: \"{admin}\", token_file: token}}\n");
    let launch = Evergate::with(&yaml);
    fs::write(launch.dir().join("token"), "a-token-of-some-length").unwrap();
    let mut evergate = launch.start();
    let mut session = connect(listens);
    echoes(&mut session, b"before").unwrap();
    evergate.signal(Signal::TERM);
    wait_until(PATIENCE, "readiness is false", || {
        evergate.get("/readyz").status == 503
    });
    assert_eq!(evergate.get("/healthz").status, 200);
    assert_eq!(evergate.get("/api/v1/status").json()["stage"], "draining");
    let token = [("Authorization", "Bearer a-token-of-some-length")];
    let reload = evergate.post("/api/v1/reload", &token, b"");
    assert_eq!(reload.status, 503, "{}", reload.text());
    wait_until(PATIENCE, "no new client gets in", || {
        TcpStream::connect(listens).is_err()
    });
    echoes(&mut session, b"still here").unwrap();
    assert!(evergate.is_running());
    drop(session);
    assert_eq!(evergate.wait(PATIENCE).code(), Some(0));
}

/// C10
#[test]
fn idle_sessions_are_severed_at_the_drain_deadline_and_the_exit_is_0() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (_echo, listens, mut evergate) = echo_behind("drain_timeout: 1s\n");
    let mut idle: Vec<_> = (0..3).map(|_| connect(listens)).collect();
    for session in &mut idle {
        echoes(session, b"then silence").unwrap();
    }
    let since = Instant::now();
    evergate.signal(Signal::TERM);
    for session in &mut idle {
        assert!(rest(session).is_empty());
    }
    let lasted = since.elapsed();
    assert!(
        lasted >= Duration::from_millis(900),
        "severed after {lasted:?}"
    );
    assert_eq!(evergate.wait(PATIENCE).code(), Some(0));
    let severed = |event: &Value| {
        let text = event["message"].as_str();
        let text = text.is_some_and(|text| text.contains("drain deadline passed"));
        text && event["sessions"] == 3
    };
    assert!(evergate.logs().iter().any(severed), "{}", evergate.stderr());
}

/// C11
#[test]
fn a_second_sigterm_ends_the_drain_at_once() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (_echo, listens, mut evergate) = echo_behind("drain_timeout: 1h\n");
    let mut session = connect(listens);
    echoes(&mut session, b"before").unwrap();
    evergate.signal(Signal::TERM);
    evergate.wait_for_log("SIGTERM: draining");
    evergate.signal(Signal::TERM);
    assert!(rest(&mut session).is_empty());
    assert_eq!(evergate.wait(PATIENCE).code(), Some(143));
}

/// C11
#[test]
fn sigint_ends_at_once_also_while_draining() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for first_drains in [false, true] {
        let (_echo, listens, mut evergate) = echo_behind("drain_timeout: 1h\n");
        let mut session = connect(listens);
        echoes(&mut session, b"before").unwrap();
        if first_drains {
            evergate.signal(Signal::TERM);
            evergate.wait_for_log("SIGTERM: draining");
        }
        evergate.signal(Signal::INT);
        assert!(rest(&mut session).is_empty());
        assert_eq!(evergate.wait(PATIENCE).code(), Some(130));
    }
}

/// C11
#[test]
fn a_thousand_sighups_only_reload() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (_echo, listens, mut evergate) = echo_behind("");
    let mut session = connect(listens);
    for turn in 0..1000 {
        evergate.signal(Signal::HUP);
        if turn % 50 == 0 {
            echoes(&mut session, b"still here").unwrap();
            echoes(&mut connect(listens), b"and open to others").unwrap();
        }
    }
    let accepted = [("result", "accepted")];
    wait_until(PATIENCE, "reloads", || {
        let reloads = evergate.metric("evergate_config_reloads_total", &accepted);
        reloads.unwrap_or(0.0) > 0.0
    });
    echoes(&mut session, b"after").unwrap();
    drop(session);
    assert_eq!(evergate.stop(PATIENCE).code(), Some(0));
}

/// C11
#[test]
fn sighups_while_draining_change_nothing() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (_echo, listens, mut evergate) = echo_behind("drain_timeout: 1h\n");
    let mut session = connect(listens);
    echoes(&mut session, b"before").unwrap();
    evergate.signal(Signal::TERM);
    evergate.wait_for_log("SIGTERM: draining");
    for _ in 0..100 {
        evergate.signal(Signal::HUP);
    }
    echoes(&mut session, b"during").unwrap();
    assert!(
        TcpStream::connect(listens).is_err(),
        "a reload opened the door again"
    );
    drop(session);
    assert_eq!(evergate.wait(PATIENCE).code(), Some(0));
}

/// The closed sockets failed to accept hundreds of times before their tasks were told.
#[test]
fn a_listener_that_closes_does_not_go_on_trying_to_accept() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for _ in 0..3 {
        let (_echo, listens, mut evergate) = echo_behind("log: {format: json, level: debug}\n");
        echoes(&mut connect(listens), b"before").unwrap();
        evergate.stop(PATIENCE);
        let lines = evergate.log_lines();
        let failed = |line: &&String| line.contains("accept failed");
        assert!(lines.iter().any(|line| line.contains("SIGTERM: draining")));
        assert!(lines.iter().filter(failed).count() <= 1, "{lines:#?}");
    }
}

/// C10: the kernel resets who is in the accept queue of a socket that closes.
#[test]
fn clients_that_are_connected_but_not_accepted_at_sigterm_are_served() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for _ in 0..3 {
        let keys = "workers: 1\ndrain_timeout: 10s\n";
        let (_echo, listens, mut evergate) = echo_behind(keys);
        evergate.signal(Signal::STOP);
        let mut queued: Vec<_> = (0..400).map(|_| connect(listens)).collect();
        for client in &mut queued {
            client.write_all(b"x").unwrap();
        }
        evergate.signal(Signal::TERM);
        evergate.signal(Signal::CONT);
        let mut served = 0;
        for mut client in queued {
            served += usize::from(client.read_exact(&mut [0]).is_ok());
        }
        assert_eq!(served, 400);
        assert_eq!(evergate.wait(PATIENCE).code(), Some(0));
    }
}

/// C10
#[test]
fn whoever_connects_while_a_listener_is_removed_is_served_or_refused() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (echo, listens, stays) = (Backend::echo(), free_addr(), free_addr());
    let without = file(stays, &plain(&[echo.addr()]), &[]);
    let drain = "drain_timeout: 1s\n";
    let with = without.clone() + &format!("  gone: {{bind: \"{listens}\", cluster: c}}\n{drain}");
    let without = without + drain;
    let evergate = Evergate::start(&with);
    let over = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    let kept = Mutex::new(Vec::new());
    let come = || {
        while !over.load(Ordering::Relaxed) {
            if let Ok(mut client) = TcpStream::connect(listens) {
                echoes(&mut client, b"connected is served").unwrap();
                // Those who stay are severed at the drain deadline, however late they came.
                kept.lock().unwrap().push(client);
                served.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        let _over = SetWhenDropped(&over);
        let clients: Vec<_> = (0..6).map(|_| scope.spawn(come)).collect();
        for _ in 0..10 {
            let before = served.load(Ordering::Relaxed);
            wait_until(PATIENCE, "clients are served", || {
                let now = served.load(Ordering::Relaxed);
                now >= before + 20 || clients.iter().any(|it| it.is_finished())
            });
            evergate.reload(&without);
            evergate.reload(&with);
        }
        evergate.reload(&without);
    });
    for mut client in kept.into_inner().unwrap() {
        assert!(rest(&mut client).is_empty());
    }
}

/// C10: a balancer in front sends clients until it has seen that we are not ready.
#[test]
fn during_the_shutdown_delay_clients_are_served_although_readiness_is_false() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let keys = "drain_timeout: 30s\nshutdown_delay: 2s\n";
    let (_echo, listens, mut evergate) = echo_behind(keys);
    evergate.signal(Signal::TERM);
    let since = Instant::now();
    wait_until(PATIENCE, "readiness is false", || {
        evergate.get("/readyz").status == 503
    });
    let mut session = connect(listens);
    echoes(&mut session, b"late but served").unwrap();
    evergate.wait_for_log("SIGTERM: draining");
    assert!(since.elapsed() >= Duration::from_millis(1900));
    wait_until(PATIENCE, "no new client gets in", || {
        TcpStream::connect(listens).is_err()
    });
    echoes(&mut session, b"and may finish").unwrap();
    drop(session);
    assert_eq!(evergate.wait(PATIENCE).code(), Some(0));
}

/// C11
#[test]
fn a_second_signal_ends_the_shutdown_delay() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for (second, code) in [(Signal::TERM, 0), (Signal::INT, 130)] {
        let (_echo, listens, mut evergate) = echo_behind("shutdown_delay: 1h\n");
        evergate.signal(Signal::TERM);
        evergate.wait_for_log("still accepting");
        echoes(&mut connect(listens), b"not closed yet").unwrap();
        evergate.signal(second);
        assert_eq!(evergate.wait(PATIENCE).code(), Some(code));
    }
}

/// C13
#[test]
fn with_one_backend_down_it_starts_and_serves_with_the_other() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, down, listens) = (Backend::named("a"), RefusingPort::new(), free_addr());
    let yaml = file(listens, &plain(&[a.addr(), down.addr()]), &[]);
    let evergate = Evergate::start(&yaml);
    for _ in 0..10 {
        assert_eq!(name_at(listens), "a");
    }
    let up = |backend| evergate.metric("evergate_backend_up", &[("backend", backend)]);
    assert_eq!((up("a"), up("b")), (Some(1.0), Some(0.0)));
}

/// C13
#[test]
fn with_all_backends_down_it_starts_holds_clients_and_serves_when_one_is_up() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (mut a, listens) = (Backend::named("a"), free_addr());
    a.kill(End::Fin);
    let yaml = file(listens, &plain(&[a.addr()]), &[]);
    let evergate = Evergate::with(&yaml).until(Until::Alive).start();
    assert_eq!(evergate.get("/readyz").status, 503);
    let mut held = connect(listens);
    evergate.wait_for_metric("evergate_cluster_held_sessions", &[("cluster", "c")], 1.0);
    a.start_again();
    let mut name = [0; 2];
    held.read_exact(&mut name).unwrap();
    assert_eq!(&name, b"a\n");
    wait_until(PATIENCE, "ready", || evergate.get("/readyz").status == 200);
}

/// C13
#[test]
fn with_no_answer_from_dns_it_serves_the_others_and_takes_the_name_when_it_resolves() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let (with_name, other) = (free_addr(), free_addr());
    let yaml = format!(
        "clusters:\n  n:\n    backends: [\"late.evergate.test:{}\"]\n    failover: {{hold: {{for: 1m, max_sessions: 10}}}}\n  \
         o: {{backends: [\"{}\"]}}\nlisteners:\n  n: {{bind: \"{with_name}\", cluster: n}}\n  \
         o: {{bind: \"{other}\", cluster: o}}\n",
        a.addr().port(),
        b.addr()
    );
    // A view of the system in which we are the ones who know names.
    let script =
        "mount --bind hosts /etc/hosts && mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"";
    let launch = Evergate::with(&yaml).inside(&["unshare", "--mount", "sh", "-c", script, "sh"]);
    let hosts = launch.dir().join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    fs::write(launch.dir().join("resolv.conf"), "nameserver 127.0.0.254\n").unwrap();
    let evergate = launch.start();
    assert_eq!(name_at(other), "b");
    let down = [("cluster", "n")];
    assert_eq!(evergate.metric("evergate_backend_up", &down), Some(0.0));
    let mut held = connect(with_name);
    evergate.wait_for_metric("evergate_cluster_held_sessions", &down, 1.0);

    fs::write(&hosts, "127.0.0.1 localhost late.evergate.test\n").unwrap();
    let mut name = [0; 2];
    held.read_exact(&mut name).unwrap();
    assert_eq!(&name, b"a\n");
    wait_for_name(with_name, "a");
}

/// C14
#[test]
fn a_clock_that_jumps_two_days_moves_no_timer() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (mut a, b, echo) = (Backend::named("a"), Backend::named("b"), Backend::echo());
    let (listens, quiet) = (free_addr(), free_addr());
    let checks = "{interval: 100ms, timeout: 100ms, rise: 1, fall: 20}";
    let yaml = format!(
        "clusters:\n  c:\n    backends:\n      - {{name: a, address: \"{}\"}}\n      \
         - {{name: b, address: \"{}\", tier: 1}}\n    health_check: {checks}\n  \
         e: {{backends: [\"{}\"]}}\nlisteners:\n  c: {{bind: \"{listens}\", cluster: c}}\n  \
         e: {{bind: \"{quiet}\", cluster: e, idle_timeout: 1h}}\ndrain_timeout: 1h\n",
        a.addr(),
        b.addr(),
        echo.addr()
    );
    let launch = Evergate::with(&yaml);
    let clock = launch.dir().join("clock");
    let jump = |to: &str| {
        // In one step: the library must never read half a number.
        let beside = clock.with_extension("new");
        fs::write(&beside, format!("{to}\n")).unwrap();
        fs::rename(&beside, &clock).unwrap();
    };
    jump("+0");
    let mut evergate = launch
        .inside(&["env", &format!("LD_PRELOAD={}", libfaketime())])
        .environment("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        .environment("FAKETIME_NO_CACHE", "1")
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .environment("DONT_FAKE_MONOTONIC", "1")
        .start();
    let mut session = connect(quiet);
    echoes(&mut session, b"before").unwrap();
    assert_eq!(name_at(listens), "a");
    let checks = || {
        let checks = evergate.metric("evergate_health_checks_total", &[("backend", "b")]);
        checks.unwrap()
    };
    for to in ["+2d", "-2d", "+1s", "-1s", "+2d"] {
        jump(to);
        let before = checks();
        wait_until(PATIENCE, "health checks go on", || checks() >= before + 5.0);
        echoes(&mut session, b"still here").unwrap();
        assert_eq!(name_at(listens), "a");
    }
    a.kill(End::Rst);
    wait_for_name(listens, "b");
    evergate.wait_for_metric("evergate_backend_up", &[("backend", "a")], 0.0);
    a.start_again();
    wait_for_name(listens, "a");
    // The clock did jump: the log was written on three days.
    let days = evergate.logs().into_iter().filter_map(|event| {
        let timestamp = event["timestamp"].as_str()?;
        Some(timestamp[..10].to_owned())
    });
    let days: std::collections::BTreeSet<_> = days.collect();
    assert!(days.len() >= 2, "the clock stood: {days:?}");
    let down = evergate
        .logs()
        .into_iter()
        .filter(|event| event["to"] == "down");
    assert_eq!(down.count(), 1, "{}", evergate.stderr());
    evergate.signal(Signal::TERM);
    evergate.wait_for_log("SIGTERM: draining");
    jump("-2d");
    echoes(&mut session, b"a drain is measured by no clock").unwrap();
    drop(session);
    assert_eq!(evergate.wait(PATIENCE).code(), Some(0));
}

fn libfaketime() -> String {
    let dirs = fs::read_dir("/usr/lib").unwrap();
    let places = dirs.map(|dir| dir.unwrap().path().join("faketime/libfaketimeMT.so.1"));
    let found = places.into_iter().find(|place| place.is_file());
    found
        .expect("install faketime")
        .to_str()
        .unwrap()
        .to_owned()
}

/// Issue, part 6: systemd
#[test]
fn systemd_is_told_when_it_serves_and_when_it_stops() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens) = (Backend::named("a"), free_addr());
    let launch = Evergate::with(&file(listens, &plain(&[backend.addr()]), &[]));
    let path = launch.dir().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut message = [0; 1000];
        let length = systemd.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let launch = launch.environment("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut evergate = launch.until(Until::Started).start();
    assert!(told().lines().any(|line| line == "READY=1"));
    // Whoever was told may connect at once.
    assert_eq!(http::get(evergate.admin(), "/healthz").unwrap().status, 200);
    assert_eq!(name_at(listens), "a");
    evergate.signal(Signal::TERM);
    assert!(told().lines().any(|line| line == "STOPPING=1"));
    assert_eq!(evergate.wait(PATIENCE).code(), Some(0));
}

/// Issue, part 6: systemd
#[test]
fn a_notify_socket_that_nobody_reads_stops_nothing() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens) = (Backend::named("a"), free_addr());
    let launch = Evergate::with(&file(listens, &plain(&[backend.addr()]), &[]));
    let mut evergate = launch
        .environment("NOTIFY_SOCKET", "/nowhere/notify")
        .start();
    assert_eq!(name_at(listens), "a");
    assert_eq!(evergate.stop(PATIENCE).code(), Some(0));
}

/// C10
#[test]
fn readiness_is_false_before_the_first_client_is_turned_away() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (_echo, listens, mut evergate) = echo_behind("drain_timeout: 1h\n");
    let mut session = connect(listens);
    echoes(&mut session, b"before").unwrap();
    let closed = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_until(PATIENCE, "the listener closes", || {
                TcpStream::connect(listens).is_err()
            });
            closed.store(true, Ordering::SeqCst);
        });
        evergate.signal(Signal::TERM);
        wait_until(PATIENCE, "the listener closes", || {
            closed.load(Ordering::SeqCst)
        });
        assert_eq!(
            evergate.get("/readyz").status,
            503,
            "closed, and still ready"
        );
    });
    drop(session);
    assert_eq!(evergate.wait(PATIENCE).code(), Some(0));
}

/// C11
#[test]
fn a_sigterm_at_any_moment_of_the_start_ends_it() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backend = Backend::named("a");
    for milliseconds in (0..40).step_by(2) {
        let yaml = file(free_addr(), &plain(&[backend.addr()]), &[]);
        let mut starting = Evergate::with(&yaml).until(Until::Started).start();
        thread::sleep(Duration::from_millis(milliseconds));
        starting.signal(Signal::TERM);
        let status = starting.wait(PATIENCE);
        let orderly = status.code() == Some(0);
        // Nothing has been promised to anyone before the signals are handled.
        let too_early = status.signal() == Some(Signal::TERM.as_raw());
        assert!(orderly || too_early, "{status:?}: {}", starting.stderr());
    }
}

/// C11
#[test]
fn after_a_kill_9_it_starts_again_at_once_on_the_same_ports_and_socket() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens, admin) = (Backend::named("a"), free_addr(), free_addr());
    let keys = format!("admin: {{bind: \"{admin}\", socket: admin.sock}}\n");
    let yaml = file(listens, &plain(&[backend.addr()]), &[]) + &keys;
    let mut killed = Evergate::start(&yaml);
    // Sessions that were alive leave their addresses in TIME_WAIT.
    let _sessions: Vec<_> = (0..5).map(|_| greeted(listens).unwrap()).collect();
    killed.signal(Signal::KILL);
    killed.wait(PATIENCE);
    let file = killed.file();
    let command = words(&[BINARY, "run", "-c", file.to_str().unwrap()]);
    let mut again = Process::start(&command, &[], killed.dir());
    wait_for_name(listens, "a");
    let socket = killed.dir().join("admin.sock");
    assert!(socket.exists());
    again.signal(Signal::TERM);
    assert_eq!(again.wait(PATIENCE).code(), Some(0), "{}", again.stderr());
    assert!(!socket.exists(), "the socket's file is left over");
}
