//! Saves what failover remembers, on a thread of its own: a disk that hangs must not
//! stop the control plane.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tracing::error;
use tracing::info;
use tracing::warn;

use crate::cluster::Name;
use crate::control::failover::Memory;
use crate::control::state_dir::StateDir;
use crate::control::state_dir::StateError;

/// A table waits this long for what it rests on to be on disk. Long for any disk that
/// works, short for clients that are held meanwhile.
const MAX_WAIT: Duration = Duration::from_millis(200);
/// What could not be saved is tried again this often.
const RETRY: Duration = Duration::from_secs(5);

/// The state directory and who writes to it.
#[derive(Debug)]
pub struct Keeper {
    dir: Arc<StateDir>,
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Request {
    memories: Vec<(Name, Memory)>,
    done: mpsc::Sender<()>,
}

impl Keeper {
    /// Starts the thread; it ends with the keeper.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(dir: StateDir) -> io::Result<Self> {
        let dir = Arc::new(dir);
        let (requests, receiver) = mpsc::channel();
        let writes_to = Arc::clone(&dir);
        thread::Builder::new()
            .name("evergate-state".to_owned())
            .spawn(move || serve(&writes_to, &receiver))?;
        Ok(Self { dir, requests })
    }

    /// What was saved of a cluster.
    ///
    /// # Errors
    /// The file cannot be read, is damaged or was written by another version.
    pub fn load(&self, cluster: &str) -> Result<Memory, StateError> {
        self.dir.load(cluster)
    }

    /// Saves; returns once that is done, has failed, or takes too long. It is tried again
    /// until it succeeds.
    pub fn save(&self, memories: Vec<(Name, Memory)>) {
        let (done, waits) = mpsc::channel();
        // The thread ends after the last request only.
        let _ = self.requests.send(Request { memories, done });
        if waits.recv_timeout(MAX_WAIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            warn!("the state directory is slow: going on without waiting for it");
        }
    }
}

fn serve(dir: &StateDir, requests: &mpsc::Receiver<Request>) {
    let mut unsaved: BTreeMap<Name, Memory> = BTreeMap::new();
    let mut failing = false;
    loop {
        let request = if unsaved.is_empty() {
            requests
                .recv()
                .map_err(|_| mpsc::RecvTimeoutError::Disconnected)
        } else {
            requests.recv_timeout(RETRY)
        };
        let done = match request {
            Ok(request) => {
                unsaved.extend(request.memories);
                Some(request.done)
            }
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        };
        let failed = save_all(dir, &mut unsaved);
        match (failed, failing) {
            (Some(error), false) => {
                error!(%error, "fences cannot be saved: a restart would forget them");
            }
            (None, true) => info!("fences are saved again"),
            _ => {}
        }
        failing = !unsaved.is_empty();
        // Whoever asked may have gone on without us.
        done.map(|done| done.send(()));
    }
}

/// Saves what it can; what it cannot stays. Returns the last failure.
fn save_all(dir: &StateDir, unsaved: &mut BTreeMap<Name, Memory>) -> Option<StateError> {
    let mut failed = None;
    unsaved.retain(|cluster, memory| match dir.save(cluster, memory) {
        Ok(()) => false,
        Err(error) => {
            failed = Some(error);
            true
        }
    });
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_there_for_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::default();
        let keeper = Keeper::start(StateDir::open(directory.path()).unwrap()).unwrap();
        keeper.save(vec![("orders".into(), memory.clone())]);
        assert_eq!(keeper.load("orders").unwrap(), memory);
        assert!(directory.path().join("orders.json").exists());
    }
}
