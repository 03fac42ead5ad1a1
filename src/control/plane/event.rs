//! What the plane does about each event.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tracing::warn;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::config::Config;
use crate::config::Host;
use crate::control::CommandError;
use crate::control::Desired;
use crate::control::backend::Moment;
use crate::control::failover::Memory;
use crate::control::plane::Command;
use crate::control::plane::Event;
use crate::control::plane::Plane;
use crate::control::probe::Observation;
use crate::control::probe::Target;

/// Our own shortage of descriptors or ports is told this often.
const SHORTAGE_LOG_PAUSE: Duration = Duration::from_secs(10);

impl Plane {
    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Command(Command::Apply { desired, done }) => {
                let result = self.apply(&desired);
                // Whoever asked may have gone; it is done all the same.
                let _ = done.send(result);
            }
            Event::Command(Command::SetAdminState {
                cluster,
                backend,
                state,
                done,
            }) => {
                let now = Moment::now();
                let result = self.core.set_admin_state(&cluster, &backend, state, now);
                self.forget_recalls();
                self.publish();
                let _ = done.send(result);
            }
            Event::Command(Command::Appoint {
                cluster,
                backend,
                done,
            }) => {
                let result = self.core.appoint(&cluster, &backend, Moment::now());
                self.publish();
                let _ = done.send(result);
            }
            Event::Report(report) => {
                if lets_nobody_in(report.cause) {
                    self.recalls.remove(&report.backend);
                }
                self.core
                    .report(report.backend, report.cause, Moment::now());
            }
            Event::Probed {
                id,
                number,
                target,
                observation,
                complaint,
                recall,
            } => {
                // One that nobody waits for any more closes its link by being dropped.
                // So does that of one that was put into maintenance meanwhile.
                if self.probed(id, number, &target, observation) && self.core.is_checked(id) {
                    self.recalls.extend(recall.map(|recall| (id, recall)));
                    self.note(id, &target, complaint);
                }
            }
            Event::Disturbed { id, cause } => {
                self.recalls.remove(&id);
                self.core.report(id, cause, Moment::now());
            }
            Event::Resolved { name, answer } => {
                let now = Moment::now();
                let address = self.discovery.finish(&name, answer, now.instant);
                self.core.resolved(&name, address, now);
                self.forget_recalls();
            }
            Event::Authority {
                cluster,
                number,
                answer,
            } => {
                let now = Moment::now();
                let authorities = &mut self.authorities;
                if authorities.finish(&cluster, number, answer, now.instant) {
                    let current = authorities.current(&cluster);
                    self.core.told(&cluster, current, now);
                }
            }
            Event::Due => self.recorder.look(&self.core, Moment::now()),
            Event::Stop => {}
        }
    }

    pub(super) fn apply(&mut self, desired: &Desired) -> Result<(), CommandError> {
        let now = Moment::now();
        // Of a cluster that goes nothing is known afterwards, and it may come back.
        self.save();
        let memories = self.memories(&desired.config)?;
        let connectors = &desired.tls.connectors;
        self.core.apply(&desired.config, connectors, memories, now);
        self.discovery.apply(&desired.config, now.instant);
        self.authorities
            .apply(&desired.config, connectors, now.instant);
        // New backends behind a name that is known already.
        for name in self.core.unresolved() {
            if let Some(address) = self.discovery.address(&name) {
                self.core.resolved(&name, Some(address), now);
            }
        }
        self.forget_recalls();
        self.publisher.apply(desired);
        self.recorder.apply(&desired.config, now);
        self.publish();
        Ok(())
    }

    /// What is remembered of the clusters that are new.
    fn memories(&self, config: &Config) -> Result<HashMap<Name, Memory>, CommandError> {
        let mut memories = HashMap::new();
        let Some(keeper) = &self.keeper else {
            return Ok(memories);
        };
        let new = config
            .clusters
            .iter()
            .filter(|it| !self.core.knows(&it.name));
        for cluster in new {
            let memory = keeper.load(&cluster.name);
            let memory = memory.map_err(|error| CommandError::State(error.to_string()))?;
            memories.insert(Arc::clone(&cluster.name), memory);
        }
        Ok(memories)
    }

    /// Who is not asked any more keeps no connection either.
    fn forget_recalls(&mut self) {
        let core = &self.core;
        self.recalls.retain(|id, _| core.is_checked(*id));
        self.complaints.retain(|id, _| core.is_checked(*id));
    }

    /// Logs what a person has to put right, once for each time that it changes.
    fn note(&mut self, id: BackendId, target: &Target, complaint: Option<String>) {
        let Some(complaint) = complaint else {
            self.complaints.remove(&id);
            return;
        };
        if self.complaints.get(&id) != Some(&complaint) {
            let (cluster, backend) = (&target.cluster.name, &target.backend.name);
            warn!(%cluster, %backend, reason = %complaint, "the health check is refused");
            self.complaints.insert(id, complaint);
        }
    }

    /// Whether somebody has waited for it.
    fn probed(
        &mut self,
        id: BackendId,
        number: u64,
        target: &Target,
        observation: Observation,
    ) -> bool {
        let now = Moment::now();
        let (duration, failed) = (observation.duration, observation.result.as_ref().err());
        let failed = failed.copied();
        if !self.core.observe(id, number, observation, now) {
            return false;
        }
        let cluster = &target.cluster.name;
        self.metrics.record_check_duration(cluster, duration);
        match (failed, &target.backend.host) {
            (Some(Cause::OutOfResources), _) => self.log_shortage(now.instant),
            (Some(_), Host::Name(name)) => self.discovery.doubt(name, now.instant),
            _ => {}
        }
        true
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
}

/// Who is logged in may still get answers, and a PostgreSQL that is stopped the smart way waits for
/// it to leave: the next probe has to knock like everybody else.
fn lets_nobody_in(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::StartingUp | Cause::ShuttingDown | Cause::Crashed
    )
}
