//! Bytes both ways between two connected streams.
//!
//! An idle session owns no buffer: each worker has one, borrowed while bytes are
//! read and written at once. Only bytes that the other side would not take are
//! kept, in a buffer of their own size. A direction that moves bulk between two
//! plain sockets uses splice(2) and never copies.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Instant;

use crate::cluster::Cause;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::net;
use crate::net::Keepalive;
use crate::proxy::connect::Again;
use crate::proxy::dialect::Follow;
use crate::proxy::flow::Flow;
use crate::proxy::flow::FlowError;
use crate::proxy::flow::State;
use crate::proxy::flow::Watcher;
use crate::proxy::registry::SessionCell;
use crate::proxy::registry::Transaction;
use crate::proxy::transport::Transport;

/// Relays until both directions are finished, one side fails, or the session is severed.
#[derive(Debug)]
pub struct Relay {
    client: Transport,
    backend: Transport,
    up: Flow,
    down: Flow,
    cell: Arc<SessionCell>,
    /// Who closed first in the orderly way.
    first_closed: Option<Side>,
    /// A side that no longer takes bytes; what it sent before is still delivered.
    broken: Option<(Side, Cause)>,
    /// The client sent last: an answer is due, so an early end loses data.
    answer_due: bool,
    first_sent: Option<Instant>,
    /// The cell knows this task's waker.
    registered: bool,
    /// Set once the session has turned out to last: five system calls that a short one saves.
    keepalive: Keepalive,
    /// Until the first byte.
    again: Option<Box<Again>>,
    /// The backend failed before it got or gave a byte.
    untouched: bool,
    /// The client's first bytes are kept until they are whole, for a limited time.
    is_opening: bool,
    follow: Option<Box<Follow>>,
}

/// What a relay connects.
#[derive(Debug)]
pub struct Ends {
    pub client: Transport,
    pub backend: Transport,
    /// What the backend has said already; seen by `follow`.
    pub answer: Vec<u8>,
    pub follow: Option<Box<Follow>>,
}

/// A client whose backend failed before a byte went either way.
#[derive(Debug)]
pub struct Untouched {
    pub client: Transport,
    pub first_bytes: Vec<u8>,
    pub keepalive: Keepalive,
    pub again: Box<Again>,
}

impl Relay {
    /// `keepalive` is for the backend's socket; the client's inherited its own.
    pub fn new(
        ends: Ends,
        cell: Arc<SessionCell>,
        keepalive: Keepalive,
        again: Option<Box<Again>>,
    ) -> Self {
        let is_answered = !ends.answer.is_empty();
        // The ClientHello of a session that is passed through has been sent already.
        let asked = cell.received_bytes() > 0;
        Self {
            client: ends.client,
            backend: ends.backend,
            up: Flow::default(),
            down: Flow::beginning_with(ends.answer),
            cell,
            first_closed: None,
            broken: None,
            answer_due: asked,
            // The latency of an answer that is here was measured.
            first_sent: (asked && !is_answered).then(Instant::now),
            registered: false,
            keepalive,
            again: again.filter(|_| !asked),
            untouched: false,
            is_opening: false,
            follow: ends.follow,
        }
    }

    /// After the end: the client and what it has sent, if the backend failed before a byte
    /// went either way. Another backend may take over, and nobody can tell the difference.
    pub fn into_untouched(self) -> Option<Untouched> {
        let holds_back = self.follow.is_some_and(|follow| follow.holds_back());
        let again = self.again.filter(|_| self.untouched && !holds_back)?;
        Some(Untouched {
            client: self.client,
            first_bytes: self.up.into_unsent(),
            keepalive: self.keepalive,
            again,
        })
    }

    fn keep_alive(&self) {
        if let Err(error) = net::set_keepalive(self.backend.tcp(), self.keepalive) {
            tracing::debug!(%error, "keepalive could not be set");
        }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FlowError>> {
        let before = self.cell.received_bytes();
        let cell = &self.cell;
        let moved = |bytes| cell.add_received(bytes);
        let last = self.down.state == State::Finished;
        let follow = self.follow.as_deref_mut();
        let watcher = follow
            .filter(|follow| follow.watches_requests())
            .map(Watcher::Requests);
        let result = self.up.poll(
            cx,
            &mut self.client,
            &mut self.backend,
            last,
            moved,
            watcher,
        );
        if self.cell.received_bytes() != before {
            self.answer_due = true;
            if let Some(follow) = &mut self.follow {
                follow.note_request();
            }
            self.again = None;
            if self.first_sent.is_none() {
                self.first_sent = Some(Instant::now());
            }
        }
        if let Some(follow) = &mut self.follow
            && self.up.state != State::Open
        {
            follow.note_client_end();
        }
        self.note_opening();
        result
    }

    fn note_opening(&mut self) {
        let is_opening = self.follow.as_ref().is_some_and(|it| it.holds_back());
        if is_opening == self.is_opening {
            return;
        }
        self.is_opening = is_opening;
        match is_opening {
            true => self.cell.begin_opening(Instant::now()),
            false => self.cell.end_opening(),
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FlowError>> {
        let before = self.cell.sent_bytes();
        let cell = &self.cell;
        let moved = |bytes| cell.add_sent(bytes);
        let last = self.up.state == State::Finished;
        let watcher = self.follow.as_deref_mut().map(Watcher::Answers);
        let result = self.down.poll(
            cx,
            &mut self.backend,
            &mut self.client,
            last,
            moved,
            watcher,
        );
        if self.cell.sent_bytes() != before {
            self.answer_due = false;
            self.again = None;
            if before == 0 {
                self.cell.first_answer(self.first_sent);
            }
        }
        result
    }

    /// Notes what the session's transaction is doing; why the session must end with it, if it
    /// must and the transaction is over.
    fn note_transaction(&self) -> Option<Cause> {
        let follow = self.follow.as_ref()?;
        let mut transaction = follow.transaction();
        // The client has yet to hear that it is over.
        if transaction == Transaction::Idle && self.down.holds_bytes() {
            transaction = Transaction::Open;
        }
        self.cell.set_transaction(transaction);
        match transaction {
            Transaction::Idle => self.cell.grace().or_else(|| self.refused(follow)),
            Transaction::Unknown | Transaction::Open => None,
        }
    }

    /// A client that tries again at once would hear the same many times before the backend's
    /// fate is decided.
    fn refused(&self, follow: &Follow) -> Option<Cause> {
        let ends = || self.cell.backend().is_some_and(|it| it.ends_refused());
        (follow.is_refused() && ends()).then_some(Cause::BackendFenced)
    }

    /// Ends the session from our side, with last words where they can be understood.
    fn sever(&mut self, cx: &mut Context<'_>, cause: Cause) -> SessionEnd {
        let words = self.follow.as_ref().and_then(|it| it.farewell(cause));
        if self.say_last(cx, words) {
            return end(Side::Proxy, cause);
        }
        self.end(Side::Proxy, cause)
    }

    /// Whether the client was told: then it must not be reset, which could overtake the words.
    fn say_last(&mut self, cx: &mut Context<'_>, words: Option<Vec<u8>>) -> bool {
        let can_hear = self.down.state == State::Open && !self.down.holds_bytes();
        let words = words.filter(|_| can_hear && self.broken.is_none());
        words.is_some_and(|words| self.client.try_say_last(cx, &words))
    }

    /// Folds the outcome of one direction in; `Some` ends the session.
    fn settle(
        &mut self,
        cx: &mut Context<'_>,
        reader: Side,
        writer: Side,
        result: Poll<Result<(), FlowError>>,
    ) -> Option<SessionEnd> {
        let error = match result {
            Poll::Ready(Err(error)) => error,
            Poll::Pending | Poll::Ready(Ok(())) => {
                if self.flow(reader).state != State::Open && self.first_closed.is_none() {
                    self.first_closed = Some(reader);
                }
                return None;
            }
        };
        let (side, error) = match error {
            FlowError::Read(error) => (reader, error),
            FlowError::Write(error) => (writer, error),
            FlowError::Refused(words) => {
                let words = Some(words).filter(|words| !words.is_empty());
                return Some(match self.say_last(cx, words) {
                    // A reset could overtake what was said.
                    true => end(reader, Cause::BadProtocol),
                    false => self.end(reader, Cause::BadProtocol),
                });
            }
        };
        if side == Side::Backend && self.is_untouched() && net::cause_of(&error) == Cause::Reset {
            self.untouched = true;
            return Some(end(side, Cause::Reset));
        }
        if side == Side::Backend && side == reader {
            let words = self.follow.as_ref().and_then(|it| it.epitaph());
            if self.say_last(cx, words) {
                return Some(end(side, net::cause_of(&error)));
            }
        }
        if side == reader {
            return Some(self.failed(side, &error));
        }
        // What the broken side sent before it broke is still on its way to the other.
        *self.flow(reader) = Flow::finished();
        if self.broken.is_none() {
            self.broken = Some((side, net::cause_of(&error)));
        }
        None
    }

    /// The direction that reads from this side.
    fn flow(&mut self, reader: Side) -> &mut Flow {
        match reader {
            Side::Client => &mut self.up,
            Side::Backend | Side::Proxy => &mut self.down,
        }
    }

    /// No byte went either way and the client still waits: nothing has happened yet.
    fn is_untouched(&self) -> bool {
        let moved = self.cell.received_bytes() + self.cell.sent_bytes();
        moved == 0 && self.up.state == State::Open && self.broken.is_none()
    }

    fn failed(&self, side: Side, error: &io::Error) -> SessionEnd {
        let (side, cause) = self.broken.unwrap_or((side, net::cause_of(error)));
        self.end(side, cause)
    }

    fn end(&self, side: Side, cause: Cause) -> SessionEnd {
        // Nobody can tell whether a side that failed had finished its last message.
        let failed = side != Side::Proxy || cause == Cause::BackendDead;
        let loses_data = self.answer_due || self.up.holds_bytes() || self.down.holds_bytes();
        if cause != Cause::Closed && (failed || loses_data || self.cell.is_busy()) {
            net::reset_on_close(self.client.tcp());
            net::reset_on_close(self.backend.tcp());
        }
        end(side, cause)
    }
}

fn end(side: Side, cause: Cause) -> SessionEnd {
    SessionEnd {
        side,
        phase: Phase::Relay,
        cause,
    }
}

impl Future for Relay {
    type Output = SessionEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        let relay = self.get_mut();
        if !relay.registered || relay.cell.has_signal() {
            let settled = if relay.registered {
                relay.cell.take_settled()
            } else {
                relay.cell.is_settled()
            };
            if settled {
                relay.keep_alive();
            }
            relay.registered = true;
            if let Some(cause) = relay.cell.severed(cx) {
                return Poll::Ready(relay.sever(cx, cause));
            }
        }
        // The backend's bytes first: an answer must not wait behind the next request.
        let down = relay.poll_down(cx);
        if let Some(end) = relay.settle(cx, Side::Backend, Side::Client, down) {
            return Poll::Ready(end);
        }
        if let Some(cause) = relay.note_transaction() {
            return Poll::Ready(relay.sever(cx, cause));
        }
        let up = relay.poll_up(cx);
        if let Some(end) = relay.settle(cx, Side::Client, Side::Backend, up) {
            return Poll::Ready(end);
        }
        relay.note_transaction();
        if relay.up.state != State::Finished || relay.down.state != State::Finished {
            return Poll::Pending;
        }
        let (side, cause) = match (relay.broken, relay.first_closed) {
            (Some(broken), _) => broken,
            (None, Some(side)) => (side, Cause::Closed),
            (None, None) => (Side::Client, Cause::Closed),
        };
        Poll::Ready(relay.end(side, cause))
    }
}
