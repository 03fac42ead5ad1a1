//! Counts what belongs to no handle, and turns everything into Prometheus text.
//!
//! Live counters of backends and listeners are atomics in their own handles. They are
//! published when somebody scrapes: a removed backend leaves no series behind, and a
//! re-added one starts at zero.

mod exposition;
mod histogram;
mod page;
mod table;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bytes::Bytes;

pub use exposition::CONTENT_TYPE;
pub use exposition::Scrape;
pub use table::ALL;
pub use table::Kind;
pub use table::Metric;
pub use table::PROCESS;

use crate::cluster::Cause;
use crate::cluster::FastMap;
use crate::cluster::Name;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::cluster::StatusClass;
use crate::metrics::histogram::Histogram;
use crate::metrics::page::LastPage;

/// The metrics that other modules publish, by name.
pub mod names {
    pub use super::table::*;
}

const SESSION_ENDS: usize = Side::ALL.len() * Phase::ALL.len() * Cause::ALL.len();

/// Counters and histograms that belong to no backend, listener or cluster handle.
pub struct Metrics {
    /// One counter for each side × phase × cause: a fixed set, so no client can make it grow.
    session_ends: Vec<AtomicU64>,
    reloads: Mutex<Reloads>,
    log_dropped: Arc<AtomicU64>,
    access_log_dropped: Arc<AtomicU64>,
    histograms: RwLock<FastMap<Name, Arc<ClusterHistograms>>>,
    hooks: Mutex<HookCounts>,
    last_page: LastPage,
}

/// Bounded by the clusters in the file and two closed lists of words.
#[derive(Debug, Default)]
struct HookCounts {
    /// By cluster, event and result.
    runs: HashMap<(Name, &'static str, &'static str), u64>,
    dropped: HashMap<Name, u64>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Reloads {
    accepted: u64,
    rejected: u64,
    last_accepted: bool,
    /// Seconds since the epoch; zero = never.
    last_success_epoch: f64,
}

/// The histograms of one cluster.
#[derive(Debug)]
struct ClusterHistograms {
    session_duration: Histogram,
    connect_duration: Histogram,
    check_duration: Histogram,
    hold_duration: Histogram,
    failover_duration: Histogram,
    /// By [`StatusClass`].
    request_duration: [Histogram; StatusClass::ALL.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// `log_dropped` is the log's own count of lines it had to drop.
    pub fn new(log_dropped: Arc<AtomicU64>) -> Self {
        Self {
            session_ends: (0..SESSION_ENDS).map(|_| AtomicU64::new(0)).collect(),
            reloads: Mutex::default(),
            log_dropped,
            access_log_dropped: Arc::default(),
            histograms: RwLock::default(),
            hooks: Mutex::default(),
            last_page: LastPage::default(),
        }
    }

    /// Counts one ended session (`sessions_ended_total{side,phase,cause}`).
    pub fn count_session_end(&self, end: SessionEnd) {
        self.session_ends[position(end)].fetch_add(1, Ordering::Relaxed);
    }

    /// `session_duration_seconds{cluster}`
    pub fn record_session_duration(&self, cluster: &str, duration: Duration) {
        self.with(cluster, |of| of.session_duration.record(duration));
    }

    /// `connect_duration_seconds{cluster}`
    pub fn record_connect_duration(&self, cluster: &str, duration: Duration) {
        self.with(cluster, |of| of.connect_duration.record(duration));
    }

    /// `health_check_duration_seconds{cluster}`
    pub fn record_check_duration(&self, cluster: &str, duration: Duration) {
        self.with(cluster, |of| of.check_duration.record(duration));
    }

    /// `cluster_hold_duration_seconds{cluster}`
    pub fn record_hold_duration(&self, cluster: &str, duration: Duration) {
        self.with(cluster, |of| of.hold_duration.record(duration));
    }

    /// `cluster_failover_duration_seconds{cluster}`
    pub fn record_failover_duration(&self, cluster: &str, duration: Duration) {
        self.with(cluster, |of| of.failover_duration.record(duration));
    }

    /// `http_request_duration_seconds{cluster,status_class}`
    pub fn record_request_duration(&self, cluster: &str, class: StatusClass, duration: Duration) {
        self.with(cluster, |of| {
            of.request_duration[class as usize].record(duration);
        });
    }

    /// The count of lines that access logs had to drop.
    pub fn access_log_dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.access_log_dropped)
    }

    /// `hook_runs_total{cluster,event,result}`
    pub fn count_hook(&self, cluster: &str, event: &'static str, result: &'static str) {
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (cluster.into(), event, result);
        *hooks.runs.entry(key).or_default() += 1;
    }

    /// `hook_events_dropped_total{cluster}`
    pub fn count_hook_dropped(&self, cluster: &str) {
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        *hooks.dropped.entry(cluster.into()).or_default() += 1;
    }

    /// `config_reloads_total{result}`, `config_last_reload_*`
    pub fn count_reload(&self, accepted: bool) {
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        reloads.last_accepted = accepted;
        if accepted {
            reloads.accepted += 1;
            reloads.last_success_epoch = epoch_seconds();
        } else {
            reloads.rejected += 1;
        }
    }

    /// The first configuration was accepted: not a reload, but the last good load.
    pub fn record_first_load(&self) {
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        reloads.last_accepted = true;
        reloads.last_success_epoch = epoch_seconds();
    }

    /// Forgets the counts of clusters that are gone.
    pub fn run_upkeep(&self, is_live: impl Fn(&str) -> bool) {
        self.histograms
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|cluster, _| is_live(cluster));
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        hooks.runs.retain(|(cluster, ..), _| is_live(cluster));
        hooks.dropped.retain(|cluster, _| is_live(cluster));
    }

    /// The page for a scrape: as [`Self::render`] makes it, or the last one where that is large and
    /// not long ago.
    pub fn page(&self, now: Instant, publish: impl FnOnce(&mut Scrape)) -> Bytes {
        self.last_page.at(now, || self.render(publish))
    }

    /// The Prometheus text: what is counted here, and what `publish` adds for
    /// the objects that are alive now.
    pub fn render(&self, publish: impl FnOnce(&mut Scrape)) -> String {
        let mut scrape = Scrape::default();
        self.publish_own(&mut scrape);
        publish(&mut scrape);
        for (cluster, histograms) in self.all_histograms() {
            histograms.publish(&cluster, &mut scrape);
        }
        scrape.into_text()
    }

    /// A copy: who takes its time with them must not hold the lock, which sessions wait for.
    fn all_histograms(&self) -> BTreeMap<Name, Arc<ClusterHistograms>> {
        let histograms = self.histograms.read();
        let histograms = histograms.unwrap_or_else(PoisonError::into_inner);
        let pairs = histograms.iter();
        pairs
            .map(|(name, it)| (Arc::clone(name), Arc::clone(it)))
            .collect()
    }

    fn publish_own(&self, scrape: &mut Scrape) {
        scrape.gauge(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        for end in every_session_end() {
            let count = self.session_ends[position(end)].load(Ordering::Relaxed);
            if count > 0 {
                let labels = [end.side.as_str(), end.phase.as_str(), end.cause.as_str()];
                scrape.counter(&names::SESSIONS_ENDED, &labels, count);
            }
        }
        let reloads = *self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        scrape.counter(&names::CONFIG_RELOADS, &["accepted"], reloads.accepted);
        scrape.counter(&names::CONFIG_RELOADS, &["rejected"], reloads.rejected);
        let successful = f64::from(u8::from(reloads.last_accepted));
        scrape.gauge(&names::CONFIG_LAST_RELOAD_SUCCESSFUL, &[], successful);
        let last_success = reloads.last_success_epoch;
        scrape.gauge(&names::CONFIG_LAST_RELOAD_SUCCESS, &[], last_success);
        self.publish_hooks(scrape);
        let log_dropped = self.log_dropped.load(Ordering::Relaxed);
        scrape.counter(&names::LOG_DROPPED, &[], log_dropped);
        let access_log_dropped = self.access_log_dropped.load(Ordering::Relaxed);
        scrape.counter(&names::ACCESS_LOG_DROPPED, &[], access_log_dropped);
    }

    fn publish_hooks(&self, scrape: &mut Scrape) {
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        for ((cluster, event, result), count) in &hooks.runs {
            scrape.counter(&names::HOOK_RUNS, &[cluster, event, result], *count);
        }
        for (cluster, count) in &hooks.dropped {
            scrape.counter(&names::HOOK_EVENTS_DROPPED, &[cluster], *count);
        }
    }

    /// Looks at a cluster's histograms under the lock: recording takes nanoseconds.
    fn with(&self, cluster: &str, record: impl FnOnce(&ClusterHistograms)) {
        let known = self.histograms.read();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        if let Some(histograms) = known.get(cluster) {
            return record(histograms);
        }
        drop(known);
        let known = self.histograms.write();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        record(known.entry(cluster.into()).or_default());
    }
}

impl Default for ClusterHistograms {
    fn default() -> Self {
        let new = |metric: &Metric| match metric.kind {
            Kind::Histogram(bounds) => Histogram::new(bounds),
            Kind::Counter | Kind::Gauge => Histogram::new(&[]),
        };
        Self {
            session_duration: new(&names::SESSION_DURATION),
            connect_duration: new(&names::CONNECT_DURATION),
            check_duration: new(&names::HEALTH_CHECK_DURATION),
            hold_duration: new(&names::CLUSTER_HOLD_DURATION),
            failover_duration: new(&names::CLUSTER_FAILOVER_DURATION),
            request_duration: StatusClass::ALL.map(|_| new(&names::HTTP_REQUEST_DURATION)),
        }
    }
}

impl ClusterHistograms {
    fn publish(&self, cluster: &str, scrape: &mut Scrape) {
        for (metric, histogram) in [
            (&names::SESSION_DURATION, &self.session_duration),
            (&names::CONNECT_DURATION, &self.connect_duration),
            (&names::HEALTH_CHECK_DURATION, &self.check_duration),
            (&names::CLUSTER_HOLD_DURATION, &self.hold_duration),
            (&names::CLUSTER_FAILOVER_DURATION, &self.failover_duration),
        ] {
            scrape.histogram(metric, &[cluster], histogram);
        }
        for class in StatusClass::ALL {
            let histogram = &self.request_duration[class as usize];
            // Most clusters are never asked by HTTP, and few see every class.
            if !histogram.is_empty() {
                let labels = [cluster, class.as_str()];
                scrape.histogram(&names::HTTP_REQUEST_DURATION, &labels, histogram);
            }
        }
    }
}

fn every_session_end() -> impl Iterator<Item = SessionEnd> {
    let phases = |side| Phase::ALL.into_iter().map(move |phase| (side, phase));
    let pairs = Side::ALL.into_iter().flat_map(phases);
    pairs.flat_map(|(side, phase)| {
        let causes = Cause::ALL.iter();
        causes.map(move |&cause| SessionEnd { side, phase, cause })
    })
}

fn position(end: SessionEnd) -> usize {
    (end.side as usize * Phase::ALL.len() + end.phase as usize) * Cause::ALL.len()
        + end.cause as usize
}

fn epoch_seconds() -> f64 {
    // A clock before 1970 is wrong anyway; zero reads as "never".
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests;
