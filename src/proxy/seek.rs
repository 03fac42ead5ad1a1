//! Looks for a backend with a free place, and waits where waiting may help: one client's way
//! through tables, waiting rooms and backends that failed, whatever the protocol.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::cluster::WantedRole;
use crate::config::Intent;
use crate::proxy::Shared;
use crate::proxy::dial::DialError;
use crate::proxy::hold;
use crate::proxy::hold::Counting;
use crate::proxy::hold::Turn;
use crate::proxy::hold::WaitError;
use crate::proxy::hold::Waiting;
use crate::proxy::hold::Watched;
use crate::proxy::place::Place;
use crate::report::Report;
use crate::routing::BackendEntry;
use crate::routing::BackendHandle;
use crate::routing::ClusterTable;
use crate::routing::KeySource;
use crate::routing::PickError;
use crate::routing::PickRequest;

/// Between two looks at a backend that is doubted.
const DOUBT_PAUSE: Duration = Duration::from_millis(2);

/// Who seeks, and what a pick may know of it.
pub trait Asker: Watched {
    fn intent(&self) -> Intent;

    /// What the cluster's hash may use; `look` gets it, because parts of it may be made for
    /// this cluster alone.
    fn with_source<T>(&self, cluster: &ClusterTable, look: impl FnOnce(KeySource<'_>) -> T) -> T;

    /// The backend says itself that it is full, whatever limit the file has.
    fn tells_full(&self) -> bool;

    /// The backend that this client had before.
    fn prefers(&self, _cluster: &ClusterTable) -> Option<BackendId> {
        None
    }
}

/// One client on its way to a backend.
pub struct Seeker<'a, A: Asker> {
    pub asker: &'a A,
    shared: &'a Shared,
    pub cluster: Name,
    pub tried: Vec<BackendId>,
    /// Attempts since the last wait; at most `connect.attempts`.
    pub attempts: usize,
    last_failure: Option<Cause>,
    /// A backend said so since the last wait.
    says_full: bool,
    /// The last wait was in the queue: whoever waits there comes later.
    is_called: bool,
    wait_started: Option<Instant>,
    waiting: Waiting<'a, A>,
    turn: Option<Turn>,
}

/// A place on a backend, and the table that gave it.
pub struct Found {
    pub cluster: Arc<ClusterTable>,
    /// Position in the cluster's backends.
    backend: usize,
    pub place: Place,
}

enum Step {
    Found(Found),
    Wait(PickError, Arc<ClusterTable>),
}

impl Found {
    pub fn backend(&self) -> &BackendEntry {
        &self.cluster.backends[self.backend]
    }

    /// The table's cluster, the backend's position in it, the place.
    pub fn into_parts(self) -> (Arc<ClusterTable>, usize, Place) {
        (self.cluster, self.backend, self.place)
    }

    pub fn max_attempts(&self) -> usize {
        self.cluster.config.connect.attempts.get() as usize
    }
}

impl<'a, A: Asker> Seeker<'a, A> {
    pub fn new(asker: &'a A, cluster: Name, tried: Vec<BackendId>, shared: &'a Shared) -> Self {
        Self {
            asker,
            shared,
            cluster,
            attempts: tried.len(),
            tried,
            last_failure: None,
            says_full: false,
            is_called: false,
            wait_started: None,
            waiting: Waiting::new(asker),
            turn: None,
        }
    }

    /// A backend that was not tried since the last wait.
    ///
    /// # Errors
    /// Nobody eligible in time, or every attempt failed.
    pub async fn next(&mut self) -> Result<Found, SessionEnd> {
        loop {
            let (why, table) = match self.look()? {
                Step::Found(found) if self.is_doubted(&found) => {
                    drop(found);
                    Box::pin(tokio::time::sleep(DOUBT_PAUSE)).await;
                    continue;
                }
                Step::Found(found) => return Ok(found),
                Step::Wait(why, table) => (why, table),
            };
            // Boxed: most find a place at once, and carry no waiting room with them.
            Box::pin(self.wait_again(why, &table)).await?;
        }
    }

    /// It has just refused a write; what that means is known in a moment.
    fn is_doubted(&self, found: &Found) -> bool {
        self.asker.intent().role == WantedRole::Primary
            && found.place.backend().is_doubted(Instant::now())
    }

    async fn wait_again(&mut self, why: PickError, table: &ClusterTable) -> Result<(), SessionEnd> {
        let why = match why {
            PickError::AllTried if self.says_full => PickError::AllFull,
            why => why,
        };
        if why == PickError::AllTried {
            self.pause(table).await;
        }
        // The turn came to nothing: it goes to the next in line while we wait.
        drop(self.turn.take());
        self.turn = Some(self.wait(why, table).await?);
        Ok(())
    }

    /// A backend with a free place now; nobody waits for one.
    pub fn at_once(&self) -> Option<Found> {
        match self.look() {
            Ok(Step::Found(found)) => Some(found),
            Ok(Step::Wait(..)) | Err(_) => None,
        }
    }

    /// Reads one table: a pick, or why there is none.
    fn look(&self) -> Result<Step, SessionEnd> {
        let table = self.shared.table.load();
        let Some(cluster) = table.clusters.get(&self.cluster) else {
            return Err(refusal(Side::Proxy, Phase::Connect, Cause::NoRoute));
        };
        if self.attempts >= cluster.config.connect.attempts.get() as usize {
            return Ok(Step::Wait(PickError::AllTried, Arc::clone(cluster)));
        }
        // Whoever waits for a place came first.
        let intent = self.asker.intent();
        let held_back = !self.is_called && !cluster.handle.queue(intent.role).is_empty();
        if held_back {
            return Ok(Step::Wait(PickError::AllFull, Arc::clone(cluster)));
        }
        let preferred = self.asker.prefers(cluster);
        let picked = self.asker.with_source(cluster, |source| {
            let request = PickRequest {
                intent,
                source,
                tried: &self.tried,
                now: Instant::now(),
            };
            let preferred = preferred.and_then(|backend| cluster.pick_this(backend, &request));
            preferred.map_or_else(
                || RANDOM.with_borrow_mut(|random| cluster.pick_place(&request, random)),
                Ok,
            )
        });
        let (backend, guard) = match picked {
            Ok(picked) => picked,
            Err(why) => return Ok(Step::Wait(why, Arc::clone(cluster))),
        };
        let entry = &cluster.backends[backend];
        if entry.address.is_none() {
            return Ok(Step::Wait(PickError::NoneEligible, Arc::clone(cluster)));
        }
        let limited = entry.config.max_connections.is_some() || self.asker.tells_full();
        Ok(Step::Found(Found {
            place: Place::new(guard, Arc::clone(&cluster.handle), limited),
            backend,
            cluster: Arc::clone(cluster),
        }))
    }

    /// Takes note of a failure before the client's first byte was sent, and reports it.
    pub fn note_failure(
        &mut self,
        backend: &BackendHandle,
        failed: &DialError,
        (client, max_attempts): (u64, usize),
    ) {
        self.tried.push(backend.id);
        self.attempts += 1;
        self.last_failure = Some(failed.cause);
        self.says_full |= failed.cause == Cause::TooManyConnections;
        backend.count_connect_error(failed.cause);
        report(self.shared, backend, failed.cause);
        if let Some(admitted) = self
            .shared
            .dial_warnings
            .admit(failed.cause, Instant::now())
        {
            tracing::warn!(
                session = client,
                cluster = %self.cluster,
                backend = %backend.name,
                cause = failed.cause.as_str(),
                error = %failed.error,
                attempt = self.attempts,
                attempts = max_attempts,
                suppressed = admitted.suppressed,
                "connect failed"
            );
        }
    }

    /// Ends the search: measures the wait, lets the next in line go. The turn of a held client is
    /// its own to keep for a moment.
    pub fn finish(&mut self) -> Option<Turn> {
        self.record_hold();
        let (shared, cluster, intent) = (self.shared, &self.cluster, self.asker.intent());
        self.waiting.serve(|| {
            let table = shared.table.load();
            let cluster = table.clusters.get(cluster);
            cluster.is_some_and(|cluster| cluster.has_free_place(intent))
        });
        let turn = self.turn.take();
        turn.filter(|_| self.waiting.was_held())
    }

    /// Everyone whom the table calls up has just failed; a moment later it knows better.
    /// The turn is kept meanwhile, so that the pace of the room bounds the retries.
    async fn pause(&self, table: &ClusterTable) {
        if !table.config.failover.hold.max_wait.is_zero() {
            self.asker.set_phase(Phase::Hold);
            tokio::time::sleep(table.config.health_check.fast_interval).await;
        }
    }

    async fn wait(&mut self, why: PickError, table: &ClusterTable) -> Result<Turn, SessionEnd> {
        self.wait_started.get_or_insert_with(Instant::now);
        if why == PickError::NoneEligible {
            // What a backend said before it was taken out is not why this client waits now.
            self.last_failure = None;
        }
        let intent = self.asker.intent();
        let failover = &table.config.failover;
        let (result, phase) = match why {
            PickError::AllFull => {
                let room = table.handle.queue(intent.role);
                let counting = match self.says_full {
                    true => Counting::Theirs,
                    false => Counting::Ours,
                };
                let queued = self.waiting.queue(room, failover.queue, counting);
                (queued.await, Phase::Queue)
            }
            PickError::NoneEligible | PickError::AllTried => {
                if !self.waiting.was_held() && !failover.hold.max_wait.is_zero() {
                    table.handle.tally.count_held(Instant::now());
                }
                let room = table.handle.hold(intent);
                let held = self.waiting.hold(&room, failover.hold);
                (held.await, Phase::Hold)
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
                self.record_hold();
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

    fn record_hold(&self) {
        if let Some(started) = self.wait_started.filter(|_| self.waiting.was_held()) {
            let held = Instant::now().saturating_duration_since(started);
            let metrics = &self.shared.metrics;
            metrics.record_hold_duration(&self.cluster, held);
        }
    }
}

/// Tells the control plane, where it is news to it.
pub fn report(shared: &Shared, backend: &BackendHandle, cause: Cause) {
    if is_evidence(cause) {
        shared.reporter.send(Report {
            backend: backend.id,
            cause,
        });
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

fn refusal(side: Side, phase: Phase, cause: Cause) -> SessionEnd {
    SessionEnd { side, phase, cause }
}

thread_local! {
    /// Each worker draws its own numbers.
    static RANDOM: std::cell::RefCell<fastrand::Rng> =
        std::cell::RefCell::new(fastrand::Rng::new());
}
