//! What a worker looks at in each of its sessions a few times a second.

use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::Phase;
use crate::proxy::registry::ACTIVE;
use crate::proxy::registry::Control;
use crate::proxy::registry::GRACE;
use crate::proxy::registry::PARK;
use crate::proxy::registry::PARKED;
use crate::proxy::registry::SETTLED;
use crate::proxy::registry::SessionCell;
use crate::routing::Fate;

/// Between requests, after this nothing but the socket is kept.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// An answer that pauses longer than this is more likely to be complete.
const BUSY: Duration = Duration::from_secs(1);
/// Most short sessions are over by then; keepalive looks far later.
const SETTLE_AFTER: Duration = Duration::from_secs(1);

impl SessionCell {
    /// Looks at deadlines, the backend's fate and idleness; counts the bytes so far.
    pub(super) fn sweep(&self, now: Instant) {
        let mut control = self.lock();
        let has_moved = self.count(&mut control);
        if self.is_active(has_moved) {
            control.last_active = now;
        }
        if !control.settled && now.saturating_duration_since(self.started) >= SETTLE_AFTER {
            control.settled = true;
            self.signals.fetch_or(SETTLED, Ordering::AcqRel);
            if let Some(waker) = &control.waker {
                waker.wake_by_ref();
            }
        }
        let fate = control
            .backend
            .as_ref()
            .map(|backend| backend.fate(self.intent));
        let idle = now.saturating_duration_since(control.last_active);
        let requests = control.requests.as_deref();
        let stalled_until = requests.and_then(|requests| requests.stalled_until);
        if let Some((at, cause)) = requests.and_then(|requests| requests.finish_at)
            && at <= now
            && idle >= BUSY
        {
            control.finish.get_or_insert(cause);
        }
        self.set_grace(&mut control, fate);
        let cause = match (fate, control.deadline) {
            (Some(Fate::Sever { cause }), _) => cause,
            (Some(Fate::Drain { deadline, cause } | Fate::Grace { deadline, cause }), _)
                if deadline <= now =>
            {
                cause
            }
            _ if self.is_between_transactions() && control.grace.is_some() => {
                control.grace.unwrap_or(Cause::Shutdown)
            }
            (_, Some((deadline, cause))) if deadline <= now => cause,
            _ if stalled_until.is_some_and(|until| until <= now) => Cause::BodyTimeout,
            _ if self.is_idle_for_too_long(idle) => Cause::IdleTimeout,
            _ => {
                self.ask_to_park(&control, idle);
                return;
            }
        };
        self.sever_locked(&mut control, cause);
    }

    /// Where requests are known, bytes between them keep nothing alive: they may be the pings of
    /// an HTTP/2 connection.
    fn is_active(&self, has_moved: bool) -> bool {
        let was_used = self.signals.fetch_and(!ACTIVE, Ordering::AcqRel) & ACTIVE != 0;
        let knows_requests = self.keep_alive_ms.load(Ordering::Relaxed) != 0;
        was_used || has_moved && !(knows_requests && self.is_between_transactions())
    }

    fn is_idle_for_too_long(&self, idle: Duration) -> bool {
        if self.phase() != Phase::Relay {
            return false;
        }
        match self.keep_alive_ms.load(Ordering::Relaxed) {
            0 => !self.idle_timeout.is_zero() && idle >= self.idle_timeout,
            // A request may take as long as it takes.
            millis => {
                self.is_between_transactions() && idle >= Duration::from_millis(millis.into())
            }
        }
    }

    fn ask_to_park(&self, control: &Control, idle: Duration) {
        let may_park = self.keep_alive_ms.load(Ordering::Relaxed) != 0
            && self.is_between_transactions()
            && idle >= PARK_AFTER
            && self.signals.load(Ordering::Acquire) & (PARK | PARKED) == 0;
        if may_park {
            self.signals.fetch_or(PARK, Ordering::AcqRel);
            if let Some(waker) = &control.waker {
                waker.wake_by_ref();
            }
        }
    }

    fn set_grace(&self, control: &mut Control, fate: Option<Fate>) {
        let grace = match fate {
            Some(Fate::Grace { cause, .. }) => Some(cause),
            _ => control.finish,
        };
        if control.grace == grace {
            return;
        }
        control.grace = grace;
        match grace {
            Some(_) => self.signals.fetch_or(GRACE, Ordering::AcqRel),
            None => self.signals.fetch_and(!GRACE, Ordering::AcqRel),
        };
    }

    /// Adds new bytes to the listener's and the backend's counters; true if there were any.
    pub(super) fn count(&self, control: &mut Control) -> bool {
        let received = self.received_bytes() - control.counted_received;
        let sent = self.sent_bytes() - control.counted_sent;
        if received == 0 && sent == 0 {
            return false;
        }
        control.counted_received += received;
        control.counted_sent += sent;
        self.listener.count_bytes(received, sent);
        if let Some(backend) = &control.backend {
            backend.count_bytes(sent, received);
        }
        true
    }

    /// Whether bytes moved a moment ago: an answer may be half delivered.
    pub fn is_busy(&self) -> bool {
        let control = self.lock();
        let moved = self.received_bytes() + self.sent_bytes();
        let swept = control.counted_received + control.counted_sent;
        moved != swept || control.last_active.elapsed() < BUSY
    }
}
