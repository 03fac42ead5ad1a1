//! What one session is told by its worker's sweeps.

use super::*;
use crate::cluster::BackendId;
use crate::routing::Fates;
use std::task::Context;

pub fn session(idle_timeout: Duration, now: Instant) -> Arc<SessionCell> {
    let listener = Arc::new(ListenerHandle::new("l".into()));
    let bind = SocketAddr::from(([127, 0, 0, 1], 1));
    let patience = Duration::from_secs(5);
    let cell = SessionCell::new(1, listener, bind, Intent::ANY, idle_timeout, patience, now);
    cell.set_phase(Phase::Relay);
    Arc::new(cell)
}

fn all(fate: Fate) -> Fates {
    Fates {
        all: fate,
        ..Fates::default()
    }
}

fn backend() -> Arc<BackendHandle> {
    Arc::new(BackendHandle::new(BackendId(1), "c".into(), "b".into()))
}

pub fn cause(cell: &SessionCell) -> Option<Cause> {
    cell.severed(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_session_follows_the_current_fate_of_its_backend() {
    let now = Instant::now();
    let registry = Registry::default();
    let cell = session(Duration::ZERO, now);
    registry.insert(Arc::clone(&cell));
    let backend = backend();
    cell.set_backend(Some(Arc::clone(&backend)));

    registry.sweep(now);
    assert_eq!(cause(&cell), None);
    backend.set_fates(all(Fate::Sever {
        cause: Cause::BackendDead,
    }));
    registry.sweep(now);
    assert_eq!(cause(&cell), Some(Cause::BackendDead));
}

#[test]
fn a_fate_that_came_before_the_session_was_tied_is_not_missed() {
    let cell = session(Duration::ZERO, Instant::now());
    let backend = backend();
    backend.set_fates(all(Fate::Sever {
        cause: Cause::BackendDead,
    }));
    cell.set_backend(Some(backend));
    assert_eq!(cause(&cell), Some(Cause::BackendDead));
}

#[test]
fn a_drained_session_lives_until_the_deadline() {
    let now = Instant::now();
    let registry = Registry::default();
    let cell = session(Duration::ZERO, now);
    registry.insert(Arc::clone(&cell));
    let backend = backend();
    backend.set_fates(all(Fate::Drain {
        deadline: now + Duration::from_secs(3),
        cause: Cause::BackendDrained,
    }));
    cell.set_backend(Some(backend));
    registry.sweep(now + Duration::from_secs(2));
    assert_eq!(cause(&cell), None);
    registry.sweep(now + Duration::from_secs(3));
    assert_eq!(cause(&cell), Some(Cause::BackendDrained));
}

#[test]
fn bytes_in_either_direction_keep_a_session_from_being_idle() {
    let now = Instant::now();
    let second = Duration::from_secs(1);
    let registry = Registry::default();
    let cell = session(2 * second, now);
    registry.insert(Arc::clone(&cell));
    registry.sweep(now + second);
    cell.add_sent(1);
    registry.sweep(now + 2 * second);
    assert_eq!(cause(&cell), None);
    registry.sweep(now + 4 * second);
    assert_eq!(cause(&cell), Some(Cause::IdleTimeout));
}

#[test]
fn an_opening_has_the_time_of_a_handshake_from_its_first_byte_on() {
    let now = Instant::now();
    let second = Duration::from_secs(1);
    let registry = Registry::default();
    let cell = session(Duration::ZERO, now);
    registry.insert(Arc::clone(&cell));
    registry.sweep(now + 60 * second);
    assert_eq!(cause(&cell), None, "silence is no opening");
    cell.begin_opening(now + 60 * second);
    registry.sweep(now + 64 * second);
    assert_eq!(cause(&cell), None);
    cell.end_opening();
    registry.sweep(now + 70 * second);
    assert_eq!(cause(&cell), None);
    cell.begin_opening(now + 70 * second);
    registry.sweep(now + 75 * second);
    assert_eq!(cause(&cell), Some(Cause::HandshakeTimeout));
}

#[test]
fn the_end_of_an_opening_takes_no_other_deadline_back() {
    let now = Instant::now();
    let second = Duration::from_secs(1);
    for removed_first in [true, false] {
        let cell = session(Duration::ZERO, now);
        let remove = || cell.set_deadline(now + second, Cause::ListenerRemoved);
        if removed_first {
            remove();
        }
        cell.begin_opening(now);
        remove();
        cell.end_opening();
        cell.sweep(now + second);
        assert_eq!(cause(&cell), Some(Cause::ListenerRemoved));
    }
}

#[test]
fn bytes_are_counted_once() {
    let now = Instant::now();
    let registry = Registry::default();
    let cell = session(Duration::ZERO, now);
    let key = registry.insert(Arc::clone(&cell));
    cell.add_received(5);
    registry.sweep(now);
    cell.add_received(2);
    registry.remove(key);
    assert_eq!(cell.listener.received_bytes(), 7);
}
