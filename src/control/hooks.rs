//! Hooks: the user's own commands and URLs, told of what happens.
//!
//! They run on a thread of their own and never hold up a decision: each hook has a bounded
//! queue and works it off in order, one event at a time. What finds its queue full is
//! dropped and counted.

mod command;
mod post;

use std::io;
use std::sync::Arc;
use std::thread;

use serde_json::json;
use tokio::runtime::Builder;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tracing::debug;
use tracing::error;
use tracing::warn;

use crate::cluster::Health;
use crate::cluster::Name;
use crate::config::Config;
use crate::config::HookAction;
use crate::config::HookConfig;
use crate::config::HookEvent;
use crate::control::core::Core;
use crate::control::happening::Happening;
use crate::control::happening::What;
use crate::metrics::Metrics;

/// Events that wait for one hook: a whole cluster's that goes down and comes back. More
/// mean that the hook hangs, and telling it all of that later helps nobody.
const MAX_QUEUED: usize = 64;
/// The version of the JSON that hooks get. Fields may be added without a new one.
const SCHEMA_VERSION: u32 = 1;

/// All hooks of all clusters.
#[derive(Debug, Default)]
pub struct Hooks {
    hooks: Vec<Hook>,
    /// Started with the first hook.
    thread: Option<HookThread>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Hook {
    cluster: Name,
    config: HookConfig,
    queue: mpsc::Sender<Arc<Event>>,
    /// Events were dropped, and that was logged.
    is_behind: bool,
}

#[derive(Debug)]
struct HookThread {
    handle: Handle,
    /// Dropped with this: commands under way are killed.
    _stop: oneshot::Sender<()>,
}

/// One event, as hooks are told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub event: HookEvent,
    pub cluster: Name,
    pub backend: Option<Name>,
    /// One JSON object and a newline.
    pub json: String,
}

/// Why a hook did not succeed.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error("it took longer than its timeout")]
    TimedOut,
    #[error("{0}")]
    Failed(String),
}

impl HookError {
    fn failed(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{what}: {error}"))
    }

    /// The value of the label `result`.
    fn result(&self) -> &'static str {
        match self {
            Self::TimedOut => "timeout",
            Self::Failed(_) => "failed",
        }
    }
}

impl Hooks {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            ..Self::default()
        }
    }

    /// Another configuration is in force. Hooks that stay keep their queue; those that go
    /// work theirs off.
    pub fn apply(&mut self, config: &Config) {
        let mut old = std::mem::take(&mut self.hooks);
        for cluster in &config.clusters {
            for hook in &cluster.failover.hooks {
                let is_same = |it: &Hook| it.cluster == cluster.name && it.config == *hook;
                let known = old.iter().position(is_same);
                let hook = match known {
                    Some(known) => Some(old.swap_remove(known)),
                    None => self.start(Arc::clone(&cluster.name), hook.clone()),
                };
                self.hooks.extend(hook);
            }
        }
    }

    /// Tells those who want to know; never waits.
    pub fn tell(&mut self, event: Event) {
        let event = Arc::new(event);
        let wants = |hook: &&mut Hook| {
            hook.cluster == event.cluster && hook.config.events.contains(&event.event)
        };
        for hook in self.hooks.iter_mut().filter(wants) {
            match hook.queue.try_send(Arc::clone(&event)) {
                Ok(()) => hook.is_behind = false,
                Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {
                    self.metrics.count_hook_dropped(&event.cluster);
                    // Once, until it has caught up: a flood of events is one problem.
                    if !std::mem::replace(&mut hook.is_behind, true) {
                        warn!(cluster = %event.cluster, "a hook is behind: events are dropped");
                    }
                }
            }
        }
    }

    fn start(&mut self, cluster: Name, config: HookConfig) -> Option<Hook> {
        let handle = match self.handle() {
            Ok(handle) => handle,
            Err(error) => {
                error!(%cluster, %error, "hooks cannot run");
                return None;
            }
        };
        let (queue, events) = mpsc::channel(MAX_QUEUED);
        let metrics = Arc::clone(&self.metrics);
        handle.spawn(serve(config.clone(), events, metrics));
        Some(Hook {
            cluster,
            config,
            queue,
            is_behind: false,
        })
    }

    fn handle(&mut self) -> io::Result<Handle> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => HookThread::start()?,
        };
        let handle = thread.handle.clone();
        self.thread = Some(thread);
        Ok(handle)
    }
}

impl HookThread {
    fn start() -> io::Result<Self> {
        let (hand_over, handed_over) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new()
            .name("evergate-hooks".to_owned())
            .spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build();
                let handle = runtime.as_ref().map(|it| it.handle().clone());
                let handle = handle.map_err(|error| error.to_string());
                if hand_over.send(handle).is_ok()
                    && let Ok(runtime) = runtime
                {
                    // An error says that the sender is gone, which is what this waits for.
                    let _ = runtime.block_on(stopped);
                }
            })?;
        let handle = handed_over.recv().map_err(io::Error::other)?;
        let handle = handle.map_err(io::Error::other)?;
        Ok(Self {
            handle,
            _stop: stop,
        })
    }
}

/// Works one hook's queue off, in order.
async fn serve(hook: HookConfig, mut events: mpsc::Receiver<Arc<Event>>, metrics: Arc<Metrics>) {
    while let Some(event) = events.recv().await {
        let told = tokio::time::timeout(hook.timeout, run(&hook.action, &event)).await;
        let result = told.unwrap_or(Err(HookError::TimedOut));
        let name = event.event.as_str();
        let label = result.as_ref().map_or_else(HookError::result, |()| "ok");
        metrics.count_hook(&event.cluster, name, label);
        let (cluster, backend) = (&event.cluster, event.backend.as_deref());
        match result {
            Ok(()) => debug!(%cluster, backend, event = name, "hook done"),
            Err(error) => warn!(%cluster, backend, event = name, %error, "hook failed"),
        }
    }
}

async fn run(action: &HookAction, event: &Event) -> Result<(), HookError> {
    match action {
        HookAction::Command(command) => command::run(command, event).await,
        HookAction::Post(url) => post::run(url, event.json.clone()).await,
    }
}

/// What hooks are told of a happening; `None`: nothing.
pub fn event_of(happening: &Happening, incident: Option<u64>, core: &Core) -> Option<Event> {
    let mut previous = None;
    let mut timeline = None;
    let event = match &happening.what {
        What::PrimaryLost { .. } => HookEvent::PrimaryLost,
        What::PrimarySeen {
            last: Some(last),
            timeline: seen,
            ..
        } => {
            previous = Some(&**last);
            timeline = *seen;
            HookEvent::PrimaryChanged
        }
        What::SplitBrain => HookEvent::SplitBrain,
        What::Health {
            to: Health::Down, ..
        } => HookEvent::BackendDown,
        What::Health {
            from: Health::Down,
            to: Health::Up,
            ..
        } => HookEvent::BackendUp,
        _ => return None,
    };
    let cluster = core.cluster(&happening.cluster);
    let mut backends = cluster.iter().flat_map(|cluster| &cluster.backends);
    let backend = backends.find(|state| Some(&state.handle.name) == happening.backend.as_ref());
    let target = backend.map(|state| &state.target.backend);
    let value = json!({
        "version": SCHEMA_VERSION,
        "event": event.as_str(),
        "at": happening.at.epoch_seconds,
        "cluster": &*happening.cluster,
        "backend": happening.backend.as_deref(),
        "host": target.map(|it| it.host.to_string()),
        "port": target.map(|it| it.port.get()),
        "cause": happening.cause.as_str(),
        "previous": previous,
        "timeline": timeline,
        "incident": incident,
    });
    Some(Event {
        event,
        cluster: Arc::clone(&happening.cluster),
        backend: happening.backend.clone(),
        json: format!("{value}\n"),
    })
}

#[cfg(test)]
mod tests;
