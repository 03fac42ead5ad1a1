//! A client's bytes on their way into and out of hyper: counted, guarded, bounded in time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;
use std::time::Instant;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::cluster::Cause;
use crate::protocol::http1::Guard;
use crate::protocol::http1::Inspection;
use crate::protocol::http1::Next;
use crate::protocol::http2::Flood;
use crate::protocol::http2::FrameGuard;
use crate::proxy::http::link::Link;
use crate::proxy::transport::Transport;

/// Whoever was refused is listened to for this long, and for so many bytes, so that it hears why:
/// a reset would overtake the answer while unread bytes are here.
pub const LINGER: Duration = Duration::from_millis(500);
pub const MAX_DRAINED_BYTES: usize = 256 << 10;

/// What hyper reads from and writes to.
#[derive(Debug)]
pub struct ClientIo {
    transport: Transport,
    link: Arc<Link>,
    /// Read, but not passed on yet; comes before everything that is still to be read.
    ahead: Vec<u8>,
    guard: Watch,
    timeouts: Timeouts,
    is_body_refused: bool,
    /// What of HTTP/2 has begun to come and has a deadline; see [`FrameGuard::under_way`].
    timed: Option<u64>,
    /// Read from a client that has been turned away.
    drained_bytes: Option<usize>,
}

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For a head, from its first byte.
    pub head: Duration,
    /// To take some more of its answers.
    pub stall: Duration,
}

/// Who looks at a client's bytes first.
#[derive(Debug)]
pub enum Watch {
    One(Box<Guard>),
    Two(Box<FrameGuard>),
}

/// What became of bytes that were read ahead.
enum Taken {
    Bytes,
    Refused,
    /// The world has changed: look again.
    Again,
}

/// hyper's reading ends with this when the client has broken a rule.
#[derive(Debug, thiserror::Error)]
#[error("the client has broken a rule of HTTP")]
struct Refused;

impl ClientIo {
    pub fn new(
        transport: Transport,
        ahead: Vec<u8>,
        link: Arc<Link>,
        (guard, timeouts): (Watch, Timeouts),
    ) -> Self {
        Self {
            transport,
            link,
            ahead,
            guard,
            timeouts,
            is_body_refused: false,
            timed: None,
            drained_bytes: None,
        }
    }

    /// Read ahead, and not taken yet.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    pub fn tcp(&self) -> &TcpStream {
        self.transport.tcp()
    }

    pub fn into_transport(self) -> Transport {
        self.transport
    }

    /// Passes on what was read ahead, as far as it may go; `None`: it has to wait.
    fn take_ahead(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Option<Taken> {
        let most = self.ahead.len().min(buffer.remaining());
        let was_in_body = self.is_in_body();
        let seen = self.inspect(cx, most);
        self.note_body_refusal(was_in_body, seen);
        if self.drained_bytes.is_none() && seen.pass > 0 {
            buffer.put_slice(&self.ahead[..seen.pass]);
            self.ahead.drain(..seen.pass);
            return Some(Taken::Bytes);
        }
        match seen.then {
            // An empty buffer: nothing was asked for.
            Next::More => Some(Taken::Bytes),
            // hyper waits for it, and the exchange under way says what is wrong.
            Next::Refuse(_) if self.is_body_refused => Some(Taken::Refused),
            // The answers before it go out first.
            Next::Refuse(violation) if self.link.is_quiet(cx) => {
                self.link.set_refusal(violation);
                Some(Taken::Refused)
            }
            Next::AwaitUpgrade if self.link.is_quiet(cx) => {
                if let Watch::One(guard) = &mut self.guard {
                    guard.not_upgraded();
                }
                Some(Taken::Again)
            }
            Next::Refuse(_) | Next::AwaitUpgrade => None,
        }
    }

    fn inspect(&mut self, cx: &mut Context<'_>, most: usize) -> Inspection {
        let flood = match &mut self.guard {
            Watch::One(guard) => return guard.inspect(&self.ahead[..most]),
            Watch::Two(guard) => {
                let now = self.link.cell.started.elapsed();
                guard.inspect(&self.ahead[..most], now).err()
            }
        };
        if let Some(flood) = flood {
            self.turn_away(cx, flood);
        }
        Inspection {
            pass: most,
            then: Next::More,
        }
    }

    /// Looks at what was just read into `buffer`; what may not go on is kept.
    fn filter(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>, before: usize) {
        let read = &buffer.filled()[before..];
        match &mut self.guard {
            Watch::One(guard) => {
                let was_in_body = guard.is_in_body();
                let seen = guard.inspect(read);
                if seen.pass < read.len() {
                    self.ahead.extend_from_slice(&read[seen.pass..]);
                    buffer.set_filled(before + seen.pass);
                }
                self.note_body_refusal(was_in_body, seen);
            }
            Watch::Two(guard) => {
                let now = self.link.cell.started.elapsed();
                if let Err(flood) = guard.inspect(read, now) {
                    buffer.set_filled(before);
                    self.turn_away(cx, flood);
                }
            }
        }
    }

    fn is_in_body(&self) -> bool {
        match &self.guard {
            Watch::One(guard) => guard.is_in_body(),
            Watch::Two(_) => false,
        }
    }

    /// A body whose head has gone on turns out to be bad: nothing of a later request is in it.
    fn note_body_refusal(&mut self, was_in_body: bool, seen: Inspection) {
        if let (true, 0, Next::Refuse(violation)) = (was_in_body, seen.pass, seen.then) {
            self.is_body_refused = true;
            self.link.set_body_refusal(violation);
        }
    }

    /// The last words for a client that is worth no more; from now on it is only listened to.
    fn turn_away(&mut self, cx: &mut Context<'_>, flood: Flood) {
        self.link.set_flood(flood);
        // In the middle of another frame they would be taken for a part of it.
        if let Watch::Two(guard) = &self.guard
            && !self.link.is_blocked()
        {
            self.transport.try_say_last(cx, &guard.go_away(flood));
        }
        self.ahead = Vec::new();
        self.drained_bytes = Some(0);
        let cell = &self.link.cell;
        cell.clear_deadline(Cause::HandshakeTimeout);
        cell.set_deadline(Instant::now() + LINGER, Cause::Flood);
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut scrap = [0; 4096];
        while self
            .drained_bytes
            .is_none_or(|bytes| bytes < MAX_DRAINED_BYTES)
        {
            let mut buffer = ReadBuf::new(&mut scrap);
            let read = ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buffer));
            let bytes = buffer.filled().len();
            if read.is_err() || bytes == 0 {
                break;
            }
            self.link.cell.add_received(bytes);
            self.drained_bytes = self.drained_bytes.map(|sum| sum + bytes);
        }
        Poll::Ready(io::Error::other(Refused))
    }

    /// The time for a head, or for a frame, runs from its first byte, while it is waited for: what
    /// an HTTP/1 client sends before it has its last answer is not read on until then.
    fn time_head(&mut self) {
        let under_way = match &self.guard {
            Watch::One(guard) => {
                self.link.set_between(guard.is_between_messages());
                match guard.is_in_head() && self.link.in_flight() == 0 {
                    true => self.link.time_head(Instant::now() + self.timeouts.head),
                    false => self.link.stop_timing_head(),
                }
                return;
            }
            Watch::Two(guard) => guard.under_way(),
        };
        if under_way == self.timed {
            return;
        }
        let cell = &self.link.cell;
        if self.timed.is_some() {
            cell.clear_deadline(Cause::HandshakeTimeout);
        }
        self.timed = under_way;
        if under_way.is_some() {
            let deadline = Instant::now() + self.timeouts.head;
            cell.set_deadline(deadline, Cause::HandshakeTimeout);
        }
    }

    fn note_write(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.link.cell.add_sent(*bytes);
                if let Watch::Two(guard) = &mut self.guard {
                    guard.note_sent(*bytes);
                }
                self.link.set_unblocked();
            }
            Poll::Ready(Err(_)) => self.link.set_unblocked(),
            Poll::Pending => self.link.set_blocked(Instant::now() + self.timeouts.stall),
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.time_head();
        loop {
            if this.drained_bytes.is_some() {
                return this.poll_drain(cx).map(Err);
            }
            if this.ahead.is_empty() {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut this.transport).poll_read(cx, buffer))?;
                let read = buffer.filled().len() - before;
                this.link.cell.add_received(read);
                if read == 0 {
                    return Poll::Ready(Ok(()));
                }
                this.filter(cx, buffer, before);
                if this.drained_bytes.is_some() {
                    continue;
                }
                this.time_head();
                if buffer.filled().len() > before {
                    return Poll::Ready(Ok(()));
                }
            }
            let taken = this.take_ahead(cx, buffer);
            if this.drained_bytes.is_some() {
                continue;
            }
            this.time_head();
            match taken {
                Some(Taken::Bytes) => return Poll::Ready(Ok(())),
                Some(Taken::Refused) => return Poll::Ready(Err(io::Error::other(Refused))),
                Some(Taken::Again) => {}
                None => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.drained_bytes.is_some() {
            // Nobody reads it.
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut this.transport).poll_write(cx, bytes);
        this.note_write(&written);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.link.is_refused() {
            // Its last words are still to come.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.transport).poll_shutdown(cx)
    }
}
