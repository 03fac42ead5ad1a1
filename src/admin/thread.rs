//! The thread that the API has for itself.

use std::convert::Infallible;
use std::io;
use std::sync::mpsc;

use tokio::runtime;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::admin::BoxFuture;
use crate::admin::Sources;
use crate::admin::listen::Bound;
use crate::admin::serve;

/// A tenth of a worker's share when both want the same core.
pub(super) const NICE: i32 = 10;

/// A thread and its event loop, which wait for something to serve. Dropped, the thread ends.
#[derive(Debug)]
pub struct IdleThread {
    work: mpsc::Sender<Work>,
    ended: oneshot::Receiver<Infallible>,
}

/// What is served until `shutdown` resolves.
struct Work {
    bound: Bound,
    sources: Sources,
    shutdown: BoxFuture<()>,
}

/// The API on its thread.
#[derive(Debug)]
pub struct Running {
    /// Never sent to: closed when the thread ends, however it ends.
    ended: oneshot::Receiver<Infallible>,
}

impl IdleThread {
    /// Makes all that may be lacking, so that nothing can fail when there is something to serve.
    ///
    /// A page of metrics of many backends is milliseconds of work: the thread yields its core to a
    /// worker that has sessions to serve.
    ///
    /// # Errors
    /// The thread or its event loop could not be made.
    pub fn start() -> io::Result<Self> {
        let (alive, ended) = oneshot::channel();
        let (work, to_do) = mpsc::channel();
        // First the thread: a loop without one would be dropped here, inside another loop, and panic.
        let (hand_over, handed_over) = mpsc::channel();
        std::thread::Builder::new()
            .name("evergate-admin".to_owned())
            .spawn(move || {
                let _alive = alive;
                if let Ok(runtime) = handed_over.recv() {
                    run(&runtime, &to_do);
                }
            })?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // The thread waits for it.
        let _ = hand_over.send(runtime);
        Ok(Self { work, ended })
    }

    /// Serves until `shutdown` resolves.
    pub fn serve(
        self,
        bound: Bound,
        sources: Sources,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Running {
        let work = Work {
            bound,
            sources,
            shutdown: Box::pin(shutdown),
        };
        // The thread waits for this, too.
        let _ = self.work.send(work);
        Running { ended: self.ended }
    }
}

impl Running {
    /// Waits until the thread has ended. A panic there is logged by then.
    pub async fn ended(self) {
        let _ = self.ended.await;
    }
}

fn run(runtime: &Runtime, to_do: &mpsc::Receiver<Work>) {
    let Ok(work) = to_do.recv() else {
        return;
    };
    step_back();
    runtime.block_on(serve(work.bound, work.sources, work.shutdown));
}

/// Lowers this thread's priority; on Linux it is the thread's own. Whatever it would start
/// inherits it, but the API starts no thread and no process: reloads, hooks and changes of
/// state are done by others.
fn step_back() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the admin thread keeps the usual priority");
    }
}
