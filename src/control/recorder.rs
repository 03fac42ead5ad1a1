//! Between the core and the flight recorder: gathers what happens and what the data plane
//! knows of it, and tells what is over.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Instant;

use tracing::debug;
use tracing::info;

use crate::cluster::Health;
use crate::config::Config;
use crate::control::backend::Moment;
use crate::control::core::Core;
use crate::control::happening::Happening;
use crate::control::happening::What;
use crate::control::hooks;
use crate::control::hooks::Hooks;
use crate::control::journal::Facts;
use crate::control::journal::Incident;
use crate::control::journal::Journal;
use crate::control::journal::Kind;
use crate::control::journal::Phase;
use crate::metrics::Metrics;
use crate::routing::BackendHandle;
use crate::routing::Counts;

/// The journal, for the control plane that writes it and the admin API that reads it.
#[derive(Debug, Clone, Default)]
pub struct SharedJournal(Arc<Mutex<Journal>>);

impl SharedJournal {
    /// The latest incidents, the newest first.
    pub fn latest(&self, limit: usize) -> Vec<Incident> {
        self.lock().latest(limit)
    }

    fn lock(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the journal.
#[derive(Debug, Default)]
pub struct Recorder {
    journal: SharedJournal,
    hooks: Hooks,
    metrics: Arc<Metrics>,
}

impl Recorder {
    pub fn new(journal: SharedJournal, metrics: Arc<Metrics>) -> Self {
        Self {
            journal,
            hooks: Hooks::new(Arc::clone(&metrics)),
            metrics,
        }
    }

    /// Another configuration is in force.
    pub fn apply(&mut self, config: &Config, now: Moment) {
        let is_known = |name: &_| config.clusters.iter().any(|it| it.name == *name);
        self.journal.lock().keep(is_known, now);
        self.hooks.apply(config);
    }

    /// Notes what has happened since the last call. To be called before a table is published.
    pub fn record(&mut self, core: &mut Core, now: Moment) {
        for happening in core.take_happenings(now) {
            let counts = counts(core, &happening.cluster);
            let mut journal = self.journal.lock();
            if journal.open_id(&happening.cluster, None).is_none() {
                arm_hold(core, &happening);
            }
            arm_answer(core, &happening);
            journal.note(&happening, counts);
            let incident = journal.open_id(&happening.cluster, happening.backend.as_ref());
            drop(journal);
            if let Some(event) = hooks::event_of(&happening, incident, core) {
                self.hooks.tell(event);
            }
        }
    }

    /// The table with all that was recorded is published; `before` is when that began.
    pub fn published(&mut self, core: &Core, before: Moment) {
        let now = Moment::now();
        self.journal.lock().published(before, now);
        self.look(core, now);
    }

    /// Reads what the data plane knows; tells what is over.
    pub fn look(&mut self, core: &Core, now: Moment) {
        let closed = {
            let mut journal = self.journal.lock();
            journal.look(|incident| facts(core, incident), now);
            journal.take_closed()
        };
        for incident in closed {
            self.count(core, &incident);
            log(&incident);
        }
    }

    /// When to look next; `None`: when something happens.
    pub fn next_look(&self) -> Option<Instant> {
        self.journal.lock().next_look()
    }

    fn count(&self, core: &Core, incident: &Incident) {
        let Some(cluster) = core.cluster(&incident.cluster) else {
            return;
        };
        match incident.kind {
            Kind::Failover => cluster.handle.tally.count_failover(),
            Kind::Switchover => cluster.handle.tally.count_switchover(),
            Kind::Outage | Kind::SplitBrain | Kind::BackendDown | Kind::Ejection => return,
        }
        if let Some(duration) = incident.duration() {
            let cluster = &incident.cluster;
            self.metrics.record_failover_duration(cluster, duration);
        }
    }
}

fn counts(core: &Core, cluster: &str) -> Counts {
    let cluster = core.cluster(cluster);
    cluster.map_or_else(Counts::default, |it| it.handle.tally.read())
}

fn arm_hold(core: &Core, happening: &Happening) {
    let begins = matches!(
        happening.what,
        What::PrimaryLost { .. } | What::Unserved { .. } | What::SplitBrain
    );
    if let Some(cluster) = core.cluster(&happening.cluster).filter(|_| begins) {
        cluster.handle.tally.first_held().arm();
    }
}

fn arm_answer(core: &Core, happening: &Happening) {
    let is_back = match happening.what {
        What::PrimarySeen { .. } | What::Served | What::Returned => true,
        What::Health { to, .. } => to == Health::Up,
        _ => false,
    };
    if is_back && let Some(handle) = handle(core, &happening.cluster, happening.backend.as_deref())
    {
        handle.first_answer().arm();
    }
}

fn handle<'a>(
    core: &'a Core,
    cluster: &str,
    backend: Option<&str>,
) -> Option<&'a Arc<BackendHandle>> {
    let mut states = core.cluster(cluster)?.backends.iter();
    let state = states.find(|state| Some(&*state.handle.name) == backend)?;
    Some(&state.handle)
}

fn facts(core: &Core, incident: &Incident) -> Facts {
    let Some(cluster) = core.cluster(&incident.cluster) else {
        return Facts::default();
    };
    let found = incident.found.as_deref();
    let found = found.and_then(|found| handle(core, &incident.cluster, Some(found)));
    Facts {
        counts: cluster.handle.tally.read(),
        first_held: cluster.handle.tally.first_held().read(),
        first_answer: found.and_then(|handle| handle.first_answer().read()),
    }
}

/// One line for a whole incident; its times are seconds since the first error.
fn log(incident: &Incident) {
    let after = |phase| incident.seconds_to(phase);
    if !incident.kind.is_of_cluster() && incident.times > 1 {
        // A flapping backend is told of by its changes of health already.
        debug!(
            incident = incident.id,
            cluster = %incident.cluster,
            times = incident.times,
            "incident over again"
        );
        return;
    }
    info!(
        incident = incident.id,
        kind = incident.kind.as_str(),
        cluster = %incident.cluster,
        lost = incident.lost.as_deref(),
        found = incident.found.as_deref(),
        timeline = incident.timeline,
        last_good_seconds = after(Phase::LastGoodAnswer),
        detected_seconds = after(Phase::Detected),
        fenced_seconds = after(Phase::Fenced),
        holding_seconds = after(Phase::Holding),
        seen_seconds = after(Phase::NewPrimarySeen),
        released_seconds = after(Phase::Released),
        answered_seconds = after(Phase::FirstGoodAnswer),
        sessions_severed = incident.counts.severed,
        sessions_lost = incident.counts.lost,
        sessions_held = incident.counts.held,
        sessions_refused = incident.counts.refused,
        "incident over"
    );
}
