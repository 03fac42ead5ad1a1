//! Backends that die, hang and crawl while requests run: what may be repeated is answered, and of
//! the rest exactly what was in flight is lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::Stage;
use crate::support::PATIENCE;
use crate::support::ports::free_addr;
use crate::support::process::installed;
use crate::support::process::is_alive;
use crate::support::process::is_stopped_or_gone;
use crate::support::process::tree_of;
use crate::support::relay::Direction;
use crate::support::relay::FaultRelay;
use crate::support::relay::Faults;
use crate::support::wait_until;
use crate::support::webserver::Nginx;
use crate::world::CHECK;
use crate::world::Client;
use crate::world::stage;

const REQUESTS: usize = 12_000;
const CLIENTS: usize = 24;
/// Writes that the one client of HTTP/2 has under way at once.
const STREAMS: usize = 96;
/// What a server may have answered without a line in its log: its one process was killed in between.
const UNLOGGED: usize = 1;
/// What a frozen server may have read and not answered: its one process does one after the other.
const UNANSWERED: usize = 1;
const IN_TURN: &str =
    "balance: {policy: round_robin}, failover: {hold: {for: 10s, max_sessions: 1000}}";
/// A healthy server passes it on a machine that stalls, too: no write is lost that need not be.
const CALM_CHECK: &str =
    "health_check: {interval: 1s, timeout: 1s, rise: 1, fall: 3, path: /check, expect: [200-499]}";
/// Notices in time only what refuses connections.
const SLOW_CHECK: &str =
    "health_check: {interval: 40s, timeout: 40s, rise: 1, path: /check, expect: [200-499]}";

/// What clients speak.
#[derive(Debug, Clone, Copy)]
enum Version {
    One,
    Two,
}

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

    /// All of it at once: a frozen worker whose master alone is killed is woken by the kernel.
    fn signal(&self, signal: Signal) {
        let nginx = self.nginx.as_ref().unwrap();
        nginx.process().signal_group(signal);
    }

    /// Connections with something that it has not read.
    fn unread(&self) -> usize {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let port = format!(":{:04X}", self.addr.port());
        let is_unread = |line: &&str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_established = fields[1].ends_with(&port) && fields[3] == "01";
            is_established && !fields[4].ends_with(":00000000")
        };
        table.lines().filter(is_unread).count()
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

/// `h2load` at work, several of it where each connection asks for something else.
struct Load {
    children: Vec<Child>,
    /// Requests that each of them has under way at once.
    of_each: usize,
    _lists: Option<TempDir>,
}

/// What `h2load` counted.
#[derive(Debug, Default)]
struct Counted {
    succeeded: usize,
    failed: usize,
    text: String,
}

impl Load {
    fn reads(addr: SocketAddr, version: Version) -> Self {
        let (requests, clients) = (REQUESTS.to_string(), CLIENTS.to_string());
        let url = format!("http://{addr}/load");
        let (of_each, how): (_, &[&str]) = match version {
            Version::One => (CLIENTS, &["--h1"]),
            Version::Two => (CLIENTS * 4, &["-m", "4"]),
        };
        let what = ["-n", &requests, "-c", &clients, &url];
        Self {
            children: vec![h2load(&[how, &what].concat())],
            of_each,
            _lists: None,
        }
    }

    /// Each has a path of its own. All connections of one `h2load` ask for the same paths: each
    /// connection gets a program of its own.
    fn writes(addr: SocketAddr, version: Version) -> Self {
        let lists = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = lists.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let body = file("body", "a body that must not be sent twice");
        let streams = STREAMS.to_string();
        let (connections, of_each, how): (_, _, &[&str]) = match version {
            Version::One => (CLIENTS, 1, &["--h1"]),
            Version::Two => (1, STREAMS, &["-m", &streams]),
        };
        let requests = REQUESTS / connections;
        let children = (0..connections).map(|connection| {
            let numbers = (0..requests).map(|number| connection * requests + number);
            let urls: String = numbers
                .map(|number| format!("http://{addr}{}\n", path(number)))
                .collect();
            let (urls, requests) = (file(&connection.to_string(), &urls), requests.to_string());
            let what = ["-c", "1", "-n", &requests, "-i", &urls, "-d", &body];
            h2load(&[how, &what].concat())
        });
        Self {
            children: children.collect(),
            of_each,
            _lists: Some(lists),
        }
    }

    /// Requests under way when no more are answered, and all who will ask have asked.
    fn at_once(&mut self) -> usize {
        let children = self.children.iter_mut();
        let running =
            children.filter_map(|child| child.try_wait().unwrap().is_none().then_some(()));
        running.count() * self.of_each
    }

    /// Until they are told to go on, they ask for nothing.
    fn stop(&self) {
        self.signal(Signal::STOP);
        let programs: Vec<u32> = self
            .children
            .iter()
            .flat_map(|it| tree_of(it.id()))
            .collect();
        wait_until(PATIENCE, "the load stands still", || {
            programs.iter().all(|pid| is_stopped_or_gone(*pid))
        });
    }

    fn signal(&self, signal: Signal) {
        for child in &self.children {
            // It may have ended by itself.
            let _ = kill_process_group(Pid::from_child(child), signal);
        }
    }

    fn finish(self) -> Counted {
        let mut sum = Counted::default();
        for child in self.children {
            let output = child.wait_with_output().unwrap();
            sum.add(&String::from_utf8_lossy(&output.stdout));
        }
        sum
    }
}

impl Counted {
    fn add(&mut self, text: &str) {
        let line = text.lines().find(|line| line.starts_with("requests: "));
        let line = line.unwrap_or_else(|| panic!("h2load: {text}"));
        let number = |what: &str| {
            let before = line.split(what).next().unwrap().trim_end();
            let number = before.rsplit([' ', ',']).next().unwrap();
            number.parse::<usize>().unwrap_or_else(|_| panic!("{line}"))
        };
        self.succeeded += number("succeeded");
        self.failed += number("failed");
        self.text += text;
    }

    #[track_caller]
    fn assert_none_failed(&self) {
        assert_eq!(self.failed, 0, "{}", self.text);
        assert_eq!(self.succeeded, REQUESTS, "{}", self.text);
    }
}

fn h2load(arguments: &[&str]) -> Child {
    let h2load = installed("h2load", "nghttp2-client");
    Command::new("timeout")
        .args(["600", &h2load, "-t", "1"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Of the write with this number.
fn path(number: usize) -> String {
    format!("/load/{number:05}")
}

/// Three servers, and the proxy before them, which writes down what fails.
struct Scene {
    webs: [Web; 3],
    stage: Stage,
    log: TempDir,
}

impl Scene {
    fn start(cluster: &str) -> Self {
        let webs = [(); 3].map(|()| Web::start());
        let addrs = webs.each_ref().map(|web| web.addr);
        Self::before(webs, &addrs, cluster)
    }

    fn before(webs: [Web; 3], addrs: &[SocketAddr], cluster: &str) -> Self {
        let log = tempfile::tempdir().unwrap();
        let path = log.path().join("failures");
        let keys = format!(
            "http: {{access_log: {{path: '{}', sample: 0}}}}",
            path.display()
        );
        let stage = stage(addrs, cluster, &keys);
        Self { webs, stage, log }
    }

    /// Lets something happen in the midst of a load.
    #[track_caller]
    fn play(&self, mut load: Load, happens: impl FnOnce(&Self, &mut Load)) -> Counted {
        wait_until(PATIENCE, "the load runs", || self.served() > REQUESTS / 10);
        happens(self, &mut load);
        assert!(
            load.at_once() > 0,
            "the load was over before anything happened"
        );
        load.finish()
    }

    fn kill(&self, _: &mut Load) {
        self.webs[0].signal(Signal::KILL);
    }

    fn freeze(&self, _: &mut Load) {
        self.webs[0].signal(Signal::STOP);
    }

    /// A server that was frozen does what it had been sent before.
    fn thaw(&self) {
        self.webs[0].signal(Signal::CONT);
        if let Ok(mut client) = Client::connect(self.webs[0].addr) {
            assert_eq!(client.get("/thawed").unwrap().status, 200);
        }
    }

    /// Freezes the first server, and kills it as soon as all wait for it; returns for how many
    /// requests. The clients see it when it is gone: what is sent to a dying server fails, too.
    fn freeze_and_kill(&self, load: &mut Load) -> usize {
        self.freeze(load);
        let victim = self.webs[0].addr.to_string();
        let active = || {
            let labels = [("backend", victim.as_str())];
            let name = "evergate_backend_connections_active";
            self.stage.evergate.metric(name, &labels)
        };
        wait_until(PATIENCE, "all wait for one server", || {
            let in_flight = load.at_once();
            active() == Some(in_flight as f64) && self.webs[0].unread() + UNANSWERED >= in_flight
        });
        let in_flight = load.at_once();
        load.stop();
        let server = self.webs[0].nginx.as_ref().unwrap().process().tree();
        self.kill(load);
        wait_until(PATIENCE, "the server is gone", || {
            !server.iter().any(|pid| is_alive(*pid))
        });
        load.signal(Signal::CONT);
        in_flight
    }

    /// Opened so far for requests.
    fn connections_to_the_first(&self) -> f64 {
        let victim = self.webs[0].addr.to_string();
        let name = "evergate_http_upstream_connections_opened_total";
        let labels = [("backend", victim.as_str())];
        self.stage.evergate.metric(name, &labels).unwrap()
    }

    fn served(&self) -> usize {
        self.webs.iter().map(Web::served).sum()
    }

    /// How often each write was executed.
    fn executed(&self) -> HashMap<String, usize> {
        let mut times = HashMap::new();
        for line in self.webs.iter().map(Web::log).collect::<String>().lines() {
            if let Some(at) = line.find("/load/") {
                let path = line[at..at + path(0).len()].to_owned();
                *times.entry(path).or_default() += 1;
            }
        }
        times
    }

    /// Nothing was executed twice, and at least so many writes were executed.
    #[track_caller]
    fn assert_executed_once(&self, at_least: usize) {
        wait_until(PATIENCE, "the servers' logs have all writes", || {
            self.executed().len() >= at_least
        });
        let executed = self.executed();
        let twice: Vec<_> = executed.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }

    /// So many requests failed, each of them at the first server.
    #[track_caller]
    fn assert_failed_at_the_first(&self, failed: usize) {
        let text = || std::fs::read_to_string(self.log.path().join("failures")).unwrap();
        wait_until(PATIENCE, "a line for each failure", || {
            text().lines().count() >= failed
        });
        let text = text();
        assert_eq!(text.lines().count(), failed, "{text}");
        let victim = self.webs[0].addr.to_string();
        for line in text.lines() {
            let told: Value = serde_json::from_str(line).unwrap();
            assert_eq!(told["backend"], victim, "{line}");
        }
    }
}

fn reads(version: Version, happens: impl FnOnce(&Scene, &mut Load)) -> Scene {
    let scene = Scene::start(&format!("{CHECK}, {IN_TURN}"));
    let load = Load::reads(scene.stage.addr, version);
    let counted = scene.play(load, happens);
    counted.assert_none_failed();
    scene
}

#[test]
fn no_read_fails_when_a_backend_is_killed_under_http_1_load() {
    let served = reads(Version::One, Scene::kill).served();
    assert!(served + UNLOGGED >= REQUESTS, "{served}");
}

#[test]
fn no_read_fails_when_a_backend_is_killed_under_http_2_load() {
    reads(Version::Two, Scene::kill);
}

#[test]
fn no_read_fails_when_a_backend_hangs_under_http_1_load() {
    reads(Version::One, Scene::freeze);
}

#[test]
fn no_read_fails_when_a_backend_hangs_under_http_2_load() {
    reads(Version::Two, Scene::freeze);
}

/// Writes; what happens to the first server in their midst. Each was executed at most once, and
/// only those fail that were at this server. Returns how many.
fn writes(version: Version, check: &str, happens: impl FnOnce(&Scene, &mut Load)) -> usize {
    let scene = Scene::start(&format!("{check}, {IN_TURN}"));
    let load = Load::writes(scene.stage.addr, version);
    let Counted {
        succeeded,
        failed,
        text,
    } = scene.play(load, happens);
    scene.thaw();
    assert_eq!(succeeded + failed, REQUESTS, "{text}");
    // What failed may have been executed; what succeeded was.
    scene.assert_executed_once(succeeded.saturating_sub(UNLOGGED));
    scene.assert_failed_at_the_first(failed);
    // Of each connection that broke the one that was on it.
    let broken = scene.connections_to_the_first();
    assert!(failed as f64 <= broken, "{failed} of {broken}");
    failed
}

#[test]
fn of_the_writes_over_http_1_only_those_in_flight_fail_when_a_backend_is_killed() {
    writes(Version::One, SLOW_CHECK, Scene::kill);
}

#[test]
fn of_the_writes_over_http_2_only_those_in_flight_fail_when_a_backend_is_killed() {
    writes(Version::Two, SLOW_CHECK, Scene::kill);
}

#[test]
fn of_the_writes_over_http_1_only_those_in_flight_fail_when_a_backend_hangs() {
    let failed = writes(Version::One, CALM_CHECK, Scene::freeze);
    assert!(failed <= CLIENTS, "{failed}");
}

#[test]
fn of_the_writes_over_http_2_only_those_in_flight_fail_when_a_backend_hangs() {
    let failed = writes(Version::Two, CALM_CHECK, Scene::freeze);
    assert!(failed <= STREAMS, "{failed}");
}

/// What is in flight is known when nothing moves: all clients wait for a server that hangs.
fn exactly_those_in_flight_fail(version: Version) {
    let mut in_flight = 0;
    let failed = writes(version, SLOW_CHECK, |scene, load| {
        in_flight = scene.freeze_and_kill(load);
    });
    assert!(in_flight > 0);
    assert_eq!(failed, in_flight);
}

#[test]
fn exactly_the_writes_over_http_1_in_flight_fail_when_their_backend_is_killed() {
    exactly_those_in_flight_fail(Version::One);
}

#[test]
fn exactly_the_writes_over_http_2_in_flight_fail_when_their_backend_is_killed() {
    exactly_those_in_flight_fail(Version::Two);
}

/// A load while everything that the first server is sent, and says, takes its time.
fn crawl(load: impl FnOnce(SocketAddr) -> Load) -> Scene {
    let webs = [(); 3].map(|()| Web::start());
    let relay = FaultRelay::to(webs[0].addr);
    let addrs = [relay.addr(), webs[1].addr, webs[2].addr];
    let cluster = format!("{CALM_CHECK}, balance: {{policy: least_latency}}");
    let scene = Scene::before(webs, &addrs, &cluster);
    let load = load(scene.stage.addr);
    let mut before = 0;
    let counted = scene.play(load, |scene, _| {
        let crawls = Direction {
            delay: Duration::from_millis(50),
            ..Direction::default()
        };
        relay.set(Faults::both(crawls));
        before = scene.webs[0].served();
    });
    counted.assert_none_failed();
    let slow = scene.webs[0].served() - before;
    let others = scene.webs[1].served() + scene.webs[2].served();
    assert!(slow < others / 4, "{slow} of {others}");
    scene
}

#[test]
fn a_backend_that_crawls_costs_time_and_no_read_over_http_1() {
    crawl(|addr| Load::reads(addr, Version::One));
}

#[test]
fn a_backend_that_crawls_costs_time_and_no_read_over_http_2() {
    crawl(|addr| Load::reads(addr, Version::Two));
}

#[test]
fn a_backend_that_crawls_costs_time_and_no_write_over_http_1() {
    let scene = crawl(|addr| Load::writes(addr, Version::One));
    scene.assert_executed_once(REQUESTS);
}

#[test]
fn a_backend_that_crawls_costs_time_and_no_write_over_http_2() {
    let scene = crawl(|addr| Load::writes(addr, Version::Two));
    scene.assert_executed_once(REQUESTS);
}

#[test]
fn a_backend_that_comes_back_is_used_again() {
    let mut webs = [(); 2].map(|()| Web::start());
    let addrs = webs.each_ref().map(|web| web.addr);
    let stage = stage(&addrs, &format!("{CHECK}, {IN_TURN}"), "");
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
