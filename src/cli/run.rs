//! `evergate run`: start, follow signals and files, end.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::mpsc;

use crate::cli;
use crate::config::FileWatcher;
use crate::log;
use crate::log::Log;
use crate::server::ApplyError;
use crate::server::ReloadRequest;
use crate::server::Server;
use crate::server::Source;
use crate::server::log_problem;
use crate::tls::TlsMaterial;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Exit codes beside 0: as a shell reports a process that the signal killed.
const EXIT_SIGINT: u8 = 130;
const EXIT_SIGTERM: u8 = 143;

struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

/// What made the main loop stop.
enum Stop {
    Drain,
    Now(u8),
}

/// Runs until a signal ends the process.
pub fn run(args: Args) -> ExitCode {
    serve(Source::File(args.config))
}

/// Runs a configuration from any source until a signal ends the process.
pub fn serve(source: Source) -> ExitCode {
    match try_serve(source) {
        Ok(code) => code,
        Err(error) => {
            let text = format!("{error:#}");
            let led = text.starts_with("error") || text.starts_with("warning");
            let prefix = if led { "" } else { "error: " };
            cli::complain(&format!("{prefix}{}", text.trim_end()));
            ExitCode::FAILURE
        }
    }
}

fn try_serve(source: Source) -> anyhow::Result<ExitCode> {
    let prepared = source.prepare(&TlsMaterial::default())?;
    let log = log::init(&prepared.loaded.config.log)?;
    prepared.loaded.warnings.iter().for_each(log_problem);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the main event loop")?;
    runtime.block_on(async {
        // Before anything listens: a signal from now on is never lost.
        let mut signals = Signals::new().context("cannot handle signals")?;
        let watcher = watch(&source, &prepared.loaded.files);
        let started = Server::start(source, prepared, log.dropped()).await;
        let (mut server, mut reloads) = started?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            pid = std::process::id(),
            workers = server.config().workers.get(),
            "evergate is running"
        );
        notify(&[NotifyState::Ready]);
        let stop = follow(&mut server, &mut signals, &mut reloads, watcher, &log).await;
        Ok(end(server, stop, &mut signals).await)
    })
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }
}

/// A configuration from the environment has no files.
fn watch(source: &Source, files: &[PathBuf]) -> Option<FileWatcher> {
    match source {
        Source::File(_) => Some(FileWatcher::new(files)),
        Source::Text { .. } => None,
    }
}

/// Reloads when asked, until a signal ends it.
async fn follow(
    server: &mut Server,
    signals: &mut Signals,
    reloads: &mut mpsc::Receiver<ReloadRequest>,
    mut watcher: Option<FileWatcher>,
    log: &Log,
) -> Stop {
    loop {
        let asked = tokio::select! {
            _ = signals.interrupt.recv() => return Stop::Now(EXIT_SIGINT),
            _ = signals.terminate.recv() => return Stop::Drain,
            _ = signals.hangup.recv() => None,
            Some(request) = reloads.recv() => Some(request),
            () = changed(watcher.as_mut()) => None,
        };
        // A file system that hangs must not keep a signal waiting. What such a reload leaves
        // undone does not matter any more: both signals end every listener.
        let result = tokio::select! {
            biased;
            _ = signals.interrupt.recv() => return Stop::Now(EXIT_SIGINT),
            _ = signals.terminate.recv() => return Stop::Drain,
            result = server.reload(Some(log)) => result,
        };
        let mut files = server.files().to_vec();
        if let Err(error) = &result {
            files.extend(error.files());
        }
        if let Some(watcher) = &mut watcher {
            watcher.set_files(&files);
        }
        if let Some(ReloadRequest { done }) = asked {
            // The asker may have hung up; the reload is done all the same.
            let _ = done.send(result.map_err(|error: ApplyError| error.to_string()));
        }
    }
}

async fn changed(watcher: Option<&mut FileWatcher>) {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}

async fn end(mut server: Server, stop: Stop, signals: &mut Signals) -> ExitCode {
    notify(&[NotifyState::Stopping]);
    let code = match stop {
        Stop::Now(code) => {
            tracing::info!("SIGINT: ending at once");
            code
        }
        Stop::Drain => match delay(&server, signals).await {
            Some(code) => code,
            None => drain(&mut server, signals).await,
        },
    };
    server.stop().await;
    tracing::info!(exit_code = code, "evergate has stopped");
    ExitCode::from(code)
}

/// Lets balancers in front see that we are not ready while we still serve whom they send.
/// An exit code means that there is nothing to drain any more.
async fn delay(server: &Server, signals: &mut Signals) -> Option<u8> {
    let delay = server.config().shutdown_delay;
    if delay.is_zero() {
        return None;
    }
    server.announce_shutdown();
    tracing::info!(shutdown_delay = ?delay, "SIGTERM: not ready, still accepting");
    tokio::select! {
        () = tokio::time::sleep(delay) => None,
        _ = signals.terminate.recv() => None,
        _ = signals.interrupt.recv() => Some(EXIT_SIGINT),
    }
}

async fn drain(server: &mut Server, signals: &mut Signals) -> u8 {
    let timeout = server.config().drain_timeout;
    tracing::info!(drain_timeout = ?timeout, "SIGTERM: draining");
    tokio::select! {
        severed = server.drain(timeout) => {
            if severed > 0 {
                tracing::warn!(sessions = severed, "drain deadline passed, sessions severed");
            }
            0
        }
        _ = signals.interrupt.recv() => EXIT_SIGINT,
        _ = signals.terminate.recv() => EXIT_SIGTERM,
    }
}

fn notify(state: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell; with it, a failure only delays its view.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not notified");
    }
}
