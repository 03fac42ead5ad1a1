//! One cluster's live state.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;

use crate::cluster::Name;
use crate::cluster::WantedRole;
use crate::config::Intent;
use crate::routing::budget::RetryBudget;
use crate::routing::http_tally::ClusterHttp;
use crate::routing::quantile::Quantiles;
use crate::routing::room::WaitingRoom;
use crate::routing::tally::Tally;

/// One cluster's live state: its waiting rooms and the balancer's cursor.
#[derive(Debug)]
pub struct ClusterHandle {
    pub name: Name,
    /// For an eligible backend. By intent: sessions that may be served by nobody must not
    /// be let go again and again because others of their role may.
    holds: Mutex<Vec<(Intent, Arc<WaitingRoom>)>>,
    /// For a place on a full backend. In the order of [`WantedRole::ALL`]: writes may have
    /// to wait while reads need not.
    queues: [Arc<WaitingRoom>; WantedRole::ALL.len()],
    /// Where round robin goes on after a table was replaced.
    pub cursor: AtomicU64,
    pub tally: Tally,
    /// Of its HTTP requests.
    pub retries: RetryBudget,
    /// How long its reads take; measured where they are hedged.
    pub reads: Quantiles,
    /// What only HTTP counts.
    pub http: ClusterHttp,
}

impl ClusterHandle {
    pub fn new(name: Name) -> Self {
        Self {
            name,
            holds: Mutex::default(),
            queues: Default::default(),
            cursor: AtomicU64::new(0),
            tally: Tally::default(),
            retries: RetryBudget::default(),
            reads: Quantiles::default(),
            http: ClusterHttp::default(),
        }
    }

    /// Where sessions of this intent wait for an eligible backend.
    pub fn hold(&self, intent: Intent) -> Arc<WaitingRoom> {
        let mut holds = self.lock_holds();
        let known = holds.iter().find(|(known, _)| *known == intent);
        match known {
            Some((_, room)) => Arc::clone(room),
            // Of a listener that has been changed: closed until the next table.
            None => {
                let room = Arc::<WaitingRoom>::default();
                holds.push((intent, Arc::clone(&room)));
                room
            }
        }
    }

    /// Control plane only, before the table with these intents is published. Rooms of
    /// others are kept while somebody waits there.
    pub fn prepare_holds(&self, intents: &[Intent]) {
        for intent in intents {
            self.hold(*intent);
        }
        self.lock_holds()
            .retain(|(intent, room)| intents.contains(intent) || Arc::strong_count(room) > 1);
    }

    /// All rooms in which somebody may wait for an eligible backend.
    pub fn holds(&self) -> Vec<(Intent, Arc<WaitingRoom>)> {
        self.lock_holds().clone()
    }

    fn lock_holds(&self) -> MutexGuard<'_, Vec<(Intent, Arc<WaitingRoom>)>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where sessions that want this role wait for a place on a full backend.
    pub fn queue(&self, role: WantedRole) -> &Arc<WaitingRoom> {
        &self.queues[role as usize]
    }

    /// A place on a backend is free: somebody of each wanted role may try for it.
    pub fn release_queued(&self) {
        for queue in &self.queues {
            queue.release_one();
        }
    }

    /// Nothing will ever come: everyone is let go, to be refused.
    pub fn dissolve(&self) {
        let holds = self.holds();
        let holds = holds.iter().map(|(_, room)| room);
        for room in holds.chain(&self.queues) {
            room.open(usize::MAX);
        }
    }

    /// Sessions that wait for an eligible backend.
    pub fn held(&self) -> usize {
        self.holds().iter().map(|(_, room)| room.len()).sum()
    }

    /// Sessions that wait for a place on a full backend.
    pub fn queued(&self) -> usize {
        self.queues.iter().map(|room| room.len()).sum()
    }
}
