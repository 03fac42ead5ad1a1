//! Bounded waiting: for an eligible backend (hold), or for a place on a full one (queue).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Cause;
use crate::cluster::Phase;
use crate::config::WaitLimit;
use crate::routing::Admission;
use crate::routing::Release;
use crate::routing::Ticket;
use crate::routing::WaitingRoom;

/// How often a waiting session looks whether its client is still there, and the
/// first in line whether a table or a place it was not told of lets it go.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The same where only the backend knows when a place is free: a server frees a connection's
/// slot a moment after the connection has ended. Each look costs it a refused connection.
const ASKING_INTERVAL: Duration = Duration::from_millis(50);

/// Who waits.
pub trait Watched {
    fn set_phase(&self, phase: Phase);

    /// Its client has gone away: nobody needs the place in line.
    fn is_gone(&self) -> bool;
}

/// One client's waiting, over several turns, with one deadline per room.
#[derive(Debug)]
pub struct Waiting<'a, W: Watched> {
    who: &'a W,
    hold: Option<Wait>,
    queue: Option<Wait>,
}

#[derive(Debug)]
struct Wait {
    room: Arc<WaitingRoom>,
    ticket: Ticket,
    deadline: Instant,
    /// The ticket was used: the place has to be taken again.
    used: bool,
}

/// Who knows whether a full backend has a free place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// We do: it has as many places as the file says.
    Ours,
    /// It has to be asked.
    Theirs,
}

/// Why waiting came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitError {
    TimedOut,
    Full,
    ClientGone,
}

/// A turn: try to pick again. Keeps the pace of the room until it is dropped.
#[derive(Debug)]
pub struct Turn {
    /// Only held, never read: dropping it lets the next session go.
    _release: Option<Release>,
}

impl<'a, W: Watched> Waiting<'a, W> {
    pub fn new(who: &'a W) -> Self {
        Self {
            who,
            hold: None,
            queue: None,
        }
    }

    /// Whether this session has waited in the hold room.
    pub fn was_held(&self) -> bool {
        self.hold.is_some()
    }

    /// Waits until an eligible backend may exist.
    ///
    /// # Errors
    /// The room is full, the time is up, or the client went away.
    pub async fn hold(
        &mut self,
        room: &Arc<WaitingRoom>,
        limit: WaitLimit,
    ) -> Result<Turn, WaitError> {
        self.who.set_phase(Phase::Hold);
        self.leave_queue();
        wait(&mut self.hold, room, limit, (self.who, LOOK_INTERVAL)).await
    }

    /// Whoever leaves the line unserved lets the next one try: the leaver may have had a
    /// turn that it did not use.
    fn leave_queue(&mut self) {
        if let Some(wait) = self.queue.take() {
            let room = Arc::clone(&wait.room);
            drop(wait);
            room.release_one();
        }
    }

    /// This session was served. The next in line tries only when `more` places are free: a
    /// turn that comes to nothing would let those behind it pass for a moment.
    pub fn serve(&mut self, more: impl FnOnce() -> bool) {
        if let Some(wait) = self.queue.take() {
            let room = Arc::clone(&wait.room);
            drop(wait);
            if more() {
                room.release_one();
            }
        }
    }

    /// Waits until a backend may have a free place.
    ///
    /// # Errors
    /// The room is full, the time is up, or the client went away.
    pub async fn queue(
        &mut self,
        room: &Arc<WaitingRoom>,
        limit: WaitLimit,
        counting: Counting,
    ) -> Result<Turn, WaitError> {
        self.who.set_phase(Phase::Queue);
        let interval = match counting {
            Counting::Ours => LOOK_INTERVAL,
            Counting::Theirs => ASKING_INTERVAL,
        };
        wait(&mut self.queue, room, limit, (self.who, interval)).await
    }
}

impl<W: Watched> Drop for Waiting<'_, W> {
    fn drop(&mut self) {
        self.leave_queue();
    }
}

async fn wait(
    slot: &mut Option<Wait>,
    room: &Arc<WaitingRoom>,
    limit: WaitLimit,
    (who, interval): (&impl Watched, Duration),
) -> Result<Turn, WaitError> {
    // The cluster was removed and is back: its old room lets everybody go, again and again.
    let moved = slot.take_if(|wait| !Arc::ptr_eq(&wait.room, room));
    let wait = match slot {
        Some(wait) => wait,
        None => {
            if limit.max_wait.is_zero() {
                return Err(WaitError::TimedOut);
            }
            let Admission::Waiting(ticket) = room.enter(limit.max_sessions) else {
                return Err(WaitError::Full);
            };
            slot.insert(Wait {
                room: Arc::clone(room),
                ticket,
                deadline: moved.map_or_else(|| Instant::now() + limit.max_wait, |it| it.deadline),
                used: false,
            })
        }
    };
    if Instant::now() >= wait.deadline {
        return Err(WaitError::TimedOut);
    }
    if std::mem::take(&mut wait.used) {
        // Turn after turn may come at once and come to nothing: look here, too.
        if who.is_gone() {
            return Err(WaitError::ClientGone);
        }
        wait.ticket.again();
    }
    loop {
        let look = (Instant::now() + interval).min(wait.deadline);
        tokio::select! {
            biased;
            release = wait.ticket.turn() => {
                wait.used = true;
                return Ok(Turn { _release: Some(release) });
            }
            () = tokio::time::sleep_until(look) => {}
        }
        if who.is_gone() {
            return Err(WaitError::ClientGone);
        }
        if Instant::now() >= wait.deadline {
            return Err(WaitError::TimedOut);
        }
        if wait.ticket.is_first() {
            // As after any turn: whoever waits elsewhere next must not block this line.
            wait.ticket.leave();
            wait.used = true;
            return Ok(Turn { _release: None });
        }
    }
}

/// The cause a refused client is counted under.
pub fn refusal(error: WaitError, phase: Phase) -> Cause {
    match (error, phase) {
        (WaitError::ClientGone, _) => Cause::Closed,
        (WaitError::TimedOut, Phase::Queue) => Cause::QueueTimeout,
        (WaitError::Full, Phase::Queue) => Cause::QueueFull,
        (WaitError::TimedOut, _) => Cause::HoldTimeout,
        (WaitError::Full, _) => Cause::HoldFull,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Client;

    impl Watched for Client {
        fn set_phase(&self, _: Phase) {}

        fn is_gone(&self) -> bool {
            false
        }
    }

    /// Went wrong once: it got turn after turn from the room that was left, and spun until its
    /// deadline.
    #[tokio::test]
    async fn who_waited_for_a_cluster_that_was_removed_and_is_back_waits_in_its_new_room() {
        let mut waiting = Waiting::new(&Client);
        let limit = WaitLimit {
            max_wait: Duration::from_millis(300),
            max_sessions: 1,
        };
        let (left, new) = (Arc::default(), Arc::default());
        WaitingRoom::open(&left, usize::MAX);
        drop(waiting.hold(&left, limit).await.unwrap());

        let mut turns = 0;
        let error = loop {
            match waiting.hold(&new, limit).await {
                Ok(_) => turns += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error, WaitError::TimedOut);
        assert!(turns <= 3, "{turns} turns");
    }
}
