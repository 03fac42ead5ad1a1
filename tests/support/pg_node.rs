//! One PostgreSQL of a cluster: primary or replica, killed, frozen, promoted, rewound.

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::process::Signal;
use tempfile::TempDir;

use super::PATIENCE;
use super::netns::Place;
use super::pg_base;
use super::pg_server::PgServer;
use super::postgres::PACKAGE;
use super::postgres::as_postgres;
use super::process::Process;
use super::process::installed;
use super::process::output_of;
use super::process::run;
use super::slot::Slot;
use super::wait_until;

/// How PostgreSQL is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Waits until every session has ended by itself.
    Smart,
    /// Sessions get 57P01; the data is checkpointed.
    Fast,
    /// Sessions get 57P02; the next start recovers as from a crash.
    Immediate,
}

/// Every method takes `&self`: a node is used while its cluster and the others are.
pub struct PgNode {
    server: PgServer,
    /// Goes before every program that must see the node's network and files.
    prefix: Vec<String>,
    settings: Vec<String>,
    /// Dropped before its directory.
    slot: Slot,
    dir: TempDir,
}

/// What a node is made of.
pub(super) struct Blueprint<'a> {
    pub name: String,
    pub place: &'a Place,
    pub port: u16,
    /// `name=value`.
    pub settings: &'a [String],
    /// Certificate and key, PEM.
    pub tls: Option<&'a (PathBuf, PathBuf)>,
}

impl PgNode {
    /// A copy of the base, not started yet.
    pub(super) fn build(blueprint: &Blueprint<'_>) -> Self {
        let dir = pg_base::directory("evergate-pg-");
        let mut prefix = blueprint.place.prefix.clone();
        prefix.extend(as_postgres());
        let addr = SocketAddr::new(blueprint.place.ip, blueprint.port);
        let mut node = Self {
            server: PgServer::new(&blueprint.name, addr),
            prefix,
            settings: blueprint.settings.to_vec(),
            slot: Slot::default(),
            dir,
        };
        pg_base::copy_to(&node.data());
        if let Some((certificate, key)) = blueprint.tls {
            let certificate = node.own(certificate, "server.pem");
            let key = node.own(key, "server.key");
            node.settings.push("ssl=on".to_owned());
            node.settings.push(format!("ssl_cert_file={certificate}"));
            node.settings.push(format!("ssl_key_file={key}"));
        }
        node
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn is_running(&self) -> bool {
        self.slot.is_running()
    }

    pub fn is_frozen(&self) -> bool {
        self.slot.is_frozen()
    }

    /// The postmaster's number, e.g. to find its children.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.slot.look(Process::pid)
    }

    /// Starts and waits until it answers.
    #[track_caller]
    pub fn start(&self) {
        self.start_without_waiting();
        self.wait_until_it_answers();
    }

    /// Starts and returns at once: for those who want to see 57P03.
    #[track_caller]
    pub fn start_without_waiting(&self) {
        let mut command = self.prefix.clone();
        command.push(installed("postgres", PACKAGE));
        command.extend(["-D".to_owned(), self.data().display().to_string()]);
        let own = [
            format!("listen_addresses={}", self.addr().ip()),
            format!("port={}", self.addr().port()),
            format!("unix_socket_directories={}", self.dir.path().display()),
        ];
        for setting in self.settings.iter().chain(&own) {
            command.extend(["-c".to_owned(), setting.clone()]);
        }
        self.slot.start(&command, self.dir.path());
    }

    #[track_caller]
    pub fn wait_until_it_answers(&self) {
        wait_until(PATIENCE, &format!("{} answers", self.name()), || {
            assert!(self.is_running(), "{} did not start", self.name());
            self.try_sql("select 1").is_ok()
        });
    }

    /// The postmaster and every child at once: nobody says goodbye.
    pub fn kill_9(&self) {
        self.slot.kill_9();
    }

    /// Kills one child as the kernel does when memory runs out: PostgreSQL then resets all sessions.
    #[track_caller]
    pub fn kill_9_child(&self, pid: u32) {
        let tree = self.slot.look(Process::tree);
        assert!(tree.contains(&pid), "{pid} is no child");
        run(&["kill", "-KILL", &pid.to_string()]);
    }

    #[track_caller]
    pub fn stop(&self, how: Shutdown) {
        self.slot.stop(match how {
            Shutdown::Smart => Signal::TERM,
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        });
    }

    /// Every process of it stands still; the kernel still accepts connections.
    #[track_caller]
    pub fn freeze(&self) {
        self.slot.freeze();
    }

    #[track_caller]
    pub fn thaw(&self) {
        self.slot.thaw();
    }

    /// Makes it a primary on a new timeline; returns when it takes writes.
    #[track_caller]
    pub fn promote(&self) {
        let done = self.sql("select pg_promote(true, 20)");
        assert_eq!(done, "t", "{} was not promoted", self.name());
        assert!(!self.is_in_recovery());
    }

    /// Makes it a replica of `other`, whatever it has written meanwhile; returns when it streams.
    ///
    /// Stops it first if need be. Its data is rewound, or copied anew if that cannot be done.
    #[track_caller]
    pub fn rejoin_as_replica_of(&self, other: &Self) {
        if self.is_frozen() {
            self.thaw();
        }
        if self.slot.is_taken() {
            self.stop(Shutdown::Fast);
        }
        // A freshly promoted server still has its old timeline in the control file, which
        // pg_rewind reads.
        other.sql("checkpoint");
        if !self.rewind(other) {
            self.copy_anew(other);
        }
        self.become_replica_of(other);
        self.start();
        self.wait_until_it_streams_from(other);
    }

    /// A running replica turns to another primary; it is rewound if it has received more.
    #[track_caller]
    pub fn follow(&self, other: &Self) {
        if self.is_ahead_of_the_fork_of(other) {
            return self.rejoin_as_replica_of(other);
        }
        self.become_replica_of(other);
        self.sql("select pg_reload_conf()");
        self.wait_until_it_streams_from(other);
    }

    /// It first asks for the rest of the old timeline, and then for the new one.
    #[track_caller]
    fn wait_until_it_streams_from(&self, other: &Self) {
        other.wait_until_it_feeds(self.name());
        let what = format!("{} is on the timeline of {}", self.name(), other.name());
        wait_until(PATIENCE, &what, || self.timeline() == other.timeline());
        other.wait_until_it_feeds(self.name());
    }

    /// Writes what a start as a replica of `other` needs; settings made by `alter system` are lost.
    pub(super) fn become_replica_of(&self, other: &Self) {
        let (ip, port) = (other.addr().ip(), other.addr().port());
        let conninfo = format!(
            "host={ip} port={port} user=replicator application_name={} connect_timeout=2 \
             sslmode=prefer",
            self.name()
        );
        let settings = format!("primary_conninfo = '{conninfo}'\n");
        self.write("postgresql.auto.conf", &settings);
        self.write("standby.signal", "");
    }

    fn rewind(&self, source: &Self) -> bool {
        let (ip, port) = (source.addr().ip(), source.addr().port());
        let server = format!("host={ip} port={port} user=postgres dbname=postgres");
        let data = self.data().display().to_string();
        let rewind = installed("pg_rewind", PACKAGE);
        let arguments = ["-D", &data, "--source-server", &server, "--no-sync"];
        self.succeeds(&[&[rewind.as_str()], &arguments[..]].concat())
    }

    #[track_caller]
    fn copy_anew(&self, source: &Self) {
        let (ip, port) = (
            source.addr().ip().to_string(),
            source.addr().port().to_string(),
        );
        let data = self.data().display().to_string();
        fs::remove_dir_all(self.data()).unwrap();
        let copy = installed("pg_basebackup", PACKAGE);
        let from = ["-h", &ip, "-p", &port, "-U", "replicator", "-D", &data];
        let how = ["--checkpoint=fast", "--no-sync", "--wal-method=stream"];
        let copied = self.succeeds(&[&[copy.as_str()], &from[..], &how[..]].concat());
        assert!(copied, "pg_basebackup failed");
    }

    /// What it wrote to its log since its last start.
    pub fn log(&self) -> String {
        self.slot.output()
    }

    fn succeeds(&self, command: &[&str]) -> bool {
        let prefix = self.prefix.iter().map(String::as_str);
        let command: Vec<&str> = prefix.chain(command.iter().copied()).collect();
        let output = output_of(&command, &[]);
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            eprintln!("{}: {command:?}: {error}", self.name());
        }
        output.status.success()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).unwrap();
        pg_base::give_to_postgres(&path);
    }

    /// A copy that PostgreSQL accepts: its own, and closed to others.
    fn own(&self, file: &Path, name: &str) -> String {
        let copy = self.dir.path().join(name);
        fs::copy(file, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
        pg_base::give_to_postgres(&copy);
        copy.display().to_string()
    }
}

impl Deref for PgNode {
    type Target = PgServer;

    fn deref(&self) -> &PgServer {
        &self.server
    }
}

impl Drop for PgNode {
    fn drop(&mut self) {
        self.kill_9();
        pg_base::free_shared_memory(&self.data());
    }
}
