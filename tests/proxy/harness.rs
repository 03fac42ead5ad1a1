//! The harness itself: a fault that is not injected proves nothing.

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Duration;
use std::time::Instant;

use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::backend::End;
use crate::support::evergate::Evergate;
use crate::support::evergate::sum_of;
use crate::support::http;
use crate::support::limits::Cgroup;
use crate::support::limits::Limit;
use crate::support::netns::Netns;
use crate::support::ports::FullBacklog;
use crate::support::ports::RefusingPort;
use crate::support::ports::free_addr;
use crate::support::postgres::Postgres;
use crate::support::postgres::pgbench;
use crate::support::postgres::pgbench_tables;
use crate::support::process::Process;
use crate::support::process::words;
use crate::support::redis::Redis;
use crate::support::redis::redis_benchmark;
use crate::support::redis::redis_cli;
use crate::support::relay::Direction;
use crate::support::relay::FaultRelay;
use crate::support::relay::Faults;
use crate::support::stream::Pattern;
use crate::support::stream::expect_pattern;
use crate::support::stream::write_pattern;
use crate::support::wait_until;
use crate::support::webserver::Haproxy;
use crate::support::webserver::Nginx;

#[test]
fn an_echo_comes_back_after_a_half_close() {
    let backend = Backend::echo();
    assert_eq!(talk(backend.addr(), b"hello"), b"hello");
    assert_eq!(backend.accepted(), 1);
    assert_eq!(backend.bytes_received(), 5);
    wait_until(PATIENCE, "no connection is left", || backend.active() == 0);
}

#[test]
fn a_killed_backend_refuses_and_comes_back_on_its_port() {
    let mut backend = Backend::named("a");
    let mut held = connect(backend.addr());
    let mut name = [0; 2];
    held.read_exact(&mut name).unwrap();
    assert_eq!(&name, b"a\n");

    backend.kill(End::Rst);
    let end = held.read(&mut name).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    let refused = TcpStream::connect(backend.addr()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    backend.start_again();
    let mut held = connect(backend.addr());
    held.read_exact(&mut name).unwrap();
    backend.kill(End::Fin);
    assert_eq!(held.read(&mut name).unwrap(), 0);
}

#[test]
fn a_frozen_backend_accepts_and_is_silent_until_it_thaws() {
    let backend = Backend::named("a");
    backend.freeze();
    let mut client = connect(backend.addr());
    let mut name = [0; 2];
    expect_silence(&mut client);
    backend.thaw();
    client.read_exact(&mut name).unwrap();
}

#[test]
fn bad_backends_are_bad_in_their_own_way() {
    let lines = Backend::start(Behaviour::NamePerLine("b".to_owned()));
    assert_eq!(talk(lines.addr(), b"1\n2\n"), b"b\nb\n");
    let count = Backend::start(Behaviour::Count);
    assert_eq!(talk(count.addr(), &[0; 1000]), b"1000");
    let close = Backend::start(Behaviour::Close);
    assert_eq!(talk(close.addr(), b""), b"");
    expect_silence(&mut connect(Backend::start(Behaviour::Silent).addr()));

    let reset = Backend::start(Behaviour::Reset);
    let end = connect(reset.addr()).read(&mut [0]).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    let garbage = Backend::start(Behaviour::Garbage);
    connect(garbage.addr()).read_exact(&mut [0; 4096]).unwrap();
    let slow = Backend::start(Behaviour::SlowBanner);
    let mut slow = connect(slow.addr());
    slow.read_exact(&mut [0]).unwrap();
    expect_silence(&mut slow);
}

#[test]
fn an_http_backend_changes_its_status() {
    let status = Arc::new(AtomicU16::new(200));
    let behaviour = Behaviour::Http {
        status: Arc::clone(&status),
    };
    let backend = Backend::start(behaviour);
    let mut client = connect(backend.addr());
    for expected in [200, 503] {
        status.store(expected, std::sync::atomic::Ordering::Relaxed);
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *format!("HTTP/1.1 {expected}").as_bytes());
        let mut rest = [0; "Status\r\nContent-Length: 3\r\n\r\nok\n".len() + 1];
        client.read_exact(&mut rest).unwrap();
    }
}

#[test]
fn refusing_and_full_ports_do_what_they_say() {
    let refusing = RefusingPort::new();
    let refused = TcpStream::connect(refusing.addr()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    let full = FullBacklog::new();
    let wait = Duration::from_millis(300);
    let hung = TcpStream::connect_timeout(&full.addr(), wait).unwrap_err();
    assert_eq!(hung.kind(), ErrorKind::TimedOut);
}

#[test]
fn ports_are_never_given_twice() {
    let mut ports: Vec<_> = (0..200).map(|_| free_addr().port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 200);
}

#[test]
fn a_relay_passes_a_stream_unharmed_under_every_fault() {
    let backend = Backend::start(Behaviour::Stream { bytes: 50_000 });
    let echo = Backend::echo();
    let faults = [
        Direction::default(),
        Direction {
            max_segment_bytes: Some(1),
            ..Direction::default()
        },
        Direction {
            coalesce: Duration::from_millis(20),
            ..Direction::default()
        },
        Direction {
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(20),
            stalled_per_mille: 200,
            stall: Duration::from_millis(50),
            ..Direction::default()
        },
    ];
    for fault in faults {
        let relay = FaultRelay::to(backend.addr());
        relay.set(Faults::both(fault.clone()));
        let mut client = connect(relay.addr());
        let seen = expect_pattern(&mut client, Pattern::new(), u64::MAX).unwrap();
        assert_eq!(seen, 50_000, "{fault:?}");

        let relay = FaultRelay::to(echo.addr());
        relay.set(Faults::both(fault));
        let mut client = connect(relay.addr());
        write_pattern(&mut client, Pattern::seeded(3), 20_000).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let seen = expect_pattern(&mut client, Pattern::seeded(3), u64::MAX).unwrap();
        assert_eq!(seen, 20_000);
    }
}

#[test]
fn a_relay_delays_and_limits() {
    let echo = Backend::echo();
    let relay = FaultRelay::to(echo.addr());
    let mut late = Faults::default();
    late.to_target.delay = Duration::from_millis(60);
    late.to_client.delay = Duration::from_millis(60);
    relay.set(late);
    let started = Instant::now();
    assert_eq!(talk(relay.addr(), b"x"), b"x");
    assert!(started.elapsed() >= Duration::from_millis(120));

    let mut narrow = Faults::default();
    narrow.to_client.bytes_per_second = Some(10_000);
    relay.set(narrow);
    let started = Instant::now();
    assert_eq!(talk(relay.addr(), &[1; 3_000]).len(), 3_000);
    assert!(started.elapsed() >= Duration::from_millis(250));
}

#[test]
fn a_relay_swallows_resets_and_refuses() {
    let echo = Backend::echo();
    let mut relay = FaultRelay::to(echo.addr());
    let mut client = connect(relay.addr());
    relay.blackhole();
    client.write_all(b"x").unwrap();
    expect_silence(&mut client);
    relay.heal();
    client.read_exact(&mut [0]).unwrap();

    relay.reset_connections();
    let end = client.read(&mut [0]).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    wait_until(PATIENCE, "the reset reaches the backend", || {
        echo.active() == 0
    });

    relay.refuse();
    let refused = TcpStream::connect(relay.addr()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    relay.accept_again();
    assert_eq!(talk(relay.addr(), b"x"), b"x");
}

#[test]
fn postgres_answers_dies_and_recovers() {
    let _watchdog = Watchdog::bites_after(Duration::from_secs(180));
    let mut postgres = Postgres::start();
    assert_eq!(postgres.sql("select 40 + 2"), "42");
    pgbench_tables(postgres.addr());
    let result = pgbench(postgres.addr(), &["-S", "-c2", "-t50"]);
    assert!(result.complete, "{}", result.output);
    assert_eq!((result.transactions, result.failed), (100, 0));

    postgres.kill9();
    let refused = TcpStream::connect(postgres.addr()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    postgres.start_again();
    assert_eq!(postgres.sql("select count(*) from pgbench_branches"), "1");
    postgres.stop();
    let result = pgbench(postgres.addr(), &["-S", "-c2", "-t50"]);
    assert!(!result.complete);
    assert_eq!(result.transactions, 0);
}

#[test]
fn redis_answers_freezes_and_dies() {
    let mut redis = Redis::start();
    let result = redis_benchmark(redis.addr(), &["-t", "get", "-c", "5", "-n", "500"]);
    assert!(
        result.complete && result.requests_per_second > 0.0,
        "{}",
        result.output
    );
    redis.freeze();
    let mut client = connect(redis.addr());
    client.write_all(b"PING\r\n").unwrap();
    expect_silence(&mut client);
    redis.thaw();
    client.read_exact(&mut [0; 7]).unwrap();
    redis.kill9();
    assert!(!redis_cli(redis.addr(), &["PING"]).status.success());
    redis.start_again();
    redis.stop();
}

#[test]
fn nginx_and_haproxy_serve() {
    let (origin, front) = (free_addr(), free_addr());
    let server = format!("server {{ listen {origin}; location / {{ return 200 hello; }} }}");
    let nginx = Nginx::http(&server, origin);
    let haproxy = Haproxy::start(
        &format!(
            "defaults\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n\
             listen a\n mode http\n bind {front}\n server a {origin}\n"
        ),
        front,
    );
    let answer = http::get(front, "/status").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    wait_until(PATIENCE, "the access log", || {
        nginx.access_log().contains("/status")
    });
    assert!(haproxy.process().rss_bytes() > 0 && nginx.process().threads() == 1);
}

#[test]
fn a_namespace_drops_resets_and_heals() {
    let netns = Netns::new();
    let redis = Redis::start_in(&netns.place());
    let mut client = connect(redis.addr());
    netns.drop_outgoing();
    client.write_all(b"PING\r\n").unwrap();
    expect_silence(&mut client);
    netns.heal();
    client.read_exact(&mut [0; 7]).unwrap();

    netns.drop_new_connections(redis.addr().port());
    let wait = Duration::from_millis(300);
    let hung = TcpStream::connect_timeout(&redis.addr(), wait).unwrap_err();
    assert_eq!(hung.kind(), ErrorKind::TimedOut);
    client.write_all(b"PING\r\n").unwrap();
    client.read_exact(&mut [0; 7]).unwrap();
    netns.heal();

    netns.reset_port(redis.addr().port());
    client.write_all(b"PING\r\n").unwrap();
    let end = client.read(&mut [0]).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    netns.heal();

    netns.lose(5);
    netns.limit_rate("1mbit");
    assert_eq!(redis_cli(redis.addr(), &["PING"]).stdout, b"PONG\n");
}

#[test]
fn a_dropped_process_is_gone_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let script = "sleep 1000 & sleep 1000 & echo started; wait";
    let process = Process::start(&words(&["sh", "-c", script]), &[], dir.path());
    wait_until(PATIENCE, "its children and its word", || {
        process.tree().len() == 3 && process.stdout() == "started\n"
    });
    let tree = process.tree();
    drop(process);
    wait_until(PATIENCE, "the end of the whole tree", || {
        !tree.iter().any(|pid| is_alive(*pid))
    });
}

#[test]
fn a_cgroup_limits_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(&words(&["sleep", "1000"]), &[], dir.path());
    for limit in [
        Limit::MemoryBytes(64 << 20),
        Limit::CpuPercent(20),
        Limit::Threads(10),
    ] {
        let cgroup = Cgroup::new(limit);
        cgroup.add(process.pid());
        let pid = process.pid().to_string();
        assert_eq!(cgroup.read("cgroup.procs").trim(), pid, "{limit:?}");
    }
}

#[test]
fn evergate_starts_serves_reloads_and_ends() {
    let (a, b, listens) = (Backend::named("a"), Backend::named("b"), free_addr());
    let file = |backend: &Backend| {
        let backend = backend.addr();
        format!(
            "clusters:\n  c:\n    protocol: tcp\n    backends: [\"{backend}\"]\n\
             listeners:\n  l: {{bind: \"{listens}\", cluster: c}}\n"
        )
    };
    let mut evergate = Evergate::start(&file(&a));
    assert_eq!(talk(listens, b""), b"a\n");
    evergate.reload(&file(&b));
    wait_until(PATIENCE, "the new backend", || talk(listens, b"") == b"b\n");
    assert!(!evergate.logs().is_empty(), "{}", evergate.stderr());
    assert!(evergate.rss_bytes() > 0 && evergate.open_files() > 3);
    assert!(evergate.stop(PATIENCE).success());
}

#[test]
fn metrics_are_summed_over_matching_series() {
    let text = "# HELP a_total x\na_total{b=\"1\",c=\"x\"} 2\na_total{b=\"2\",c=\"x\"} 3\n\
                a_total_more 9\nplain 7\n";
    assert_eq!(sum_of(text, "a_total", &[("c", "x")]), Some(5.0));
    assert_eq!(sum_of(text, "a_total", &[("b", "2")]), Some(3.0));
    assert_eq!(sum_of(text, "a_total", &[("b", "3")]), None);
    assert_eq!(sum_of(text, "plain", &[]), Some(7.0));
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends, half-closes, and reads to the end.
fn talk(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(addr);
    stream.write_all(bytes).unwrap();
    // A peer that already closed makes this fail, and that is its answer.
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// Absence can only be shown for a while; the while is short.
fn expect_silence(stream: &mut TcpStream) {
    let patience = stream.read_timeout().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let silence = stream.read(&mut [0]).unwrap_err();
    assert_eq!(silence.kind(), ErrorKind::WouldBlock);
    stream.set_read_timeout(patience).unwrap();
}

/// A zombie that nobody reaped yet is not alive.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or("").trim_start();
    !state.is_empty() && !state.starts_with('Z')
}
