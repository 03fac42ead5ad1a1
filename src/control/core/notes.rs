//! What happens while the core decides, for the flight recorder and for hooks.

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::control::backend::Moment;
use crate::control::cluster_state::ClusterState;
use crate::control::core::Core;
use crate::control::core::locate;
use crate::control::happening::Happening;

impl Core {
    /// What has happened since this was asked last, cluster by cluster. To be asked after every
    /// batch of events, and before [`Self::settle`].
    pub fn take_happenings(&mut self, now: Moment) -> Vec<Happening> {
        let clusters = self.clusters.values_mut();
        clusters
            .flat_map(|cluster| {
                cluster.look_around(now);
                cluster.watch.take()
            })
            .collect()
    }

    pub fn cluster(&self, name: &str) -> Option<&ClusterState> {
        self.clusters.get(name)
    }

    pub(super) fn note_error(&mut self, id: BackendId, cause: Cause, now: Moment) {
        if cause != Cause::OutOfResources
            && let Some((cluster, at)) = locate(&self.places, &mut self.clusters, id)
        {
            let name = &cluster.backends[at].handle.name;
            cluster.watch.failed(&cluster.config.name, name, cause, now);
        }
    }

    /// After all that followed from it: until then, the errors before it count.
    pub(super) fn note_pass(&mut self, id: BackendId, now: Moment) {
        if let Some((cluster, at)) = locate(&self.places, &mut self.clusters, id) {
            cluster.look_around(now);
            let name = &cluster.backends[at].handle.name;
            let counts = cluster.handle.tally.read();
            cluster.watch.passed(name, counts, now);
        }
    }
}
