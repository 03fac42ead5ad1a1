//! Backends that die, hang, flap, lie or come back: faults B2, B11 to B13, B22 to B24.

use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::pki::Authority;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::backend::End;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::http;
use crate::support::limits::raise_open_files;
use crate::support::ports::free_addr;
use crate::support::relay::Direction;
use crate::support::relay::FaultRelay;
use crate::support::relay::Faults;
use crate::support::talk::connect;
use crate::support::talk::file;
use crate::support::talk::greeted;
use crate::support::talk::name_at;
use crate::support::talk::plain;
use crate::support::talk::read_line;
use crate::support::talk::rest;
use crate::support::talk::wait_for_name;
use crate::support::wait_until;
use crate::support::webserver::Nginx;

const LIMIT: Duration = Duration::from_secs(60);

fn is_up(evergate: &Evergate, backend: &str) -> bool {
    evergate.metric("evergate_backend_up", &[("backend", backend)]) == Some(1.0)
}

#[track_caller]
fn wait_up(evergate: &Evergate, backend: &str, up: bool) {
    let value = if up { 1.0 } else { 0.0 };
    evergate.wait_for_metric("evergate_backend_up", &[("backend", backend)], value);
}

/// Why the API says a backend is as it is.
fn cause(evergate: &Evergate, backend: &str) -> String {
    let clusters = evergate.get("/api/v1/clusters").json();
    let backends = clusters[0]["backends"].as_array().unwrap();
    let found = backends.iter().find(|entry| entry["name"] == backend);
    found.unwrap()["cause"].as_str().unwrap().to_owned()
}

/// B2: sessions that began after the death reach another replica, before and after any check notices.
#[test]
fn a_killed_replica_costs_no_new_connection() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let names = ["a", "b", "c"];
    let mut backends = names.map(Backend::named);
    let listens = free_addr();
    let addrs = backends.each_ref().map(Backend::addr);
    // Checks are so slow that only the sessions themselves can find out.
    let checks = "health_check: {interval: 1h, timeout: 20s, fast_interval: 1h}";
    let evergate = Evergate::start(&file(listens, &plain(&addrs), &[checks]));

    let killed = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut after = 0;
                // Enough of them to prove something.
                while after < 50 {
                    let is_new = killed.load(Ordering::Acquire);
                    let session = greeted(listens);
                    if is_new {
                        let (_, name) = session.expect("a new session after the death");
                        assert_ne!(name, "a");
                        after += 1;
                    }
                }
            });
        }
        backends[0].kill(End::Rst);
        killed.store(true, Ordering::Release);
    });
    let redispatched =
        evergate.metric("evergate_backend_connect_errors_total", &[("backend", "a")]);
    assert!(redispatched > Some(0.0), "the dead one was never tried");
}

/// B11: slowness is no death, and a policy that looks at latency sends fewer there.
#[test]
fn a_slow_backend_stays_up_and_gets_few_sessions() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let per_line = |name: &str| Backend::start(Behaviour::NamePerLine(name.to_owned()));
    let (fast, slow) = (per_line("fast"), per_line("slow"));
    let relay = FaultRelay::to(slow.addr());
    relay.set(Faults::both(Direction {
        delay: Duration::from_millis(100),
        ..Direction::default()
    }));
    let listens = free_addr();
    let backends = plain(&[fast.addr(), relay.addr()]);
    let balance = "balance: {policy: least_latency}";
    let evergate = Evergate::start(&file(listens, &backends, &[balance]));
    let mut to_slow = 0;
    for _ in 0..60 {
        let mut client = connect(listens);
        client.write_all(b"who\n").unwrap();
        to_slow += u32::from(read_line(&mut client).unwrap() == "slow");
        assert!(is_up(&evergate, "b"), "slow is not down");
    }
    assert!(to_slow < 20, "{to_slow} of 60 went to the slow one");
}

/// B12: a backend that comes and goes is believed less each time, and no client notices.
#[test]
fn a_flapping_backend_changes_less_often_than_it_flaps() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    const FLAPS: usize = 12;
    let (steady, mut flapping) = (Backend::named("a"), Backend::named("b"));
    let listens = free_addr();
    let backends = plain(&[steady.addr(), flapping.addr()]);
    let checks = "health_check: {interval: 100ms, timeout: 100ms, rise: 1, fall: 1}";
    let evergate = Evergate::start(&file(listens, &backends, &[checks]));
    wait_up(&evergate, "b", true);
    // The pace is the subject: two flaps a second, whatever the checks have seen of them.
    for _ in 0..FLAPS {
        flapping.kill(End::Rst);
        thread::sleep(Duration::from_millis(250));
        flapping.start_again();
        thread::sleep(Duration::from_millis(250));
        name_at(listens);
    }
    let falls = evergate.logs().into_iter().filter(|line| {
        line["message"] == "health changed" && line["backend"] == "b" && line["to"] == "down"
    });
    let falls = falls.count();
    assert!(falls > 0, "it was never noticed: {}", evergate.stderr());
    assert!(falls <= FLAPS * 2 / 3, "{falls} falls in {FLAPS} flaps");
    wait_up(&evergate, "b", true);
    wait_for_name(listens, "b");
}

/// B13: everything is down: a bounded wait, then an end that is counted; back at once after the return.
#[test]
fn with_all_backends_down_clients_wait_their_time_and_recover() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut backends = [Backend::named("a"), Backend::named("b")];
    let listens = free_addr();
    let addrs = plain(&backends.each_ref().map(Backend::addr));
    let failover = "failover: {hold: {for: 1s, max_sessions: 100}}";
    let evergate = Evergate::start(&file(listens, &addrs, &[failover]));
    for backend in &mut backends {
        backend.kill(End::Rst);
    }
    wait_up(&evergate, "a", false);
    wait_up(&evergate, "b", false);
    assert_eq!(evergate.get("/readyz").status, 503);
    let started = Instant::now();
    assert_eq!(rest(&mut connect(listens)), b"");
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(900), "no wait: {waited:?}");
    let refused = [("reason", "hold_timeout")];
    evergate.wait_for_metric(
        "evergate_listener_connections_rejected_total",
        &refused,
        1.0,
    );

    let mut held = connect(listens);
    evergate.wait_for_metric("evergate_cluster_held_sessions", &[], 1.0);
    backends[1].start_again();
    assert_eq!(read_line(&mut held).unwrap(), "b");
    assert_eq!(name_at(listens), "b");
    assert_eq!(evergate.get("/readyz").status, 200);
}

/// B22: noise is no answer to any kind of check, and harms nobody.
#[test]
fn a_backend_that_speaks_garbage_is_down_for_every_kind_of_check() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let noise = Backend::start(Behaviour::Garbage);
    let tls = "tls: {mode: insecure}";
    for (kind, keys, why) in [
        // In noise without an end the answer could still come.
        (
            "kind: tcp, send: PING, expect: PONG, timeout: 500ms",
            "",
            "check_timeout",
        ),
        ("kind: http, path: /, timeout: 5s", "", "unexpected_answer"),
        ("kind: tls, timeout: 5s", tls, "tls_failed"),
        ("kind: http, tls: true, timeout: 5s", tls, "tls_failed"),
    ] {
        let listens = free_addr();
        let check = format!("health_check: {{{kind}, interval: 5s}}");
        let keys = [check.as_str(), keys];
        let keys = if keys[1].is_empty() {
            &keys[..1]
        } else {
            &keys
        };
        let yaml = file(listens, &plain(&[noise.addr()]), keys);
        let mut evergate = Evergate::with(&yaml).until(Until::Alive).start();
        wait_until(PATIENCE, &format!("{kind}: {why}"), || {
            !is_up(&evergate, "a") && cause(&evergate, "a") == why
        });
        assert!(evergate.is_running());
    }
}

/// B22: noise in the middle of a TLS session to a backend ends that session only.
#[test]
fn garbage_instead_of_tls_fails_over_to_a_backend_that_speaks_it() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let noise = Backend::start(Behaviour::Garbage);
    let listens = free_addr();
    let keys = [
        "tls: {mode: insecure}",
        "failover: {hold: {for: 0s, max_sessions: 0}}",
    ];
    let evergate = Evergate::start(&file(listens, &plain(&[noise.addr()]), &keys));
    assert_eq!(rest(&mut connect(listens)), b"", "garbage reached a client");
    let errors = [("backend", "a"), ("reason", "tls_failed")];
    evergate.wait_for_metric("evergate_backend_connect_errors_total", &errors, 1.0);
}

/// B23: one byte a second is not an answer within the timeout, neither for checks nor for sessions.
#[test]
fn a_banner_of_one_byte_a_second_meets_the_deadline() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let slow = Backend::start(Behaviour::SlowBanner);
    let listens = free_addr();
    let check = "health_check: {interval: 600ms, timeout: 600ms, send: PING, expect: xxxxxxxx}";
    let yaml = file(listens, &plain(&[slow.addr()]), &[check]);
    let evergate = Evergate::with(&yaml).until(Until::Alive).start();
    wait_until(PATIENCE, "the slow banner is down", || {
        !is_up(&evergate, "a") && cause(&evergate, "a") == "check_timeout"
    });
}

/// B23: a TLS server that trickles is given up after `connect.timeout`, and another takes over.
#[test]
fn a_trickling_tls_handshake_is_given_up_for_another_backend() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("test");
    let pair = authority.issue("server", &["localhost"]);
    let (origin, listens) = (free_addr(), free_addr());
    let server = format!(
        "server {{ listen {origin} ssl; ssl_certificate {}; ssl_certificate_key {}; \
         location / {{ return 200 whole; }} }}",
        pair.cert_file.display(),
        pair.key_file.display()
    );
    let _nginx = Nginx::http(&server, origin);
    let trickling = FaultRelay::to(origin);
    trickling.set(Faults::both(Direction {
        bytes_per_second: Some(10),
        max_segment_bytes: Some(1),
        ..Direction::default()
    }));
    let keys = ["tls: {mode: insecure}", "connect: {timeout: 1s}"];
    let backends = [(trickling.addr(), ""), (origin, "tier: 1")];
    let evergate = Evergate::start(&file(listens, &backends, &keys));
    assert_eq!(http::get(listens, "/").unwrap().text(), "whole");
    let errors = [("backend", "a"), ("reason", "connect_timeout")];
    evergate.wait_for_metric("evergate_backend_connect_errors_total", &errors, 1.0);
}

/// The next check is due in an hour; what a session sees makes it come now.
#[test]
fn a_backend_that_ends_a_session_early_is_checked_at_once() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (closing, listens) = (Backend::start(Behaviour::Close), free_addr());
    let checks = "health_check: {interval: 1h, timeout: 20s}";
    let evergate = Evergate::start(&file(listens, &plain(&[closing.addr()]), &[checks]));
    let checks = || {
        let checks = evergate.metric("evergate_health_checks_total", &[]);
        checks.unwrap_or(0.0)
    };
    assert_eq!(checks(), 1.0);

    assert_eq!(rest(&mut connect(listens)), b"");

    wait_until(PATIENCE, "another check", || checks() > 1.0);
}

/// B24: hundreds wait for one backend; it gets them at a pace, and each is served.
#[test]
fn a_returning_backend_is_not_stampeded() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    const HELD: u32 = 640;
    raise_open_files();
    let mut backend = Backend::named("a");
    let listens = free_addr();
    let failover = "failover: {hold: {for: 50s, max_sessions: 1000}}";
    let yaml = file(listens, &plain(&[backend.addr()]), &[failover]);
    let evergate = Evergate::start(&yaml);
    backend.kill(End::Rst);
    wait_up(&evergate, "a", false);
    let mut clients: Vec<_> = (0..HELD).map(|_| connect(listens)).collect();
    let held = || evergate.metric("evergate_cluster_held_sessions", &[]);
    wait_until(PATIENCE, "all are held", || held() == Some(f64::from(HELD)));

    let returned = Instant::now();
    backend.start_again();
    for client in &mut clients {
        assert_eq!(read_line(client).unwrap(), "a");
    }
    // 32 logins at once, each given 20 ms: 640 cannot take less than 20 rounds.
    let took = returned.elapsed();
    assert!(took >= Duration::from_millis(300), "all within {took:?}");
    assert_eq!(held(), Some(0.0));
    // No client was served twice or thrown at the backend again.
    let sessions = evergate.metric("evergate_backend_connections_total", &[]);
    assert_eq!(sessions, Some(f64::from(HELD)));
}

/// A backend's last words hid why the client had waited in vain, and no metric counted the refusal.
#[test]
fn a_client_that_waited_in_vain_is_refused_for_the_wait_and_not_for_its_first_try() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut backend = Backend::named("a");
    let listens = free_addr();
    let failover = "failover: {hold: {for: 1s, max_sessions: 100}}";
    let evergate = Evergate::start(&file(listens, &plain(&[backend.addr()]), &[failover]));
    backend.kill(End::Rst);
    // The table still says up: the first try fails, and its report takes the backend out.
    assert_eq!(rest(&mut connect(listens)), b"");
    wait_up(&evergate, "a", false);
    let tried = [("backend", "a")];
    let errors = evergate.metric("evergate_backend_connect_errors_total", &tried);
    assert!(errors > Some(0.0), "the dead one was never tried");
    let refused = [("reason", "hold_timeout")];
    let rejected = "evergate_listener_connections_rejected_total";
    evergate.wait_for_metric(rejected, &refused, 1.0);
    evergate.wait_for_metric("evergate_cluster_hold_duration_seconds_count", &[], 1.0);
}
