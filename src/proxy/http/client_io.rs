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

use crate::protocol::http1::Guard;
use crate::protocol::http1::Inspection;
use crate::protocol::http1::Next;
use crate::proxy::http::link::Link;
use crate::proxy::transport::Transport;

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
    Two,
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
        }
    }

    /// Read ahead, and not taken yet.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    pub fn into_transport(self) -> Transport {
        self.transport
    }

    /// Passes on what was read ahead, as far as it may go; `None`: it has to wait.
    fn take_ahead(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Option<Taken> {
        let most = self.ahead.len().min(buffer.remaining());
        let was_in_body = self.is_in_body();
        let seen = self.inspect(most);
        self.note_body_refusal(was_in_body, seen);
        if seen.pass > 0 {
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

    fn inspect(&mut self, most: usize) -> Inspection {
        match &mut self.guard {
            Watch::One(guard) => guard.inspect(&self.ahead[..most]),
            Watch::Two => Inspection {
                pass: most,
                then: Next::More,
            },
        }
    }

    /// Looks at what was just read into `buffer`; what may not go on is kept.
    fn filter(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let Watch::One(guard) = &mut self.guard else {
            return;
        };
        let was_in_body = guard.is_in_body();
        let read = &buffer.filled()[before..];
        let seen = guard.inspect(read);
        if seen.pass < read.len() {
            self.ahead.extend_from_slice(&read[seen.pass..]);
            buffer.set_filled(before + seen.pass);
        }
        self.note_body_refusal(was_in_body, seen);
    }

    fn is_in_body(&self) -> bool {
        match &self.guard {
            Watch::One(guard) => guard.is_in_body(),
            Watch::Two => false,
        }
    }

    /// A body whose head has gone on turns out to be bad: nothing of a later request is in it.
    fn note_body_refusal(&mut self, was_in_body: bool, seen: Inspection) {
        if let (true, 0, Next::Refuse(violation)) = (was_in_body, seen.pass, seen.then) {
            self.is_body_refused = true;
            self.link.set_body_refusal(violation);
        }
    }

    /// The time for a head runs from its first byte, while it is waited for: what a client sends
    /// before it has its last answer is not read on until then.
    fn time_head(&self) {
        let Watch::One(guard) = &self.guard else {
            return;
        };
        self.link.set_between(guard.is_between_messages());
        match guard.is_in_head() && self.link.in_flight() == 0 {
            true => self.link.time_head(Instant::now() + self.timeouts.head),
            false => self.link.stop_timing_head(),
        }
    }

    fn note_write(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.link.cell.add_sent(*bytes);
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
            if this.ahead.is_empty() {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut this.transport).poll_read(cx, buffer))?;
                let read = buffer.filled().len() - before;
                this.link.cell.add_received(read);
                if read == 0 {
                    return Poll::Ready(Ok(()));
                }
                this.filter(buffer, before);
                this.time_head();
                if buffer.filled().len() > before {
                    return Poll::Ready(Ok(()));
                }
            }
            let taken = this.take_ahead(cx, buffer);
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
        let written = Pin::new(&mut this.transport).poll_write(cx, bytes);
        this.note_write(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.transport).poll_write_vectored(cx, slices);
        this.note_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
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
