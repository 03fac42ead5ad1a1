//! `protocol: redis` listeners in front of real servers that change their roles.

mod failover;
mod not_ready;
mod stage;
mod tls;

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use crate::support::Watchdog;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::redis::redis_benchmark;
use crate::support::redis::redis_cli;
use crate::support::sentinel::RedisSentinels;
use crate::support::slot::Slot;
use crate::support::talk::rest;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(40);

struct Stage {
    // Dropped before the servers: its log stays free of their end.
    _evergate: Evergate,
    write: SocketAddr,
    read: SocketAddr,
    cluster: RedisSentinels,
}

impl Stage {
    /// Two nodes, asked for their roles this often; their Sentinels are not ours to ask.
    fn checked_every(interval: &str) -> Self {
        let cluster = RedisSentinels::start();
        let (write, read) = (free_addr(), free_addr());
        let [one, two] = [0, 1].map(|index| cluster.node(index).addr());
        let evergate = Evergate::start(&format!(
            "
clusters:
  cache:
    protocol: redis
    backends: [{{name: r1, address: \"{one}\"}}, {{name: r2, address: \"{two}\"}}]
    health_check: {{interval: {interval}, timeout: 400ms}}
    failover: {{hold: {{for: 2s, max_sessions: 100}}}}
listeners:
  writes: {{bind: \"{write}\", cluster: cache, role: primary}}
  reads: {{bind: \"{read}\", cluster: cache, role: replica}}
"
        ));
        Self {
            _evergate: evergate,
            write,
            read,
            cluster,
        }
    }
}

fn says(addr: SocketAddr, command: &[&str]) -> String {
    let output = redis_cli(addr, command);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A client that sends this and has a patient ear.
fn client(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

fn all_of(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn writes_reach_the_primary_and_reads_a_replica() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::checked_every("500ms");
    assert_eq!(says(stage.write, &["SET", "k", "v"]), "OK");
    assert!(says(stage.write, &["ROLE"]).starts_with("master"));
    assert!(says(stage.read, &["ROLE"]).starts_with("slave"));
    wait_until(PATIENCE, "the replica has it", || {
        says(stage.read, &["GET", "k"]) == "v"
    });
    let load = redis_benchmark(
        stage.write,
        &["-t", "set", "-c", "20", "-n", "20000", "-P", "8"],
    );
    assert!(load.complete, "{}", load.output);
}

#[test]
fn a_forged_http_request_reaches_no_server() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::checked_every("500ms");
    assert_eq!(says(stage.write, &["SET", "victim", "1"]), "OK");
    let forged = "POST / HTTP/1.1\r\nHost: cache\r\n\r\nSET victim 2\r\n";
    for cut in [1, 4, 5, forged.len()] {
        let (first, rest) = forged.split_at(cut);
        let mut stream = client(stage.write, first.as_bytes());
        stream.set_nodelay(true).unwrap();
        // The proxy may have closed already, which is as good.
        let _ = stream.write_all(rest.as_bytes());
        let answer = all_of(stream);
        // Redis itself would just close: these words say that it was not asked.
        assert!(
            answer.starts_with("-ERR an HTTP request"),
            "{cut}: {answer}"
        );
    }
    // Pieces that only together are a command pass whole.
    let mut stream = client(stage.write, b"*2\r\n$4\r\nEC");
    stream.write_all(b"HO\r\n$2\r\nhi\r\n").unwrap();
    let mut echoed = [0; 8];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"$2\r\nhi\r\n");
    let mut stream = client(stage.write, b"*");
    stream.write_all(b"1\r\n$4\r\nPING\r\n").unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");

    assert_eq!(says(stage.write, &["GET", "victim"]), "1");
}

#[test]
fn a_client_without_a_server_is_told_why() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::checked_every("500ms");
    stage.cluster.node(1).kill_9();
    wait_until(PATIENCE, "the replica is missed", || {
        says(stage.read, &["PING"]).contains("no replica is available")
    });
    let answer = all_of(client(stage.read, b""));
    assert!(
        answer.starts_with("-LOADING no replica is available"),
        "{answer}"
    );
}

#[test]
fn a_read_only_answer_is_noticed_long_before_the_next_check() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::checked_every("60s");
    let (first, second) = (stage.cluster.node(0), stage.cluster.node(1));
    assert_eq!(says(stage.write, &["SET", "k", "v"]), "OK");
    let session = client(stage.write, b"PING\r\n");
    let blocked = client(stage.write, b"BLPOP nothing 0\r\n");

    wait_until(PATIENCE, "BLPOP blocks", || {
        let clients = first.command("INFO clients").concat();
        clients.contains("blocked_clients:1")
    });
    // Sentinel's part, by hand: the session hears of it by its next write.
    let (ip, port) = (first.addr().ip(), first.addr().port());
    second.command("REPLICAOF NO ONE");
    let (new_ip, new_port) = (second.addr().ip(), second.addr().port());
    first.command(&format!("REPLICAOF {new_ip} {new_port}"));
    let demoted = Instant::now();
    let mut session = session;
    let _ = session.write_all(b"SET k w\r\n");
    wait_until(PATIENCE, &format!("{ip}:{port} is left"), || {
        says(stage.write, &["SET", "k", "x"]) == "OK"
    });
    // Redis unblocks it, or we close it.
    let answer = all_of(blocked);
    assert!(
        answer.is_empty() || answer.starts_with("-UNBLOCKED"),
        "{answer}"
    );
    let took = demoted.elapsed();
    println!("noticed after {took:?}");
    assert!(took < Duration::from_secs(50), "{took:?}");
}

/// K8
#[test]
fn who_waits_for_news_is_told_when_the_primary_dies_or_hangs() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for fault in [Slot::kill_9, Slot::freeze] {
        let stage = Stage::checked_every("500ms");
        let old = stage.cluster.node(0);
        let waiting = [
            &b"BLPOP nothing 0\r\n"[..],
            b"XREAD BLOCK 0 STREAMS news $\r\n",
            b"WAIT 9 0\r\n",
            b"SUBSCRIBE news\r\n",
        ]
        .map(|command| client(stage.write, command));
        wait_until(PATIENCE, "all of them wait", || {
            let blocked = old.command("INFO clients").concat();
            let subscribed = old.command("PUBSUB NUMSUB news");
            blocked.contains("blocked_clients:3") && subscribed[1] == "1"
        });
        fault(old);
        for mut stream in waiting {
            // Nobody gets an answer, and nobody waits until the test's patience ends.
            let said = rest(&mut stream);
            let is_greeted = said.is_empty() || said.starts_with(b"*3\r\n$9\r\nsubscribe\r\n");
            assert!(is_greeted, "{}", said.escape_ascii());
        }

        // The Sentinels find another one, and waiting works there.
        wait_until(PATIENCE, "another primary", || {
            says(stage.write, &["SET", "ready", "1"]) == "OK"
        });
        let new = stage.cluster.node(1);
        let mut popping = client(stage.write, b"BLPOP queue 0\r\n");
        wait_until(PATIENCE, "BLPOP blocks", || {
            let clients = new.command("INFO clients").concat();
            clients.contains("blocked_clients:1")
        });
        assert_eq!(says(stage.write, &["RPUSH", "queue", "job"]), "1");
        let mut popped = [0; 24];
        popping.read_exact(&mut popped).unwrap();
        assert_eq!(&popped, b"*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n");
    }
}
