//! What the demo measures. All times are since its start.

use std::time::Duration;

use crate::cli::demo::wire::WrongAnswer;

/// The parts of the script, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Start,
    Kill,
    Return,
    Drain,
    Reload,
    End,
}

impl Phase {
    pub const ALL: [Self; 6] = [
        Self::Start,
        Self::Kill,
        Self::Return,
        Self::Drain,
        Self::Reload,
        Self::End,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Kill => "kill",
            Self::Return => "return",
            Self::Drain => "drain",
            Self::Reload => "reload",
            Self::End => "end",
        }
    }
}

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Stays connected for many requests, and connects again when cut.
    Kept,
    /// One request on each connection.
    Short,
}

/// A connection that a backend has greeted.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    pub phase: Phase,
    pub backend: &'static str,
    /// When the client began to connect.
    pub begun: Duration,
    pub greeted: Duration,
}

/// A connection that did not end as its client wanted. It is over then.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    pub phase: Phase,
    pub session: u64,
    pub kind: Kind,
    /// `None` before the greeting.
    pub backend: Option<&'static str>,
    /// When the client began to connect.
    pub begun: Duration,
    pub at: Duration,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Not connected, or connected and never greeted by a backend.
    NotGreeted,
    /// A request had no answer.
    Unanswered,
    /// It ended while no request was waiting.
    Cut,
    Wrong(WrongAnswer),
}

/// A kept session's first good answer after a failure.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    pub session: u64,
    pub at: Duration,
}

/// Everything that the load saw.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// By phase.
    pub answered: [u64; Phase::ALL.len()],
    pub openings: Vec<Opening>,
    pub failures: Vec<Failure>,
    pub recoveries: Vec<Recovery>,
}

/// What a step cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Answered or not.
    pub requests: u64,
    pub failed_requests: u64,
    /// New ones, greeted or not.
    pub connections: u64,
    pub failed_connections: u64,
    /// Connections that ended with their backend while no request was waiting.
    pub cut: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Kill {
    pub backend: &'static str,
    /// Sessions on it just before.
    pub sessions: usize,
    pub began: Duration,
    /// Nothing of it was left.
    pub done: Duration,
    /// The routing table says that it is down.
    pub detected: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
pub struct Return {
    pub began: Duration,
    /// The routing table says that it is up.
    pub up: Option<Duration>,
    /// A new session was greeted by it.
    pub first_session: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
pub struct Drain {
    pub backend: &'static str,
    pub began: Duration,
    /// The command was answered.
    pub in_force: Duration,
    /// Its last session has finished.
    pub emptied: Option<Duration>,
    /// Just before it was made ready again.
    pub over: Duration,
    /// A new session was greeted by it after that.
    pub first_session: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
pub struct Reload {
    pub began: Duration,
    /// The routing table has the new backend.
    pub in_force: Option<Duration>,
    /// A new session was greeted by the new backend.
    pub first_session: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct BadFile {
    pub refused: bool,
    /// What is different afterwards.
    pub changed: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Sessions that had to be severed.
    pub severed: usize,
    /// Every client has ended by itself.
    pub load_finished: bool,
}

/// The whole run. A step that was not reached is `None`.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    pub records: Records,
    pub kill: Option<Kill>,
    pub back: Option<Return>,
    pub drain: Option<Drain>,
    pub reload: Option<Reload>,
    pub bad_file: Option<BadFile>,
    pub end: Option<End>,
}

impl Kill {
    /// Whether a failure is this kill's: the session lived on the backend at that moment. One
    /// that had not been greeted yet may have, if it began before the backend was gone.
    pub fn explains(&self, failure: &Failure) -> bool {
        let lived = failure.begun <= self.done && failure.at >= self.began;
        lived
            && match failure.what {
                What::NotGreeted => true,
                What::Unanswered | What::Cut => failure.backend == Some(self.backend),
                What::Wrong(_) => false,
            }
    }
}

impl Drain {
    /// Sessions that it got although they began when the drain was in force.
    pub fn late_sessions(&self, records: &Records) -> usize {
        let openings = records.openings.iter();
        openings
            .filter(|opening| opening.backend == self.backend)
            .filter(|opening| opening.begun >= self.in_force && opening.greeted <= self.over)
            .count()
    }
}

impl Records {
    /// Sums of a phase, in the light of the kill.
    pub fn counts(&self, phase: Phase, kill: Option<&Kill>) -> Counts {
        let openings = self.openings.iter();
        let greeted = openings.filter(|opening| opening.phase == phase).count();
        let mut counts = Counts {
            requests: self.answered[phase as usize],
            connections: greeted as u64,
            ..Counts::default()
        };
        for failure in self.failures.iter().filter(|one| one.phase == phase) {
            match failure.what {
                What::Unanswered | What::Wrong(_) => {
                    counts.requests += 1;
                    counts.failed_requests += 1;
                }
                What::Cut => counts.cut += 1,
                What::NotGreeted => {
                    counts.connections += 1;
                    if kill.is_some_and(|kill| kill.explains(failure)) {
                        counts.cut += 1;
                    } else {
                        counts.failed_connections += 1;
                    }
                }
            }
        }
        counts
    }

    /// The first session that a backend greeted and that began at `from` or later.
    pub fn first_session(&self, backend: &str, from: Duration) -> Option<Duration> {
        let openings = self.openings.iter();
        openings
            .filter(|opening| opening.backend == backend && opening.begun >= from)
            .map(|opening| opening.greeted)
            .min()
    }

    /// New sessions that began within a time, of one backend and of all.
    pub fn share(&self, backend: &str, from: Duration, to: Duration) -> (usize, usize) {
        let openings = self.openings.iter();
        let within: Vec<_> = openings
            .filter(|opening| (from..to).contains(&opening.begun))
            .collect();
        let own = within.iter().filter(|opening| opening.backend == backend);
        (own.count(), within.len())
    }

    /// When the last kept session that this kill cut had a good answer again; `None` while one
    /// has none.
    pub fn recovered(&self, kill: &Kill) -> Option<Duration> {
        let mut last = kill.began;
        for failure in &self.failures {
            if failure.kind != Kind::Kept || !kill.explains(failure) {
                continue;
            }
            let mut recoveries = self.recoveries.iter();
            let recovery = recoveries.find(|recovery| {
                recovery.session == failure.session && recovery.at >= failure.at
            })?;
            last = last.max(recovery.at);
        }
        Some(last)
    }
}
