//! Where the load writes down what it sees, and the script reads it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::cli::demo::measure::Failure;
use crate::cli::demo::measure::Kind;
use crate::cli::demo::measure::Opening;
use crate::cli::demo::measure::Phase;
use crate::cli::demo::measure::Records;
use crate::cli::demo::measure::Recovery;
use crate::cli::demo::measure::What;

/// Time since the demo's start.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(self) -> Duration {
        self.0.elapsed()
    }

    pub fn at(self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.0)
    }
}

/// One client connection as its client sees it.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    pub id: u64,
    pub kind: Kind,
    pub begun: Duration,
    pub backend: Option<&'static str>,
}

/// Shared by the load and the script.
#[derive(Debug)]
pub struct Ledger {
    pub clock: Clock,
    page: Mutex<Page>,
}

#[derive(Debug)]
struct Page {
    phase: Phase,
    records: Records,
    /// Greeted and not over, by session.
    open: HashMap<u64, &'static str>,
}

impl Ledger {
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            page: Mutex::new(Page {
                phase: Phase::Start,
                records: Records::default(),
                open: HashMap::new(),
            }),
        }
    }

    pub fn set_phase(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    pub fn greeted(&self, session: &Session, backend: &'static str) {
        let mut page = self.lock();
        let opening = Opening {
            phase: page.phase,
            backend,
            begun: session.begun,
            greeted: self.clock.now(),
        };
        page.records.openings.push(opening);
        page.open.insert(session.id, backend);
    }

    pub fn answered(&self) {
        let mut page = self.lock();
        let phase = page.phase;
        page.records.answered[phase as usize] += 1;
    }

    /// A kept session has a good answer for the first time since it failed.
    pub fn recovered(&self, session: u64) {
        let at = self.clock.now();
        self.lock()
            .records
            .recoveries
            .push(Recovery { session, at });
    }

    /// The connection is over, as its client wanted or not.
    pub fn ended(&self, session: &Session, result: Result<(), What>) {
        let mut page = self.lock();
        page.open.remove(&session.id);
        if let Err(what) = result {
            let failure = Failure {
                phase: page.phase,
                session: session.id,
                kind: session.kind,
                backend: session.backend,
                begun: session.begun,
                at: self.clock.now(),
                what,
            };
            page.records.failures.push(failure);
        }
    }

    /// Sessions that a backend has greeted and that are not over.
    pub fn open_on(&self, backend: &str) -> usize {
        let page = self.lock();
        page.open.values().filter(|name| **name == backend).count()
    }

    pub fn open(&self) -> usize {
        self.lock().open.len()
    }

    /// Reads the records as they are now.
    pub fn read<T>(&self, read: impl FnOnce(&Records) -> T) -> T {
        read(&self.lock().records)
    }

    fn lock(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
