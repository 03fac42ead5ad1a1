//! Structured logs to stderr, one event per line, text or JSON.
//!
//! Logging never blocks and never fails: lines go through a bounded queue to
//! one thread that writes. When stderr is a full pipe, a full disk or gone,
//! lines are dropped and counted (`evergate_log_dropped_total`).
//! What a peer sent stays inside its field: control characters are escaped and
//! values that could be mistaken for more fields are quoted.

use std::fmt;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::TrySendError;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use std::time::Instant;

use tracing::Metadata;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::field::Visit;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogConfig;
use crate::config::LogFormat;
use crate::config::LogLevel;

/// Lines in the queue; a burst of a reload's errors fits.
const MAX_QUEUED_LINES: usize = 8192;
/// Bytes in the queue: what a stuck stderr can cost.
const MAX_QUEUED_BYTES: usize = 4 * 1024 * 1024;
/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// A stderr that somebody else made non-blocking says "again" when it is full.
const WRITE_RETRY: Duration = Duration::from_millis(10);
const MAX_WRITE_RETRIES: u32 = 100;

/// The running log. Keep it until the process ends; dropping it writes what is left.
#[derive(Debug)]
pub struct Log {
    queue: Queue,
    level: reload::Handle<Targets, tracing_subscriber::Registry>,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot start the log's thread: {0}")]
    Thread(#[from] io::Error),
    #[error("this process logs already")]
    AlreadyStarted,
}

/// Starts logging to stderr, for the whole process. A panic is logged too,
/// because printing it the usual way could block on a stuck stderr.
pub fn init(config: &LogConfig) -> Result<Log, LogError> {
    // A descriptor of our own: the standard handle's lock would be held by a stuck write.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let queue = Queue::start(stderr)?;
    let (filter, level) = reload::Layer::new(targets(config.level));
    let lines = line_layer(config.format, queue.clone());
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|_| LogError::AlreadyStarted)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let reason = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, reason, "panic: this is a bug in evergate");
    }));
    Ok(Log { queue, level })
}

impl Log {
    /// Takes the level of a reloaded configuration. The format stays until a restart.
    pub fn set_level(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and it lives as long as the process.
        let _ = self.level.reload(targets(level));
    }

    /// Lines dropped so far; give it to `Metrics::new`.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.queue.dropped)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.flush(FLUSH_TIMEOUT);
    }
}

/// Our own events at the wanted level; the libraries' only when something is wrong.
fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("evergate", level)
}

fn line_layer<S>(format: LogFormat, queue: Queue) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(false);
    match format {
        LogFormat::Text => layer.fmt_fields(TextFields).with_writer(queue).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_writer(queue).boxed(),
    }
}

/// The way to the writing thread. Cheap to clone.
#[derive(Debug, Clone)]
struct Queue {
    entries: SyncSender<Entry>,
    queued_bytes: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

enum Entry {
    Line(Vec<u8>),
    /// Everything before it is written: say so.
    Flush(SyncSender<()>),
}

impl Queue {
    fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (entries, receiver) = sync_channel(MAX_QUEUED_LINES);
        let queue = Self {
            entries,
            queued_bytes: Arc::default(),
            dropped: Arc::default(),
        };
        let mut output = Output {
            out,
            queued_bytes: Arc::clone(&queue.queued_bytes),
            dropped: Arc::clone(&queue.dropped),
            mid_line: false,
        };
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || output.run(&receiver))?;
        Ok(queue)
    }

    fn push(&self, line: Vec<u8>) {
        let length = line.len();
        let queued = self.queued_bytes.fetch_add(length, Ordering::Relaxed);
        let fits = queued + length <= MAX_QUEUED_BYTES;
        if !fits || self.entries.try_send(Entry::Line(line)).is_err() {
            self.queued_bytes.fetch_sub(length, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything is written, at most `timeout`.
    fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let (done, written) = sync_channel(1);
        let mut entry = Entry::Flush(done);
        while let Err(TrySendError::Full(back)) = self.entries.try_send(entry) {
            if Instant::now() >= deadline {
                return;
            }
            entry = back;
            std::thread::sleep(WRITE_RETRY);
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The writing thread's end.
struct Output<W> {
    out: W,
    queued_bytes: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
    /// The last write stopped inside a line.
    mid_line: bool,
}

impl<W: Write> Output<W> {
    fn run(&mut self, entries: &Receiver<Entry>) {
        while let Ok(entry) = entries.recv() {
            match entry {
                Entry::Line(line) => {
                    if self.write_line(&line).is_err() {
                        self.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    self.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                }
                Entry::Flush(done) => {
                    let _ = done.try_send(());
                }
            }
        }
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.mid_line {
            self.write_all(b"\n")?;
        }
        self.write_all(line)
    }

    fn write_all(&mut self, mut rest: &[u8]) -> io::Result<()> {
        let mut retries = 0;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.mid_line = rest[written - 1] != b'\n';
                    rest = &rest[written..];
                    retries = 0;
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
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter {
            queue: self,
            line: Vec::new(),
        }
    }

    fn make_writer_for(&'a self, _: &Metadata<'_>) -> LineWriter<'a> {
        self.make_writer()
    }
}

/// Collects one event and queues it as one line.
struct LineWriter<'a> {
    queue: &'a Queue,
    line: Vec<u8>,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.queue.push(one_line(&self.line));
        }
    }
}

/// Escapes every character that could start a new line or steer a terminal.
/// `\u001b` is right in JSON and readable in text.
fn one_line(event: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(event);
    let text = text.trim_end_matches('\n');
    let mut line = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        match character {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            steering if is_steering(steering) => {
                line.push_str(&format!("\\u{:04x}", u32::from(steering)));
            }
            harmless => line.push(harmless),
        }
    }
    line.push('\n');
    line.into_bytes()
}

/// Controls (C0, DEL, C1), line separators, and the marks that reorder text on a screen.
fn is_steering(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}')
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `message name=value …` where a value cannot pass for more than one.
struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = TextVisitor {
            writer,
            first: true,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct TextVisitor<'writer> {
    writer: Writer<'writer>,
    first: bool,
    result: fmt::Result,
}

impl TextVisitor<'_> {
    fn write(&mut self, field: &Field, value: &str) -> fmt::Result {
        if !std::mem::take(&mut self.first) {
            self.writer.write_char(' ')?;
        }
        match field.name() {
            "message" => self.writer.write_str(value),
            name if is_plain(value) => write!(self.writer, "{name}={value}"),
            name => write!(self.writer, "{name}={value:?}"),
        }
    }
}

impl Visit for TextVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = self.write(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn is_plain(value: &str) -> bool {
    let ends_value = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '=' | '\\');
    !value.is_empty() && !value.contains(ends_value)
}

#[cfg(test)]
mod tests;
