//! Less of everything: faults R1 to R6.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::fs::OFlags;
use rustix::process::Signal;
use socket2::SockRef;

use crate::support::PATIENCE;
use crate::support::SetWhenDropped;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::End;
use crate::support::disk::Disk;
use crate::support::evergate::BINARY;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::limits::Cgroup;
use crate::support::limits::Limit;
use crate::support::limits::raise_open_files;
use crate::support::ports::free_addr;
use crate::support::process::output_of;
use crate::support::process::run;
use crate::support::talk::rest;
use crate::support::wait_until;
use crate::talk::connect;
use crate::talk::downs;
use crate::talk::file;
use crate::talk::round_trip;

const LIMIT: Duration = Duration::from_secs(120);
const FAST_CHECKS: &str = ", health_check: {interval: 200ms}";
const REJECTED: &str = "evergate_listener_connections_rejected_total";
/// A line for each session.
const DEBUG_LOG: &str = "log: {format: json, level: debug}\n";

/// R1: 64 descriptors, and 200 clients want two each.
#[test]
fn with_64_descriptors_it_serves_what_it_can_and_stays_reachable() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let listen = free_addr();
    let yaml = file(listen, &[echo.addr()], FAST_CHECKS, "") + "max_connections: 1000\n";
    let evergate = Evergate::with(&yaml)
        .inside(&["prlimit", "--nofile=64:64"])
        .start();
    evergate.wait_for_log("raise LimitNOFILE");
    let mut clients: Vec<TcpStream> = (0..200).map(|_| connect(listen)).collect();
    let served = clients
        .iter_mut()
        .filter_map(|client| round_trip(client).ok());
    let served = served.count();
    assert!((8..=32).contains(&served), "{served} served");

    let busy = evergate.cpu_time();
    for _ in 0..10 {
        assert_eq!(evergate.get("/healthz").status, 200);
        thread::sleep(Duration::from_millis(100));
    }
    let busy = evergate.cpu_time() - busy;
    assert!(busy < Duration::from_millis(700), "{busy:?} in a second");
    assert!(evergate.log_lines().len() < 100, "{}", evergate.stderr());
    assert_eq!(downs(&evergate), Vec::<String>::new());
    drop(clients);
    wait_until(PATIENCE, "its recovery", || {
        round_trip(&mut connect(listen)).is_ok()
    });
}

/// R1: what no limit foresaw, EMFILE itself: accepting pauses, sessions go on, and it recovers.
#[test]
fn without_descriptors_accepting_pauses_and_goes_on() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let listen = free_addr();
    let evergate = Evergate::start(&file(listen, &[echo.addr()], FAST_CHECKS, ""));
    let mut old = connect(listen);
    round_trip(&mut old).unwrap();
    let mut admin = connect(evergate.admin());
    ask_healthz(&mut admin);
    let limit = evergate.open_files() + 11;
    let (pid, limit) = (
        evergate.pid().to_string(),
        format!("--nofile={limit}:20000"),
    );
    run(&["prlimit", "--pid", &pid, &limit]);

    let clients: Vec<TcpStream> = (0..60).map(|_| connect(listen)).collect();
    evergate.wait_for_log("accepting is paused");

    let busy = evergate.cpu_time();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        round_trip(&mut old).unwrap();
        ask_healthz(&mut admin);
        thread::sleep(Duration::from_millis(50));
    }
    let busy = evergate.cpu_time() - busy;
    assert!(busy < Duration::from_secs(1), "{busy:?} in 2 s");
    drop(clients);
    wait_until(PATIENCE, "its recovery", || {
        round_trip(&mut connect(listen)).is_ok()
    });
    let reason = [("reason", "out_of_resources")];
    let counted = evergate.metric(REJECTED, &reason);
    assert!(counted > Some(0.0), "{counted:?}");
    let pauses = evergate.log_lines().into_iter();
    let pauses = pauses.filter(|line| line.contains("accepting is paused"));
    assert!(pauses.count() < 300);
    assert_eq!(downs(&evergate), Vec::<String>::new());
}

/// R1: a shell's soft limit is low; what counts is what the machine allows.
#[test]
fn as_many_descriptors_may_be_open_as_the_hard_limit_says() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let evergate = Evergate::with(&file(free_addr(), &[echo.addr()], FAST_CHECKS, ""))
        .inside(&["prlimit", "--nofile=64:4096"])
        .start();
    assert_eq!(evergate.metric("process_max_fds", &[]), Some(4096.0));
}

/// R1: the limit of the process counts the clients of all its listeners.
#[test]
fn whoever_comes_to_a_full_process_is_closed_at_once() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let (one, other) = (free_addr(), free_addr());
    let yaml = file(one, &[echo.addr()], FAST_CHECKS, "")
        + &format!("  m: {{bind: \"{other}\", cluster: c}}\nmax_connections: 2\n");
    let evergate = Evergate::start(&yaml);
    let (mut first, mut second) = (connect(one), connect(other));
    round_trip(&mut first).unwrap();
    round_trip(&mut second).unwrap();

    assert_eq!(rest(&mut connect(one)), b"");

    let full = [("reason", "process_full")];
    evergate.wait_for_metric(REJECTED, &full, 1.0);
    round_trip(&mut first).unwrap();
    round_trip(&mut second).unwrap();
    drop(first);
    wait_until(PATIENCE, "a free place", || {
        round_trip(&mut connect(one)).is_ok()
    });
}

/// R2
#[test]
fn two_thousand_idle_sessions_fit_into_64_mb() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    raise_open_files();
    let cgroup = Cgroup::new(Limit::MemoryBytes(64 << 20));
    let echo = Backend::echo();
    let listen = free_addr();
    let mut evergate = start_in(&cgroup, &file(listen, &[echo.addr()], FAST_CHECKS, ""));
    let mut clients = Vec::new();
    for _ in 0..2_000 {
        let mut client = connect(listen);
        round_trip(&mut client).unwrap();
        clients.push(client);
    }
    for client in &mut clients {
        round_trip(client).unwrap();
    }
    assert!(evergate.is_running());
    println!("{} KiB resident", evergate.rss_bytes() / 1024);
    assert_eq!(downs(&evergate), Vec::<String>::new());
}

/// R3: a saturated data plane on a fifth of a core must not fake a failed health check.
#[test]
fn a_fifth_of_a_core_is_enough_to_see_that_backends_are_up() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cgroup = Cgroup::new(Limit::CpuPercent(20));
    let (a, b) = (Backend::echo(), Backend::echo());
    let listen = free_addr();
    let checks = ", health_check: {interval: 800ms, send: ping, expect: ping}";
    let evergate = start_in(&cgroup, &file(listen, &[a.addr(), b.addr()], checks, ""));
    let end = Instant::now() + Duration::from_secs(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(move || {
                while Instant::now() < end {
                    let mut client = connect(listen);
                    round_trip(&mut client).unwrap();
                    leave_rudely(&client);
                }
            });
        }
    });
    assert!(throttled(&cgroup) > 10, "the quota was never felt");
    let passed = [("result", "passed")];
    let checks = evergate.metric("evergate_health_checks_total", &passed);
    assert!(checks >= Some(8.0), "{checks:?}");
    assert_eq!(downs(&evergate), Vec::<String>::new());
}

/// R4: a disk that fills up, of 256 KiB instead of 1 MB.
#[test]
fn a_full_disk_under_the_log_costs_only_lines() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let disk = Disk::of("256k");
    let target = disk.path().join("log");
    let served = Logging::to(&format!("2>{}", target.display()));
    wait_until(PATIENCE, "the disk is full", || {
        served.some_sessions(500);
        served.dropped() > 0.0
    });
    assert!(fs::metadata(&target).unwrap().len() > 200 << 10);
    served.some_sessions(100);
    served.ends_well();
}

/// R4: a target that never takes a byte.
#[test]
fn a_read_only_or_full_log_target_costs_only_lines() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for target in ["2</dev/null", "2>/dev/full"] {
        let served = Logging::to(target);
        served.some_sessions(100);
        wait_until(PATIENCE, "lines are counted as dropped", || {
            served.dropped() >= 100.0
        });
        served.ends_well();
    }
}

/// R4, R5: a pipe that nobody reads blocks the writer for ever.
#[test]
fn a_pipe_that_nobody_reads_stalls_nothing() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let dir = tempfile::tempdir().unwrap();
    let fifo = fifo(dir.path());
    let served = Logging::to(&format!("2<>{fifo}"));
    wait_until(PATIENCE, "the queue is full", || {
        served.some_sessions(2_000);
        served.dropped() > 0.0
    });
    served.some_sessions(100);
    served.ends_well();
}

/// R4: a reader at 4 KiB a second.
#[test]
fn a_slow_log_target_loses_lines_and_never_parts_of_lines() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let dir = tempfile::tempdir().unwrap();
    let fifo = fifo(dir.path());
    let mut reader = open_reader(&fifo);
    let served = Logging::to(&format!("2>{fifo}"));
    let (over, text) = (AtomicBool::new(false), &mut Vec::new());
    thread::scope(|scope| {
        let end = SetWhenDropped(&over);
        scope.spawn(|| {
            // Slow while it lasts, then to the end.
            loop {
                let mut bytes = [0; 400];
                match reader.read(&mut bytes) {
                    Ok(0) if over.load(Ordering::Relaxed) => break,
                    Ok(length) => text.extend_from_slice(&bytes[..length]),
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
                if !over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(100));
                }
            }
        });
        wait_until(PATIENCE, "lines are dropped", || {
            served.some_sessions(2_000);
            served.dropped() > 0.0
        });
        drop(end);
        served.ends_well();
    });
    let text = String::from_utf8(std::mem::take(text)).unwrap();
    let whole = text
        .lines()
        .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
    assert!(whole, "a line in pieces");
    assert!(text.lines().count() > 1_000);
}

/// R5
#[test]
fn closed_outputs_stop_nothing() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for closed in ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
        let served = Logging::to(closed);
        served.some_sessions(100);
        served.ends_well();
    }
}

/// R5: the reader of the log ends first.
#[test]
fn a_broken_log_pipe_stops_nothing() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let dir = tempfile::tempdir().unwrap();
    let fifo = fifo(dir.path());
    let reader = open_reader(&fifo);
    let served = Logging::to(&format!("2>{fifo}"));
    served.some_sessions(10);
    drop(reader);
    served.some_sessions(100);
    wait_until(PATIENCE, "lines are counted as dropped", || {
        served.dropped() >= 100.0
    });
    served.ends_well();
}

/// R5: commands whose output nobody takes end with an exit code, not with a panic.
#[test]
fn commands_without_an_output_do_not_panic() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for words in [
        "schema >/dev/full",
        "schema | true",
        "--help >/dev/full",
        "check -c /nonexistent 2>/dev/full",
        "status --admin 127.0.0.1:1 2>/dev/full",
        "run -c /nonexistent 2>/dev/full",
        "run -c /nonexistent 2>&-",
    ] {
        let script = format!("{BINARY} {words}; echo ${{PIPESTATUS[0]}}");
        let output = output_of(&["bash", "-c", &script], &[]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let code: u8 = stdout.trim().parse().unwrap();
        assert!(code <= 2, "{words}: {code} {stderr}");
        assert!(!stderr.contains("panicked"), "{words}: {stderr}");
    }
}

/// R6: with too few threads it says so and ends before it takes any client, with enough it serves.
#[test]
fn a_start_without_threads_ends_with_a_message() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let mut failed = 0;
    let mut serves = false;
    for threads in 1..20 {
        let cgroup = Cgroup::new(Limit::Threads(threads));
        let listen = free_addr();
        let yaml = file(listen, &[echo.addr()], FAST_CHECKS, "");
        let wrapper = cgroup.wrapper();
        let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let mut evergate = Evergate::with(&yaml)
            .inside(&words)
            .until(Until::Started)
            .start();
        let mut accepted = false;
        wait_until(PATIENCE, "an end or a start", || {
            let client = TcpStream::connect(listen);
            accepted |= client.is_ok();
            serves = client.is_ok_and(|mut it| round_trip(&mut it).is_ok());
            serves || !evergate.is_running()
        });
        assert!(
            !evergate.stderr().contains("panic"),
            "{}",
            evergate.stderr()
        );
        if serves {
            break;
        }
        failed += 1;
        assert!(!accepted, "{threads} threads: it took a client and ended");
        assert_eq!(evergate.wait(PATIENCE).code(), Some(1), "{threads} threads");
        let stderr = evergate.stderr();
        assert!(stderr.contains("error: "), "{threads} threads: {stderr}");
    }
    assert!(serves && failed > 0, "{failed} starts failed");
}

/// R6: a reload needs a thread for a moment; without one it is refused and nothing else happens.
#[test]
fn a_reload_without_threads_is_refused_and_sessions_go_on() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let listen = free_addr();
    let cgroup = Cgroup::new(Limit::Threads(100));
    let yaml = file(listen, &[echo.addr()], FAST_CHECKS, "");
    let mut evergate = start_in(&cgroup, &yaml);
    let mut old = connect(listen);
    round_trip(&mut old).unwrap();
    cgroup.set("pids.max", cgroup.read("pids.current").trim());

    evergate.signal(Signal::HUP);
    let refused = [("result", "rejected")];
    wait_until(PATIENCE, "the reload is refused", || {
        assert!(evergate.is_running(), "it died of a reload");
        evergate.metric("evergate_config_reloads_total", &refused) >= Some(1.0)
    });
    round_trip(&mut old).unwrap();
    round_trip(&mut connect(listen)).unwrap();
    cgroup.set("pids.max", "100");
    evergate.reload(&yaml);
    round_trip(&mut connect(listen)).unwrap();
}

/// R6: names are looked up again when probes fail; without a thread they keep their address.
#[test]
fn a_lookup_without_threads_costs_no_backend() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut echo = Backend::echo();
    let listen = free_addr();
    let cgroup = Cgroup::new(Limit::Threads(100));
    let yaml = format!(
        "clusters:\n  c: {{backends: [\"localhost:{}\"]{FAST_CHECKS}}}\n\
         listeners:\n  l: {{bind: \"{listen}\", cluster: c}}\nlog: {{format: json, level: debug}}\n",
        echo.addr().port()
    );
    let evergate = start_in(&cgroup, &yaml);
    round_trip(&mut connect(listen)).unwrap();
    cgroup.set("pids.max", cgroup.read("pids.current").trim());

    echo.kill(End::Rst);

    evergate.wait_for_log("lookup failed");
    echo.start_again();
    round_trip(&mut connect(listen)).unwrap();
    assert!(
        !evergate.stderr().contains("panic"),
        "{}",
        evergate.stderr()
    );
}

/// An Evergate whose log goes somewhere bad.
struct Logging {
    evergate: Evergate,
    listen: SocketAddr,
    _echo: Backend,
}

impl Logging {
    #[track_caller]
    fn to(redirection: &str) -> Self {
        let echo = Backend::echo();
        let listen = free_addr();
        let yaml = file(listen, &[echo.addr()], FAST_CHECKS, "") + DEBUG_LOG;
        let script = format!("exec \"$@\" {redirection}");
        let evergate = Evergate::with(&yaml)
            .inside(&["sh", "-c", &script, "sh"])
            .start();
        Self {
            evergate,
            listen,
            _echo: echo,
        }
    }

    fn some_sessions(&self, count: usize) {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..count / 4 {
                        let mut client = connect(self.listen);
                        round_trip(&mut client).unwrap();
                        leave_rudely(&client);
                    }
                });
            }
        });
    }

    fn dropped(&self) -> f64 {
        let dropped = self.evergate.metric("evergate_log_dropped_total", &[]);
        dropped.unwrap_or(0.0)
    }

    /// Its last lines may be lost; its exit code and its punctuality are not.
    #[track_caller]
    fn ends_well(mut self) {
        assert_eq!(self.evergate.get("/readyz").status, 200);
        let status = self.evergate.stop(PATIENCE);
        assert!(status.success(), "{status:?}");
    }
}

fn start_in(cgroup: &Cgroup, yaml: &str) -> Evergate {
    let wrapper = cgroup.wrapper();
    let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    Evergate::with(yaml).inside(&words).start()
}

/// Periods in which the quota ran out.
fn throttled(cgroup: &Cgroup) -> u64 {
    let stat = cgroup.read("cpu.stat");
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix("nr_throttled "));
    line.unwrap().parse().unwrap()
}

fn fifo(dir: &Path) -> String {
    let path = dir.join("fifo").to_str().unwrap().to_owned();
    run(&["mkfifo", &path]);
    path
}

/// Open before there is a writer, and never blocking.
fn open_reader(fifo: &str) -> File {
    let mut options = OpenOptions::new();
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    options.read(true).custom_flags(flags).open(fifo).unwrap()
}

/// Leaves no TIME_WAIT: ports would run out before the proxy does.
fn leave_rudely(client: &TcpStream) {
    let linger = SockRef::from(client).set_linger(Some(Duration::ZERO));
    linger.unwrap();
}

/// One request on a connection that is kept.
fn ask_healthz(admin: &mut TcpStream) {
    admin
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    let is_whole = |answer: &str| {
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))?;
        Some(length.parse::<usize>().unwrap() == body.len())
    };
    while is_whole(&answer) != Some(true) {
        let mut bytes = [0; 1024];
        let length = admin.read(&mut bytes).unwrap();
        assert_ne!(length, 0, "{answer}");
        answer += std::str::from_utf8(&bytes[..length]).unwrap();
    }
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
