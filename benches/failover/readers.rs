//! The load of readers: sessions that are kept, and new ones all the time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use crate::figures::Sample;
use crate::figures::longest_gap;
use crate::support::PATIENCE;
use crate::support::client::Dialect;
use crate::support::client::Failure;
use crate::support::client::Session;
use crate::support::client::USER;
use crate::support::client::by_class;
use crate::support::wait_until;

/// Readers that keep their session, so that some are on each replica.
const KEEPING: usize = 4;
const PAUSE: Duration = Duration::from_millis(10);
/// PostgreSQL forks for each new session; seven loads of these are most of what it bears here.
const PAUSE_OF_NEW: Duration = Duration::from_millis(25);
const CLIENT_PATIENCE: Duration = Duration::from_secs(20);
/// A kept session asks dozens of times in it, also on a busy machine.
const LATELY: Duration = Duration::from_millis(500);
const WHO_ANSWERS: &str = "select host(inet_server_addr()) || ':' || inet_server_port()";

pub struct Readers {
    name: &'static str,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// In the order of time.
    answers: Vec<Answer>,
    failures: Vec<Failure>,
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    at: Instant,
    /// Which server gave it, by its own word.
    by: SocketAddr,
    to: Habit,
}

/// Whether a reader comes anew for each statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    KeepsItsSession,
    ComesAnew,
}

impl Readers {
    pub fn start(name: &'static str, addr: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let habits = [Habit::KeepsItsSession; KEEPING].into_iter();
        let threads = habits.chain([Habit::ComesAnew]).map(|habit| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || read(addr, habit, &shared))
        });
        let readers = Self {
            name,
            threads: threads.collect(),
            shared: Arc::clone(&shared),
        };
        readers.wait_for_answers(50);
        readers
    }

    pub fn wait_for_answers(&self, more: usize) {
        let count = || self.shared.seen.lock().unwrap().answers.len();
        let goal = count() + more;
        wait_until(PATIENCE * 2, "answers to readers", || count() >= goal);
    }

    /// Whether this server has answered a kept session lately.
    pub fn use_server(&self, server: SocketAddr) -> bool {
        let now = Instant::now();
        let seen = self.shared.seen.lock().unwrap();
        let mut lately = seen
            .answers
            .iter()
            .rev()
            .take_while(|answer| now.saturating_duration_since(answer.at) < LATELY);
        lately.any(|answer| answer.to == Habit::KeepsItsSession && answer.by == server)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The longest time without an answer since `from`; the caller subtracts the oracle's.
    pub fn finish(mut self, from: Instant) -> Sample {
        let now = Instant::now();
        self.stop();
        let seen = std::mem::take(&mut *self.shared.seen.lock().unwrap());
        let answers = seen.answers.iter().map(|answer| answer.at);
        let outage = longest_gap(from, answers.filter(|at| *at > from), now);
        let count = |is: fn(&Failure) -> bool| seen.failures.iter().filter(|it| is(it)).count();
        Sample {
            name: self.name,
            added_outage: outage,
            detected_after: None,
            stuck: false,
            errors: by_class(&seen.failures),
            failed_connections: Some(count(Failure::is_connect)),
            read_only_errors: None,
            writes: None,
        }
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A reader that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read(addr: SocketAddr, habit: Habit, shared: &Shared) {
    let mut session = None;
    while !shared.stop.load(Ordering::Acquire) {
        let mut open = match session.take() {
            Some(open) => open,
            None => match Session::open(Dialect::Postgres, addr, USER, CLIENT_PATIENCE) {
                Ok(open) => open,
                Err(failure) => {
                    shared.seen.lock().unwrap().failures.push(failure);
                    thread::sleep(PAUSE);
                    continue;
                }
            },
        };
        let answer = open
            .query(WHO_ANSWERS)
            .map(|rows| rows[0][0].parse().unwrap());
        let mut seen = shared.seen.lock().unwrap();
        match answer {
            Ok(by) => {
                seen.answers.push(Answer {
                    at: Instant::now(),
                    by,
                    to: habit,
                });
                if habit == Habit::KeepsItsSession {
                    session = Some(open);
                }
            }
            Err(failure) => seen.failures.push(failure),
        }
        drop(seen);
        thread::sleep(match habit {
            Habit::KeepsItsSession => PAUSE,
            Habit::ComesAnew => PAUSE_OF_NEW,
        });
    }
}
