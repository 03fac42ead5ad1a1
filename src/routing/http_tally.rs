//! What HTTP exchanges count, in the handles of their listener, cluster and backend.
//!
//! All relaxed atomics: a request costs a handful of additions and one look into a small map.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;

use crate::cluster::FastMap;
use crate::cluster::Name;
use crate::cluster::StatusClass;

/// Requests by the class of their answer.
#[derive(Debug, Default)]
pub struct StatusCounts([AtomicU64; StatusClass::ALL.len()]);

impl StatusCounts {
    pub fn count(&self, class: StatusClass) {
        self.0[class as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Those that have happened.
    pub fn read(&self) -> impl Iterator<Item = (StatusClass, u64)> + '_ {
        StatusClass::ALL.into_iter().filter_map(|class| {
            let count = self.0[class as usize].load(Ordering::Relaxed);
            (count > 0).then_some((class, count))
        })
    }
}

/// Requests of one listener.
#[derive(Debug, Default)]
pub struct ListenerHttp {
    /// By the cluster that they went to.
    requests: ArcSwap<FastMap<Name, Arc<StatusCounts>>>,
    /// Refused before it was clear where they go to.
    unrouted: StatusCounts,
    rate_limited: AtomicU64,
}

impl ListenerHttp {
    /// Counts a request that is over.
    pub fn count_request(&self, cluster: Option<&Name>, class: StatusClass) {
        let Some(cluster) = cluster else {
            return self.unrouted.count(class);
        };
        if let Some(counts) = self.requests.load().get(cluster) {
            return counts.count(class);
        }
        // For the first time: clusters are few, and named in the configuration.
        self.requests.rcu(|known| {
            let mut more = FastMap::clone(known);
            more.entry(Arc::clone(cluster)).or_default();
            more
        });
        if let Some(counts) = self.requests.load().get(cluster) {
            counts.count(class);
        }
    }

    /// Counts a request over its client's rate limit.
    pub fn count_rate_limited(&self) {
        self.rate_limited.fetch_add(1, Ordering::Relaxed);
    }

    pub fn rate_limited(&self) -> u64 {
        self.rate_limited.load(Ordering::Relaxed)
    }

    /// Requests by cluster.
    pub fn requests(&self) -> Arc<FastMap<Name, Arc<StatusCounts>>> {
        self.requests.load_full()
    }

    /// Requests that went to no cluster.
    pub fn unrouted(&self) -> &StatusCounts {
        &self.unrouted
    }

    /// Control plane only: forgets the clusters that are gone.
    pub fn retain(&self, is_there: impl Fn(&Name) -> bool) {
        let known = self.requests.load();
        if known.keys().all(&is_there) {
            return;
        }
        self.requests.rcu(|known| {
            let kept = known.iter().filter(|(cluster, _)| is_there(cluster));
            let kept = kept.map(|(cluster, counts)| (Arc::clone(cluster), Arc::clone(counts)));
            kept.collect::<FastMap<_, _>>()
        });
    }
}

/// Why a request was sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// No connection to the backend came about.
    Connect,
    /// The connection ended before the backend had seen anything of it.
    Unsent,
    /// The backend refused to look at it: GOAWAY, REFUSED_STREAM, 421.
    Refused,
    /// The connection ended without an answer, and the request may be repeated.
    Lost,
    /// The answer's status is one of `retry.statuses`.
    Status,
    /// No answer within `retry.attempt_timeout`.
    Timeout,
}

impl RetryReason {
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::Unsent,
        Self::Refused,
        Self::Lost,
        Self::Status,
        Self::Timeout,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Unsent => "unsent",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Status => "status",
            Self::Timeout => "timeout",
        }
    }
}

/// Requests to one cluster.
#[derive(Debug, Default)]
pub struct ClusterHttp {
    begun: AtomicU64,
    over: AtomicU64,
    retries: [AtomicU64; RetryReason::ALL.len()],
    retries_denied: AtomicU64,
    hedges: AtomicU64,
    hedges_won: AtomicU64,
}

impl ClusterHttp {
    /// A request is on its way until [`Self::end`].
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.over.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests under way.
    pub fn active(&self) -> u64 {
        let over = self.over.load(Ordering::Relaxed);
        // Read later, so that it is not less.
        self.begun.load(Ordering::Relaxed).saturating_sub(over)
    }

    pub fn count_retry(&self, reason: RetryReason) {
        self.retries[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn retries(&self) -> impl Iterator<Item = (RetryReason, u64)> + '_ {
        let count = |reason| self.retries[reason as usize].load(Ordering::Relaxed);
        RetryReason::ALL
            .map(|reason| (reason, count(reason)))
            .into_iter()
    }

    /// The budget had nothing left for a retry.
    pub fn count_retry_denied(&self) {
        self.retries_denied.fetch_add(1, Ordering::Relaxed);
    }

    pub fn retries_denied(&self) -> u64 {
        self.retries_denied.load(Ordering::Relaxed)
    }

    /// A second copy was sent.
    pub fn count_hedge(&self) {
        self.hedges.fetch_add(1, Ordering::Relaxed);
    }

    /// The second copy was answered first.
    pub fn count_hedge_won(&self) {
        self.hedges_won.fetch_add(1, Ordering::Relaxed);
    }

    /// Sent and won.
    pub fn hedges(&self) -> (u64, u64) {
        (
            self.hedges.load(Ordering::Relaxed),
            self.hedges_won.load(Ordering::Relaxed),
        )
    }
}

/// Requests and connections to one backend.
#[derive(Debug, Default)]
pub struct BackendHttp {
    /// What it answered.
    pub answers: StatusCounts,
    opened: AtomicU64,
    closed: AtomicU64,
    taken: AtomicU64,
    given_back: AtomicU64,
    reused: AtomicU64,
}

impl BackendHttp {
    /// A connection is there until [`Self::close`].
    pub fn open(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub fn close(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// An idle connection carries requests until [`Self::rest`].
    pub fn take(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    pub fn rest(&self) {
        self.given_back.fetch_add(1, Ordering::Relaxed);
    }

    /// A request went over a connection that had carried others before.
    pub fn count_reused(&self) {
        self.reused.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections opened and requests that needed none.
    pub fn totals(&self) -> (u64, u64) {
        (
            self.opened.load(Ordering::Relaxed),
            self.reused.load(Ordering::Relaxed),
        )
    }

    /// Connections with and without requests.
    pub fn connections(&self) -> (u64, u64) {
        let given_back = self.given_back.load(Ordering::Relaxed);
        let active = self.taken.load(Ordering::Relaxed);
        let active = active.saturating_sub(given_back);
        let closed = self.closed.load(Ordering::Relaxed);
        let open = self.opened.load(Ordering::Relaxed);
        let open = open.saturating_sub(closed);
        (active, open.saturating_sub(active))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(http: &ListenerHttp, cluster: &str) -> Vec<(StatusClass, u64)> {
        let requests = http.requests();
        requests
            .get(cluster)
            .map(|counts| counts.read().collect())
            .unwrap_or_default()
    }

    #[test]
    fn requests_are_counted_by_cluster_and_class() {
        let http = ListenerHttp::default();
        let (a, b): (Name, Name) = ("a".into(), "b".into());
        http.count_request(Some(&a), StatusClass::of(Some(200)));
        http.count_request(Some(&a), StatusClass::of(Some(204)));
        http.count_request(Some(&a), StatusClass::of(Some(503)));
        http.count_request(Some(&b), StatusClass::of(None));
        http.count_request(None, StatusClass::of(Some(400)));
        let expected = [(StatusClass::Successful, 2), (StatusClass::ServerError, 1)];
        assert_eq!(counts(&http, "a"), expected);
        assert_eq!(counts(&http, "b"), [(StatusClass::None, 1)]);
        let unrouted: Vec<_> = http.unrouted().read().collect();
        assert_eq!(unrouted, [(StatusClass::ClientError, 1)]);
    }

    #[test]
    fn a_cluster_that_is_gone_is_forgotten_and_the_others_count_on() {
        let http = ListenerHttp::default();
        let (a, b): (Name, Name) = ("a".into(), "b".into());
        http.count_request(Some(&a), StatusClass::Successful);
        http.count_request(Some(&b), StatusClass::Successful);
        http.retain(|cluster| **cluster == *"a");
        http.count_request(Some(&a), StatusClass::Successful);
        assert_eq!(counts(&http, "a"), [(StatusClass::Successful, 2)]);
        assert!(!http.requests().contains_key("b"));
    }

    #[test]
    fn workers_that_meet_a_new_cluster_together_lose_no_count() {
        let http = ListenerHttp::default();
        let clusters: Vec<Name> = (0..20).map(|number| number.to_string().into()).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for cluster in &clusters {
                        http.count_request(Some(cluster), StatusClass::Successful);
                    }
                });
            }
        });
        for cluster in &clusters {
            let expected = [(StatusClass::Successful, 4)];
            assert_eq!(counts(&http, cluster), expected, "{cluster}");
        }
    }

    #[test]
    fn connections_are_idle_or_active() {
        let http = BackendHttp::default();
        for _ in 0..3 {
            http.open();
            http.take();
        }
        http.rest();
        assert_eq!(http.connections(), (2, 1));
        http.close();
        assert_eq!(http.connections(), (2, 0));
        assert_eq!(http.totals(), (3, 0));
    }

    #[test]
    fn statuses_have_the_class_of_their_first_digit() {
        for (status, class) in [
            (101, "1xx"),
            (200, "2xx"),
            (304, "3xx"),
            (404, "4xx"),
            (599, "5xx"),
            (999, "5xx"),
        ] {
            assert_eq!(StatusClass::of(Some(status)).as_str(), class);
        }
        assert_eq!(StatusClass::of(None).as_str(), "none");
    }
}
