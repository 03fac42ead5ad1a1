//! Bytes both ways between two connected streams.
//!
//! An idle session owns no buffer: each worker has one, borrowed while bytes are
//! read and written at once. Only bytes that the other side would not take are
//! kept, in a buffer of their own size. A direction that moves bulk between two
//! plain sockets uses splice(2) and never copies.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Instant;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::Interest;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::cluster::Cause;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::net;
use crate::net::Keepalive;
use crate::proxy::connect::Again;
use crate::proxy::pipe::Pipe;
use crate::proxy::registry::SessionCell;
use crate::proxy::transport::Transport;

/// One read of a worker. A larger one evicts the cache, a smaller one costs system calls.
const BUFFER_BYTES: usize = 32 * 1024;
/// Full buffers in a row (256 KiB) that tell bulk from messages.
const FULL_READS_BEFORE_SPLICE: u8 = 8;
/// A splice that moves less than this is a message, not bulk …
const SMALL_SPLICE_BYTES: usize = 16 * 1024;
/// … and this many in a row end splicing: copying is cheaper for messages.
const SMALL_SPLICES_BEFORE_COPY: u8 = 8;

/// Splices of one direction before others have their turn: 2 MiB, under a millisecond.
const MAX_SPLICES_PER_POLL: usize = 8;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into_boxed_slice());
}

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
}

/// A client whose backend failed before a byte went either way.
#[derive(Debug)]
pub struct Untouched {
    pub client: Transport,
    pub first_bytes: Vec<u8>,
    pub keepalive: Keepalive,
    pub again: Box<Again>,
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    state: State,
    mode: Mode,
    unsent: Option<Box<Unsent>>,
    /// TLS holds bytes back until it is flushed.
    unflushed: bool,
    /// Full reads in a row while copying, small moves in a row while splicing.
    streak: u8,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The reader ended; the writer must still be told.
    Finishing,
    Finished,
}

#[derive(Debug, Default)]
enum Mode {
    #[default]
    Copy,
    /// `None` while no bytes are under way: the pipe is back in the pool.
    Splice(Option<Pipe>),
}

#[derive(Debug)]
struct Unsent {
    bytes: Vec<u8>,
    written: usize,
}

/// Which end of a flow failed.
#[derive(Debug)]
enum FlowError {
    Read(io::Error),
    Write(io::Error),
}

impl Relay {
    /// `keepalive` is for the backend's socket; the client's inherited its own.
    pub fn new(
        client: Transport,
        backend: Transport,
        cell: Arc<SessionCell>,
        keepalive: Keepalive,
        again: Box<Again>,
    ) -> Self {
        // The ClientHello of a session that is passed through has been sent already.
        let asked = cell.received_bytes() > 0;
        Self {
            client,
            backend,
            up: Flow::default(),
            down: Flow::default(),
            cell,
            first_closed: None,
            broken: None,
            answer_due: asked,
            first_sent: asked.then(Instant::now),
            registered: false,
            keepalive,
            again: Some(again).filter(|_| !asked),
            untouched: false,
        }
    }

    /// After the end: the client and what it has sent, if the backend failed before a byte
    /// went either way. Another backend may take over, and nobody can tell the difference.
    pub fn into_untouched(self) -> Option<Untouched> {
        let again = self.again.filter(|_| self.untouched)?;
        let first_bytes = self.up.unsent.map(|unsent| unsent.bytes);
        Some(Untouched {
            client: self.client,
            first_bytes: first_bytes.unwrap_or_default(),
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
        let result = self
            .up
            .poll(cx, &mut self.client, &mut self.backend, last, moved);
        if self.cell.received_bytes() != before {
            self.answer_due = true;
            self.again = None;
            if self.first_sent.is_none() {
                self.first_sent = Some(Instant::now());
            }
        }
        result
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FlowError>> {
        let before = self.cell.sent_bytes();
        let cell = &self.cell;
        let moved = |bytes| cell.add_sent(bytes);
        let last = self.up.state == State::Finished;
        let result = self
            .down
            .poll(cx, &mut self.backend, &mut self.client, last, moved);
        if self.cell.sent_bytes() != before {
            self.answer_due = false;
            self.again = None;
            if before == 0 {
                self.cell.first_answer(self.first_sent);
            }
        }
        result
    }

    /// Folds the outcome of one direction in; `Some` ends the session.
    fn settle(
        &mut self,
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
        };
        if side == Side::Backend && self.is_untouched() && net::cause_of(&error) == Cause::Reset {
            self.untouched = true;
            return Some(SessionEnd {
                side,
                phase: Phase::Relay,
                cause: Cause::Reset,
            });
        }
        if side == reader {
            return Some(self.failed(side, &error));
        }
        // What the broken side sent before it broke is still on its way to the other.
        *self.flow(reader) = Flow {
            state: State::Finished,
            ..Flow::default()
        };
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
        SessionEnd {
            side,
            phase: Phase::Relay,
            cause,
        }
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
                return Poll::Ready(relay.end(Side::Proxy, cause));
            }
        }
        // The backend's bytes first: an answer must not wait behind the next request.
        let down = relay.poll_down(cx);
        if let Some(end) = relay.settle(Side::Backend, Side::Client, down) {
            return Poll::Ready(end);
        }
        let up = relay.poll_up(cx);
        if let Some(end) = relay.settle(Side::Client, Side::Backend, up) {
            return Poll::Ready(end);
        }
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

impl Flow {
    fn holds_bytes(&self) -> bool {
        let piped = matches!(&self.mode, Mode::Splice(Some(pipe)) if pipe.filled_bytes() > 0);
        self.unsent.is_some() || piped
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
        last: bool,
        mut moved: impl FnMut(usize),
    ) -> Poll<Result<(), FlowError>> {
        let mut splices = 0;
        loop {
            ready!(self.poll_unsent(cx, to, &mut moved)).map_err(FlowError::Write)?;
            match self.state {
                State::Open => {}
                // Both ends are over: closing the socket says so in one call less.
                State::Finishing if last && to.plain().is_some() => {
                    self.state = State::Finished;
                }
                State::Finishing => {
                    // A peer that is gone already cannot be told; its own end says why.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.state = State::Finished;
                }
                State::Finished => return Poll::Ready(Ok(())),
            }
            if self.state == State::Finished {
                continue;
            }
            if let (Mode::Splice(_), Some(from), Some(to)) = (&self.mode, from.plain(), to.plain())
            {
                // Unlike a read, a splice is not on the runtime's budget: with two fast ends
                // it would never come to a stop.
                if splices == MAX_SPLICES_PER_POLL {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                splices += 1;
                ready!(self.poll_splice(cx, from, to, &mut moved))?;
            } else {
                ready!(self.poll_copy(cx, from, to, &mut moved))?;
            }
        }
    }

    fn poll_unsent(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Transport,
        moved: &mut impl FnMut(usize),
    ) -> Poll<io::Result<()>> {
        while let Some(unsent) = &mut self.unsent {
            let rest = &unsent.bytes[unsent.written..];
            let written = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            moved(written);
            unsent.written += written;
            if unsent.written == unsent.bytes.len() {
                self.unsent = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what was read; what is not taken becomes `unsent`.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
        moved: &mut impl FnMut(usize),
    ) -> Poll<Result<(), FlowError>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    // TLS without close_notify: the bytes so far are whole records, so this
                    // is an end, as it is for every database client.
                    if error.kind() == io::ErrorKind::UnexpectedEof {
                        self.state = State::Finishing;
                        return Poll::Ready(Ok(()));
                    }
                    return Poll::Ready(Err(FlowError::Read(error)));
                }
                Poll::Pending => {
                    from.send_answers(cx).map_err(FlowError::Read)?;
                    return self.poll_flush(cx, to);
                }
            }
            let bytes = read.filled();
            if bytes.is_empty() {
                self.state = State::Finishing;
                return Poll::Ready(Ok(()));
            }
            self.note_read(bytes.len(), from, to);
            self.unflushed = to.plain().is_none();
            self.write_through(cx, to, bytes, moved)
        })
    }

    fn write_through(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Transport,
        mut bytes: &[u8],
        moved: &mut impl FnMut(usize),
    ) -> Poll<Result<(), FlowError>> {
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => {
                    let error = io::ErrorKind::WriteZero.into();
                    return Poll::Ready(Err(FlowError::Write(error)));
                }
                Poll::Ready(Ok(written)) => {
                    moved(written);
                    bytes = &bytes[written..];
                }
                Poll::Ready(Err(error)) => {
                    // Another backend may take them, if this one never got any.
                    self.keep(bytes);
                    return Poll::Ready(Err(FlowError::Write(error)));
                }
                Poll::Pending => {
                    self.keep(bytes);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.unsent = Some(Box::new(Unsent {
            bytes: bytes.to_vec(),
            written: 0,
        }));
    }

    /// Nothing to read: let go of what TLS holds back, then wait.
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Transport,
    ) -> Poll<Result<(), FlowError>> {
        if self.unflushed {
            match Pin::new(to).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(FlowError::Write(error))),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    fn note_read(&mut self, bytes: usize, from: &Transport, to: &Transport) {
        if bytes < BUFFER_BYTES {
            self.streak = 0;
            return;
        }
        self.streak = self.streak.saturating_add(1);
        let plain = from.plain().is_some() && to.plain().is_some();
        if plain && self.streak >= FULL_READS_BEFORE_SPLICE {
            self.mode = Mode::Splice(None);
            self.streak = 0;
        }
    }

    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        moved: &mut impl FnMut(usize),
    ) -> Poll<Result<(), FlowError>> {
        let Mode::Splice(slot) = &mut self.mode else {
            return Poll::Ready(Ok(()));
        };
        let Some(pipe) = slot.take().or_else(Pipe::take) else {
            self.mode = Mode::Copy;
            return Poll::Ready(Ok(()));
        };
        let pipe = slot.insert(pipe);

        while pipe.filled_bytes() > 0 {
            match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                Ok(bytes) => moved(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(to.poll_write_ready(cx)).map_err(FlowError::Write)?;
                }
                Err(error) => return Poll::Ready(Err(FlowError::Write(error))),
            }
        }
        match from.try_io(Interest::READABLE, || pipe.fill(from)) {
            Ok(0) => {
                self.mode = Mode::Copy;
                self.state = State::Finishing;
            }
            Ok(bytes) if bytes < SMALL_SPLICE_BYTES => self.streak = self.streak.saturating_add(1),
            Ok(_) => self.streak = 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                *slot = None;
                if self.streak >= SMALL_SPLICES_BEFORE_COPY {
                    self.mode = Mode::Copy;
                    self.streak = 0;
                }
                ready!(from.poll_read_ready(cx)).map_err(FlowError::Read)?;
            }
            Err(error) => return Poll::Ready(Err(FlowError::Read(error))),
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
