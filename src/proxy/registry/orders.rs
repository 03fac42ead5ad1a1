//! What a session is told: to end at once, by a deadline, or with what it is doing.

use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use crate::cluster::Cause;
use crate::proxy::registry::Control;
use crate::proxy::registry::GRACE;
use crate::proxy::registry::SETTLED;
use crate::proxy::registry::SEVER;
use crate::proxy::registry::SessionCell;

impl SessionCell {
    /// Ends the session at its next poll. The first cause stays.
    pub fn sever(&self, cause: Cause) {
        let mut control = self.lock();
        self.sever_locked(&mut control, cause);
    }

    pub(super) fn sever_locked(&self, control: &mut Control, cause: Cause) {
        control.sever.get_or_insert(cause);
        self.signals.fetch_or(SEVER, Ordering::AcqRel);
        if let Some(waker) = control.waker.take() {
            waker.wake();
        }
    }

    /// Asks the session to end with its present transaction, if its protocol tells.
    pub fn finish(&self, cause: Cause) {
        self.lock().finish.get_or_insert(cause);
    }

    /// The same where requests follow each other: a client that rests between two of them loses
    /// nothing. A database session may hold temporary tables and the like: it keeps its time.
    pub fn finish_requests(&self, cause: Cause) {
        if self.keep_alive_ms.load(Ordering::Relaxed) > 0 {
            self.finish(cause);
        }
    }

    /// Takes [`Self::finish`] of `cause` back.
    pub fn go_on(&self, cause: Cause) {
        let mut control = self.lock();
        if control.finish == Some(cause) {
            control.finish = None;
        }
    }

    /// As [`Self::finish`], from that time on, and not between two requests that follow closely:
    /// the answer to the second can announce the end.
    pub fn finish_at(&self, at: Instant, cause: Cause) {
        let mut control = self.lock();
        let requests = control.requests.get_or_insert_default();
        requests.finish_at.get_or_insert((at, cause));
    }

    /// Gives a client that takes nothing more of its answer until then; `None`: it does.
    pub fn set_stalled_until(&self, deadline: Option<Instant>) {
        let mut control = self.lock();
        control.requests.get_or_insert_default().stalled_until = deadline;
    }

    /// Gives the session until `deadline`. The first cause stays, apart from an opening's, which
    /// is taken back when that is whole.
    pub fn set_deadline(&self, deadline: Instant, cause: Cause) {
        let mut control = self.lock();
        if matches!(control.deadline, None | Some((_, Cause::HandshakeTimeout))) {
            control.deadline = Some((deadline, cause));
        }
    }

    /// Takes the deadline of `cause` back.
    pub fn clear_deadline(&self, cause: Cause) {
        let mut control = self.lock();
        if control.deadline.is_some_and(|(_, known)| known == cause) {
            control.deadline = None;
        }
    }

    /// The client has begun to say something that is not passed on before it is whole.
    pub fn begin_opening(&self, now: Instant) {
        let timeout = Duration::from_millis(self.handshake_timeout_ms.into());
        let deadline = (now + timeout, Cause::HandshakeTimeout);
        self.lock().deadline.get_or_insert(deadline);
    }

    /// It is whole.
    pub fn end_opening(&self) {
        self.clear_deadline(Cause::HandshakeTimeout);
    }

    /// Whether there is anything to look at: [`Self::severed`] or [`Self::take_settled`].
    pub fn has_signal(&self) -> bool {
        self.signals.load(Ordering::Acquire) & (SEVER | SETTLED) != 0
    }

    /// Why the session must end with its present transaction, if it must.
    pub fn grace(&self) -> Option<Cause> {
        if self.signals.load(Ordering::Acquire) & GRACE == 0 {
            return None;
        }
        self.lock().grace
    }

    fn is_severed(&self) -> bool {
        self.signals.load(Ordering::Acquire) & SEVER != 0
    }

    /// Why the session must end, if it must; otherwise the task is woken when it must.
    pub fn severed(&self, cx: &mut Context<'_>) -> Option<Cause> {
        if !self.is_severed() {
            // A task's waker is the same at every poll of the same session, but the
            // handshake phases run under wakers of their own.
            let mut control = self.lock();
            if control.sever.is_none() {
                let known = control
                    .waker
                    .as_ref()
                    .is_some_and(|waker| waker.will_wake(cx.waker()));
                if !known {
                    control.waker = Some(cx.waker().clone());
                }
                return None;
            }
        }
        self.lock().sever
    }

    /// As [`Self::severed`], without a wake-up.
    pub fn severed_cause(&self) -> Option<Cause> {
        if !self.is_severed() {
            return None;
        }
        self.lock().sever
    }

    /// Resolves when the session must end.
    pub async fn until_severed(&self) -> Cause {
        std::future::poll_fn(|cx| match self.severed(cx) {
            Some(cause) => Poll::Ready(cause),
            None => Poll::Pending,
        })
        .await
    }
}
