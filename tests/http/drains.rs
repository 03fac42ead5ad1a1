//! Parts that are taken away while requests run: none is broken, and idle clients are let go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;

use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::wait_until;
use crate::world::CHECK;
use crate::world::Client;
use crate::world::Crowd;
use crate::world::file;

const GET: &str = "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n";
const SLOW: &str = "GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Answers `/slow` when it is let, everything else at once.
struct Gate {
    recorder: Recorder,
    is_open: Arc<AtomicBool>,
}

impl Gate {
    fn named(name: &'static str) -> Self {
        let is_open = Arc::<AtomicBool>::default();
        let open = Arc::clone(&is_open);
        let recorder = Recorder::answering(move |head| {
            while head.starts_with("GET /slow ") && !open.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(2));
            }
            ok(name)
        });
        Self { recorder, is_open }
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    fn count(&self, path: &str) -> usize {
        self.recorder
            .text()
            .matches(&format!("GET {path} HTTP"))
            .count()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

fn start(listens: SocketAddr, backends: &[SocketAddr]) -> (Evergate, String) {
    let socket = tempfile::tempdir().unwrap().keep();
    let socket = socket.join("admin.sock");
    let admin = free_addr();
    let yaml = file(
        listens,
        backends,
        &format!("{CHECK}, balance: {{policy: round_robin}}"),
        "",
    ) + &format!(
        "drain_timeout: 30s\nadmin: {{bind: \"{admin}\", socket: {}}}\n",
        socket.display()
    );
    let evergate = Evergate::start(&yaml);
    evergate.wait_for_metric("evergate_backend_up", &[], backends.len() as f64);
    (evergate, socket.display().to_string())
}

fn change(socket: &str, backend: SocketAddr, verb: &str) {
    let port = backend.port();
    let url = format!("http://localhost/api/v1/clusters/web/backends/127.0.0.1%3A{port}/{verb}");
    crate::support::process::run(&["curl", "-sf", "--unix-socket", socket, "-X", "POST", &url]);
}

#[test]
fn a_backend_that_is_drained_finishes_its_requests_and_gets_no_new_ones() {
    for verb in ["drain", "maintenance"] {
        let gates = [Gate::named("a"), Gate::named("b")];
        let addrs = gates.each_ref().map(|gate| gate.recorder.addr());
        let listens = free_addr();
        let (evergate, socket) = start(listens, &addrs);
        let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(listens).unwrap()).collect();
        for client in &mut clients {
            client.send(SLOW.as_bytes()).unwrap();
        }
        let arrived = || gates.iter().map(|gate| gate.count("/slow")).sum::<usize>();
        wait_until(PATIENCE, "all requests have arrived", || arrived() == 4);
        change(&socket, addrs[0], verb);
        let crowd = Crowd::asking(listens, 4, GET);
        let before = gates[0].count("/x");
        crowd.wait_for(100);
        let (_, failures) = crowd.finish();
        assert_eq!(failures, Vec::<String>::new());
        assert_eq!(gates[0].count("/x"), before, "{verb}");
        for gate in &gates {
            gate.open();
        }
        for client in &mut clients {
            assert_eq!(client.reply().unwrap().status, 200, "{verb}");
        }
        change(&socket, addrs[0], "ready");
        let mut client = Client::connect(listens).unwrap();
        wait_until(PATIENCE, "it is used again", || {
            client.get("/x").unwrap().body == b"a"
        });
        drop(evergate);
    }
}

#[test]
fn a_backend_that_is_removed_finishes_its_requests() {
    let gates = [Gate::named("a"), Gate::named("b")];
    let addrs = gates.each_ref().map(|gate| gate.recorder.addr());
    let listens = free_addr();
    let (evergate, _) = start(listens, &addrs);
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(listens).unwrap()).collect();
    for client in &mut clients {
        client.send(SLOW.as_bytes()).unwrap();
    }
    wait_until(PATIENCE, "it has requests", || gates[0].count("/slow") == 2);
    let yaml = std::fs::read_to_string(evergate.file()).unwrap();
    evergate.reload(&yaml.replace(&format!("{}, ", addrs[0]), ""));
    let crowd = Crowd::asking(listens, 4, GET);
    crowd.wait_for(100);
    assert_eq!(crowd.finish().1, Vec::<String>::new());
    assert_eq!(gates[0].count("/x"), 0);
    for gate in &gates {
        gate.open();
    }
    for client in &mut clients {
        assert_eq!(client.reply().unwrap().status, 200);
    }
}

#[test]
fn a_listener_that_is_removed_finishes_its_requests_and_lets_idle_clients_go() {
    let gate = Gate::named("a");
    let listens = free_addr();
    let (evergate, _) = start(listens, &[gate.recorder.addr()]);
    let (mut idle, mut busy) = (
        Client::connect(listens).unwrap(),
        Client::connect(listens).unwrap(),
    );
    assert_eq!(idle.get("/x").unwrap().status, 200);
    busy.send(SLOW.as_bytes()).unwrap();
    wait_until(PATIENCE, "the request has arrived", || {
        gate.count("/slow") == 1
    });
    let yaml = std::fs::read_to_string(evergate.file()).unwrap();
    let other = free_addr();
    let renamed = yaml.replace(
        &format!("  web: {{bind: '{listens}'"),
        &format!("  other: {{bind: '{other}'"),
    );
    assert_ne!(yaml, renamed);
    evergate.reload(&renamed);
    assert!(idle.is_closed_by_the_proxy());
    gate.open();
    let reply = busy.reply().unwrap();
    assert_eq!(reply.status, 200);
    assert!(
        reply.head.contains("\r\nconnection: close\r\n"),
        "{}",
        reply.head
    );
    assert!(busy.is_closed_by_the_proxy());
    assert_eq!(
        Client::connect(other).unwrap().get("/x").unwrap().status,
        200
    );
}

#[test]
fn clients_that_never_rest_are_sent_away_from_a_process_that_ends() {
    let gate = Gate::named("a");
    let listens = free_addr();
    let (mut evergate, _) = start(listens, &[gate.recorder.addr()]);
    let url = format!("http://{listens}/x");
    let h2load = crate::support::process::installed("h2load", "nghttp2-client");
    let mut load = std::process::Command::new("timeout")
        .args([
            "60", &h2load, "-t", "1", "-c", "2", "-m", "8", "-n", "1000000", &url,
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until(PATIENCE, "the load runs", || gate.count("/x") > 200);
    evergate.signal(Signal::TERM);
    assert_eq!(evergate.wait(PATIENCE).code(), Some(0));
    let log = evergate.stderr();
    assert!(!log.contains("drain deadline passed"), "{log}");
    load.kill().unwrap();
    load.wait().unwrap();
}

#[test]
fn a_listener_that_is_renamed_serves_on() {
    let gate = Gate::named("a");
    let listens = free_addr();
    let (evergate, _) = start(listens, &[gate.recorder.addr()]);
    let mut client = Client::connect(listens).unwrap();
    assert_eq!(client.get("/x").unwrap().status, 200);
    let yaml = std::fs::read_to_string(evergate.file()).unwrap();
    let renamed = yaml.replace("  web: {bind:", "  other: {bind:");
    assert_ne!(yaml, renamed);
    evergate.reload(&renamed);
    assert_eq!(client.get("/x").unwrap().status, 200);
}

#[test]
fn sigterm_lets_requests_finish_and_idle_clients_go_and_the_exit_is_0() {
    let gate = Gate::named("a");
    let listens = free_addr();
    let (mut evergate, _) = start(listens, &[gate.recorder.addr()]);
    let (mut idle, mut busy) = (
        Client::connect(listens).unwrap(),
        Client::connect(listens).unwrap(),
    );
    assert_eq!(idle.get("/x").unwrap().status, 200);
    busy.send(SLOW.as_bytes()).unwrap();
    let mut two = std::process::Command::new("curl")
        .args(["-s", "--http2-prior-knowledge", "-m", "60"])
        .arg(format!("http://{listens}/slow"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(PATIENCE, "the requests have arrived", || {
        gate.count("/slow") == 2
    });
    evergate.signal(Signal::TERM);
    assert!(idle.is_closed_by_the_proxy());
    assert!(evergate.is_running());
    assert!(two.try_wait().unwrap().is_none());
    gate.open();
    assert_eq!(busy.reply().unwrap().status, 200);
    let two = two.wait_with_output().unwrap();
    assert!(two.status.success() && two.stdout == b"a", "{two:?}");
    assert_eq!(evergate.wait(PATIENCE).code(), Some(0));
}
