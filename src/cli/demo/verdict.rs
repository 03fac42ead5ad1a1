//! What the demo promises, and whether its measurements bear it out. Pure.

use std::collections::HashMap;
use std::time::Duration;

use crate::cli::demo::measure::Failure;
use crate::cli::demo::measure::Measured;
use crate::cli::demo::measure::Phase;
use crate::cli::demo::measure::What;

/// Generous: a debug build on a busy machine keeps them, a hang does not.
pub const MAX_DETECTION: Duration = Duration::from_secs(5);
pub const MAX_STEP: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    NewConnections,
    KilledSessionsOnly,
    OnceEach,
    Answers,
    Drain,
    Reload,
    BadFile,
    End,
    Time,
    Tested,
}

/// A promise that was broken, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub promise: Promise,
    pub found: String,
}

impl Promise {
    pub const ALL: [Self; 10] = [
        Self::NewConnections,
        Self::KilledSessionsOnly,
        Self::OnceEach,
        Self::Answers,
        Self::Drain,
        Self::Reload,
        Self::BadFile,
        Self::End,
        Self::Time,
        Self::Tested,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NewConnections => "no new connection fails",
            Self::KilledSessionsOnly => "only sessions that live on a killed backend fail",
            Self::OnceEach => "each of those fails at most once",
            Self::Answers => "no answer is duplicated or corrupted",
            Self::Drain => "a drained backend gets no new session, and its old ones finish",
            Self::Reload => "a reload drops no session",
            Self::BadFile => "a bad file is refused and changes nothing",
            Self::End => "a graceful end loses nothing",
            Self::Time => "everything happens in bounded time",
            Self::Tested => "every step was reached, under load",
        }
    }
}

/// Every promise that these measurements break, in the promises' order.
pub fn broken(measured: &Measured) -> Vec<Broken> {
    let mut broken = Vec::new();
    failures(measured, &mut broken);
    drained(measured, &mut broken);
    bad_file(measured, &mut broken);
    end(measured, &mut broken);
    times(measured, &mut broken);
    tested(measured, &mut broken);
    let position = |one: &Broken| Promise::ALL.iter().position(|known| *known == one.promise);
    broken.sort_by_key(position);
    broken
}

/// The promise that a failure breaks; `None` when it is one of those a kill may cost.
fn broken_by(measured: &Measured, failure: &Failure) -> Option<Promise> {
    if let What::Wrong(_) = failure.what {
        return Some(Promise::Answers);
    }
    if measured.kill.is_some_and(|kill| kill.explains(failure)) {
        return None;
    }
    let drained = measured.drain.map(|drain| drain.backend);
    Some(match (failure.what, failure.phase) {
        (What::NotGreeted, _) => Promise::NewConnections,
        (_, Phase::Reload) => Promise::Reload,
        (_, Phase::End) => Promise::End,
        (_, Phase::Drain) if failure.backend == drained => Promise::Drain,
        _ => Promise::KilledSessionsOnly,
    })
}

fn failures(measured: &Measured, broken: &mut Vec<Broken>) {
    let failures = &measured.records.failures;
    for promise in Promise::ALL {
        let mut found = failures
            .iter()
            .filter(|failure| broken_by(measured, failure) == Some(promise));
        if let Some(first) = found.next() {
            let found = format!("{} times, first: {}", 1 + found.count(), describe(first));
            broken.push(Broken { promise, found });
        }
    }
    let mut by_session: HashMap<u64, usize> = HashMap::new();
    for failure in failures {
        if broken_by(measured, failure).is_none() {
            *by_session.entry(failure.session).or_default() += 1;
        }
    }
    let repeated = by_session.values().filter(|count| **count > 1).count();
    if repeated > 0 {
        broken.push(Broken {
            promise: Promise::OnceEach,
            found: format!("{repeated} sessions failed more than once"),
        });
    }
}

fn describe(failure: &Failure) -> String {
    let what = match failure.what {
        What::NotGreeted => "no connection",
        What::Unanswered => "a request had no answer",
        What::Cut => "cut while idle",
        What::Wrong(_) => "a wrong answer",
    };
    let backend = failure.backend.unwrap_or("an unknown backend");
    let at = failure.at.as_secs_f64();
    format!(
        "session {} on {backend} at {at:.3} s: {what}",
        failure.session
    )
}

fn drained(measured: &Measured, broken: &mut Vec<Broken>) {
    let Some(drain) = measured.drain else {
        return;
    };
    let late = drain.late_sessions(&measured.records);
    if late > 0 {
        broken.push(Broken {
            promise: Promise::Drain,
            found: format!("{} got {late} new sessions", drain.backend),
        });
    }
}

fn bad_file(measured: &Measured, broken: &mut Vec<Broken>) {
    let Some(bad_file) = &measured.bad_file else {
        return;
    };
    let mut found = bad_file.changed.join(", ");
    if !bad_file.refused {
        found = "it was not refused".to_owned();
    } else if !found.is_empty() {
        found.push_str(" changed");
    }
    if !found.is_empty() {
        broken.push(Broken {
            promise: Promise::BadFile,
            found,
        });
    }
}

fn end(measured: &Measured, broken: &mut Vec<Broken>) {
    let Some(end) = measured.end else {
        return;
    };
    let found = match (end.severed, end.load_finished) {
        (0, true) => return,
        (0, false) => "the clients did not come to their end".to_owned(),
        (severed, _) => format!("{severed} sessions were severed"),
    };
    broken.push(Broken {
        promise: Promise::End,
        found,
    });
}

fn times(measured: &Measured, broken: &mut Vec<Broken>) {
    for (step, took, limit) in steps(measured) {
        let found = match took {
            Some(took) if took <= limit => continue,
            Some(took) => format!("{step} took {:.1} s", took.as_secs_f64()),
            None => format!("{step}: not in time"),
        };
        broken.push(Broken {
            promise: Promise::Time,
            found,
        });
    }
}

/// Each timed step that was begun: what, how long, and its limit.
fn steps(measured: &Measured) -> Vec<(&'static str, Option<Duration>, Duration)> {
    let mut steps = Vec::new();
    if let Some(kill) = &measured.kill {
        let recovered = measured.records.recovered(kill);
        steps.push((
            "to see the death",
            since(kill.began, kill.detected),
            MAX_DETECTION,
        ));
        steps.push(("to answer again", since(kill.began, recovered), MAX_STEP));
    }
    if let Some(back) = &measured.back {
        steps.push(("to see the return", since(back.began, back.up), MAX_STEP));
        let first = since(back.began, back.first_session);
        steps.push(("to use what returned", first, MAX_STEP));
    }
    if let Some(drain) = &measured.drain {
        steps.push((
            "to drain",
            since(drain.began, Some(drain.in_force)),
            MAX_STEP,
        ));
        // How long old sessions take is up to their clients; that they end is not.
        let emptied = since(drain.began, drain.emptied);
        steps.push(("the last session of the drained", emptied, Duration::MAX));
        let again = since(drain.over, drain.first_session);
        steps.push(("to use what was drained", again, MAX_STEP));
    }
    if let Some(reload) = &measured.reload {
        steps.push(("to reload", since(reload.began, reload.in_force), MAX_STEP));
        let first = since(reload.began, reload.first_session);
        steps.push(("to use the new backend", first, MAX_STEP));
    }
    steps
}

/// How long it took until `at`.
pub fn since(began: Duration, at: Option<Duration>) -> Option<Duration> {
    at.map(|at| at.saturating_sub(began))
}

/// A promise that was never put to the test is not kept.
fn tested(measured: &Measured, broken: &mut Vec<Broken>) {
    let mut missing = Vec::new();
    let mut reached = |step, reached: bool| {
        if !reached {
            missing.push(format!("not reached: {step}"));
        }
    };
    reached("the kill", measured.kill.is_some());
    reached("the return", measured.back.is_some());
    reached("the drain", measured.drain.is_some());
    reached("the reload", measured.reload.is_some());
    reached("the bad file", measured.bad_file.is_some());
    reached("the end", measured.end.is_some());
    if measured.kill.is_some_and(|kill| kill.sessions == 0) {
        missing.push("no session lived on the killed backend".to_owned());
    }
    for phase in Phase::ALL {
        let counts = measured.records.counts(phase, measured.kill.as_ref());
        if counts.requests == counts.failed_requests {
            missing.push(format!("no request answered in step `{}`", phase.as_str()));
        }
        // At the end nobody may connect any more.
        if phase != Phase::End && counts.connections == counts.failed_connections {
            missing.push(format!("no new connection in step `{}`", phase.as_str()));
        }
    }
    broken.extend(missing.into_iter().map(|found| Broken {
        promise: Promise::Tested,
        found,
    }));
}

#[cfg(test)]
mod tests;
