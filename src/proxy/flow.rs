//! One direction of a relay: read, write at once, keep what is not taken; splice bulk.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::Interest;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::proxy::dialect::Follow;
use crate::proxy::dialect::Verdict;
use crate::proxy::pipe::Pipe;
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

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub state: State,
    mode: Mode,
    unsent: Option<Box<Unsent>>,
    /// TLS holds bytes back until it is flushed.
    unflushed: bool,
    /// Full reads in a row while copying, small moves in a row while splicing.
    streak: u8,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
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
pub(super) enum FlowError {
    Read(io::Error),
    Write(io::Error),
    /// The bytes are none that may be passed on; these words are for the client, if any.
    Refused(Vec<u8>),
}

/// Who looks at the bytes of a flow before they are delivered.
#[derive(Debug)]
pub(super) enum Watcher<'a> {
    Answers(&'a mut Follow),
    Requests(&'a mut Follow),
}

impl Watcher<'_> {
    fn see(&mut self, bytes: &mut [u8]) -> Verdict {
        match self {
            Self::Answers(follow) => follow.see_answer(bytes),
            Self::Requests(follow) => follow.see_request(bytes),
        }
    }

    /// The last words to whom the answers go, when no more will come.
    fn epitaph(&self) -> Option<Vec<u8>> {
        match self {
            Self::Answers(follow) => follow.epitaph(),
            Self::Requests(_) => None,
        }
    }
}

impl Flow {
    /// One that has nothing more to do.
    pub fn finished() -> Self {
        Self {
            state: State::Finished,
            ..Self::default()
        }
    }

    /// One that delivers these bytes first; none are as good as no bytes.
    pub fn beginning_with(bytes: Vec<u8>) -> Self {
        let unsent = Unsent { bytes, written: 0 };
        Self {
            unsent: Some(Box::new(unsent)).filter(|unsent| !unsent.bytes.is_empty()),
            // As after any read, see `poll_copy`.
            unflushed: true,
            ..Self::default()
        }
    }

    /// What the reader has sent and the writer has not taken; nothing is kept of it here.
    pub fn into_unsent(self) -> Vec<u8> {
        self.unsent.map(|unsent| unsent.bytes).unwrap_or_default()
    }

    pub fn holds_bytes(&self) -> bool {
        let piped = matches!(&self.mode, Mode::Splice(Some(pipe)) if pipe.filled_bytes() > 0);
        self.unsent.is_some() || piped
    }

    /// `moved` is told how much was delivered. `watcher` sees the bytes before they are, and may
    /// change them: they are copied then, never spliced.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Transport,
        to: &mut Transport,
        last: bool,
        mut moved: impl FnMut(usize),
        mut watcher: Option<Watcher<'_>>,
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
                ready!(self.poll_copy(cx, from, to, &mut moved, watcher.as_mut()))?;
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
        watcher: Option<&mut Watcher<'_>>,
    ) -> Poll<Result<(), FlowError>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    // TLS without close_notify: the bytes so far are whole records, so this
                    // is an end, as it is for every database client.
                    if error.kind() == io::ErrorKind::UnexpectedEof {
                        self.finish(watcher);
                        return Poll::Ready(Ok(()));
                    }
                    return Poll::Ready(Err(FlowError::Read(error)));
                }
                Poll::Pending => {
                    from.send_answers(cx).map_err(FlowError::Read)?;
                    return self.poll_flush(cx, to);
                }
            }
            let bytes = read.filled_mut();
            if bytes.is_empty() {
                self.finish(watcher);
                return Poll::Ready(Ok(()));
            }
            self.unflushed = to.plain().is_none();
            match watcher.map(|watcher| watcher.see(bytes)) {
                Some(Verdict::Pass) => {}
                Some(Verdict::Hold) => return Poll::Ready(Ok(())),
                Some(Verdict::Replace(bytes)) => {
                    self.keep(&bytes);
                    return Poll::Ready(Ok(()));
                }
                Some(Verdict::Refuse(words)) => {
                    return Poll::Ready(Err(FlowError::Refused(words)));
                }
                None => self.note_read(bytes.len(), from, to),
            }
            self.write_through(cx, to, bytes, moved)
        })
    }

    /// The reader has ended; a client may be owed a word about that.
    fn finish(&mut self, watcher: Option<&mut Watcher<'_>>) {
        self.state = State::Finishing;
        if let Some(words) = watcher.and_then(|watcher| watcher.epitaph()) {
            self.keep(&words);
        }
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
