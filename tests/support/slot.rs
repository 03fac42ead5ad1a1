//! The place of a node's process, which is started, frozen and killed while others look at it.

use std::path::Path;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use rustix::process::Signal;

use super::PATIENCE;
use super::process::Process;

/// Empty while the node is down. Every method takes `&self`.
#[derive(Default)]
pub struct Slot {
    process: Mutex<Option<Process>>,
    frozen: AtomicBool,
}

impl Slot {
    pub fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(Process::is_running)
    }

    /// It was started, and nobody has stopped it.
    pub fn is_taken(&self) -> bool {
        self.process().is_some()
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Starts `command` with its output in `dir`.
    #[track_caller]
    pub fn start(&self, command: &[String], dir: &Path) {
        let mut process = self.process();
        assert!(process.is_none(), "{command:?} already runs");
        *process = Some(Process::start(command, &[], dir));
    }

    /// The process and every child at once: nobody says goodbye.
    pub fn kill_9(&self) {
        // Dropping it kills the whole tree and waits for it.
        self.process().take();
        self.frozen.store(false, Ordering::Release);
    }

    /// Asks it to end, and waits until it has.
    #[track_caller]
    pub fn stop(&self, signal: Signal) {
        let mut process = self.process().take().expect("the node is down");
        process.signal(signal);
        process.wait(PATIENCE);
    }

    /// It and every child stand still; the kernel still accepts connections.
    #[track_caller]
    pub fn freeze(&self) {
        self.look(|process| process.signal_tree(Signal::STOP));
        self.frozen.store(true, Ordering::Release);
    }

    #[track_caller]
    pub fn thaw(&self) {
        self.look(|process| process.signal_tree(Signal::CONT));
        self.frozen.store(false, Ordering::Release);
    }

    /// At a process that is there: nobody ends it meanwhile.
    #[track_caller]
    pub fn look<T>(&self, look: impl FnOnce(&Process) -> T) -> T {
        look(self.process().as_ref().expect("the node is down"))
    }

    /// What it wrote since its last start.
    pub fn output(&self) -> String {
        let process = self.process();
        let process = process.as_ref();
        process.map_or(String::new(), |process| {
            process.stdout() + &process.stderr()
        })
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }
}
