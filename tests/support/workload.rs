//! Load that knows which of its writes were acknowledged, and judges a cluster by them.
//!
//! Writers insert ids that occur once, each as one statement without a transaction, and never
//! repeat an id: what happened to it is known to the writer or unknown, and the verdict reads the
//! rest from the primary of the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use rustls::ClientConfig;

use super::PATIENCE;
use super::client::Dialect;
use super::client::Failure;
use super::client::Session;
use super::client::USER;
use super::wait_for;
use super::wait_until;

/// How soon the oracle looks at every node again.
const ORACLE_PERIOD: Duration = Duration::from_millis(10);
/// An oracle that waits for one node longer than this loses nothing: another thread asks the rest.
const ORACLE_PATIENCE: Duration = Duration::from_secs(1);
/// An application that could not connect comes back after this.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

/// One write, or one new connection that came to nothing.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Who tried; an oracle's writers are its nodes.
    pub writer: usize,
    /// `None`: there was no session to write in.
    pub id: Option<u64>,
    pub began: Instant,
    pub ended: Instant,
    /// `Ok` is acknowledged.
    pub result: Result<(), Failure>,
}

/// All that writers saw.
#[derive(Debug, Clone)]
pub struct Record {
    pub dialect: Dialect,
    pub table: String,
    pub began: Instant,
    pub ended: Instant,
    /// In the order of their ends.
    pub attempts: Vec<Attempt>,
}

/// Applications: each writer has one session and makes a new one when it fails.
pub struct Workload {
    running: Running,
}

/// A writer that knows all nodes and tries each of them every 10 ms: no proxy can be faster, so
/// its outage is the baseline.
pub struct OracleWriter {
    running: Running,
}

/// How to start; `Workload::through` begins one.
pub struct Launch {
    dialect: Dialect,
    addr: SocketAddr,
    user: String,
    table: String,
    writers: usize,
    pause: Duration,
    patience: Duration,
    session_writes: u64,
    tls: Option<Arc<ClientConfig>>,
}

impl Workload {
    /// Writes through this address: a listener's or a node's.
    pub fn through(dialect: Dialect, addr: SocketAddr) -> Launch {
        Launch {
            dialect,
            addr,
            user: USER.to_owned(),
            table: "writes".to_owned(),
            writers: 4,
            pause: Duration::from_millis(2),
            patience: Duration::from_secs(90),
            session_writes: u64::MAX,
            tls: None,
        }
    }

    /// How many writes were acknowledged until now.
    pub fn acknowledged(&self) -> u64 {
        self.running.shared.acknowledged.load(Ordering::Acquire)
    }

    /// Waits until this many more writes were acknowledged: the load runs, or runs again.
    #[track_caller]
    pub fn wait_for_writes(&self, more: u64) {
        let goal = self.acknowledged() + more;
        let what = format!("{more} more acknowledged writes");
        wait_until(PATIENCE * 2, &what, || self.acknowledged() >= goal);
    }

    /// Waits until this many more failures of a kind were seen.
    #[track_caller]
    pub fn wait_for_failures(&self, more: usize, kind: fn(&Failure) -> bool) {
        let attempts = &self.running.shared.attempts;
        let seen = || {
            let attempts = attempts.lock().unwrap();
            let failures = attempts
                .iter()
                .filter_map(|attempt| attempt.result.as_ref().err());
            failures.filter(|failure| kind(failure)).count()
        };
        let goal = seen() + more;
        wait_until(PATIENCE * 2, &format!("{more} more failures"), || {
            seen() >= goal
        });
    }

    /// Waits until each writer had a write acknowledged that began after this call.
    #[track_caller]
    pub fn wait_for_every_writer(&self) {
        let now = Instant::now();
        let writers = self.running.threads.len();
        wait_until(PATIENCE * 2, "every writer writes", || {
            let attempts = self.running.shared.attempts.lock().unwrap();
            let recent = attempts
                .iter()
                .rev()
                .take_while(|attempt| attempt.ended > now);
            let mut good = vec![false; writers];
            for attempt in recent.filter(|attempt| attempt.began > now) {
                good[attempt.writer] |= attempt.result.is_ok();
            }
            good.iter().all(|good| *good)
        });
    }

    /// Lets each writer end its write.
    pub fn finish(self) -> Record {
        self.running.finish()
    }
}

impl Launch {
    pub fn user(mut self, user: &str) -> Self {
        self.user = user.to_owned();
        self
    }

    /// Redis: the key of a list.
    pub fn table(mut self, table: &str) -> Self {
        self.table = table.to_owned();
        self
    }

    pub fn writers(mut self, writers: usize) -> Self {
        self.writers = writers;
        self
    }

    /// Between two writes of one writer.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// How long a writer waits for a connection or an answer; more than a hold lasts.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// As many writes in each session, then a new one: places are given back.
    pub fn session_writes(mut self, writes: u64) -> Self {
        self.session_writes = writes;
        self
    }

    /// Redis: within TLS.
    pub fn tls(mut self, config: &Arc<ClientConfig>) -> Self {
        self.tls = Some(Arc::clone(config));
        self
    }

    /// Makes the table if it is missing, and starts.
    #[track_caller]
    pub fn start(self) -> Workload {
        make_table(self.dialect, &[self.addr], &self.table);
        let shared = Shared::new(self.dialect, self.table);
        let threads = (0..self.writers).map(|index| {
            let writer = Writer {
                index,
                addr: self.addr,
                user: self.user.clone(),
                patience: self.patience,
                tls: self.tls.clone(),
                shared: Arc::clone(&shared),
            };
            let (pause, session_writes) = (self.pause, self.session_writes);
            thread::spawn(move || writer.write_as_an_application(pause, session_writes))
        });
        let threads = threads.collect();
        Workload {
            running: Running { shared, threads },
        }
    }
}

impl OracleWriter {
    /// Makes its own table on the node that lets it, and starts.
    #[track_caller]
    pub fn start(dialect: Dialect, nodes: &[SocketAddr]) -> Self {
        let table = "oracle_writes".to_owned();
        make_table(dialect, nodes, &table);
        let shared = Shared::new(dialect, table);
        let threads = nodes.iter().enumerate().map(|(index, addr)| {
            let writer = Writer {
                index,
                addr: *addr,
                user: USER.to_owned(),
                patience: ORACLE_PATIENCE,
                tls: None,
                shared: Arc::clone(&shared),
            };
            thread::spawn(move || writer.write_as_an_oracle())
        });
        let threads = threads.collect();
        Self {
            running: Running { shared, threads },
        }
    }

    pub fn finish(self) -> Record {
        self.running.finish()
    }
}

/// Ends its threads when it is dropped, also by a panic.
struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    dialect: Dialect,
    table: String,
    began: Instant,
    stop: AtomicBool,
    acknowledged: AtomicU64,
    attempts: Mutex<Vec<Attempt>>,
}

impl Shared {
    fn new(dialect: Dialect, table: String) -> Arc<Self> {
        Arc::new(Self {
            dialect,
            table,
            began: Instant::now(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            attempts: Mutex::new(Vec::new()),
        })
    }
}

impl Running {
    fn finish(mut self) -> Record {
        let ended = Instant::now();
        self.stop();
        let attempts = std::mem::take(&mut *self.shared.attempts.lock().unwrap());
        Record {
            dialect: self.shared.dialect,
            table: self.shared.table.clone(),
            began: self.shared.began,
            ended,
            attempts,
        }
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A writer that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Writer {
    index: usize,
    addr: SocketAddr,
    user: String,
    patience: Duration,
    tls: Option<Arc<ClientConfig>>,
    shared: Arc<Shared>,
}

impl Writer {
    /// A new session at once when a statement failed, and after a pause when there was none.
    fn write_as_an_application(&self, pause: Duration, session_writes: u64) {
        let mut session = None;
        let mut written = 0;
        for id in self.ids() {
            if session.is_none() {
                session = self.open();
                written = 0;
            }
            let Some(open) = &mut session else {
                thread::sleep(RECONNECT_PAUSE);
                continue;
            };
            written += 1;
            if self.write(open, id).is_err() || written == session_writes {
                session = None;
            }
            thread::sleep(pause);
        }
    }

    /// Keeps a session that is told "read-only": its server may be promoted.
    fn write_as_an_oracle(&self) {
        let mut session = None;
        for id in self.ids() {
            let began = Instant::now();
            if session.is_none() {
                session = self.open();
            }
            if let Some(open) = &mut session {
                match self.write(open, id) {
                    Err(failure) if !failure.is_read_only() => session = None,
                    _ => {}
                }
            }
            thread::sleep(ORACLE_PERIOD.saturating_sub(began.elapsed()));
        }
    }

    /// The writer in the upper half, so that no two have the same; ends when the load does.
    fn ids(&self) -> impl Iterator<Item = u64> {
        let first = (self.index as u64) << 32;
        (first..).take_while(|_| !self.shared.stop.load(Ordering::Acquire))
    }

    fn open(&self) -> Option<Session> {
        let began = Instant::now();
        let (dialect, user) = (self.shared.dialect, &self.user);
        let opened = match &self.tls {
            None => Session::open(dialect, self.addr, user, self.patience),
            Some(tls) => Session::open_tls(dialect, self.addr, user, self.patience, tls),
        };
        match opened {
            Ok(session) => Some(session),
            Err(failure) => {
                self.keep(None, began, Err(failure));
                None
            }
        }
    }

    fn write(&self, session: &mut Session, id: u64) -> Result<(), Failure> {
        let table = &self.shared.table;
        let statement = match self.shared.dialect {
            Dialect::Postgres | Dialect::MariaDb => format!("insert into {table} values ({id})"),
            // A list, unlike keys, would show a write that was made twice.
            Dialect::Redis => format!("RPUSH {table} {id}"),
        };
        let began = Instant::now();
        let result = session.query(&statement).map(|_| ());
        self.keep(Some(id), began, result.clone());
        result
    }

    fn keep(&self, id: Option<u64>, began: Instant, result: Result<(), Failure>) {
        if result.is_ok() {
            self.shared.acknowledged.fetch_add(1, Ordering::AcqRel);
        }
        let mut attempts = self.shared.attempts.lock().unwrap();
        attempts.push(Attempt {
            writer: self.index,
            id,
            began,
            // With the lock held: the order of the list is the order of time.
            ended: Instant::now(),
            result,
        });
    }
}

/// Tries every address until one lets it.
#[track_caller]
fn make_table(dialect: Dialect, addrs: &[SocketAddr], table: &str) {
    if dialect == Dialect::Redis {
        return;
    }
    // No key: a second row of the same id must be possible to be seen.
    let statement = format!("create table if not exists {table} (id bigint not null)");
    let mut next = addrs.iter().cycle();
    wait_for(PATIENCE, &format!("{table} is made"), || {
        let addr = *next.next()?;
        let mut session = Session::open(dialect, addr, USER, Duration::from_secs(2)).ok()?;
        session.query(&statement).ok()
    });
}
