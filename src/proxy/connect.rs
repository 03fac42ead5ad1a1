//! From a greeted client to a connected backend: route, pick, dial; redispatch
//! what failed before any byte was sent, wait where waiting may help.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio::io::AsyncWriteExt;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::net;
use crate::proxy::Shared;
use crate::proxy::dial;
use crate::proxy::dial::DialError;
use crate::proxy::dial::Target;
use crate::proxy::dialect::Dialect;
use crate::proxy::dialect::Peer;
use crate::proxy::handshake::Greeted;
use crate::proxy::handshake::Origin;
use crate::proxy::hold;
use crate::proxy::hold::Counting;
use crate::proxy::hold::Turn;
use crate::proxy::hold::WaitError;
use crate::proxy::hold::Waiting;
use crate::proxy::mysql::LateTls;
use crate::proxy::place::Place;
use crate::proxy::registry::SessionCell;
use crate::proxy::transport::Transport;
use crate::report::Report;
use crate::routing::BackendHandle;
use crate::routing::ClusterTable;
use crate::routing::Fate;
use crate::routing::KeySource;
use crate::routing::PickError;
use crate::routing::PickRequest;

/// After its connect, a held session keeps its turn this long: the login that
/// follows is what stampedes a backend that has just come back.
const LOGIN_PACE: Duration = Duration::from_millis(20);

/// A session's backend, ready to relay.
#[derive(Debug)]
pub struct Connected {
    pub backend: Transport,
    /// What it has said already; the client gets it first.
    pub answer: Vec<u8>,
    /// For the session to begin.
    pub late_tls: Option<LateTls>,
    pub peer: Peer,
    pub place: Place,
    /// Backends tried so far, this one last.
    pub tried: Vec<BackendId>,
    /// The cluster's `connect.attempts`.
    pub max_attempts: usize,
}

/// What another backend needs, should this one fail before a byte went either way.
#[derive(Debug)]
pub struct Again {
    pub origin: Origin,
    pub dialect: Dialect,
    pub cluster: Name,
    pub tried: Vec<BackendId>,
    /// Backends that failed untouched so far; waiting forgets `tried`, but not this.
    pub failed: usize,
    pub max_attempts: usize,
}

/// What one look at the table says.
enum Step {
    Dial(Box<Attempt>),
    Wait(PickError, Arc<ClusterTable>),
}

struct Attempt {
    target: Target,
    late_tls: Option<LateTls>,
    place: Place,
    max_attempts: usize,
}

/// One session on its way to a backend.
struct Journey<'a> {
    greeted: &'a Greeted,
    shared: &'a Shared,
    cell: &'a SessionCell,
    cluster: Name,
    tried: Vec<BackendId>,
    /// Dials since the last wait; at most `connect.attempts`.
    attempts: usize,
    last_failure: Option<Cause>,
    /// A backend said so since the last wait, whatever limit the file has.
    says_full: bool,
    /// The last wait was in the queue: whoever waits there comes later.
    is_called: bool,
    wait_started: Option<Instant>,
}

/// Finds a backend of `cluster` that is not among `tried` and connects to it.
///
/// # Errors
/// Nobody eligible in time, or every attempt failed.
pub async fn connect(
    greeted: &Greeted,
    cluster: Name,
    tried: Vec<BackendId>,
    shared: &Shared,
    cell: &SessionCell,
) -> Result<Connected, SessionEnd> {
    let journey = Journey {
        greeted,
        shared,
        cell,
        cluster,
        attempts: tried.len(),
        tried,
        last_failure: None,
        says_full: false,
        is_called: false,
        wait_started: None,
    };
    journey.travel().await
}

impl Journey<'_> {
    async fn travel(mut self) -> Result<Connected, SessionEnd> {
        let mut waiting = Waiting::new(self.cell, self.greeted.client.tcp());
        let mut turn: Option<Turn> = None;
        loop {
            match self.look()? {
                Step::Dial(attempt) => {
                    self.cell.set_phase(Phase::Connect);
                    match self.attempt(*attempt).await {
                        Ok(connected) => {
                            self.record_hold(&waiting);
                            waiting.serve(|| self.has_free_place());
                            pass_on(turn.filter(|_| waiting.was_held()));
                            return Ok(connected);
                        }
                        Err(Some(refused)) => return Err(refused),
                        Err(None) => {}
                    }
                }
                Step::Wait(why, table) => {
                    let why = match why {
                        PickError::AllTried if self.says_full => PickError::AllFull,
                        why => why,
                    };
                    if why == PickError::AllTried {
                        self.pause(&table).await;
                    }
                    // The turn came to nothing: it goes to the next in line while we wait.
                    drop(turn.take());
                    turn = Some(self.wait(&mut waiting, why, &table).await?);
                }
            }
        }
    }

    /// Reads one table: a pick, or why there is none.
    fn look(&self) -> Result<Step, SessionEnd> {
        let table = self.shared.table.load();
        let Some(cluster) = table.clusters.get(&self.cluster) else {
            return Err(refusal(Side::Proxy, Phase::Connect, Cause::NoRoute));
        };
        let max_attempts = cluster.config.connect.attempts.get() as usize;
        if self.attempts >= max_attempts {
            return Ok(Step::Wait(PickError::AllTried, Arc::clone(cluster)));
        }
        // Whoever waits for a place came first.
        let held_back = !self.is_called && !cluster.handle.queue(self.cell.intent.role).is_empty();
        if held_back {
            return Ok(Step::Wait(PickError::AllFull, Arc::clone(cluster)));
        }
        let parameter = self.greeted.parameter(&cluster.config.balance.key);
        let request = PickRequest {
            intent: self.cell.intent,
            source: KeySource {
                client: self.greeted.origin.client,
                sni: self.greeted.origin.sni.as_deref(),
                login: self.greeted.origin.login.keys(parameter.as_deref()),
            },
            tried: &self.tried,
            now: Instant::now(),
        };
        let picked = RANDOM.with_borrow_mut(|random| cluster.pick(&request, random));
        let (backend, guard) = match picked {
            Ok(picked) => picked,
            Err(why) => return Ok(Step::Wait(why, Arc::clone(cluster))),
        };
        let Some(address) = backend.address else {
            return Ok(Step::Wait(PickError::NoneEligible, Arc::clone(cluster)));
        };
        let mut target = Target::new(cluster, &backend.config, address, || {
            self.greeted.origin.preamble(self.greeted.client.tcp())
        });
        // TLS begins behind the server's greeting, and behind the client's login.
        let late_tls = match self.greeted.dialect {
            Dialect::MySql => target.tls.take(),
            Dialect::Opaque | Dialect::Postgres | Dialect::SealedPostgres | Dialect::Redis => None,
        };
        let late_tls = late_tls.map(|(connector, config)| LateTls {
            connector,
            config,
            address,
        });
        let limited = backend.config.max_connections.is_some() || self.greeted.dialect.tells_full();
        Ok(Step::Dial(Box::new(Attempt {
            target,
            late_tls,
            place: Place::new(guard, Arc::clone(&cluster.handle), limited),
            max_attempts,
        })))
    }

    fn has_free_place(&self) -> bool {
        let table = self.shared.table.load();
        let cluster = table.clusters.get(&self.cluster);
        cluster.is_some_and(|cluster| cluster.has_free_place(self.cell.intent))
    }

    /// One dial. `Err(None)` = try another backend.
    async fn attempt(&mut self, attempt: Attempt) -> Result<Connected, Option<SessionEnd>> {
        let started = Instant::now();
        let backend = Arc::clone(attempt.place.backend());
        let dialed = dial::dial(&attempt.target).await;
        let now = Instant::now();
        let took = now.saturating_duration_since(started);
        let mut stream = match dialed {
            Ok(stream) => stream,
            Err(failed) => {
                self.note_failure(&attempt, &failed);
                return Err(None);
            }
        };
        backend.count_connected();
        backend.record_latency(took, now);
        let metrics = &self.shared.metrics;
        metrics.record_connect_duration(&self.cluster, took);
        let answer = match self.first_answer(&mut stream, &attempt).await {
            Ok(answer) => answer,
            Err(failed) => {
                self.note_failure(&attempt, &failed);
                return Err(None);
            }
        };
        self.tried.push(backend.id);
        if let Fate::Sever { .. } | Fate::Grace { .. } = backend.fate(self.cell.intent) {
            // It died or was demoted while we connected, which its sessions are told and this one need not be.
            self.attempts += 1;
            return Err(None);
        }
        self.cell.set_backend(Some(Arc::clone(&backend)));
        if answer.is_none() {
            self.send_first_bytes(&mut stream).await.map_err(Some)?;
        }
        Ok(Connected {
            backend: stream,
            answer: answer.unwrap_or_default(),
            late_tls: attempt.late_tls,
            peer: Peer {
                backend,
                address: attempt.target.address,
                role: self.cell.intent.role,
            },
            place: attempt.place,
            tried: std::mem::take(&mut self.tried),
            max_attempts: attempt.max_attempts,
        })
    }

    /// Where the protocol has a first answer: sends what the client has said and waits for it.
    async fn first_answer(
        &self,
        stream: &mut Transport,
        attempt: &Attempt,
    ) -> Result<Option<Vec<u8>>, DialError> {
        let Greeted {
            client,
            dialect,
            first_bytes,
            ..
        } = self.greeted;
        let asked = Instant::now();
        let patience = attempt.target.timeout;
        let answer = tokio::select! {
            biased;
            answer = dialect.first_answer(client, stream, first_bytes, patience) => answer.transpose()?,
            cause = self.until_unfit(attempt.place.backend()) => {
                let error = io::Error::other("the backend was given up");
                return Err(DialError { cause, error });
            }
        };
        if answer.is_some() {
            let now = Instant::now();
            let latency = now.saturating_duration_since(asked);
            attempt.place.backend().record_latency(latency, now);
            self.cell.add_received(first_bytes.len());
        }
        Ok(answer)
    }

    /// Resolves when the sessions of a backend are to end: this one can still go elsewhere.
    async fn until_unfit(&self, backend: &BackendHandle) -> Cause {
        let mut published = self.shared.table.follow();
        loop {
            match backend.fate(self.cell.intent) {
                Fate::Sever { cause } | Fate::Grace { cause, .. } => return cause,
                Fate::Serve | Fate::Drain { .. } => {}
            }
            // The sender lives as long as the process.
            if published.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn note_failure(&mut self, attempt: &Attempt, failed: &DialError) {
        let backend = attempt.place.backend();
        self.tried.push(backend.id);
        self.attempts += 1;
        self.last_failure = Some(failed.cause);
        self.says_full |= failed.cause == Cause::TooManyConnections;
        backend.count_connect_error(failed.cause);
        if is_evidence(failed.cause) {
            self.shared.reporter.send(Report {
                backend: backend.id,
                cause: failed.cause,
            });
        }
        if let Some(admitted) = self
            .shared
            .dial_warnings
            .admit(failed.cause, Instant::now())
        {
            tracing::warn!(
                session = self.cell.id,
                cluster = %self.cluster,
                backend = %backend.name,
                cause = failed.cause.as_str(),
                error = %failed.error,
                attempt = self.attempts,
                attempts = attempt.max_attempts,
                suppressed = admitted.suppressed,
                "connect failed"
            );
        }
    }

    async fn send_first_bytes(&self, stream: &mut Transport) -> Result<(), SessionEnd> {
        let bytes = &self.greeted.first_bytes;
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = stream.write_all(bytes).await;
        // From here on the backend may have acted: no redispatch.
        sent.map_err(|error| refusal(Side::Backend, Phase::Connect, net::cause_of(&error)))?;
        self.cell.add_received(bytes.len());
        Ok(())
    }

    /// Everyone whom the table calls up has just failed; a moment later it knows better.
    /// The turn is kept meanwhile, so that the pace of the room bounds the retries.
    async fn pause(&self, table: &ClusterTable) {
        if !table.config.failover.hold.max_wait.is_zero() {
            self.cell.set_phase(Phase::Hold);
            tokio::time::sleep(table.config.health_check.fast_interval).await;
        }
    }

    async fn wait(
        &mut self,
        waiting: &mut Waiting<'_>,
        why: PickError,
        table: &ClusterTable,
    ) -> Result<Turn, SessionEnd> {
        self.wait_started.get_or_insert_with(Instant::now);
        if why == PickError::NoneEligible {
            // What a backend said before it was taken out is not why this client waits now.
            self.last_failure = None;
        }
        let failover = &table.config.failover;
        let (result, phase) = match why {
            PickError::AllFull => {
                let room = table.handle.queue(self.cell.intent.role);
                let counting = match self.says_full {
                    true => Counting::Theirs,
                    false => Counting::Ours,
                };
                let queued = waiting.queue(room, failover.queue, counting);
                (queued.await, Phase::Queue)
            }
            PickError::NoneEligible | PickError::AllTried => {
                if !waiting.was_held() && !failover.hold.max_wait.is_zero() {
                    table.handle.tally.count_held(Instant::now());
                }
                let room = table.handle.hold(self.cell.intent);
                (waiting.hold(&room, failover.hold).await, Phase::Hold)
            }
        };
        match result {
            Ok(turn) => {
                // The world has changed since: everyone may be tried again.
                self.tried.clear();
                self.attempts = 0;
                self.says_full = false;
                self.is_called = phase == Phase::Queue;
                Ok(turn)
            }
            Err(error) => {
                self.record_hold(waiting);
                if error != WaitError::ClientGone {
                    table.handle.tally.count_refused();
                }
                Err(self.refused(error, phase))
            }
        }
    }

    fn refused(&self, error: WaitError, phase: Phase) -> SessionEnd {
        if error == WaitError::ClientGone {
            return refusal(Side::Client, phase, Cause::Closed);
        }
        // Refused by backends, not for want of one: say what they said.
        match (phase, self.last_failure) {
            (Phase::Hold, Some(cause)) if error == WaitError::TimedOut => {
                refusal(Side::Backend, Phase::Connect, cause)
            }
            _ => refusal(Side::Proxy, phase, hold::refusal(error, phase)),
        }
    }

    fn record_hold(&self, waiting: &Waiting<'_>) {
        if let Some(started) = self.wait_started.filter(|_| waiting.was_held()) {
            let held = Instant::now().saturating_duration_since(started);
            let metrics = &self.shared.metrics;
            metrics.record_hold_duration(&self.cluster, held);
        }
    }
}

/// Our own shortage is no evidence against a backend, nor is what the control plane knows.
fn is_evidence(cause: Cause) -> bool {
    !matches!(
        cause,
        Cause::OutOfResources
            | Cause::BackendDead
            | Cause::BackendDemoted
            | Cause::BackendFenced
            | Cause::BackendLagging
    )
}

/// Lets the next held session go a moment after this one is connected.
fn pass_on(turn: Option<Turn>) {
    if let Some(turn) = turn {
        tokio::spawn(async move {
            tokio::time::sleep(LOGIN_PACE).await;
            drop(turn);
        });
    }
}

fn refusal(side: Side, phase: Phase, cause: Cause) -> SessionEnd {
    SessionEnd { side, phase, cause }
}

thread_local! {
    /// Each worker draws its own numbers.
    static RANDOM: std::cell::RefCell<fastrand::Rng> =
        std::cell::RefCell::new(fastrand::Rng::new());
}
