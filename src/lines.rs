//! Lines on their way to a file or a pipe: a bounded buffer and one thread that writes.
//!
//! Who pushes a line never waits for the other end. When that is a full pipe, a full disk
//! or gone, lines are dropped and counted. Lines that come while others are written go
//! out together: under load one write carries many.

use std::fmt;
use std::io;
use std::io::Write;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// Bytes that may wait; as many may be in the writing thread's hands.
pub const MAX_PENDING_BYTES: usize = 2 * 1024 * 1024;
/// As soon as so much waits, it is written, whatever else might still come.
const GATHERED_BYTES: usize = 256 * 1024;
/// An output that somebody else made non-blocking says "again" when it is full.
const WRITE_RETRY: Duration = Duration::from_millis(10);
const MAX_WRITE_RETRIES: u32 = 100;

/// Where lines are written to.
pub type Output = Box<dyn Write + Send>;

/// The way to one writing thread. Dropping it lets the thread write what is left, and end.
pub struct Lines {
    shared: Arc<Shared>,
}

struct Shared {
    pending: Mutex<Pending>,
    /// For the writing thread: there is something to do.
    work: Condvar,
    /// For who flushes: everything is written.
    done: Condvar,
    dropped: Arc<AtomicU64>,
}

#[derive(Default)]
struct Pending {
    /// Whole lines.
    text: Vec<u8>,
    next_output: Option<Output>,
    /// The thread sleeps until it is told.
    is_idle: bool,
    is_writing: bool,
    /// Somebody waits: no gathering.
    is_urgent: bool,
    is_closed: bool,
}

impl fmt::Debug for Lines {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl Lines {
    /// Starts a thread of this name. Lines wait up to `gather` for others to be written
    /// with them; those that are lost are added to `dropped`.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        name: &str,
        output: Output,
        gather: Duration,
        dropped: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            dropped,
        });
        let mut writer = Writer {
            output,
            shared: Arc::clone(&shared),
            gather,
            mid_line: false,
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writer.run())?;
        Ok(Self { shared })
    }

    /// Takes one line, or several, with the newline at the end; drops them when too much waits.
    pub fn push(&self, lines: &[u8]) {
        let mut pending = self.shared.lock();
        let before = pending.text.len();
        let after = before + lines.len();
        if after > MAX_PENDING_BYTES {
            drop(pending);
            self.shared.count_dropped();
            return;
        }
        pending.text.extend_from_slice(lines);
        let gathered = before < GATHERED_BYTES && after >= GATHERED_BYTES;
        let wake = std::mem::take(&mut pending.is_idle) || gathered;
        drop(pending);
        if wake {
            self.shared.work.notify_one();
        }
    }

    /// Writes to another output from now on; lines that wait already may go there, too.
    pub fn replace_output(&self, output: Output) {
        self.shared.lock().next_output = Some(output);
        self.shared.work.notify_one();
    }

    /// Lines lost so far, by all that share the counter.
    pub fn dropped(&self) -> &Arc<AtomicU64> {
        &self.shared.dropped
    }

    /// Waits until everything is written, at most `timeout`.
    pub fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut pending = self.shared.lock();
        while pending.is_writing || !pending.text.is_empty() {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return;
            }
            pending.is_urgent = true;
            self.shared.work.notify_one();
            let woken = self.shared.done.wait_timeout(pending, rest);
            pending = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.work.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the thread owns.
struct Writer {
    output: Output,
    shared: Arc<Shared>,
    gather: Duration,
    /// The last write stopped inside a line.
    mid_line: bool,
}

impl Writer {
    fn run(&mut self) {
        let mut batch = Vec::new();
        while let Some(output) = self.take(&mut batch) {
            if let Some(output) = output {
                self.output = output;
                self.mid_line = false;
            }
            self.write_lines(&batch);
            batch.clear();
            // What a burst needed is not kept for ever.
            batch.shrink_to(GATHERED_BYTES);
        }
    }

    /// Waits for work and exchanges the empty `batch` for it; `None` when no more can come.
    fn take(&self, batch: &mut Vec<u8>) -> Option<Option<Output>> {
        let shared = &self.shared;
        let mut pending = shared.lock();
        pending.is_writing = false;
        if pending.text.is_empty() {
            shared.done.notify_all();
        }
        pending.is_idle = true;
        let waited = shared.work.wait_while(pending, |pending| {
            pending.text.is_empty() && pending.next_output.is_none() && !pending.is_closed
        });
        pending = waited.unwrap_or_else(PoisonError::into_inner);
        pending.is_idle = false;
        let gathered = shared
            .work
            .wait_timeout_while(pending, self.gather, |pending| {
                pending.text.len() < GATHERED_BYTES
                    && pending.next_output.is_none()
                    && !pending.is_urgent
                    && !pending.is_closed
            });
        pending = gathered.unwrap_or_else(PoisonError::into_inner).0;
        let output = pending.next_output.take();
        if pending.text.is_empty() && output.is_none() {
            return None;
        }
        std::mem::swap(&mut pending.text, batch);
        pending.is_urgent = false;
        pending.is_writing = true;
        Some(output)
    }

    /// A line that fails is lost, the next one is tried.
    fn write_lines(&mut self, lines: &[u8]) {
        let mut rest = lines;
        while !rest.is_empty() {
            let written = self.write_all(rest);
            rest = &rest[written..];
            if rest.is_empty() {
                return;
            }
            self.shared.count_dropped();
            let end = rest.iter().position(|byte| *byte == b'\n');
            rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
        }
    }

    /// Returns how much was written before an error, if there was one.
    fn write_all(&mut self, bytes: &[u8]) -> usize {
        if self.mid_line && self.write_some(b"\n").is_err() {
            return 0;
        }
        let mut written = 0;
        while written < bytes.len() {
            match self.write_some(&bytes[written..]) {
                Ok(more) => written += more,
                Err(_) => break,
            }
        }
        written
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut retries = 0;
        loop {
            match self.output.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.mid_line = bytes[written - 1] != b'\n';
                    return Ok(written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && retries < MAX_WRITE_RETRIES =>
                {
                    retries += 1;
                    std::thread::sleep(WRITE_RETRY);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// What could start a new line or steer a terminal: controls (C0, DEL, C1), line
/// separators, and the marks that reorder text on a screen.
pub fn is_steering(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}')
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests;
