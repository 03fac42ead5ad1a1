//! A Redis primary, a replica and three Sentinels that agree on who is primary.

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
use super::slot::Slot;
use super::wait_for;
use super::wait_until;

/// What the Sentinels call the set of servers.
pub const MASTER: &str = "main";
/// The user and password of `Options::acl`.
pub const ACL_USER: &str = "app";
pub const ACL_PASSWORD: &str = "sesame";

/// A frozen server costs this much of a test's time whenever it is asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub struct RedisSentinels {
    nodes: Vec<RedisNode>,
    sentinels: Vec<RedisNode>,
}

/// What both servers have beyond the ordinary.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `ACL_USER` exists besides the user without a name or a password.
    pub acl: bool,
    /// Certificate, key and authority, PEM, for a second port.
    pub tls: Option<(PathBuf, PathBuf, PathBuf)>,
}

/// A server or a Sentinel: both are redis-server with a file that they rewrite themselves.
pub struct RedisNode {
    addr: SocketAddr,
    tls_addr: Option<SocketAddr>,
    mode: &'static [&'static str],
    slot: Slot,
    dir: TempDir,
}

impl RedisSentinels {
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    /// Returns when the replica is online and every Sentinel knows all the others.
    #[track_caller]
    pub fn start_with(options: &Options) -> Self {
        let primary = RedisNode::server(options, None);
        let replica = RedisNode::server(options, Some(primary.addr));
        for node in [&primary, &replica] {
            node.start();
        }
        wait_until(PATIENCE, "the replica is online", || {
            let role = replica.try_command("ROLE");
            role.is_ok_and(|words| words.contains(&"connected".to_owned()))
        });
        let sentinels: Vec<RedisNode> = (0..3).map(|_| RedisNode::sentinel(primary.addr)).collect();
        sentinels.iter().for_each(RedisNode::start);
        let cluster = Self {
            nodes: vec![primary, replica],
            sentinels,
        };
        cluster.wait_until_it_can_fail_over();
        cluster
    }

    /// The first primary is 0 for ever.
    #[track_caller]
    pub fn node(&self, index: usize) -> &RedisNode {
        &self.nodes[index]
    }

    pub fn sentinels(&self) -> &[RedisNode] {
        &self.sentinels
    }

    /// Whom most of the Sentinels name, when that one says the same of itself; waits for it.
    #[track_caller]
    pub fn primary(&self) -> &RedisNode {
        wait_for(PATIENCE, "the Sentinels agree", || {
            let named: Vec<u16> = self.sentinels.iter().filter_map(named_by).collect();
            let chosen = |node: &&RedisNode| {
                let port = node.addr.port();
                named.iter().filter(|named| **named == port).count() >= 2
            };
            let node = self.nodes.iter().find(chosen)?;
            (node.role().as_deref() == Some("master")).then_some(node)
        })
    }

    /// The running node that is not the primary.
    #[track_caller]
    pub fn replica(&self) -> &RedisNode {
        let primary = self.primary().addr;
        let mut others = self.nodes.iter().filter(|node| node.addr != primary);
        others.find(|node| node.is_running()).expect("a replica")
    }

    /// Planned: returns when the Sentinels have agreed on the other one.
    #[track_caller]
    pub fn fail_over(&self) {
        let old = self.primary().addr;
        let command = format!("SENTINEL FAILOVER {MASTER}");
        wait_until(PATIENCE, "the failover begins", || {
            // NOGOODSLAVE until the last one is over.
            self.sentinels[0].try_command(&command).is_ok()
        });
        wait_until(PATIENCE, "another primary", || self.primary().addr != old);
    }

    /// Every Sentinel knows a good replica and two other Sentinels.
    #[track_caller]
    pub fn wait_until_it_can_fail_over(&self) {
        wait_until(PATIENCE * 2, "the Sentinels know each other", || {
            self.sentinels.iter().all(|sentinel| {
                let quorum = sentinel.try_command(&format!("SENTINEL CKQUORUM {MASTER}"));
                let known = sentinel.master_field("num-slaves").as_deref() == Some("1")
                    && sentinel.master_field("num-other-sentinels").as_deref() == Some("2");
                quorum.is_ok() && known
            })
        });
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
        Self::build(&[], tls_addr, &file)
    }

    /// Two of three must agree, and half a second of silence is suspicious.
    fn sentinel(primary: SocketAddr) -> Self {
        let (ip, port) = (primary.ip(), primary.port());
        let file = [
            format!("sentinel monitor {MASTER} {ip} {port} 2"),
            format!("sentinel down-after-milliseconds {MASTER} 500"),
            format!("sentinel failover-timeout {MASTER} 3000"),
            "protected-mode no".to_owned(),
        ];
        Self::build(&["--sentinel"], None, &file)
    }

    fn build(
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

    /// Starts, without data, as what it was last, and waits until it answers.
    #[track_caller]
    pub fn start(&self) {
        let mut command = vec![installed("redis-server", "redis-server")];
        command.push(self.file().display().to_string());
        command.extend(self.mode.iter().map(|&word| word.to_owned()));
        self.slot.start(&command, self.dir.path());
        wait_until(PATIENCE, &format!("{} answers", self.addr), || {
            assert!(self.is_running(), "{} did not start", self.addr);
            self.try_command("PING").is_ok()
        });
    }

    /// `master` or `slave`, in its own words.
    pub fn role(&self) -> Option<String> {
        self.try_command("ROLE").ok()?.into_iter().next()
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

    /// A field of what a Sentinel tells of the master.
    fn master_field(&self, name: &str) -> Option<String> {
        let words = self
            .try_command(&format!("SENTINEL MASTER {MASTER}"))
            .ok()?;
        let mut pairs = words.chunks_exact(2);
        pairs
            .find(|pair| pair[0] == name)
            .map(|pair| pair[1].clone())
    }
}

impl Deref for RedisNode {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        &self.slot
    }
}

/// The port of the one that this Sentinel takes for the primary.
fn named_by(sentinel: &RedisNode) -> Option<u16> {
    let question = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {MASTER}");
    sentinel.try_command(&question).ok()?.get(1)?.parse().ok()
}
