//! A waiting room: bounded, first in first out, released at a pace.
//!
//! Sessions of all workers wait here; the control plane or an ending session
//! lets the next ones go. It has no clock: who waits brings the deadline.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::sync::oneshot;

/// Sessions that wait in order.
#[derive(Debug, Default)]
pub struct WaitingRoom {
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// Ascending by number: first in, first out.
    waiting: VecDeque<Waiting>,
    next_number: u64,
    /// How many released sessions may be under way at once; 0 = closed.
    pace: usize,
    under_way: usize,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    turn: oneshot::Sender<Release>,
}

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
pub struct Ticket {
    room: Arc<WaitingRoom>,
    number: u64,
    turn: oneshot::Receiver<Release>,
}

/// A released session's right to try; while it is held it counts against the
/// pace. Drop it once the session is connected (or gave up).
#[derive(Debug)]
pub struct Release {
    room: Arc<WaitingRoom>,
    /// Released by [`WaitingRoom::release_one`], which has no pace.
    single: bool,
}

impl WaitingRoom {
    /// Takes a place at the end of the line.
    pub fn enter(self: &Arc<Self>, max_sessions: usize) -> Admission {
        let (sender, receiver) = oneshot::channel();
        let mut line = self.lock();
        if line.waiting.len() >= max_sessions {
            return Admission::Full;
        }
        let number = line.next_number;
        line.next_number += 1;
        line.waiting.push_back(Waiting {
            number,
            turn: sender,
        });
        self.advance(line);
        Admission::Waiting(Ticket {
            room: Arc::clone(self),
            number,
            turn: receiver,
        })
    }

    /// Sessions that wait now.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets sessions go, first in first out, at most `pace` of them under way at once;
    /// each dropped [`Release`] lets the next one go, until [`Self::close`] is called.
    pub fn open(self: &Arc<Self>, pace: usize) {
        let mut line = self.lock();
        line.pace = pace;
        self.advance(line);
    }

    /// Stops letting sessions go: no eligible backend is left.
    pub fn close(&self) {
        self.lock().pace = 0;
    }

    /// Lets exactly one go, if any waits.
    pub fn release_one(self: &Arc<Self>) {
        let first = self.lock().waiting.pop_front();
        if let Some(first) = first {
            self.send(vec![first], true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(self: &Arc<Self>, mut line: MutexGuard<'_, Line>) {
        let mut released = Vec::new();
        while line.under_way < line.pace {
            let Some(first) = line.waiting.pop_front() else {
                break;
            };
            line.under_way += 1;
            released.push(first);
        }
        // A release that nobody takes is dropped while it is sent and locks the line again.
        drop(line);
        self.send(released, false);
    }

    fn send(self: &Arc<Self>, released: Vec<Waiting>, single: bool) {
        for waiting in released {
            let _ = waiting.turn.send(Release {
                room: Arc::clone(self),
                single,
            });
        }
    }
}

impl Ticket {
    /// Resolves when it is this session's turn. Cancel safe.
    pub async fn turn(&mut self) -> Release {
        match (&mut self.turn).await {
            Ok(release) => release,
            // The sender lives in the room, which this ticket keeps alive, until it is used.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether nobody is in front.
    pub fn is_first(&self) -> bool {
        let line = self.room.lock();
        line.waiting
            .front()
            .is_none_or(|first| first.number >= self.number)
    }

    /// Steps out of the line; [`Self::again`] steps back in at the same place.
    pub fn leave(&self) {
        let mut line = self.room.lock();
        let place = line
            .waiting
            .binary_search_by_key(&self.number, |other| other.number);
        if let Ok(place) = place {
            line.waiting.remove(place);
        }
    }

    /// Takes the old place in line again after a turn that came to nothing.
    pub fn again(&mut self) {
        let (sender, receiver) = oneshot::channel();
        let mut line = self.room.lock();
        let place = line
            .waiting
            .partition_point(|other| other.number < self.number);
        line.waiting.insert(
            place,
            Waiting {
                number: self.number,
                turn: sender,
            },
        );
        // Dropped without the lock: a release nobody took would lock the line again.
        let _used = std::mem::replace(&mut self.turn, receiver);
        self.room.advance(line);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if self.single {
            return;
        }
        let mut line = self.room.lock();
        line.under_way -= 1;
        self.room.advance(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(room: &Arc<WaitingRoom>) -> Ticket {
        match room.enter(10) {
            Admission::Waiting(ticket) => ticket,
            Admission::Full => panic!("the room has places"),
        }
    }

    fn turn(ticket: &mut Ticket) -> Option<Release> {
        ticket.turn.try_recv().ok()
    }

    #[test]
    fn a_full_room_refuses() {
        let room = Arc::new(WaitingRoom::default());
        let _one = room.enter(1);
        assert!(matches!(room.enter(1), Admission::Full));
        assert_eq!(room.len(), 1);
    }

    #[test]
    fn an_open_room_releases_in_order_and_at_its_pace() {
        let room = Arc::new(WaitingRoom::default());
        let mut tickets: Vec<_> = (0..4).map(|_| enter(&room)).collect();
        assert!(turn(&mut tickets[0]).is_none());

        room.open(2);
        let first = turn(&mut tickets[0]).unwrap();
        let _second = turn(&mut tickets[1]).unwrap();
        assert!(turn(&mut tickets[2]).is_none());
        drop(first);
        assert!(turn(&mut tickets[2]).is_some());
    }

    #[test]
    fn a_closed_room_releases_nobody() {
        let room = Arc::new(WaitingRoom::default());
        room.open(1);
        room.close();
        let mut ticket = enter(&room);
        assert!(turn(&mut ticket).is_none());
    }

    #[test]
    fn who_leaves_frees_the_place_and_the_turn() {
        let room = Arc::new(WaitingRoom::default());
        let leaver = enter(&room);
        let mut stayer = enter(&room);
        room.open(1);
        drop(leaver);
        assert!(turn(&mut stayer).is_some());
        assert!(room.is_empty());
    }

    #[test]
    fn a_turn_that_came_to_nothing_keeps_its_place() {
        let room = Arc::new(WaitingRoom::default());
        let mut first = enter(&room);
        let mut second = enter(&room);
        room.release_one();
        drop(turn(&mut first).unwrap());
        assert!(!first.is_first() || room.len() == 1);
        first.again();
        assert!(first.is_first());
        assert!(!second.is_first());
        room.release_one();
        assert!(turn(&mut first).is_some());
        assert!(turn(&mut second).is_none());
    }

    #[test]
    fn who_steps_back_in_stands_behind_those_who_came_before() {
        let room = Arc::new(WaitingRoom::default());
        let mut first = enter(&room);
        let mut second = enter(&room);
        let mut third = enter(&room);
        second.leave();
        second.again();
        room.release_one();
        assert!(turn(&mut first).is_some());
        room.release_one();
        assert!(turn(&mut second).is_some());
        assert!(turn(&mut third).is_none());
    }

    #[test]
    fn releasing_an_empty_room_is_harmless() {
        let room = Arc::new(WaitingRoom::default());
        room.release_one();
        room.open(3);
        assert!(room.is_empty());
    }
}
