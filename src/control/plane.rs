//! The one task of the control plane: waits for events and acts on each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task;
use tokio::task::JoinError;
use tokio::task::JoinSet;
use tracing::debug;
use tracing::error;
use tracing::warn;

use crate::cluster::AdminState;
use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::config::Host;
use crate::control::CommandError;
use crate::control::Desired;
use crate::control::backend::Moment;
use crate::control::core::Core;
use crate::control::core::Order;
use crate::control::discovery;
use crate::control::discovery::Discovery;
use crate::control::probe;
use crate::control::probe::Observation;
use crate::control::probe::Target;
use crate::control::publish::Publisher;
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
/// Our own shortage of descriptors or ports is told this often.
const SHORTAGE_LOG_PAUSE: Duration = Duration::from_secs(10);

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
    },
    Resolved {
        name: Name,
        answer: Option<IpAddr>,
    },
    /// A probe, a lookup or a delayed table is due.
    Due,
    /// Every handle is gone.
    Stop,
}

/// What a task was sent for.
#[derive(Debug)]
enum Errand {
    Probe { id: BackendId, number: u64 },
    Lookup(Name),
}

/// The plane's state between events.
#[derive(Debug)]
pub struct Plane {
    core: Core,
    discovery: Discovery,
    publisher: Publisher,
    metrics: Arc<Metrics>,
    commands: mpsc::Receiver<Command>,
    reports: mpsc::Receiver<Report>,
    answers: mpsc::Receiver<Event>,
    /// Given to probes and lookups.
    answer: mpsc::Sender<Event>,
    tasks: JoinSet<()>,
    /// What each task is for, in case it ends without an answer.
    errands: HashMap<task::Id, Errand>,
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
    ) -> Self {
        // A full channel only makes a finished probe wait.
        let (answer, answers) = mpsc::channel(MAX_BATCH);
        Self {
            core: Core::seeded(fastrand::u64(..)),
            discovery: Discovery::default(),
            publisher: Publisher::new(table),
            metrics,
            commands,
            reports,
            answers,
            answer,
            tasks: JoinSet::new(),
            errands: HashMap::new(),
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

    /// A task that panicked has sent no answer, and nothing would be asked again for want of one.
    fn ended(&mut self, ended: Result<(task::Id, ()), JoinError>) {
        let error = match ended {
            Ok((id, ())) => {
                self.errands.remove(&id);
                return;
            }
            Err(error) => error,
        };
        let errand = self.errands.remove(&error.id());
        error!(%error, "a health check or lookup ended abnormally");
        match errand {
            Some(Errand::Probe { id, number }) => {
                // Our failure, not the backend's. After an answer it changes nothing.
                let observation = Observation {
                    result: Err(Cause::OutOfResources),
                    duration: Duration::ZERO,
                };
                self.core.observe(id, number, observation, Moment::now());
            }
            Some(Errand::Lookup(name)) => self.handle(Event::Resolved { name, answer: None }),
            None => {}
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
        let dues = [probe, self.discovery.next_due(), publish];
        dues.into_iter().flatten().min()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Command(Command::Apply { desired, done }) => {
                self.apply(&desired);
                // Whoever asked may have gone; it is done all the same.
                let _ = done.send(Ok(()));
            }
            Event::Command(Command::SetAdminState {
                cluster,
                backend,
                state,
                done,
            }) => {
                let now = Moment::now();
                let result = self.core.set_admin_state(&cluster, &backend, state, now);
                self.publish();
                let _ = done.send(result);
            }
            Event::Report(report) => {
                self.core
                    .report(report.backend, report.cause, Instant::now());
            }
            Event::Probed {
                id,
                number,
                target,
                observation,
            } => self.probed(id, number, &target, observation),
            Event::Resolved { name, answer } => {
                let now = Moment::now();
                let address = self.discovery.finish(&name, answer, now.instant);
                self.core.resolved(&name, address, now);
            }
            Event::Due | Event::Stop => {}
        }
    }

    fn apply(&mut self, desired: &Desired) {
        let now = Moment::now();
        self.core
            .apply(&desired.config, &desired.tls.connectors, now);
        self.discovery.apply(&desired.config, now.instant);
        // New backends behind a name that is known already.
        for name in self.core.unresolved() {
            if let Some(address) = self.discovery.address(&name) {
                self.core.resolved(&name, Some(address), now);
            }
        }
        self.publisher.apply(desired);
        self.publish();
    }

    fn probed(&mut self, id: BackendId, number: u64, target: &Target, observation: Observation) {
        let now = Moment::now();
        if !self.core.observe(id, number, observation, now) {
            return;
        }
        let cluster = &target.cluster.name;
        self.metrics
            .record_check_duration(cluster, observation.duration);
        match (observation.result, &target.backend.host) {
            (Err(Cause::OutOfResources), _) => self.log_shortage(now.instant),
            (Err(_), Host::Name(name)) => self.discovery.doubt(name, now.instant),
            _ => {}
        }
    }

    fn log_shortage(&mut self, now: Instant) {
        let quiet = self
            .shortage_logged
            .is_some_and(|last| now.saturating_duration_since(last) < SHORTAGE_LOG_PAUSE);
        if !quiet {
            warn!("out of descriptors, ports or memory: health checks say nothing for now");
            self.shortage_logged = Some(now);
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        while let Ok(permit) = Arc::clone(&self.probes).try_acquire_owned() {
            let Some(order) = self.core.start_due(now) else {
                break;
            };
            let answer = self.answer.clone();
            let commands = Arc::clone(&self.commands_running);
            let (id, number) = (order.id, order.number);
            self.spawn(Errand::Probe { id, number }, async move {
                let _permit = permit;
                run_probe(order, &commands, answer).await;
            });
        }
        while let Some(name) = self.discovery.start_due(now) {
            let answer = self.answer.clone();
            let permits = Arc::clone(&self.lookups);
            let current = self.discovery.address(&name);
            self.spawn(Errand::Lookup(Arc::clone(&name)), async move {
                let found = discovery::lookup(&name, current, permits).await;
                if let Err(error) = &found {
                    debug!(%name, %error, "lookup failed");
                }
                let event = Event::Resolved {
                    name,
                    answer: found.ok(),
                };
                // Fails only when the plane has ended.
                let _ = answer.send(event).await;
            });
        }
    }

    fn spawn(&mut self, errand: Errand, task: impl Future<Output = ()> + 'static) {
        let task = self.tasks.spawn_local(task);
        self.errands.insert(task.id(), errand);
    }

    /// Publishes what changed, at once or, when tables are expensive and many, together.
    fn publish_changes(&mut self) {
        if self.core.has_changed() && Instant::now() >= self.publish_not_before {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let started = Instant::now();
        self.publisher.publish(&mut self.core);
        let ended = Instant::now();
        self.publish_not_before = ended + (ended - started) * PUBLISH_SHARE;
    }
}

async fn run_probe(order: Order, commands: &Semaphore, answer: mpsc::Sender<Event>) {
    let (observation, leftover) = probe::probe(&order.target, order.address, commands).await;
    let event = Event::Probed {
        id: order.id,
        number: order.number,
        target: order.target,
        observation,
    };
    // Fails only when the plane has ended.
    let _ = answer.send(event).await;
    leftover.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures::cluster;
    use crate::control::fixtures::config;
    use crate::tls::TlsMaterial;
    use tokio::task::LocalSet;

    fn plane(backends: &[&str]) -> Plane {
        let (_, commands) = mpsc::channel(1);
        let (_, reports) = mpsc::channel(1);
        let mut plane = Plane::new(SharedTable::default(), Arc::default(), commands, reports);
        plane.apply(&Desired {
            config: Arc::new(config(vec![cluster("a", backends)])),
            tls: TlsMaterial::default(),
        });
        plane
    }

    /// Went wrong once: nothing was asked again.
    #[tokio::test]
    async fn who_panics_on_an_errand_is_sent_again() {
        let mut plane = plane(&["db1", "db.x"]);
        let now = Instant::now();
        let order = plane.core.start_due(now).unwrap();
        let name = plane.discovery.start_due(now).unwrap();
        assert_eq!(plane.next_due().filter(|due| *due <= now), None);
        let (id, number) = (order.id, order.number);
        let panics = async {
            plane.spawn(Errand::Probe { id, number }, async { panic!("a probe") });
            plane.spawn(Errand::Lookup(name), async { panic!("a lookup") });
            for _ in 0..2 {
                let ended = plane.tasks.join_next_with_id().await.unwrap();
                plane.ended(ended);
            }
        };
        LocalSet::new().run_until(panics).await;
        assert!(plane.errands.is_empty());
        assert!(plane.core.next_due().is_some(), "the probe");
        assert!(plane.discovery.next_due().is_some(), "the lookup");
    }
}
