//! What probes, sessions and authorities say, folded into health and roles.

use std::sync::Arc;
use std::time::Instant;

use tracing::debug;

use crate::cluster::AdminState;
use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::control::backend::Moment;
use crate::control::core::Core;
use crate::control::core::locate;
use crate::control::core::outliers::is_of_answers;
use crate::control::evidence::Authority;
use crate::control::health::Damping;
use crate::control::health::is_hard;
use crate::control::health::is_proof;
use crate::control::probe::Observation;

impl Core {
    /// Folds in what a probe saw; `false` when nobody waits for it any more.
    pub fn observe(
        &mut self,
        id: BackendId,
        number: u64,
        observation: Observation,
        now: Moment,
    ) -> bool {
        let Some(state) = self.find(id) else {
            return false;
        };
        let Some(flight) = state.flight.filter(|flight| flight.number == number) else {
            return false;
        };
        state.flight = None;
        if let Err(cause) = observation.result {
            let handle = &state.handle;
            debug!(cluster = %handle.cluster, backend = %handle.name, %cause, "health check failed");
        }
        if !matches!(observation.result, Err(Cause::OutOfResources)) {
            state.handle.count_check(observation.result.is_ok());
        }
        let passed = observation.result.is_ok();
        let reported = state.reported.take();
        let mut answers_traffic = false;
        let result = match observation.result {
            Ok(evidence) => {
                answers_traffic = state.hear(evidence, number);
                Ok(())
            }
            Err(cause) => {
                state.fail(cause, number, now.instant);
                self.note_error(id, cause, now);
                Err(cause)
            }
        };
        self.judge(id, result, now);
        if reported.is_none() {
            self.note_suspicion(id, now.instant);
        }
        self.decide(id, now);
        self.measure_lag(id, now);
        if answers_traffic {
            self.answer_traffic(id, now);
        }
        if let Some(cause) = reported {
            self.suspect(id, cause, now.instant);
        }
        if passed {
            self.note_pass(id, now);
        }
        self.schedule_next(id, flight.started, reported.is_some(), now.instant);
        true
    }

    /// A probe has confirmed or refuted what traffic had said.
    fn answer_traffic(&mut self, id: BackendId, now: Moment) {
        if let Some((cluster, position)) = locate(&self.places, &mut self.clusters, id) {
            cluster.backends[position].refute(now.instant);
            // Confirmed, its role stays as it was, but spares its sessions no longer.
            cluster.changed = true;
        }
    }

    /// Turns a result into health.
    pub(super) fn judge(&mut self, id: BackendId, result: Result<(), Cause>, now: Moment) {
        let Some((cluster, position)) = locate(&self.places, &mut self.clusters, id) else {
            return;
        };
        let damping = if cluster.serves_every_listener() {
            Damping::Apply
        } else {
            Damping::Skip
        };
        let state = &mut cluster.backends[position];
        // A verdict that was under way when maintenance began is not acted on.
        if state.admin == AdminState::Maintenance {
            return;
        }
        let cause = state.tracker.cause();
        if let Some(transition) = state.tracker.observe(result, damping, now.instant) {
            state.changed(transition, now);
            cluster.changed = true;
            cluster.judge_outliers(now);
            self.hurry_when_unserved(id, now.instant);
        } else if state.tracker.cause() != cause {
            // People who look for the reason see the present one.
            cluster.changed = true;
        }
    }

    /// Judges the roles in a backend's cluster anew.
    pub(super) fn decide(&mut self, id: BackendId, now: Moment) {
        let Some((cluster, _)) = locate(&self.places, &mut self.clusters, id) else {
            return;
        };
        if !cluster.tells_roles() {
            return;
        }
        let fresh = cluster.decide(self.next_probe, now);
        let fast = cluster.fast_interval();
        for state in cluster
            .backends
            .iter()
            .filter(|state| fresh.contains(&state.handle.id))
        {
            if state.flight.is_none() {
                let pause = state.urgent_pause(fast, now.instant);
                let due = state.last_started.map_or(now.instant, |last| last + pause);
                self.schedule.pull(state.handle.id, due.max(now.instant));
            }
        }
        self.hurry_when_unserved(id, now.instant);
    }

    /// What a cluster's authority says from now on; `None`: it is silent.
    pub fn told(&mut self, cluster: &Name, authority: Option<&Authority>, now: Moment) {
        let Some(state) = self.clusters.get_mut(cluster) else {
            return;
        };
        state.roles.hear(authority.cloned());
        if let Some(first) = state.backends.first().map(|state| state.handle.id) {
            self.decide(first, now);
        }
    }

    fn measure_lag(&mut self, id: BackendId, now: Moment) {
        if let Some((cluster, position)) = locate(&self.places, &mut self.clusters, id)
            && cluster.tells_roles()
        {
            cluster.measure_lag(position, now);
        }
    }

    fn suspect(&mut self, id: BackendId, cause: Cause, now: Instant) {
        if let Some(state) = self.find(id) {
            state.suspect(cause, now);
        }
    }

    fn note_suspicion(&mut self, id: BackendId, now: Instant) {
        if let Some(state) = self.find(id) {
            state.note_suspicion(now);
        }
    }

    /// Evidence from a session: asks for a probe at once, at most one per fast interval. What
    /// answers say is judged by itself.
    pub fn report(&mut self, id: BackendId, cause: Cause, now: Moment) {
        if is_of_answers(cause) {
            self.judge_outliers_of(id, now);
            return;
        }
        let Some((cluster, position)) = locate(&self.places, &mut self.clusters, id) else {
            return;
        };
        let fast = cluster.fast_interval();
        let state = &mut cluster.backends[position];
        if !state.is_checked() {
            return;
        }
        state.suspect(cause, now.instant);
        let name = Arc::clone(&state.handle.name);
        cluster
            .watch
            .failed(&cluster.config.name, &name, cause, now);
        let state = &mut cluster.backends[position];
        if is_proof(cause) && state.quarantine(cause, now.instant) {
            self.decide(id, now);
        }
        let Some(state) = self.find(id) else {
            return;
        };
        if state.flight.is_some() {
            // Hard evidence is not overwritten by soft.
            if !state.reported.is_some_and(is_hard) {
                state.reported = Some(cause);
            }
            return;
        }
        let pause = state.urgent_pause(fast, now.instant);
        let due = state
            .last_started
            .map_or(now.instant, |started| started + pause);
        self.schedule.pull(id, due.max(now.instant));
    }
}
