//! Live handles: counters and the current fate of backends, clusters and
//! listeners. They outlive every table and survive reloads.

mod cluster;
mod listener;
mod totals;

use crate::routing::handle::totals::CONNECT_ERROR_CAUSES;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::config::Intent;
use crate::routing::fate::Fate;
use crate::routing::fate::Fates;
use crate::routing::handle::totals::Totals;
use crate::routing::http_tally::BackendHttp;
use crate::routing::lag::Lag;
use crate::routing::latency::PeakEwma;
use crate::routing::outcome::Answer;
use crate::routing::outcome::Outcome;
use crate::routing::outcome::Outcomes;
use crate::routing::tally::Mark;

pub use cluster::ClusterHandle;
pub use listener::ListenerHandle;

/// The control plane has looked at a proof by then, and published what it means.
const DOUBT: Duration = Duration::from_millis(50);
/// Between two doubts: whoever proves things that are not so keeps others away for a twentieth of
/// the time.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);

/// One backend as the data plane sees it for the whole life of its sessions.
#[derive(Debug)]
pub struct BackendHandle {
    pub id: BackendId,
    pub cluster: Name,
    pub name: Name,
    fates: Mutex<Fates>,
    lag: Lag,
    suspected: AtomicBool,
    /// When a session was last refused a write.
    doubted: Mutex<Option<Instant>>,
    active: AtomicU32,
    totals: Arc<Totals>,
    latency: PeakEwma,
    first_answer: Mark,
    outcomes: Outcomes,
}

impl BackendHandle {
    pub fn new(id: BackendId, cluster: Name, name: Name) -> Self {
        Self {
            id,
            cluster,
            name,
            fates: Mutex::default(),
            lag: Lag::default(),
            suspected: AtomicBool::new(false),
            doubted: Mutex::default(),
            active: AtomicU32::new(0),
            totals: Arc::default(),
            latency: PeakEwma::default(),
            first_answer: Mark::default(),
            outcomes: Outcomes::default(),
        }
    }

    /// The same backend at another address: fate, places and latency are its own, the totals go on.
    pub fn successor(&self, id: BackendId) -> Self {
        Self {
            totals: Arc::clone(&self.totals),
            ..Self::new(id, Arc::clone(&self.cluster), Arc::clone(&self.name))
        }
    }

    /// What becomes of a session that came with this intent.
    pub fn fate(&self, intent: Intent) -> Fate {
        self.lock_fates().of(intent)
    }

    /// Control plane only; followed by publishing a table, which wakes the workers.
    pub fn set_fates(&self, fates: Fates) {
        *self.lock_fates() = fates;
    }

    /// Control plane only: as [`Self::set_fates`], for the sessions that need the primary.
    pub fn set_fate_of_writes(&self, fate: Fate) {
        self.lock_fates().writes = fate;
    }

    /// Whether a session that came to write ends once it was refused that.
    pub fn ends_refused(&self) -> bool {
        self.lock_fates().ends_refused
    }

    fn lock_fates(&self) -> MutexGuard<'_, Fates> {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it is behind its primary, for people.
    pub fn lag(&self) -> &Lag {
        &self.lag
    }

    /// Control plane only: somebody was told no, and a probe that asks it is on its way.
    pub fn set_suspected(&self, suspected: bool) {
        self.suspected.store(suspected, Ordering::Relaxed);
    }

    /// A new session had better go elsewhere for the moment, if there is somebody.
    pub fn is_suspected(&self) -> bool {
        self.suspected.load(Ordering::Relaxed)
    }

    /// A session that came to write was refused it. The control plane will say what that means;
    /// until then the next would be refused, too.
    pub fn doubt(&self, now: Instant) {
        let mut doubted = self.lock_doubted();
        if doubted.is_none_or(|at| now.saturating_duration_since(at) >= DOUBT_INTERVAL) {
            *doubted = Some(now);
        }
    }

    /// Whether a session that comes to write had better wait for a moment.
    pub fn is_doubted(&self, now: Instant) -> bool {
        let doubted = *self.lock_doubted();
        doubted.is_some_and(|at| now.saturating_duration_since(at) < DOUBT)
    }

    fn lock_doubted(&self) -> MutexGuard<'_, Option<Instant>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it answered a session for the first time since this was armed.
    pub fn first_answer(&self) -> &Mark {
        &self.first_answer
    }

    /// What became of one request that it was sent. To be called once for each attempt. The
    /// cause is for a report to the control plane; one that is lost is only noticed later.
    #[must_use = "the control plane has to be told"]
    pub fn record_outcome(&self, outcome: Outcome, now: Instant) -> Option<Cause> {
        if matches!(outcome.answer, Answer::Status(_)) {
            self.first_answer.strike(now);
        }
        self.outcomes.record(outcome, now)
    }

    /// What became of all of them.
    pub fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// Control plane only.
    pub fn count_ejection(&self, cause: Cause) {
        let mut ejections = self.totals.ejections.iter();
        if let Some((_, counter)) = ejections.find(|(known, _)| *known == cause) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn ejections(&self) -> impl Iterator<Item = (Cause, u64)> + '_ {
        let ejections = self.totals.ejections.iter();
        ejections.map(|(cause, count)| (*cause, count.load(Ordering::Relaxed)))
    }

    /// Takes one of `max` places; `None` when all are taken.
    pub fn acquire(self: &Arc<Self>, max: Option<NonZeroU32>) -> Option<ConnectionGuard> {
        let max = max.map_or(u32::MAX, NonZeroU32::get);
        self.active
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |active| {
                (active < max).then(|| active + 1)
            })
            .ok()?;
        Some(ConnectionGuard(Arc::clone(self)))
    }

    /// Sessions that hold a place now.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Acquire)
    }

    /// Connections established since the start of the process.
    pub fn total(&self) -> u64 {
        self.totals.connected.load(Ordering::Relaxed)
    }

    pub fn count_connected(&self) {
        self.totals.connected.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_connect_error(&self, cause: Cause) {
        let counted = self
            .totals
            .connect_errors
            .iter()
            .find(|(known, _)| *known == cause);
        let (_, counter) =
            counted.unwrap_or(&self.totals.connect_errors[CONNECT_ERROR_CAUSES.len() - 1]);
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn connect_errors(&self) -> impl Iterator<Item = (Cause, u64)> + '_ {
        self.totals
            .connect_errors
            .iter()
            .map(|(cause, count)| (*cause, count.load(Ordering::Relaxed)))
    }

    pub fn count_bytes(&self, received: u64, sent: u64) {
        self.totals.received.fetch_add(received, Ordering::Relaxed);
        self.totals.sent.fetch_add(sent, Ordering::Relaxed);
    }

    pub fn received_bytes(&self) -> u64 {
        self.totals.received.load(Ordering::Relaxed)
    }

    pub fn sent_bytes(&self) -> u64 {
        self.totals.sent.load(Ordering::Relaxed)
    }

    pub fn count_check(&self, passed: bool) {
        let counter = if passed {
            &self.totals.checks_passed
        } else {
            &self.totals.checks_failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Passed and failed health checks.
    pub fn checks(&self) -> (u64, u64) {
        (
            self.totals.checks_passed.load(Ordering::Relaxed),
            self.totals.checks_failed.load(Ordering::Relaxed),
        )
    }

    /// What only HTTP counts.
    pub fn http(&self) -> &BackendHttp {
        &self.totals.http
    }

    /// Folds one connect or first-byte time into the moving average.
    pub fn record_latency(&self, latency: Duration, now: Instant) {
        self.latency.record(latency, now);
    }

    /// The decayed peak average at `now`; zero before the first measurement.
    pub fn latency(&self, now: Instant) -> Duration {
        self.latency.read(now)
    }
}

/// One taken place on a backend; dropping it gives the place back.
#[derive(Debug)]
pub struct ConnectionGuard(Arc<BackendHandle>);

impl ConnectionGuard {
    pub fn backend(&self) -> &Arc<BackendHandle> {
        &self.0
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
