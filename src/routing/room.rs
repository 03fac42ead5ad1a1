//! A waiting room: bounded, first in first out, released at a pace.
//!
//! Sessions of all workers wait here; the control plane or an ending session
//! lets the next ones go. It has no clock: who waits brings the deadline.

use std::sync::Arc;

/// Sessions that wait in order.
#[derive(Debug, Default)]
pub struct WaitingRoom {}

/// What came of asking for a place.
#[derive(Debug)]
pub enum Admission {
    /// Wait for this; dropping it leaves the room.
    Waiting(Ticket),
    /// `max_sessions` wait already.
    Full,
}

/// One waiting session's place in line.
#[derive(Debug)]
pub struct Ticket {}

/// A released session's right to try; while it is held it counts against the
/// pace. Drop it once the session is connected (or gave up).
#[derive(Debug)]
pub struct Release {}

impl WaitingRoom {
    /// Takes a place at the end of the line.
    pub fn enter(self: &Arc<Self>, _max_sessions: usize) -> Admission {
        todo!()
    }

    /// Sessions that wait now.
    pub fn len(&self) -> usize {
        todo!()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets sessions go, first in first out, at most `pace` of them under way at once;
    /// each dropped [`Release`] lets the next one go, until [`Self::close`] is called.
    pub fn open(&self, _pace: usize) {
        todo!()
    }

    /// Stops letting sessions go: no eligible backend is left.
    pub fn close(&self) {
        todo!()
    }

    /// Lets exactly one go, if any waits.
    pub fn release_one(&self) {
        todo!()
    }
}

impl Ticket {
    /// Resolves when it is this session's turn.
    pub async fn turn(&mut self) -> Release {
        todo!()
    }
}
