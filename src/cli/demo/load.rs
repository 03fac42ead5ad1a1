//! The demo's clients: writers on one port, readers on the other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle as ThreadHandle;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::demo::client::Client;
use crate::cli::demo::client::Trouble;
use crate::cli::demo::ledger::Doing;
use crate::cli::demo::ledger::Ledger;
use crate::cli::demo::ledger::Purpose;
use crate::cli::demo::sql;

pub const WRITERS: u64 = 8;
pub const READERS: u64 = 8;
/// A client that cannot connect must not spin.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Where clients go and how they behave.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    pub write: SocketAddr,
    pub read: SocketAddr,
    /// Between two statements, on average.
    pub think_time: Duration,
    /// A session ends after half of this to all of it; its client connects anew.
    pub lifetime: Duration,
}

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
    habits: Habits,
    ledger: Arc<Ledger>,
    next_id: AtomicU64,
    ending: AtomicBool,
}

impl Load {
    pub fn start(habits: Habits, ledger: Arc<Ledger>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let clients = Arc::new(Clients {
            habits,
            ledger,
            next_id: AtomicU64::new(1),
            ending: AtomicBool::new(false),
        });
        let stop = CancellationToken::new();
        let (done, finished) = oneshot::channel();
        let (running, stopped) = (Arc::clone(&clients), stop.clone());
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

    /// Nobody begins anything new.
    pub fn wind_down(&self) {
        self.clients.ending.store(true, Ordering::SeqCst);
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
    for seed in 0..WRITERS {
        running.spawn(Arc::clone(&clients).live(Purpose::Write, seed));
    }
    for seed in 0..READERS {
        running.spawn(Arc::clone(&clients).live(Purpose::Read, WRITERS + seed));
    }
    running.join_all().await;
}

impl Clients {
    /// One session after another.
    async fn live(self: Arc<Self>, purpose: Purpose, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        while !self.is_ending() {
            let begun = self.ledger.clock.now();
            let (client, port) = match self.connect(purpose).await {
                Ok(connected) => connected,
                Err(trouble) => {
                    self.ledger
                        .failed(purpose, Doing::Connecting, trouble, begun);
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            self.ledger.opened(purpose, port, begun);
            let lifetime = self.habits.lifetime.mul_f64(0.5 + random.f64() / 2.0);
            self.converse(purpose, client, lifetime, &mut random).await;
        }
    }

    /// A session, and the port of the server that it is with.
    async fn connect(&self, purpose: Purpose) -> Result<(Client, u16), Trouble> {
        let target = match purpose {
            Purpose::Write => self.habits.write,
            Purpose::Read => self.habits.read,
        };
        let mut client = Client::connect(target).await?;
        let answer = client.query(sql::LOOK).await?;
        let port = answer.first("port").and_then(|port| port.parse().ok());
        Ok((client, port.ok_or(Trouble::Garbled)?))
    }

    /// Many statements, until the session is old or gone.
    async fn converse(
        &self,
        purpose: Purpose,
        mut client: Client,
        lifetime: Duration,
        random: &mut fastrand::Rng,
    ) {
        let until = Instant::now() + lifetime;
        while !self.is_ending() && Instant::now() < until {
            let begun = self.ledger.clock.now();
            if let Err(trouble) = self.ask(purpose, &mut client).await {
                return self.ledger.failed(purpose, Doing::Asking, trouble, begun);
            }
            let think_time = self.habits.think_time.mul_f64(0.5 + random.f64());
            let begun = self.ledger.clock.now();
            if let Err(trouble) = client.idle(think_time).await {
                return self.ledger.failed(purpose, Doing::Idling, trouble, begun);
            }
        }
        client.leave().await;
    }

    /// No write is tried twice: what its client does not know, nobody makes up.
    async fn ask(&self, purpose: Purpose, client: &mut Client) -> Result<(), Trouble> {
        match purpose {
            Purpose::Write => {
                let id = self.next_id.fetch_add(1, Ordering::Relaxed);
                client.query(&sql::insert(id)).await?;
                self.ledger.wrote(id);
            }
            Purpose::Read => {
                client.query(sql::LOOK).await?;
                self.ledger.read_rows();
            }
        }
        Ok(())
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }
}
