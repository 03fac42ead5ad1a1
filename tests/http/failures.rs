//! Backends that die, hang and crawl while requests run: what may be repeated is answered.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::PATIENCE;
use crate::support::ports::free_addr;
use crate::support::process::installed;
use crate::support::relay::Direction;
use crate::support::relay::FaultRelay;
use crate::support::relay::Faults;
use crate::support::wait_until;
use crate::support::webserver::Nginx;
use crate::world::CHECK;
use crate::world::stage;

const REQUESTS: usize = 12_000;
const CLIENTS: usize = 24;
/// What a server may have answered without a line in its log: its one process was killed in between.
const UNLOGGED: usize = 1;
const CLUSTER: &str =
    "balance: {policy: round_robin}, failover: {hold: {for: 10s, max_sessions: 1000}}";

struct Web {
    addr: SocketAddr,
    nginx: Option<Nginx>,
}

impl Web {
    fn start() -> Self {
        let mut web = Self {
            addr: free_addr(),
            nginx: None,
        };
        web.start_again();
        web
    }

    fn start_again(&mut self) {
        let addr = self.addr;
        let server = format!(
            "keepalive_requests 1000000; server {{ listen {addr}; \
             location / {{ return 200 'answer of a real server'; }} }}"
        );
        self.nginx = Some(Nginx::http(&server, addr));
    }

    fn log(&self) -> String {
        let log = self.nginx.as_ref().map(Nginx::access_log);
        log.unwrap_or_default()
    }

    fn served(&self) -> usize {
        let is_load = |line: &&str| line.contains(" /load");
        self.log().lines().filter(is_load).count()
    }
}

/// `h2load` at work.
struct Load {
    child: Child,
}

/// What `h2load` counted.
#[derive(Debug)]
struct Counted {
    succeeded: usize,
    failed: usize,
    text: String,
}

impl Load {
    fn start(addr: SocketAddr, arguments: &[&str]) -> Self {
        let h2load = installed("h2load", "nghttp2-client");
        let (requests, clients) = (REQUESTS.to_string(), CLIENTS.to_string());
        let child = Command::new("timeout")
            .args(["600", &h2load, "-t", "1", "-n", &requests, "-c", &clients])
            .args(arguments)
            .arg(format!("http://{addr}/load"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child }
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn finish(self) -> Counted {
        let output = self.child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.starts_with("requests: "));
        let line = line.unwrap_or_else(|| panic!("h2load: {text}"));
        let number = |what: &str| {
            let before = line.split(what).next().unwrap().trim_end();
            let number = before.rsplit([' ', ',']).next().unwrap();
            number.parse::<usize>().unwrap_or_else(|_| panic!("{line}"))
        };
        Counted {
            succeeded: number("succeeded"),
            failed: number("failed"),
            text: text.clone(),
        }
    }
}

/// Runs a load over three servers and lets something happen to one of them in its midst.
fn under_load(arguments: &[&str], happens: impl FnOnce(&mut [Web; 3])) -> (Counted, usize) {
    let mut webs = [(); 3].map(|()| Web::start());
    let addrs = webs.each_ref().map(|web| web.addr);
    let stage = stage(&addrs, &format!("{CHECK}, {CLUSTER}"), "");
    let mut load = Load::start(stage.addr, arguments);
    wait_until(PATIENCE, "the load runs", || {
        webs[0].served() > REQUESTS / 30
    });
    happens(&mut webs);
    assert!(
        load.is_running(),
        "the load was over before anything happened"
    );
    let counted = load.finish();
    let served = webs.iter().map(Web::served).sum();
    (counted, served)
}

fn kill(webs: &mut [Web; 3]) {
    let nginx = webs[0].nginx.as_ref().unwrap();
    nginx.process().signal_tree(Signal::KILL);
}

fn freeze(webs: &mut [Web; 3]) {
    let nginx = webs[0].nginx.as_ref().unwrap();
    nginx.process().signal_tree(Signal::STOP);
}

#[track_caller]
fn assert_none_failed(counted: &Counted) {
    assert_eq!(counted.failed, 0, "{}", counted.text);
    assert_eq!(counted.succeeded, REQUESTS, "{}", counted.text);
}

#[test]
fn no_read_fails_when_a_backend_is_killed_under_http_1_load() {
    let (counted, served) = under_load(&["--h1"], kill);
    assert_none_failed(&counted);
    assert!(served + UNLOGGED >= REQUESTS, "{served}");
}

#[test]
fn no_read_fails_when_a_backend_is_killed_under_http_2_load() {
    let (counted, _) = under_load(&["-m", "4"], kill);
    assert_none_failed(&counted);
}

#[test]
fn no_read_fails_when_a_backend_hangs_under_http_1_load() {
    let (counted, _) = under_load(&["--h1"], freeze);
    assert_none_failed(&counted);
}

#[test]
fn no_read_fails_when_a_backend_hangs_under_http_2_load() {
    let (counted, _) = under_load(&["-m", "4"], freeze);
    assert_none_failed(&counted);
}

#[test]
fn of_the_writes_only_those_in_flight_fail_and_none_is_sent_twice() {
    let body = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(body.path(), "a body that must not be sent twice").unwrap();
    let body = body.path().to_str().unwrap().to_owned();
    let (counted, served) = under_load(&["--h1", "-d", &body], kill);
    assert!(counted.failed <= CLIENTS, "{}", counted.text);
    assert_eq!(
        counted.succeeded + counted.failed,
        REQUESTS,
        "{}",
        counted.text
    );
    let answered = counted.succeeded;
    assert!(served + UNLOGGED >= answered, "{served}: {}", counted.text);
    assert!(served <= REQUESTS, "{served}: {}", counted.text);
}

/// Streams that a client of HTTP/2 has under way at once.
const STREAMS: usize = 96;

/// Writes over one connection of HTTP/2, each to a path of its own; what happens to the first
/// backend in their midst. Each was executed at most once, and only those that it had fail.
fn writes_over_http_2(happens: impl FnOnce(&mut [Web; 3])) {
    let dir = tempfile::tempdir().unwrap();
    let (paths, body) = (dir.path().join("paths"), dir.path().join("body"));
    let path = |number| format!("/load/{number:05}");
    let mut webs = [(); 3].map(|()| Web::start());
    let addrs = webs.each_ref().map(|web| web.addr);
    let stage = stage(&addrs, &format!("{CHECK}, {CLUSTER}"), "");
    let urls: String = (0..REQUESTS)
        .map(|number| format!("http://{}{}\n", stage.addr, path(number)))
        .collect();
    std::fs::write(&paths, urls).unwrap();
    std::fs::write(&body, "a body that must not be sent twice").unwrap();
    let [paths, body] = [paths, body].map(|path| path.display().to_string());
    let streams = STREAMS.to_string();
    let arguments = ["-c", "1", "-m", &streams, "-i", &paths, "-d", &body];
    let mut load = Load::start(stage.addr, &arguments);
    wait_until(PATIENCE, "the load runs", || {
        webs[0].served() > REQUESTS / 30
    });
    happens(&mut webs);
    assert!(
        load.is_running(),
        "the load was over before anything happened"
    );
    let counted = load.finish();
    thaw(&mut webs);
    let (succeeded, failed) = (counted.succeeded, counted.failed);
    assert_eq!(succeeded + failed, REQUESTS, "{}", counted.text);
    assert!(failed <= STREAMS, "{}", counted.text);
    let logs: String = webs.iter().map(Web::log).collect();
    let mut times = HashMap::<&str, usize>::new();
    for line in logs.lines() {
        if let Some(at) = line.find("/load/") {
            *times.entry(&line[at..at + path(0).len()]).or_default() += 1;
        }
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    // What failed may have been executed; what succeeded was.
    let executed = times.len();
    let known = executed + UNLOGGED;
    assert!(known >= succeeded, "{executed}: {}", counted.text);
    assert!(executed <= REQUESTS, "{executed}: {}", counted.text);
}

/// A server that was frozen does what it had been sent before.
fn thaw(webs: &mut [Web; 3]) {
    let nginx = webs[0].nginx.as_ref().unwrap();
    nginx.process().signal_tree(Signal::CONT);
    if let Ok(mut client) = crate::world::Client::connect(webs[0].addr) {
        assert_eq!(client.get("/thawed").unwrap().status, 200);
    }
}

#[test]
fn of_the_writes_over_http_2_only_those_in_flight_fail_when_a_backend_is_killed() {
    writes_over_http_2(kill);
}

#[test]
fn of_the_writes_over_http_2_only_those_in_flight_fail_when_a_backend_hangs() {
    writes_over_http_2(freeze);
}

#[test]
fn a_backend_that_crawls_costs_time_and_no_request() {
    let webs = [(); 3].map(|()| Web::start());
    let slow = FaultRelay::to(webs[0].addr);
    let addrs = [slow.addr(), webs[1].addr, webs[2].addr];
    let cluster = format!("{CHECK}, balance: {{policy: least_latency}}");
    let stage = stage(&addrs, &cluster, "");
    let mut load = Load::start(stage.addr, &["--h1"]);
    wait_until(PATIENCE, "the load runs", || {
        webs[0].served() > REQUESTS / 30
    });
    let crawls = Direction {
        delay: Duration::from_millis(50),
        ..Direction::default()
    };
    slow.set(Faults::both(crawls));
    let before = webs[0].served();
    assert!(
        load.is_running(),
        "the load was over before anything happened"
    );
    let counted = load.finish();
    assert_none_failed(&counted);
    let (slow, others) = (
        webs[0].served() - before,
        webs[1].served() + webs[2].served(),
    );
    assert!(slow < others / 4, "{slow} of {others}");
}

#[test]
fn a_backend_that_comes_back_is_used_again() {
    let mut webs = [(); 2].map(|()| Web::start());
    let addrs = webs.each_ref().map(|web| web.addr);
    let stage = stage(&addrs, &format!("{CHECK}, {CLUSTER}"), "");
    let crowd =
        crate::world::Crowd::asking(stage.addr, 8, "GET /load HTTP/1.1\r\nHost: a.test\r\n\r\n");
    crowd.wait_for(200);
    webs[0].nginx = None;
    crowd.wait_for(200);
    webs[0].start_again();
    wait_until(PATIENCE, "it serves again", || webs[0].served() > 0);
    let (_, failures) = crowd.finish();
    assert_eq!(failures, Vec::<String>::new());
}
