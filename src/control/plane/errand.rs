//! Tasks that ask: one for each probe, lookup and question to an authority.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::task;
use tokio::task::JoinError;
use tracing::debug;
use tracing::error;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::control::authority;
use crate::control::authority::Silence;
use crate::control::backend::Moment;
use crate::control::core::Order;
use crate::control::discovery;
use crate::control::plane::Event;
use crate::control::plane::Plane;
use crate::control::probe;
use crate::control::probe::Leftover;
use crate::control::probe::Observation;
use crate::control::probe::Recall;
use crate::control::probe::Rest;
use crate::control::probe::Resting;

/// What a task was sent for.
#[derive(Debug)]
pub(super) enum Errand {
    Probe { id: BackendId, number: u64 },
    Lookup(Name),
    Poll { cluster: Name, number: u64 },
}

impl Plane {
    pub(super) fn start_due(&mut self) {
        let now = Instant::now();
        while let Ok(permit) = Arc::clone(&self.probes).try_acquire_owned() {
            let Some(order) = self.core.start_due(now) else {
                break;
            };
            let answer = self.answer.clone();
            let commands = Arc::clone(&self.commands_running);
            let (id, number) = (order.id, order.number);
            let recall = self.recalls.remove(&id);
            self.spawn(Errand::Probe { id, number }, async move {
                run_probe(order, recall, &commands, permit, answer).await;
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
        self.ask_authorities(now);
    }

    fn ask_authorities(&mut self, now: Instant) {
        self.authorities
            .hurry(|cluster| self.core.needs_authority(cluster, now));
        while let Some(poll) = self.authorities.start_due(now, &self.discovery) {
            let answer = self.answer.clone();
            let (cluster, number) = (poll.cluster, poll.number);
            let errand = Errand::Poll {
                cluster: Arc::clone(&cluster),
                number,
            };
            let deadline = (now + poll.timeout).into();
            self.spawn(errand, async move {
                let said = authority::ask(poll.question, deadline).await;
                let event = Event::Authority {
                    cluster,
                    number,
                    answer: said,
                };
                // Fails only when the plane has ended.
                let _ = answer.send(event).await;
            });
        }
    }

    pub(super) fn spawn(&mut self, errand: Errand, task: impl Future<Output = ()> + 'static) {
        let task = self.tasks.spawn_local(task);
        self.errands.insert(task.id(), errand);
    }

    /// A task that panicked has sent no answer, and nothing would be asked again for want of one.
    pub(super) fn ended(&mut self, ended: Result<(task::Id, ()), JoinError>) {
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
            Some(Errand::Poll { cluster, number }) => self.handle(Event::Authority {
                cluster,
                number,
                answer: Err(Silence::Unanswered(Cause::OutOfResources)),
            }),
            None => {}
        }
    }
}

/// Probes; then closes what is left of it, or watches it until it is called back.
pub(super) async fn run_probe(
    order: Order,
    recall: Option<Recall>,
    commands: &Semaphore,
    permit: OwnedSemaphorePermit,
    answer: mpsc::Sender<Event>,
) {
    let target = order.target;
    let link = match recall {
        Some(recall) => recall.take(&target).await,
        None => None,
    };
    let outcome = probe::probe(&target, order.address, link, commands).await;
    let (resting, recall) = match outcome.leftover {
        Leftover::Kept(link) => {
            let (recall, recalled) = probe::recall();
            let target = Arc::clone(&target);
            (Ok((Resting { link, target }, recalled)), Some(recall))
        }
        leftover => (Err(leftover), None),
    };
    let event = Event::Probed {
        id: order.id,
        number: order.number,
        target,
        observation: outcome.observation,
        complaint: outcome.complaint,
        recall,
    };
    // Fails only when the plane has ended.
    let _ = answer.send(event).await;
    match resting {
        Ok((resting, recalled)) => {
            // A link that rests is no probe under way.
            drop(permit);
            if let Rest::Disturbed { cause, link } = resting.rest(recalled).await {
                let id = order.id;
                let _ = answer.send(Event::Disturbed { id, cause }).await;
                link.close().await;
            }
        }
        Err(leftover) => leftover.close().await,
    }
}
