//! Redis servers that replicate: one of them, and a primary with its replica whose roles the test
//! changes itself.

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::PATIENCE;
use super::client::Dialect;
use super::client::Failure;
use super::client::Session;
use super::ports::free_addr;
use super::ports::free_port;
use super::process::installed;
use super::process::words;
use super::slot::Slot;
use super::wait_until;

/// The user and password of `Options::acl`.
pub const ACL_USER: &str = "app";
pub const ACL_PASSWORD: &str = "sesame";

/// A frozen server costs this much of a test's time whenever it is asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What both servers have beyond the ordinary.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `ACL_USER` exists besides the user without a name or a password.
    pub acl: bool,
    /// Certificate, key and authority, PEM, for a second port.
    pub tls: Option<(PathBuf, PathBuf, PathBuf)>,
    /// More lines of the file; the last of a name wins.
    pub lines: Vec<&'static str>,
}

/// Nobody automates their failover.
pub struct RedisPair {
    pub(super) nodes: [RedisNode; 2],
}

/// A server or a Sentinel: both are redis-server with a file that they rewrite themselves.
pub struct RedisNode {
    addr: SocketAddr,
    tls_addr: Option<SocketAddr>,
    mode: &'static [&'static str],
    slot: Slot,
    dir: TempDir,
}

impl RedisPair {
    /// Returns when the replica is online.
    #[track_caller]
    pub fn start_with(options: &Options) -> Self {
        let primary = RedisNode::server(options, None);
        let replica = RedisNode::server(options, Some(primary.addr));
        for node in [&primary, &replica] {
            node.start();
        }
        replica.wait_until_it_is_linked();
        Self {
            nodes: [primary, replica],
        }
    }

    /// The first primary is 0 for ever.
    #[track_caller]
    pub fn node(&self, index: usize) -> &RedisNode {
        &self.nodes[index]
    }
}

impl RedisNode {
    fn server(options: &Options, replica_of: Option<SocketAddr>) -> Self {
        let tls_addr = options.tls.as_ref().map(|_| free_addr());
        let mut file = vec![
            "save \"\"".to_owned(),
            "appendonly no".to_owned(),
            "protected-mode no".to_owned(),
            // A replica that waits for others makes a test wait.
            "repl-diskless-sync-delay 0".to_owned(),
            "repl-ping-replica-period 1".to_owned(),
        ];
        if let Some(primary) = replica_of {
            file.push(format!("replicaof {} {}", primary.ip(), primary.port()));
        }
        if options.acl {
            file.push(format!("user {ACL_USER} on >{ACL_PASSWORD} ~* &* +@all"));
        }
        if let (Some((certificate, key, authority)), Some(addr)) = (&options.tls, tls_addr) {
            file.push(format!("tls-port {}", addr.port()));
            file.push(format!("tls-cert-file {}", certificate.display()));
            file.push(format!("tls-key-file {}", key.display()));
            file.push(format!("tls-ca-cert-file {}", authority.display()));
            file.push("tls-auth-clients no".to_owned());
        }
        file.extend(words(&options.lines));
        Self::build(&[], tls_addr, &file)
    }

    pub(super) fn build(
        mode: &'static [&'static str],
        tls_addr: Option<SocketAddr>,
        lines: &[String],
    ) -> Self {
        let node = Self {
            addr: SocketAddr::from(([127, 0, 0, 1], free_port())),
            tls_addr,
            mode,
            slot: Slot::default(),
            dir: tempfile::Builder::new()
                .prefix("evergate-redis-")
                .tempdir()
                .unwrap(),
        };
        let own = format!("bind {}\nport {}\n", node.addr.ip(), node.addr.port());
        let place = format!("dir {}\n", node.dir.path().display());
        fs::write(node.file(), own + &place + &lines.join("\n") + "\n").unwrap();
        node
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("redis.conf")
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    #[track_caller]
    pub fn tls_addr(&self) -> SocketAddr {
        self.tls_addr.expect("started without TLS")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts as what it was last, without data unless its file says that it keeps some, and waits
    /// until it answers.
    #[track_caller]
    pub fn start(&self) {
        self.start_without_waiting(&[]);
        wait_until(PATIENCE, &format!("{} answers", self.addr), || {
            assert!(self.is_running(), "{} did not start", self.addr);
            self.try_command("PING").is_ok()
        });
    }

    /// Starts with more settings (`--name`, `value`) and returns at once: for those who want to see
    /// it load its data.
    #[track_caller]
    pub fn start_without_waiting(&self, more: &[&str]) {
        let mut command = vec![installed("redis-server", "redis-server")];
        command.push(self.file().display().to_string());
        command.extend(words(more));
        command.extend(words(self.mode));
        self.slot.start(&command, self.dir.path());
    }

    /// `master` or `slave`, in its own words.
    pub fn role(&self) -> Option<String> {
        self.try_command("ROLE").ok()?.into_iter().next()
    }

    #[track_caller]
    pub fn promote(&self) {
        self.command("REPLICAOF NO ONE");
    }

    #[track_caller]
    pub fn follow(&self, primary: SocketAddr) {
        self.command(&format!("REPLICAOF {} {}", primary.ip(), primary.port()));
    }

    #[track_caller]
    pub fn wait_until_it_is_linked(&self) {
        wait_until(PATIENCE, "the replica is online", || {
            let role = self.try_command("ROLE");
            role.is_ok_and(|words| words.contains(&"connected".to_owned()))
        });
    }

    /// It has all that the primary has written before this call.
    #[track_caller]
    pub fn wait_until_it_caught_up_with(&self, primary: &Self) {
        let goal = primary.offset("master_repl_offset");
        assert!(goal.is_some(), "{} tells no offset", primary.addr);
        wait_until(PATIENCE, &format!("{} has caught up", self.addr), || {
            self.offset("slave_repl_offset") >= goal
        });
    }

    fn offset(&self, name: &str) -> Option<u64> {
        let info = self.try_command("INFO replication").ok()?.concat();
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(key, _)| *key == name)?;
        value.parse().ok()
    }

    /// Words in, words out; lists are flat.
    #[track_caller]
    pub fn command(&self, words: &str) -> Vec<String> {
        let answer = self.try_command(words);
        answer.unwrap_or_else(|failure| panic!("{}: {words}: {failure:?}", self.addr))
    }

    pub fn try_command(&self, words: &str) -> Result<Vec<String>, Failure> {
        let mut session = Session::open(Dialect::Redis, self.addr, "", ANSWER_TIMEOUT)?;
        let rows = session.query(words)?;
        Ok(rows.into_iter().flatten().collect())
    }
}

impl Deref for RedisNode {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        &self.slot
    }
}
