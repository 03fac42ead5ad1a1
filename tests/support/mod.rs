//! What the tests put around the proxy: the real binary, backends that misbehave, real servers,
//! relays that break things, network namespaces.
//!
//! Everything here stops what it started when it is dropped, takes its ports from `ports`, and can
//! be used by tests that run at the same time. Waiting is always `wait_until`: a condition with a
//! deadline, never a pause.

#![allow(
    dead_code,
    reason = "a vocabulary for tests: what one of them does not say, the next one does"
)]

pub mod backend;
pub mod client;
pub mod disk;
pub mod etcd;
pub mod evergate;
pub mod hello;
pub mod http;
pub mod limits;
pub mod mariadb;
pub mod netns;
pub mod patroni;
pub mod pg_base;
pub mod pg_cluster;
pub mod pg_node;
pub mod pg_server;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod redis_node;
pub mod relay;
pub mod sentinel;
mod service;
pub mod slot;
pub mod stream;
pub mod talk;
pub mod verdict;
pub mod webserver;
pub mod workload;

use std::io;
use std::io::Write;
use std::panic;
use std::sync::LazyLock;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Long enough for a busy machine with two cores; a test that needs less still ends early.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Between two looks at a condition: short against what is measured, long against the cost of a look.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; panics with `what` after `deadline`.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(deadline, what, || condition().then_some(()));
}

/// Waits until `look` finds something and returns it; panics with `what` after `deadline`.
#[track_caller]
pub fn wait_for<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            started.elapsed() < deadline,
            "waited {deadline:?} in vain: {what}"
        );
        thread::sleep(LOOK_EVERY);
    }
}

/// Ends the whole test binary when a test hangs, and says which; dropped in time it does nothing.
///
/// A hanging test would otherwise cost the hour that continuous integration has.
pub struct Watchdog {
    _armed: mpsc::Sender<()>,
}

/// How much longer than on an idle machine a test may take before it counts as hanging: a watchdog
/// that bites costs the results of all other tests, and the messages of those that failed.
const SLOWEST: u32 = 5;

impl Watchdog {
    /// `limit` is more than the test takes on an idle machine.
    pub fn bites_after(limit: Duration) -> Self {
        let limit = SLOWEST * limit;
        LazyLock::force(&PANICS);
        let (armed, disarmed) = mpsc::channel();
        let name = thread::current().name().unwrap_or("a test").to_owned();
        thread::spawn(move || {
            if disarmed.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                // What is only printed here would be kept for a report that never comes.
                let mut report = io::stderr();
                for panic in PANICS.lock().unwrap().iter() {
                    let _ = writeln!(report, "{panic}\n");
                }
                let _ = writeln!(report, "{name}: still running after {limit:?}");
                std::process::abort();
            }
        });
        Self { _armed: armed }
    }
}

/// What has gone wrong in this process so far, for a watchdog that bites.
static PANICS: LazyLock<Mutex<Vec<String>>> = LazyLock::new(|| {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let name = thread::current().name().unwrap_or("a thread").to_owned();
        if let Ok(mut panics) = PANICS.lock() {
            panics.push(format!("{name}: {info}"));
        }
        told(info);
    }));
    Mutex::default()
});

/// Sets a flag when it is dropped: threads of a scope that run until then end however the test
/// ends. A panic beside them would wait for them for ever.
pub struct SetWhenDropped<'flag>(pub &'flag AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
