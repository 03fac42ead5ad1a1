//! One JSON line for each request.
//!
//! A line is made by the worker into a buffer that it keeps, and copied to where the writing
//! thread takes it from ([`Lines`]): no allocation, no system call. What a client sent is
//! escaped and bounded; a query is never written, because it may hold secrets.

mod line;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::Uri;
use http::Version;

use crate::calendar::Utc;
use crate::cluster::Cause;
use crate::cluster::FastMap;
use crate::cluster::Name;
use crate::config::AccessLogConfig;
use crate::config::Config;
use crate::lines::Lines;
use crate::lines::Output;
use crate::proxy::http::access_log::line::Line;

/// Lines of this time are written together: at most so many writes and wakeups a second.
const GATHER: Duration = Duration::from_millis(20);
/// Owner and group may read who asked for what.
const FILE_MODE: u32 = 0o640;
/// Long enough for any honest request id, and more than a UUID or a traceparent.
const MAX_REQUEST_ID_BYTES: usize = 128;
/// A name in the DNS, and a port.
const MAX_HOST_BYTES: usize = 261;
const MAX_PATH_BYTES: usize = 1024;
const MAX_USER_AGENT_BYTES: usize = 256;

/// What is told of one request when it is over.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// When its head was there.
    pub began: SystemTime,
    pub request_id: Option<HeaderValue>,
    pub listener: Name,
    /// Position among the listener's routes.
    pub route: Option<usize>,
    pub cluster: Option<Name>,
    /// The last one that was asked.
    pub backend: Option<Name>,
    pub client: SocketAddr,
    pub method: Method,
    pub host: Option<HeaderValue>,
    pub target: Uri,
    /// Spoken with the client.
    pub version: Version,
    /// `None`: the client got no answer.
    pub status: Option<StatusCode>,
    /// Of the request's body.
    pub received_bytes: u64,
    /// Of the answer's body.
    pub sent_bytes: u64,
    /// From the request's head to the end of the answer.
    pub duration: Duration,
    /// From the request's head to the answer's.
    pub first_byte: Option<Duration>,
    /// Waiting for a backend or for a place on one.
    pub wait: Duration,
    /// Connecting to backends; zero when a pooled connection was used.
    pub connect: Duration,
    /// Times that it was sent to a backend.
    pub attempts: u32,
    /// Why the answer is our own, or was cut off.
    pub cause: Option<Cause>,
    pub user_agent: Option<HeaderValue>,
}

/// Where one listener's requests are told.
#[derive(Debug)]
pub struct AccessLog {
    lines: Arc<Lines>,
    /// 0 to 1.
    sample: f64,
}

/// The access logs of a configuration.
#[derive(Debug, Default)]
pub struct AccessLogs {
    listeners: RwLock<FastMap<Name, Arc<AccessLog>>>,
    /// By path; `None` is standard output.
    files: Mutex<Files>,
    dropped: Arc<AtomicU64>,
}

type Files = HashMap<Option<PathBuf>, Arc<Lines>>;

/// The files of a new configuration, open but not written to yet.
pub struct Opened {
    /// Each is opened again: the file that had this name may have been renamed.
    outputs: Vec<(Option<PathBuf>, Output)>,
    started: Files,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Opened").finish_non_exhaustive()
    }
}

impl AccessLogs {
    /// `dropped` counts the lines that could not be written.
    pub fn new(dropped: Arc<AtomicU64>) -> Self {
        Self {
            dropped,
            ..Self::default()
        }
    }

    /// Opens every file of a configuration; nothing changes for requests yet.
    ///
    /// # Errors
    /// With the path in the message.
    pub fn open(&self, config: &Config) -> io::Result<Opened> {
        let known = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut opened = Opened {
            outputs: Vec::new(),
            started: Files::new(),
        };
        for (_, log) in wanted(config) {
            let path = &log.path;
            if opened.started.contains_key(path) || opened.outputs.iter().any(|it| it.0 == *path) {
                continue;
            }
            let output = open(path.as_deref())?;
            if known.contains_key(path) {
                opened.outputs.push((path.clone(), output));
                continue;
            }
            let dropped = Arc::clone(&self.dropped);
            let lines = Lines::start("access-log", output, GATHER, dropped)?;
            opened.started.insert(path.clone(), Arc::new(lines));
        }
        Ok(opened)
    }

    /// Writes to the opened files from now on. `config` is the one that they were opened for.
    pub fn commit(&self, opened: Opened, config: &Config) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.extend(opened.started);
        for (path, output) in opened.outputs {
            if let Some(lines) = files.get(&path) {
                lines.replace_output(output);
            }
        }
        let logs: FastMap<_, _> = wanted(config)
            .filter_map(|(listener, log)| {
                let lines = Arc::clone(files.get(&log.path)?);
                let sample = log.sample;
                Some((Arc::clone(listener), Arc::new(AccessLog { lines, sample })))
            })
            .collect();
        files.retain(|path, _| wanted(config).any(|(_, log)| log.path == *path));
        drop(files);
        *self
            .listeners
            .write()
            .unwrap_or_else(PoisonError::into_inner) = logs;
    }

    /// Where the requests of this listener are told now, if anywhere.
    pub fn of(&self, listener: &str) -> Option<Arc<AccessLog>> {
        let logs = self.listeners.read();
        let logs = logs.unwrap_or_else(PoisonError::into_inner);
        logs.get(listener).cloned()
    }

    /// Waits until everything is written, at most `timeout` for each file.
    pub fn flush(&self, timeout: Duration) {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let files: Vec<_> = files.values().cloned().collect();
        for lines in files {
            lines.flush(timeout);
        }
    }
}

/// The listeners that have an access log.
fn wanted(config: &Config) -> impl Iterator<Item = (&Name, &AccessLogConfig)> {
    config.listeners.iter().filter_map(|listener| {
        let http = listener.http.as_deref()?;
        Some((&listener.name, http.access_log.as_ref()?))
    })
}

fn open(path: Option<&Path>) -> io::Result<Output> {
    let Some(path) = path else {
        // A descriptor of our own: the standard handle's lock would be held by a stuck write.
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        return Ok(Box::new(File::from(stdout)));
    };
    // A FIFO that is open for reading, too, is open at once: alone for writing it would wait for
    // somebody who reads, and the process with it.
    let is_fifo = path.metadata().is_ok_and(|it| it.file_type().is_fifo());
    // Appending is right after logrotate has truncated it, too (copytruncate).
    let file = OpenOptions::new()
        .read(is_fifo)
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .open(path);
    let file = file.map_err(|error| {
        let path = path.display();
        io::Error::new(error.kind(), format!("access log {path}: {error}"))
    })?;
    Ok(Box::new(file))
}

impl AccessLog {
    /// Writes a line, unless the request went well and is not in the sample.
    pub fn record(&self, exchange: &Exchange) {
        thread_local! {
            static LINE: RefCell<String> = const { RefCell::new(String::new()) };
        }
        if !exchange.has_failed() && fastrand::f64() >= self.sample {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            exchange.write(line);
            self.lines.push(line.as_bytes());
        });
    }
}

impl Exchange {
    fn has_failed(&self) -> bool {
        self.cause.is_some() || self.status.is_none_or(|status| status.is_server_error())
    }

    /// The fields of docs/operations.md, in its order; what is not known is null.
    fn write(&self, out: &mut String) {
        let since_epoch = self.began.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut line = Line { out };
        line.shown("time", Utc::new(since_epoch));
        line.header("request_id", self.request_id.as_ref(), MAX_REQUEST_ID_BYTES);
        line.name("listener", Some(&self.listener));
        line.optional("route", self.route);
        line.name("cluster", self.cluster.as_deref());
        line.name("backend", self.backend.as_deref());
        line.shown("client", self.client);
        line.text("method", self.method.as_str(), MAX_REQUEST_ID_BYTES);
        self.write_host(&mut line);
        line.text("path", self.target.path(), MAX_PATH_BYTES);
        line.name("protocol", Some(protocol(self.version)));
        line.optional("status", self.status.map(|status| status.as_u16()));
        line.optional("received_bytes", Some(self.received_bytes));
        line.optional("sent_bytes", Some(self.sent_bytes));
        line.milliseconds("duration_ms", Some(self.duration));
        line.milliseconds("first_byte_ms", self.first_byte);
        line.milliseconds("wait_ms", Some(self.wait));
        line.milliseconds("connect_ms", Some(self.connect));
        line.optional("attempts", Some(self.attempts));
        line.name("cause", self.cause.map(Cause::as_str));
        line.header("user_agent", self.user_agent.as_ref(), MAX_USER_AGENT_BYTES);
        out.push_str("}\n");
    }

    fn write_host(&self, line: &mut Line<'_>) {
        match (&self.host, self.target.authority()) {
            (None, Some(authority)) => line.text("host", authority.as_str(), MAX_HOST_BYTES),
            (host, _) => line.header("host", host.as_ref(), MAX_HOST_BYTES),
        }
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests;
