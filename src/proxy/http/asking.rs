//! A request as the search for a backend sees it.

use crate::cluster::BackendId;
use crate::cluster::Phase;
use crate::config::Intent;
use crate::proxy::hold::Watched;
use crate::proxy::http::link::Link;
use crate::proxy::http::prepare::Prepared;
use crate::proxy::seek::Asker;
use crate::routing::ClusterTable;
use crate::routing::KeySource;
use crate::routing::LoginKeys;

/// As the search for a backend sees it.
pub(super) struct Asking<'a> {
    pub link: &'a Link,
    pub prepared: &'a Prepared,
}

impl Watched for Asking<'_> {
    fn set_phase(&self, _: Phase) {}

    fn is_gone(&self) -> bool {
        // hyper drops the exchanges of a client that has gone.
        false
    }
}

impl Asker for Asking<'_> {
    fn intent(&self) -> Intent {
        self.link.cell.intent
    }

    fn with_source<T>(&self, _: &ClusterTable, look: impl FnOnce(KeySource<'_>) -> T) -> T {
        look(KeySource {
            client: self.prepared.client,
            sni: self.link.origin.sni.as_deref(),
            login: LoginKeys {
                parameter: self.prepared.hashed.as_deref(),
                ..LoginKeys::default()
            },
        })
    }

    fn tells_full(&self) -> bool {
        false
    }

    fn prefers(&self, cluster: &ClusterTable) -> Option<BackendId> {
        let backend = cluster.backends.get(self.prepared.sticky?)?;
        Some(backend.handle.id)
    }
}
