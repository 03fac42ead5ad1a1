//! One taken place on a backend, and who waits for it.

use std::sync::Arc;

use crate::routing::BackendHandle;
use crate::routing::ClusterHandle;
use crate::routing::ConnectionGuard;

/// Dropping it gives the place back and lets the first in the queue try for it.
#[derive(Debug)]
pub struct Place {
    // Dropped in this order: first the place is free, then somebody is told.
    guard: ConnectionGuard,
    next: NextInLine,
}

#[derive(Debug)]
struct NextInLine {
    cluster: Arc<ClusterHandle>,
    /// The backend has a limit, so sessions may be queued for its places.
    limited: bool,
}

impl Place {
    pub fn new(guard: ConnectionGuard, cluster: Arc<ClusterHandle>, limited: bool) -> Self {
        Self {
            guard,
            next: NextInLine { cluster, limited },
        }
    }

    pub fn backend(&self) -> &Arc<BackendHandle> {
        self.guard.backend()
    }

    pub fn cluster(&self) -> &Arc<ClusterHandle> {
        &self.next.cluster
    }
}

impl Drop for NextInLine {
    fn drop(&mut self) {
        if self.limited {
            self.cluster.release_queued();
        }
    }
}
