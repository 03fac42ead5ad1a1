//! A PostgreSQL primary with streaming replicas.

use std::path::Path;
use std::path::PathBuf;
use std::thread;

use super::netns::Place;
use super::pg_node::Blueprint;
use super::pg_node::PgNode;
use super::ports::free_port;

/// Asynchronous replication. Who is primary changes; `node(0)` is the first one for ever.
pub struct PostgresCluster {
    nodes: Vec<PgNode>,
}

/// How to start; `PostgresCluster::with()` begins one.
pub struct Launch {
    replicas: usize,
    places: Vec<Place>,
    settings: Vec<String>,
    tls: Option<(PathBuf, PathBuf)>,
}

/// `fsync=off` loses nothing when processes are killed: what they wrote is with the kernel. Only a
/// crash of the machine would, and that ends the test too.
const SETTINGS: [&str; 19] = [
    "fsync=off",
    "shared_buffers=16MB",
    "max_connections=200",
    "superuser_reserved_connections=3",
    "wal_level=replica",
    "hot_standby=on",
    // For pg_rewind.
    "wal_log_hints=on",
    // A replica that was away for a test finds what it missed.
    "wal_keep_size=1GB",
    "max_wal_senders=10",
    "max_wal_size=4GB",
    "wal_retrieve_retry_interval=100ms",
    "wal_receiver_status_interval=1s",
    "wal_receiver_timeout=5s",
    "wal_sender_timeout=5s",
    "autovacuum=off",
    "max_worker_processes=4",
    "max_logical_replication_workers=0",
    "log_min_messages=warning",
    "log_line_prefix=%m [%p] ",
];

impl PostgresCluster {
    /// A primary and this many replicas that stream from it.
    #[track_caller]
    pub fn start(replicas: usize) -> Self {
        Self::with().replicas(replicas).start()
    }

    pub fn with() -> Launch {
        Launch {
            replicas: 2,
            places: Vec::new(),
            settings: SETTINGS.map(str::to_owned).to_vec(),
            tls: None,
        }
    }

    /// In the order of their start; the first primary is first.
    pub fn nodes(&self) -> &[PgNode] {
        &self.nodes
    }

    #[track_caller]
    pub fn node(&self, index: usize) -> &PgNode {
        &self.nodes[index]
    }

    /// Of the nodes that can answer and are not in recovery, the one on the highest timeline.
    #[track_caller]
    pub fn primary(&self) -> &PgNode {
        let primaries = self.answering().filter(|node| !node.is_in_recovery());
        let primary = primaries.max_by_key(|node| node.timeline());
        primary.expect("no primary answers")
    }

    /// The nth of the nodes that can answer and are in recovery.
    #[track_caller]
    pub fn replica(&self, index: usize) -> &PgNode {
        let mut replicas = self.answering().filter(|node| node.is_in_recovery());
        replicas.nth(index).expect("too few replicas answer")
    }

    /// Promotes the nth replica and lets the other running replicas follow it.
    #[track_caller]
    pub fn fail_over_to(&self, replica: usize) -> &PgNode {
        let promoted = self.replica(replica);
        promoted.promote();
        for other in self.answering().filter(|node| node.is_in_recovery()) {
            other.follow(promoted);
        }
        promoted
    }

    fn answering(&self) -> impl Iterator<Item = &PgNode> {
        let running = |node: &&PgNode| node.is_running() && !node.is_frozen();
        self.nodes.iter().filter(running)
    }
}

impl Launch {
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// `max_connections`, three of them for superusers only.
    pub fn connections(self, limit: u32) -> Self {
        self.setting(&format!("max_connections={limit}"))
    }

    /// `name=value`; a later one wins.
    pub fn setting(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// Where the nodes run, the first primary first; those that are not named run on this host.
    ///
    /// Nodes reach each other only if their networks do: see `Netns::forward`.
    pub fn places(mut self, places: &[Place]) -> Self {
        self.places = places.to_vec();
        self
    }

    /// A certificate and its key, PEM, for clients that ask for TLS.
    pub fn tls(mut self, certificate: &Path, key: &Path) -> Self {
        self.tls = Some((certificate.to_owned(), key.to_owned()));
        self
    }

    #[track_caller]
    pub fn start(self) -> PostgresCluster {
        let nodes: Vec<PgNode> = (0..=self.replicas)
            .map(|index| {
                PgNode::build(&Blueprint {
                    name: format!("n{}", index + 1),
                    place: self.places.get(index).unwrap_or(&Place::host()),
                    port: free_port(),
                    settings: &self.settings,
                    tls: self.tls.as_ref(),
                })
            })
            .collect();
        for replica in &nodes[1..] {
            replica.become_replica_of(&nodes[0]);
        }
        thread::scope(|scope| {
            for node in &nodes {
                scope.spawn(|| node.start());
            }
        });
        for replica in &nodes[1..] {
            nodes[0].wait_until_it_feeds(replica.name());
        }
        PostgresCluster { nodes }
    }
}
