//! B17: Patroni's REST API lies, hangs, fails or babbles, on one node or on all, while PostgreSQL is
//! well. The nodes that are honest decide, or else what PostgreSQL says of itself.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::patroni::expect_one_error_each;
use crate::patroni::file_with;
use crate::patroni::names;
use crate::support::Watchdog;
use crate::support::client::Dialect;
use crate::support::evergate::Evergate;
use crate::support::http;
use crate::support::patroni::PatroniCluster;
use crate::support::ports::free_addr;
use crate::support::ports::free_port;
use crate::support::wait_until;
use crate::support::workload::Workload;

const LIMIT: Duration = Duration::from_secs(180);
const PATIENCE: Duration = Duration::from_secs(60);
/// The fall is higher than usual: these stories are about Patroni, on however busy a machine.
const CHECK: &str = "interval: 300ms, timeout: 300ms, fall: 10";
/// Answers of one node that are heard beside the others'.
const HEARD: u64 = 2;
/// Answers that outlast what is believed of an earlier one: that counts for three intervals.
const ENOUGH: u64 = 4;
/// More than what one answer may take, and less than what a huge one has.
const ROOM: u64 = 24 << 20;

/// How a REST API answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Names a replica, on a timeline that will never be.
    Lies,
    Hangs,
    Fails,
    Babbles,
    /// 64 MiB of JSON that would be right otherwise.
    Huge,
    /// A body that does not end.
    Endless,
}

const BAD: [Manner; 6] = [
    Manner::Lies,
    Manner::Hangs,
    Manner::Fails,
    Manner::Babbles,
    Manner::Huge,
    Manner::Endless,
];

/// Stands in front of one node's REST API for as long as the test runs.
#[derive(Clone)]
struct Front {
    rest: SocketAddr,
    manner: Arc<Mutex<Manner>>,
    lie: Arc<str>,
    answers: Arc<AtomicU64>,
}

impl Front {
    fn start(addr: SocketAddr, rest: SocketAddr, lie: &str) -> Self {
        let front = Self {
            rest,
            manner: Arc::new(Mutex::new(Manner::Honest)),
            lie: lie.into(),
            answers: Arc::default(),
        };
        let listener = TcpListener::bind(addr).unwrap();
        let template = front.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let front = template.clone();
                thread::spawn(move || front.answer(client));
            }
        });
        front
    }

    fn turn(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn answer(&self, mut client: TcpStream) {
        let mut request = [0; 4096];
        let _ = client.read(&mut request);
        let manner = *self.manner.lock().unwrap();
        // A client that has heard enough is none of our business.
        let _ = match manner {
            Manner::Honest => {
                let answer = http::get(self.rest, "/cluster");
                let answer = answer.map(|answer| (answer.status, answer.body));
                let (status, body) = answer.unwrap_or((503, Vec::new()));
                respond(&mut client, status, body.len(), &body)
            }
            Manner::Lies => respond(&mut client, 200, self.lie.len(), self.lie.as_bytes()),
            Manner::Hangs => client.read(&mut request).map(drop),
            Manner::Fails => respond(&mut client, 500, self.lie.len(), self.lie.as_bytes()),
            Manner::Babbles => client.write_all(&[0xff; 4096]),
            Manner::Huge => {
                let body = [self.lie.as_bytes(), &vec![b' '; 64 << 20]].concat();
                respond(&mut client, 200, body.len(), &body)
            }
            Manner::Endless => {
                let mut sent = respond(&mut client, 200, 1 << 40, b"");
                while sent.is_ok() {
                    sent = client.write_all(&[b' '; 65_536]);
                }
                sent
            }
        };
        self.answers.fetch_add(1, Ordering::AcqRel);
    }
}

fn respond(client: &mut TcpStream, status: u16, length: usize, body: &[u8]) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\n\r\n");
    client.write_all(head.as_bytes())?;
    client.write_all(body)
}

/// One in front of each node, all on one port, as Patroni's own are.
struct Fronts {
    fronts: Vec<Front>,
    port: u16,
    lie: String,
}

impl Fronts {
    #[track_caller]
    fn before(cluster: &PatroniCluster) -> Self {
        let port = free_port();
        let victim = cluster.replica(0).addr();
        let members = cluster.nodes().iter().map(|node| {
            let (name, addr) = (node.name(), node.addr());
            let (role, timeline) = match addr == victim {
                true => ("leader", 999),
                false => ("replica", 1),
            };
            let (host, port) = (addr.ip(), addr.port());
            format!(
                r#"{{"name":"{name}","role":"{role}","host":"{host}","port":{port},"timeline":{timeline}}}"#
            )
        });
        let lie = format!(
            r#"{{"members":[{}]}}"#,
            members.collect::<Vec<_>>().join(",")
        );
        let fronts = cluster.nodes().iter().map(|node| {
            let addr = SocketAddr::new(node.rest().ip(), port);
            Front::start(addr, node.rest(), &lie)
        });
        Self {
            fronts: fronts.collect(),
            port,
            lie: format!("\"leader\":\"{victim}\""),
        }
    }

    /// Lets these nodes answer in this way, and waits until each has done so often enough.
    #[track_caller]
    fn turn(&self, nodes: &[usize], manner: Manner, answers: u64) {
        let nodes = nodes.iter().map(|index| &self.fronts[*index]);
        nodes.clone().for_each(|front| front.turn(manner));
        let counts: Vec<_> = nodes
            .map(|front| (front, front.answers.load(Ordering::Acquire) + answers))
            .collect();
        wait_until(PATIENCE, &format!("it {manner:?}"), || {
            let mut counts = counts.iter();
            counts.all(|(front, goal)| front.answers.load(Ordering::Acquire) >= *goal)
        });
    }
}

#[test]
fn a_rest_api_that_lies_decides_nothing() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let cluster = PatroniCluster::start();
    let fronts = Fronts::before(&cluster);
    let bind = free_addr();
    let evergate = Evergate::start(&file_with(&cluster, bind, fronts.port, CHECK));
    let leader = cluster.node(0);
    names(&evergate, leader.addr());
    let rss_before = evergate.rss_bytes();
    let workload = Workload::through(Dialect::Postgres, bind).start();
    workload.wait_for_writes(100);

    for manner in BAD {
        fronts.turn(&[0], manner, HEARD);
        workload.wait_for_every_writer();
    }
    fronts.turn(&[0], Manner::Honest, HEARD);
    fronts.turn(&[1], Manner::Lies, HEARD);
    workload.wait_for_every_writer();

    // Nobody is left to ask: PostgreSQL itself is believed.
    for manner in [Manner::Fails, Manner::Babbles, Manner::Huge, Manner::Hangs] {
        fronts.turn(&[0, 1, 2], manner, ENOUGH);
        workload.wait_for_every_writer();
    }
    evergate.wait_for_log("the authority is silent");
    let log = evergate.stderr();
    assert!(!log.contains(&fronts.lie), "a lie was believed");
    assert!(!log.contains("\"from\":\"primary\""), "{log}");
    assert!(evergate.rss_bytes() < rss_before + ROOM);
    let undisturbed = workload.finish().verdict(leader.addr());
    undisturbed.expect_intact();
    assert!(undisturbed.errors.is_empty(), "{undisturbed}");
    println!("{undisturbed}");

    // And followed, when it changes.
    let workload = Workload::through(Dialect::Postgres, bind).table("more");
    let workload = workload.start();
    workload.wait_for_writes(100);
    cluster.switch_over_to(cluster.node(1));
    workload.wait_for_every_writer();
    let switched = workload.finish().verdict(cluster.leader().addr());
    switched.expect_intact();
    println!("switchover: {switched}");
    expect_one_error_each(&switched);
}
