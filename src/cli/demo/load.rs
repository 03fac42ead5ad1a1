//! The demo's clients: sessions that stay connected, and streams of short connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle as ThreadHandle;
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cli::demo::BACKENDS;
use crate::cli::demo::backend::MAX_LINE_BYTES;
use crate::cli::demo::ledger::Ledger;
use crate::cli::demo::ledger::Session;
use crate::cli::demo::measure::Kind;
use crate::cli::demo::measure::What;
use crate::cli::demo::wire;
use crate::cli::demo::wire::WrongAnswer;

pub const KEPT_SESSIONS: u64 = 32;
pub const SHORT_STREAMS: u64 = 4;

/// Together about 1,300 requests a second: visible, and little for two busy cores.
const THINK_TIME: Duration = Duration::from_millis(25);
/// Between two connections of a stream: together about 150 a second.
const STREAM_PAUSE: Duration = Duration::from_millis(25);
/// How long a client waits for anything. A hang becomes a failure, and the demo goes on.
const PATIENCE: Duration = Duration::from_secs(10);
/// A client that cannot connect must not spin.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Ids of short connections start above those of kept sessions.
const IDS_PER_STREAM: u64 = 1 << 32;

/// The running load, on a thread of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Load {
    clients: Arc<Clients>,
    finished: Option<oneshot::Receiver<()>>,
    stop: CancellationToken,
    thread: Option<ThreadHandle<()>>,
}

#[derive(Debug)]
struct Clients {
    target: SocketAddr,
    /// A kept session connects anew after half of this to all of it.
    lifetime: Duration,
    ledger: Arc<Ledger>,
    /// Nobody may connect any more.
    ending: AtomicBool,
    /// Clients that are about to be connected and greeted.
    connecting: AtomicUsize,
}

struct Connection {
    session: Session,
    backend: &'static str,
    stream: BufReader<TcpStream>,
}

/// Counts one client as connecting.
struct Connecting<'a>(&'a AtomicUsize);

impl Load {
    pub fn start(target: SocketAddr, lifetime: Duration, ledger: Arc<Ledger>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let clients = Arc::new(Clients {
            target,
            lifetime,
            ledger,
            ending: AtomicBool::new(false),
            connecting: AtomicUsize::new(0),
        });
        let stop = CancellationToken::new();
        let (done, finished) = oneshot::channel();
        let running = Arc::clone(&clients);
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("demo-load".to_owned())
            .spawn(move || {
                let all = runtime.block_on(stopped.run_until_cancelled(run(running)));
                if all.is_some() {
                    // The script may be gone already.
                    let _ = done.send(());
                }
            })?;
        Ok(Self {
            clients,
            finished: Some(finished),
            stop,
            thread: Some(thread),
        })
    }

    /// Lets nobody connect any more; open sessions go on to their end. Returns when nobody is
    /// in the middle of connecting.
    pub async fn stop_connecting(&self) {
        self.clients.ending.store(true, Ordering::SeqCst);
        while self.clients.connecting.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Resolves when every client has ended; true if all ended by themselves.
    pub async fn finished(&mut self) -> bool {
        match self.finished.take() {
            Some(finished) => finished.await.is_ok(),
            None => false,
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed, and shows as a load that did not finish.
            let _ = thread.join();
        }
    }
}

/// Runs all clients; a panic of one ends the load, so that it cannot go unseen.
async fn run(clients: Arc<Clients>) {
    let mut running = JoinSet::new();
    for id in 1..=KEPT_SESSIONS {
        running.spawn(Arc::clone(&clients).keep(id));
    }
    for stream in 1..=SHORT_STREAMS {
        running.spawn(Arc::clone(&clients).come_and_go(stream));
    }
    running.join_all().await;
}

impl Clients {
    /// One session after another, each with many requests.
    async fn keep(self: Arc<Self>, id: u64) {
        let mut random = fastrand::Rng::with_seed(id);
        let mut number = 0;
        let mut failed = false;
        while !self.is_ending() {
            let Some(mut connection) = self.connect(id, Kind::Kept).await else {
                failed |= !self.is_ending();
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            };
            let lifetime = self.lifetime.mul_f64(0.5 + random.f64() / 2.0);
            let until = Instant::now() + lifetime;
            let result = loop {
                number += 1;
                if let Err(what) = connection.ask(number).await {
                    break Err(what);
                }
                self.ledger.answered();
                if std::mem::take(&mut failed) {
                    self.ledger.recovered(id);
                }
                if Instant::now() >= until {
                    break connection.leave().await;
                }
                let think_time = THINK_TIME.mul_f64(0.5 + random.f64());
                if let Err(what) = connection.idle(think_time).await {
                    break Err(what);
                }
            };
            failed = result.is_err();
            self.ledger.ended(&connection.session, result);
        }
    }

    /// One connection after another, each with one request.
    async fn come_and_go(self: Arc<Self>, stream: u64) {
        let mut id = stream * IDS_PER_STREAM;
        while !self.is_ending() {
            id += 1;
            if let Some(mut connection) = self.connect(id, Kind::Short).await {
                let mut result = connection.ask(1).await;
                if result.is_ok() {
                    self.ledger.answered();
                    result = connection.leave().await;
                }
                self.ledger.ended(&connection.session, result);
            }
            tokio::time::sleep(STREAM_PAUSE).await;
        }
    }

    /// `None` when the load ends, or after a failure that is in the ledger then.
    async fn connect(&self, id: u64, kind: Kind) -> Option<Connection> {
        let _connecting = Connecting::new(&self.connecting);
        // Counted first: whoever waits for zero sees us, or we see that it is over.
        if self.is_ending() {
            return None;
        }
        let mut session = Session {
            id,
            kind,
            begun: self.ledger.clock.now(),
            backend: None,
        };
        let connected = timeout(PATIENCE, greeted(self.target)).await;
        match connected.unwrap_or(Err(What::NotGreeted)) {
            Ok((backend, stream)) => {
                session.backend = Some(backend);
                self.ledger.greeted(&session, backend);
                Some(Connection {
                    session,
                    backend,
                    stream,
                })
            }
            Err(what) => {
                self.ledger.ended(&session, Err(what));
                None
            }
        }
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }
}

async fn greeted(target: SocketAddr) -> Result<(&'static str, BufReader<TcpStream>), What> {
    let stream = TcpStream::connect(target).await;
    let stream = stream.map_err(|_| What::NotGreeted)?;
    stream.set_nodelay(true).map_err(|_| What::NotGreeted)?;
    let mut stream = BufReader::new(stream);
    let line = read_line(&mut stream).await.ok_or(What::NotGreeted)?;
    let greeter = wire::greeter(&line);
    let backend = greeter.and_then(|greeter| BACKENDS.into_iter().find(|name| *name == greeter));
    let backend = backend.ok_or(What::Wrong(WrongAnswer::Corrupted))?;
    Ok((backend, stream))
}

/// A whole line; `None` when the connection ended first.
async fn read_line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let read = stream.take(MAX_LINE_BYTES).read_line(&mut line).await;
    let ended = read.is_err() || (!line.ends_with('\n') && line.len() < MAX_LINE_BYTES as usize);
    (!ended).then_some(line)
}

impl Connection {
    async fn ask(&mut self, number: u64) -> Result<(), What> {
        let id = self.session.id;
        let request = wire::request(id, number);
        let exchange = async {
            let sent = self.stream.get_mut().write_all(request.as_bytes()).await;
            sent.ok()?;
            read_line(&mut self.stream).await
        };
        let line = timeout(PATIENCE, exchange).await.ok().flatten();
        let line = line.ok_or(What::Unanswered)?;
        wire::check(&line, self.backend, id, number).map_err(What::Wrong)
    }

    /// Waits, and watches: nothing may come while nothing is asked.
    async fn idle(&mut self, think_time: Duration) -> Result<(), What> {
        tokio::select! {
            () = tokio::time::sleep(think_time) => Ok(()),
            early = self.stream.fill_buf() => match early {
                Ok([]) | Err(_) => Err(What::Cut),
                Ok(_) => Err(What::Wrong(WrongAnswer::Duplicated)),
            },
        }
    }

    /// Ends in the orderly way: says so, and reads to the end.
    async fn leave(&mut self) -> Result<(), What> {
        let leave = async {
            self.stream.get_mut().shutdown().await?;
            self.stream.fill_buf().await.map(<[u8]>::len)
        };
        match timeout(PATIENCE, leave).await {
            Ok(Ok(0)) => Ok(()),
            Ok(Ok(_)) => Err(What::Wrong(WrongAnswer::Duplicated)),
            Ok(Err(_)) | Err(_) => Err(What::Cut),
        }
    }
}

impl<'a> Connecting<'a> {
    fn new(connecting: &'a AtomicUsize) -> Self {
        connecting.fetch_add(1, Ordering::SeqCst);
        Self(connecting)
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
