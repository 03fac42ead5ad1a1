//! K8: sessions that wait for what comes next, by protocols within the protocol: COPY in both
//! directions, LISTEN, replication. Whatever becomes of their server, none of them hangs.

use std::fs;
use std::io::Write;
use std::path::Path;

use tempfile::TempDir;

use super::raw::Raw;
use super::stage::EAGER;
use super::stage::LIMIT;
use super::stage::Plan;
use super::stage::Stage;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::pg_cluster::PostgresCluster;
use crate::support::pg_node::PgNode;
use crate::support::pg_server::PgServer;
use crate::support::process::Process;
use crate::support::process::installed;
use crate::support::process::words;
use crate::support::wait_until;

/// More than a test can read.
const ENDLESS: &str = "copy (select repeat('x', 1000), generate_series(1, 100000000)) to stdout";
/// CopyData with the row `7`.
const ROW: &[u8] = b"d\0\0\0\x067\n";
const COPY_DONE: &[u8] = b"c\0\0\0\x04";

/// One session in each protocol, and what PostgreSQL ships to stream the log to files.
struct Streams {
    copying_in: Raw,
    copying_out: Raw,
    listening: Raw,
    replicating: Raw,
    receiver: Process,
    files: TempDir,
}

impl Streams {
    /// Through Evergate, on this primary.
    #[track_caller]
    fn begin(stage: &Stage, primary: &PgServer) -> Self {
        let mut copying_in = Raw::log_in(stage.write);
        copying_in.ask("copy t from stdin");
        copying_in.wait_for(b'G');
        copying_in.stream.write_all(ROW).unwrap();

        let mut copying_out = Raw::log_in(stage.write);
        copying_out.ask(ENDLESS);
        copying_out.wait_for(b'd');

        let mut listening = Raw::log_in(stage.write);
        listening.query("listen news");
        primary.sql("notify news");
        listening.wait_for(b'A');

        let mut replicating = Raw::try_log_in(stage.write, b"replication\0database\0").unwrap();
        replicating.query("IDENTIFY_SYSTEM");
        let position = primary.sql("select pg_current_wal_lsn()");
        replicating.ask(&format!("START_REPLICATION PHYSICAL {position}"));
        replicating.wait_for(b'W');

        let files = tempfile::tempdir().unwrap();
        let receiver = receive_wal(stage, files.path());
        wait_until(PATIENCE, "pg_receivewal has a file", || {
            !segments(files.path()).is_empty()
        });
        Self {
            copying_in,
            copying_out,
            listening,
            replicating,
            receiver,
            files,
        }
    }

    /// Each of them ends by itself, `message` panics after a time otherwise.
    #[track_caller]
    fn expect_ends(mut self) {
        let waiting = [
            self.copying_in,
            self.copying_out,
            self.listening,
            self.replicating,
        ];
        for mut session in waiting {
            while session.message().is_some() {}
        }
        let ended = self.receiver.wait(PATIENCE);
        assert!(!ended.success(), "{}", self.receiver.stderr());
        assert!(!segments(self.files.path()).is_empty());
    }
}

fn receive_wal(stage: &Stage, into: &Path) -> Process {
    let program = installed("pg_receivewal", "postgresql-client-15");
    let (ip, port) = (stage.write.ip().to_string(), stage.write.port().to_string());
    let into_text = into.to_str().unwrap();
    let command = words(&[
        &program,
        "-h",
        &ip,
        "-p",
        &port,
        "-U",
        "replicator",
        "-D",
        into_text,
    ]);
    let how = words(&["--no-loop", "--no-sync"]);
    Process::start(&[command, how].concat(), &[], into)
}

/// Names of the log's files, whole or not.
fn segments(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("0000")).collect()
}

/// What happened to one primary does not keep the next one from serving the same.
#[track_caller]
fn they_end_and_others_begin_when(fault: impl FnOnce(&PgNode)) {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Plan::default()
        .check(EAGER)
        .start(PostgresCluster::start(1));
    let (old, new) = (stage.cluster.node(0), stage.cluster.node(1));
    old.sql("create table t (x int); grant all on t to app; alter role app replication");
    new.wait_until_it_caught_up_with(old);
    let streams = Streams::begin(&stage, old);
    fault(old);
    streams.expect_ends();

    new.promote();
    let mut again = Streams::begin(&stage, new);
    again.copying_in.stream.write_all(COPY_DONE).unwrap();
    again.copying_in.wait_for(b'Z');
    // The COPY that was cut off has left nothing.
    assert_eq!(new.sql("select x from t"), "7");
    let timelines = segments(again.files.path());
    assert!(timelines[0].starts_with("00000002"), "{timelines:?}");
}

#[test]
fn streams_end_when_their_primary_is_killed() {
    they_end_and_others_begin_when(PgNode::kill_9);
}

#[test]
fn streams_end_when_their_primary_hangs() {
    they_end_and_others_begin_when(PgNode::freeze);
}
