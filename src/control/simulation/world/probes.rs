//! Probes of the simulated world: lost, late, doubled and out of date.

use std::time::Duration;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::control::evidence::Evidence;
use crate::control::probe::Observation;
use crate::control::simulation::Event;
use crate::control::simulation::world::Flight;
use crate::control::simulation::world::World;

impl World {
    pub(super) fn due_flight(&self) -> Option<usize> {
        self.flights.iter().position(|it| it.due() <= self.now)
    }

    pub(super) fn launch(&mut self, id: BackendId, number: u64, node: usize) {
        let timeout = self.setup.timeout;
        let millis = match self.random.u8(..10) {
            0 if !self.calm => self.random.u64(..250),
            _ => self.random.u64(1..20),
        };
        let total = Duration::from_millis(millis).min(timeout);
        let answer = match self.random.u8(..) {
            0..6 if !self.calm => Some(Err(Cause::CheckTimeout)),
            6..9 if !self.calm => Some(Err(Cause::OutOfResources)),
            _ => None,
        };
        let delivered = match answer {
            Some(Err(Cause::CheckTimeout)) => self.now + timeout,
            _ => self.now + total,
        };
        self.flights.push(Flight {
            id,
            number,
            node,
            started: self.now,
            sampled: self.now + total.mul_f64(self.random.f64()),
            delivered,
            answer,
        });
    }

    pub(super) fn fly(&mut self, mut flight: Flight) {
        let Some(answer) = flight.answer.clone() else {
            let answer = self.truth.answer(flight.node);
            if answer == Err(Cause::CheckTimeout) {
                flight.delivered = flight.started + self.setup.timeout;
            }
            flight.answer = Some(answer);
            self.flights.push(flight);
            return;
        };
        self.deliver(&flight, answer.clone());
        if !self.calm && self.random.u8(..50) == 0 {
            // Nobody waits for it any more.
            self.deliver(&flight, answer);
        }
    }

    fn deliver(&mut self, flight: &Flight, answer: Result<Evidence, Cause>) {
        let observation = Observation {
            result: answer.clone(),
            duration: self.now - flight.started,
        };
        let now = self.moment();
        if self
            .core
            .observe(flight.id, flight.number, observation, now)
        {
            self.note(Event::Delivered(
                flight.node,
                answer.as_ref().err().copied(),
            ));
            if self.core.is_checked(flight.id) {
                let evidence = answer.ok();
                self.checks
                    .delivered(flight.node, flight.id, evidence, self.now);
            }
        }
    }
}
