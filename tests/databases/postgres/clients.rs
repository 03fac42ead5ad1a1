//! Clients that die, cancel and listen, while nodes do what nodes do.

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::thread;

use socket2::SockRef;

use super::stage::LIMIT;
use super::stage::Stage;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::client::Failure;
use crate::support::client::SessionEnd;

/// Answers are read in pieces; no message of these stories is longer.
const MAX_BYTES: usize = 4096;

/// A client that sees messages: it knows its cancel key and can die without a word.
struct Raw {
    stream: TcpStream,
    /// Process and secret, as BackendKeyData has them.
    key: Vec<u8>,
}

impl Raw {
    #[track_caller]
    fn log_in(addr: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(b"\0\0\0\x24\0\x03\0\0user\0app\0database\0postgres\0\0")
            .unwrap();
        let mut raw = Self {
            stream,
            key: Vec::new(),
        };
        loop {
            match raw.message().unwrap() {
                (b'K', body) => raw.key = body,
                (b'Z', _) => return raw,
                (b'E', body) => panic!("{}", String::from_utf8_lossy(&body)),
                _ => {}
            }
        }
    }

    #[track_caller]
    fn query(&mut self, statement: &str) {
        let length = u32::try_from(statement.len() + 5).unwrap();
        let message = [b"Q", &length.to_be_bytes()[..], statement.as_bytes(), b"\0"];
        self.stream.write_all(&message.concat()).unwrap();
        while self.message().unwrap().0 != b'Z' {}
    }

    /// `None`: the session has ended.
    fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 5];
        match self.stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("it hangs"),
            Err(_) => return None,
        }
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let length = usize::try_from(length).unwrap() - 4;
        assert!(length < MAX_BYTES);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        Some((header[0], body))
    }

    /// As by kill -9 of a client whose kernel has unread bytes.
    fn die(self) {
        let linger = Some(std::time::Duration::ZERO);
        SockRef::from(&self.stream).set_linger(linger).unwrap();
    }
}

#[track_caller]
fn cancel(addr: SocketAddr, key: &[u8]) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = [b"\0\0\0\x10\x04\xd2\x16\x2e", key].concat();
    stream.write_all(&request).unwrap();
    // There is no answer but the end.
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"");
}

/// K4
#[test]
fn a_client_that_dies_in_a_transaction_leaves_nothing_behind() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(0);
    let node = stage.cluster.node(0);
    node.sql("create table t (x int); grant all on t to app");
    let mut dying = Raw::log_in(stage.write);
    dying.query("begin");
    dying.query("lock table t in exclusive mode");
    dying.query("insert into t values (1)");
    let state = "select state from pg_stat_activity where usename = 'app' and query <> '' \
                 and application_name <> 'evergate'";
    node.wait_for_sql(state, "idle in transaction");
    dying.die();
    node.wait_for_sql(state, "");
    let mut next = stage.writer().unwrap();
    next.query("insert into t values (2)").unwrap();
    assert_eq!(next.query("select x from t").unwrap(), [["2"]]);
}

/// K5
#[test]
fn a_cancel_after_a_failover_hits_its_own_query_or_nobody() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    let before = Raw::log_in(stage.write);
    let dead_key = before.key.clone();
    old.kill_9();
    new.promote();

    let mut after = Raw::log_in(stage.write);
    let own_key = after.key.clone();
    assert_ne!(own_key, dead_key);
    let mut bystander = stage.writer().unwrap();
    thread::scope(|scope| {
        let sleeping = scope.spawn(|| bystander.query("select pg_sleep(600)"));
        let running = "select count(*) from pg_stat_activity where query like '%pg_sleep(600)' \
                       and usename = 'app' and state = 'active'";
        new.wait_for_sql(running, "1");
        cancel(stage.write, &dead_key);
        cancel(stage.write, &own_key);
        // It has nothing to cancel; the bystander sleeps on.
        after.query("select 1");
        assert_eq!(new.sql(running), "1");
        new.sql("select pg_cancel_backend(pid) from pg_stat_activity where usename = 'app'");
        let woken = sleeping.join().unwrap().unwrap_err();
        let (code, end) = ("57014".to_owned(), SessionEnd::Stays);
        assert_eq!(woken, Failure::Refused { code, end });
    });

    let mut victim = Raw::log_in(stage.write);
    let key = victim.key.clone();
    let write = stage.write;
    let cancelled = thread::spawn(move || victim.query("select pg_sleep(600)"));
    new.wait_for_sql(
        "select count(*) from pg_stat_activity where query like '%pg_sleep(600)' \
         and usename = 'app' and state = 'active'",
        "1",
    );
    cancel(write, &key);
    cancelled.join().unwrap();
}

/// K8
#[test]
fn a_client_that_only_listens_is_told_when_its_primary_dies() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::with_replicas(1);
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    let mut listening = Raw::log_in(stage.write);
    listening.query("listen news");
    old.sql("notify news, 'first'");
    assert_eq!(listening.message().unwrap().0, b'A');
    old.kill_9();
    while listening.message().is_some() {}

    new.promote();
    let mut listening = Raw::log_in(stage.write);
    listening.query("listen news");
    new.sql("notify news, 'second'");
    assert_eq!(listening.message().unwrap().0, b'A');
}
