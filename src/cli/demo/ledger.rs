//! Where the load writes down what clients see, and the script reads it.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::cli::demo::client::Trouble;

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

/// The parts of the script, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Start,
    Kill,
    Return,
    Switch,
    Drain,
    Reload,
    End,
}

impl Phase {
    pub const ALL: [Self; 7] = [
        Self::Start,
        Self::Kill,
        Self::Return,
        Self::Switch,
        Self::Drain,
        Self::Reload,
        Self::End,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Kill => "kill",
            Self::Return => "return",
            Self::Switch => "switch",
            Self::Drain => "drain",
            Self::Reload => "reload",
            Self::End => "end",
        }
    }
}

/// What a client came for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Write,
    Read,
}

/// An acknowledged write.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    pub id: u64,
    pub at: Duration,
}

/// A new session that was logged in.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    pub purpose: Purpose,
    /// Which server it was: the port that it listens on.
    pub port: u16,
    pub begun: Duration,
    pub greeted: Duration,
}

/// What went wrong, and when the client began with it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub phase: Phase,
    pub purpose: Purpose,
    pub doing: Doing,
    pub trouble: Trouble,
    pub begun: Duration,
    pub at: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Connecting,
    /// A write whose outcome its client does not know, or that was refused; or a read.
    Asking,
    /// The session ended while nothing was asked.
    Idling,
}

/// What clients saw of one step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub writes: u64,
    pub reads: u64,
    pub connections: u64,
    pub longest_connect: Duration,
}

/// Everything that the load saw.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// By phase.
    pub counts: [Counts; Phase::ALL.len()],
    pub writes: Vec<Write>,
    pub openings: Vec<Opening>,
    pub failures: Vec<Failure>,
}

impl Records {
    /// The first acknowledged write that ended at `from` or later.
    pub fn first_write(&self, from: Duration) -> Option<Duration> {
        let recent = self.writes.iter().rev();
        let since = recent.take_while(|write| write.at >= from);
        since.last().map(|write| write.at)
    }
}

/// Shared by the load and the script.
#[derive(Debug)]
pub struct Ledger {
    pub clock: Clock,
    page: Mutex<(Phase, Records)>,
}

impl Ledger {
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            page: Mutex::new((Phase::Start, Records::default())),
        }
    }

    pub fn set_phase(&self, phase: Phase) {
        self.lock().0 = phase;
    }

    pub fn opened(&self, purpose: Purpose, port: u16, begun: Duration) {
        let mut page = self.lock();
        // Inside the lock: times are in order then.
        let greeted = self.clock.now();
        let (phase, records) = &mut *page;
        records.openings.push(Opening {
            purpose,
            port,
            begun,
            greeted,
        });
        let counts = &mut records.counts[*phase as usize];
        counts.connections += 1;
        counts.longest_connect = counts.longest_connect.max(greeted - begun);
    }

    pub fn wrote(&self, id: u64) {
        let mut page = self.lock();
        let at = self.clock.now();
        let (phase, records) = &mut *page;
        records.counts[*phase as usize].writes += 1;
        records.writes.push(Write { id, at });
    }

    pub fn read_rows(&self) {
        let mut page = self.lock();
        let (phase, records) = &mut *page;
        records.counts[*phase as usize].reads += 1;
    }

    pub fn failed(&self, purpose: Purpose, doing: Doing, trouble: Trouble, begun: Duration) {
        let mut page = self.lock();
        let at = self.clock.now();
        let (phase, records) = &mut *page;
        records.failures.push(Failure {
            phase: *phase,
            purpose,
            doing,
            trouble,
            begun,
            at,
        });
    }

    /// Reads the records as they are now.
    pub fn read<T>(&self, read: impl FnOnce(&Records) -> T) -> T {
        read(&self.lock().1)
    }

    fn lock(&self) -> MutexGuard<'_, (Phase, Records)> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
