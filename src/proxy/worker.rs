//! Worker threads: one `current_thread` runtime each; a session stays on its worker.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use crate::proxy::http::Pool;
use crate::proxy::memory;
use crate::proxy::registry::Registry;
use crate::proxy::registry::SWEEP_INTERVAL;
use crate::routing::SharedTable;

/// Events taken from the kernel at once: a full batch of a busy worker.
const MAX_EVENTS_PER_POLL: usize = 1024;

/// One thread of the data plane, as others see it.
#[derive(Debug)]
pub struct Worker {
    /// Runs a session here from any thread.
    pub handle: Handle,
    pub registry: Registry,
    /// Connections to HTTP backends.
    pub pool: Arc<Pool>,
    sessions: AtomicUsize,
}

/// Ends the thread when dropped or used; `join` waits for it.
#[derive(Debug)]
pub struct WorkerThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Sessions here now, those on their way included.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Acquire)
    }

    /// Counts a session in; before it is handed over, so that the next pick sees it.
    pub fn reserve(&self) {
        self.sessions.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a session out.
    pub fn release(&self) {
        self.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Starts worker number `index`.
///
/// # Errors
/// No thread or no descriptors left.
pub fn start(index: usize, table: SharedTable) -> io::Result<(Arc<Worker>, WorkerThread)> {
    // First the thread: a loop without one would be dropped here, inside another loop, and panic.
    let (hand_over, handed_over) = mpsc::channel::<(Runtime, Arc<Worker>)>();
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name(format!("evergate-work-{index}"))
        .spawn(move || {
            let Ok((runtime, worker)) = handed_over.recv() else {
                return;
            };
            runtime.block_on(async {
                tokio::select! {
                    () = sweep(worker, table) => {}
                    _ = stopped => {}
                }
            });
        })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(MAX_EVENTS_PER_POLL)
        .build()?;
    let worker = Arc::new(Worker {
        handle: runtime.handle().clone(),
        registry: Registry::default(),
        pool: Arc::default(),
        sessions: AtomicUsize::new(0),
    });
    // The thread waits for it.
    let _ = hand_over.send((runtime, Arc::clone(&worker)));
    let thread = WorkerThread {
        stop: Some(stop),
        thread: Some(thread),
    };
    Ok((worker, thread))
}

/// Looks at every session regularly, and at once after a table was published.
async fn sweep(worker: Arc<Worker>, table: SharedTable) {
    let mut published = table.follow();
    let mut collected = Instant::now();
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = published.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let now = Instant::now();
        worker.registry.sweep(now);
        worker.pool.sweep(now);
        if now.saturating_duration_since(collected) >= memory::INTERVAL {
            collected = now;
            memory::give_back();
        }
    }
}

impl WorkerThread {
    /// Stops the runtime, dropping what still runs on it, and waits for the thread.
    pub fn join(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Gone already means stopped already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.end();
    }
}
