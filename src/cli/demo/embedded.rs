//! Three embedded servers on an event loop of their own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle as ThreadHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cli::demo::MEMBERS;
use crate::cli::demo::history::History;
use crate::cli::demo::node::Ending;
use crate::cli::demo::node::Node;

/// How late replicas are: long enough that a crash finds writes that only the primary has.
const REPLICATION_DELAY: Duration = Duration::from_millis(5);

/// A primary and its replicas, in this process.
#[derive(Debug)]
pub struct Embedded {
    history: Arc<History>,
    nodes: Vec<Node>,
    stop: CancellationToken,
    thread: Option<ThreadHandle<()>>,
}

impl Embedded {
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let history = Arc::new(History::new());
        let handle = runtime.handle().clone();
        let nodes =
            (0..MEMBERS).map(|index| Node::new(index, Arc::clone(&history), handle.clone()));
        let mut nodes: Vec<_> = nodes.collect::<io::Result<_>>()?;
        for node in &mut nodes {
            node.start()?;
        }
        let stop = CancellationToken::new();
        let (stopped, replicated) = (stop.clone(), Arc::clone(&history));
        let thread = std::thread::Builder::new()
            .name("demo-servers".to_owned())
            .spawn(move || {
                runtime.block_on(stopped.run_until_cancelled(async {
                    loop {
                        tokio::time::sleep(REPLICATION_DELAY).await;
                        replicated.replicate();
                    }
                }));
            })?;
        Ok(Self {
            history,
            nodes,
            stop,
            thread: Some(thread),
        })
    }

    pub fn address(&self, server: usize) -> SocketAddr {
        self.nodes[server].address()
    }

    pub async fn kill(&mut self, server: usize) {
        self.nodes[server].stop(Ending::Crash).await;
    }

    pub async fn shut_down(&mut self, server: usize) {
        self.nodes[server].stop(Ending::Shutdown).await;
    }

    pub fn promote(&self, server: usize) {
        self.history.promote(server);
    }

    pub fn follow(&self, server: usize, upstream: usize) {
        self.history.follow(server, upstream);
    }

    /// Starts it as what it was.
    pub fn start_again(&mut self, server: usize) -> io::Result<()> {
        self.nodes[server].start()
    }

    /// Makes a former primary a replica and starts it.
    pub async fn rejoin(&mut self, server: usize, upstream: usize) -> io::Result<()> {
        self.nodes[server].stop(Ending::Shutdown).await;
        self.history.rewind(server, upstream);
        self.history.follow(server, upstream);
        self.nodes[server].start()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed, and shows as broken promises.
            let _ = thread.join();
        }
    }
}
