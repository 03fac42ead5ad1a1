//! The one task of the control plane: waits for events and acts on each.

mod errand;
mod event;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task;
use tokio::task::JoinSet;

use crate::cluster::AdminState;
use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::control::CommandError;
use crate::control::Desired;
use crate::control::authority::Authorities;
use crate::control::authority::Silence;
use crate::control::backend::Moment;
use crate::control::core::Core;
use crate::control::discovery;
use crate::control::discovery::Discovery;
use crate::control::evidence::Authority;
use crate::control::keeper::Keeper;
use crate::control::plane::errand::Errand;
use crate::control::probe;
use crate::control::probe::Observation;
use crate::control::probe::Recall;
use crate::control::probe::Target;
use crate::control::publish::Publisher;
use crate::control::recorder::Recorder;
use crate::metrics::Metrics;
use crate::report::Report;
use crate::routing::SharedTable;

/// Probes under way at once: as many descriptors. Two thousand backends that
/// all hang still get their probe each second.
const MAX_PROBES: usize = 2048;
/// Events handled before what they changed is published.
const MAX_BATCH: usize = 256;
/// Of the plane's time, publishing takes at most one part in this many plus one.
const PUBLISH_SHARE: u32 = 4;

/// What somebody asks of the control plane.
#[derive(Debug)]
pub enum Command {
    Apply {
        desired: Box<Desired>,
        done: oneshot::Sender<Result<(), CommandError>>,
    },
    SetAdminState {
        cluster: String,
        backend: String,
        state: AdminState,
        done: oneshot::Sender<Result<(), CommandError>>,
    },
    Appoint {
        cluster: String,
        backend: String,
        done: oneshot::Sender<Result<(), CommandError>>,
    },
}

/// Everything that can happen to the control plane.
#[derive(Debug)]
enum Event {
    Command(Command),
    Report(Report),
    Probed {
        id: BackendId,
        number: u64,
        target: Arc<Target>,
        observation: Observation,
        complaint: Option<String>,
        /// Calls back the link that the probe has left, if any.
        recall: Option<Recall>,
    },
    /// The database has closed a resting link, or spoken there unasked.
    Disturbed {
        id: BackendId,
        cause: Cause,
    },
    Resolved {
        name: Name,
        answer: Option<IpAddr>,
    },
    /// What a cluster's authority says.
    Authority {
        cluster: Name,
        number: u64,
        answer: Result<Authority, Silence>,
    },
    /// A probe, a lookup, a poll or a delayed table is due.
    Due,
    /// Every handle is gone.
    Stop,
}

/// The plane's state between events.
#[derive(Debug)]
pub struct Plane {
    core: Core,
    discovery: Discovery,
    authorities: Authorities,
    publisher: Publisher,
    /// Where fences are remembered over restarts.
    keeper: Option<Keeper>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    commands: mpsc::Receiver<Command>,
    reports: mpsc::Receiver<Report>,
    answers: mpsc::Receiver<Event>,
    /// Given to probes and lookups.
    answer: mpsc::Sender<Event>,
    tasks: JoinSet<()>,
    /// What each task is for, in case it ends without an answer.
    errands: HashMap<task::Id, Errand>,
    /// The links that rest between two probes.
    recalls: HashMap<BackendId, Recall>,
    /// What was logged of those whose probes are refused.
    complaints: HashMap<BackendId, String>,
    probes: Arc<Semaphore>,
    commands_running: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    /// Not before this is the next table published, except on command.
    publish_not_before: Instant,
    shortage_logged: Option<Instant>,
}

impl Plane {
    pub fn new(
        table: SharedTable,
        metrics: Arc<Metrics>,
        commands: mpsc::Receiver<Command>,
        reports: mpsc::Receiver<Report>,
        keeper: Option<Keeper>,
        recorder: Recorder,
    ) -> Self {
        // A full channel only makes a finished probe wait.
        let (answer, answers) = mpsc::channel(MAX_BATCH);
        Self {
            core: Core::seeded(fastrand::u64(..)),
            discovery: Discovery::default(),
            authorities: Authorities::seeded(fastrand::u64(..)),
            publisher: Publisher::new(table),
            keeper,
            recorder,
            metrics,
            commands,
            reports,
            answers,
            answer,
            tasks: JoinSet::new(),
            errands: HashMap::new(),
            recalls: HashMap::new(),
            complaints: HashMap::new(),
            probes: Arc::new(Semaphore::new(MAX_PROBES)),
            commands_running: Arc::new(Semaphore::new(probe::MAX_COMMANDS)),
            lookups: Arc::new(Semaphore::new(discovery::MAX_LOOKUPS)),
            publish_not_before: Instant::now(),
            shortage_logged: None,
        }
    }

    /// Runs until every handle is dropped. Probes under way end with it.
    pub async fn run(mut self) {
        loop {
            let mut event = self.next_event().await;
            for _ in 0..MAX_BATCH {
                if matches!(event, Event::Stop) {
                    return;
                }
                self.handle(event);
                match self.answers.try_recv() {
                    Ok(answer) => event = answer,
                    Err(_) => break,
                }
            }
            // Here, too: while events keep coming, nobody waits for the tasks.
            while let Some(ended) = self.tasks.try_join_next_with_id() {
                self.ended(ended);
            }
            self.core.judge_outliers(Moment::now());
            self.recorder.record(&mut self.core, Moment::now());
            self.start_due();
            self.publish_changes();
        }
    }

    async fn next_event(&mut self) -> Event {
        loop {
            // Anew in each round: a probe that ended made room for the next.
            let due = self.next_due();
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                command = self.commands.recv() => {
                    return command.map_or(Event::Stop, Event::Command);
                }
                // The sender that is kept here keeps the channel open.
                Some(answer) = self.answers.recv() => return answer,
                Some(report) = self.reports.recv() => return Event::Report(report),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                () = sleep => return Event::Due,
            }
        }
    }

    fn next_due(&mut self) -> Option<Instant> {
        // Without a free place the next probe starts when one ends.
        let probe = if self.probes.available_permits() > 0 {
            self.core.next_due()
        } else {
            None
        };
        let publish = self.core.has_changed().then_some(self.publish_not_before);
        let poll = self.authorities.next_due();
        let look = self.recorder.next_look();
        let judge = self.core.next_judgement();
        let lookup = self.discovery.next_due();
        let dues = [probe, lookup, poll, publish, look, judge];
        dues.into_iter().flatten().min()
    }

    /// Publishes what changed, at once or, when tables are expensive and many, together.
    fn publish_changes(&mut self) {
        if self.core.has_changed() && Instant::now() >= self.publish_not_before {
            self.publish();
        }
    }

    /// Saves what the next table rests on.
    fn save(&mut self) {
        let unsaved = self.core.take_unsaved();
        if let Some(keeper) = self.keeper.as_ref().filter(|_| !unsaved.is_empty()) {
            keeper.save(unsaved);
        }
    }

    fn publish(&mut self) {
        let started = Instant::now();
        self.recorder.record(&mut self.core, Moment::now());
        self.save();
        let before = Moment::now();
        self.publisher.publish(&mut self.core);
        self.recorder.published(&self.core, before);
        let ended = Instant::now();
        self.publish_not_before = ended + (ended - started) * PUBLISH_SHARE;
    }
}

#[cfg(test)]
mod tests;
