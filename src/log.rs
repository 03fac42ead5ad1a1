//! Structured logs to stderr, one event per line, text or JSON.
//!
//! Logging never blocks and never fails: lines go to a thread that writes ([`Lines`]).
//! When stderr is a full pipe, a full disk or gone, they are dropped and counted
//! (`evergate_log_dropped_total`).
//! What a peer sent stays inside its field: control characters are escaped and
//! values that could be mistaken for more fields are quoted.

use std::fmt;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

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
use crate::lines::Lines;
use crate::lines::is_steering;

/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

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
        Arc::clone(self.queue.0.dropped())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.0.flush(FLUSH_TIMEOUT);
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
        // It warns of what a client does wrong; a client could fill the log with that.
        .with_target("h2", level.min(LevelFilter::ERROR))
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
struct Queue(Arc<Lines>);

impl Queue {
    fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        // Each line at once: the last ones before a crash tell most.
        let gather = Duration::ZERO;
        let lines = Lines::start("log", Box::new(output), gather, Arc::default())?;
        Ok(Self(Arc::new(lines)))
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
            self.queue.0.push(&one_line(&self.line));
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
