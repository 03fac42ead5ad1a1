//! A worker's connections to backends: idle ones to use again, and all of them to sweep.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::Instant;

use hyper::client::conn::http2;

use crate::cluster::BackendId;
use crate::cluster::FastMap;
use crate::config::ClusterConfig;
use crate::config::HttpVersion;
use crate::config::Intent;
use crate::config::PoolConfig;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::upstream::Sender;
use crate::proxy::http::upstream::Upstream;
use crate::proxy::http::upstream_cell::UpstreamCell;
use crate::routing::Fate;

/// Requests at once on one HTTP/2 connection, until another one is opened.
const MAX_STREAMS: u32 = 100;

/// Which connections are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    backend: BackendId,
    intent: Intent,
}

/// Connections of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The one used last is used next: the others grow old and go.
    idle: FastMap<Key, Vec<Idle>>,
    shared: FastMap<Key, Vec<Shared>>,
    /// Everything that is open.
    open: Vec<Weak<UpstreamCell>>,
}

#[derive(Debug)]
struct Idle {
    upstream: Upstream,
    since: Instant,
    /// How it was made; another configuration makes another connection.
    made_by: Arc<ClusterConfig>,
    limits: PoolConfig,
}

/// An HTTP/2 connection carries many requests at once.
#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    cell: Arc<UpstreamCell>,
    made_by: Arc<ClusterConfig>,
    limits: PoolConfig,
    idle_since: Option<Instant>,
}

impl Pool {
    /// A connection that can take a request now.
    pub fn take(
        &self,
        backend: BackendId,
        intent: Intent,
        (config, now): (&Arc<ClusterConfig>, Instant),
    ) -> Option<Upstream> {
        let mut state = self.lock();
        let key = Key { backend, intent };
        if let Some(shared) = state.shared.get_mut(&key) {
            shared.retain(|it| !it.sender.is_closed() && it.is_usable(config, now));
            let free = shared.iter_mut().find(|it| it.cell.busy() < MAX_STREAMS);
            return free.map(|it| {
                it.idle_since = None;
                Upstream {
                    sender: Sender::Two(it.sender.clone()),
                    cell: Arc::clone(&it.cell),
                }
            });
        }
        let idle = state.idle.get_mut(&key)?;
        while let Some(mut candidate) = idle.pop() {
            if candidate.is_usable(config, now) {
                return Some(candidate.upstream);
            }
        }
        None
    }

    /// Enters a new connection: it is swept from now on, and shared if it can be.
    pub fn enter(&self, upstream: &Upstream, made_by: &Arc<ClusterConfig>) {
        let mut state = self.lock();
        state.open.push(Arc::downgrade(&upstream.cell));
        if let Sender::Two(sender) = &upstream.sender {
            let key = key(&upstream.cell);
            state.shared.entry(key).or_default().push(Shared {
                sender: sender.clone(),
                cell: Arc::clone(&upstream.cell),
                made_by: Arc::clone(made_by),
                limits: limits(made_by),
                idle_since: None,
            });
        }
    }

    /// Takes a connection back whose answer has ended.
    pub fn give_back(&self, mut upstream: Upstream, made_by: Arc<ClusterConfig>) {
        let is_shared = matches!(upstream.sender, Sender::Two(_));
        if !is_shared && upstream.sender.is_ready() {
            upstream.cell.forget_waiting();
            self.keep(upstream, made_by);
        }
    }

    fn keep(&self, upstream: Upstream, made_by: Arc<ClusterConfig>) {
        let limits = limits(&made_by);
        let is_used_up = limits
            .max_requests
            .is_some_and(|max| upstream.cell.requests() >= max.get());
        let is_served = upstream.cell.backend.fate(upstream.cell.intent) == Fate::Serve;
        if limits.max_idle == 0 || is_used_up || !is_served {
            return;
        }
        // One that is over `max_idle` goes at the next sweep: under load it is wanted before.
        let mut state = self.lock();
        let idle = state.idle.entry(key(&upstream.cell)).or_default();
        idle.push(Idle {
            upstream,
            since: Instant::now(),
            made_by,
            limits,
        });
    }

    /// Applies fates, ages and idle timeouts.
    pub fn sweep(&self, now: Instant) {
        let mut state = self.lock();
        state.open.retain(|cell| {
            let Some(cell) = cell.upgrade() else {
                return false;
            };
            cell.sweep(now);
            true
        });
        for idle in state.idle.values_mut() {
            idle.retain_mut(|it| it.is_fresh(now) && it.upstream.sender.is_ready());
            let max = idle.last().map_or(0, |it| it.limits.max_idle);
            idle.drain(..idle.len().saturating_sub(max));
        }
        state.idle.retain(|_, idle| !idle.is_empty());
        for shared in state.shared.values_mut() {
            for it in shared.iter_mut() {
                let is_idle = it.cell.busy() == 0;
                it.idle_since = is_idle.then(|| it.idle_since.unwrap_or(now));
            }
            shared.retain(|it| it.is_fresh(now) && !it.sender.is_closed());
        }
        state.shared.retain(|_, shared| !shared.is_empty());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(cell: &UpstreamCell) -> Key {
    Key {
        backend: cell.backend.id,
        intent: cell.intent,
    }
}

fn limits(config: &ClusterConfig) -> PoolConfig {
    let http = config.http.as_deref();
    http.map(|http| http.pool.clone()).unwrap_or_default()
}

/// Whether a connection made under one configuration serves another.
fn is_alike(one: &Arc<ClusterConfig>, other: &Arc<ClusterConfig>) -> bool {
    if Arc::ptr_eq(one, other) {
        return true;
    }
    let version = |config: &ClusterConfig| {
        let http = config.http.as_deref();
        http.map_or(HttpVersion::One, |http| http.version)
    };
    one.tls == other.tls
        && one.connect.source == other.connect.source
        && version(one) == version(other)
}

fn is_young(cell: &UpstreamCell, limits: &PoolConfig, now: Instant) -> bool {
    let age = now.saturating_duration_since(cell.opened);
    limits.max_age.is_zero() || age < limits.max_age
}

impl Idle {
    fn is_usable(&mut self, config: &Arc<ClusterConfig>, now: Instant) -> bool {
        self.is_fresh(now) && self.upstream.sender.is_ready() && is_alike(&self.made_by, config)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.since);
        idle < self.limits.idle_timeout && is_young(&self.upstream.cell, &self.limits, now)
    }
}

impl Shared {
    fn is_usable(&self, config: &Arc<ClusterConfig>, now: Instant) -> bool {
        let max = self.limits.max_requests;
        self.cell.severed().is_none()
            && is_alike(&self.made_by, config)
            && is_young(&self.cell, &self.limits, now)
            && max.is_none_or(|max| self.cell.requests() < max.get())
    }

    fn is_fresh(&self, now: Instant) -> bool {
        let idle = self.idle_since.map(|it| now.saturating_duration_since(it));
        idle.is_none_or(|idle| idle < self.limits.idle_timeout)
            && is_young(&self.cell, &self.limits, now)
    }
}
