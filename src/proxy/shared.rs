//! What every session and listener needs.

use crate::proxy::http::AccessLogs;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::metrics::Metrics;
use crate::proxy::in_force::SharedInForce;
use crate::proxy::postgres::CancelKeys;
use crate::proxy::postgres::DoorRefusals;
use crate::proxy::worker::Worker;
use crate::report::Reporter;
use crate::routing::SharedTable;
use crate::throttle::CauseLimits;

/// A worker keeps its own connection unless another has this share less: at
/// few sessions the spread is exact, at many a handover is not worth its cost.
const IMBALANCE_SHARE: usize = 16;

/// What every session and listener needs.
#[derive(Debug)]
pub struct Shared {
    pub table: SharedTable,
    pub reporter: Reporter,
    pub metrics: Arc<Metrics>,
    pub access_logs: Arc<AccessLogs>,
    pub accept_warnings: CauseLimits,
    pub refusal_warnings: CauseLimits,
    pub dial_warnings: CauseLimits,
    pub(super) listeners_in_force: SharedInForce,
    pub cancel_keys: Arc<CancelKeys>,
    pub door_refusals: Arc<DoorRefusals>,
    pub(super) workers: Vec<Arc<Worker>>,
    pub(super) started: Instant,
    pub(super) active: AtomicUsize,
    pub(super) last_session_id: AtomicU64,
}

impl Shared {
    /// Client connections of the whole process.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    /// Time since the data plane was started.
    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn open(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn close(&self) {
        self.active.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn next_session_id(&self) -> u64 {
        self.last_session_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The worker for a new connection: the one with the fewest sessions, or `home`
    /// when it has hardly more than that.
    pub(super) fn least_loaded(&self, home: &Arc<Worker>) -> Arc<Worker> {
        let fewest = self.workers.iter().min_by_key(|worker| worker.sessions());
        match fewest {
            Some(fewest) if !is_near(home.sessions(), fewest.sessions()) => Arc::clone(fewest),
            _ => Arc::clone(home),
        }
    }
}

fn is_near(own: usize, fewest: usize) -> bool {
    own <= fewest + fewest / IMBALANCE_SHARE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::proxy::Proxy;
    use crate::report;
    use crate::routing::ListenerEntry;
    use crate::routing::ListenerHandle;
    use crate::routing::RateLimiters;
    use crate::routing::RoutingTable;
    use std::net::SocketAddr;
    use std::net::TcpStream;
    use std::path::Path;

    const PATIENCE: Duration = Duration::from_secs(40);

    /// A listener at home with the first of two workers. Its sessions rest: they wait for a
    /// PROXY header that nobody sends.
    fn two_workers() -> (Proxy, SocketAddr) {
        let text = "version: 1\nworkers: 2\nclusters: {c: {backends: [\"127.0.0.1:1\"]}}\n\
                    listeners: {l: {bind: \"127.0.0.1:0\", cluster: c, proxy_protocol: accept, \
                    proxy_protocol_from: [127.0.0.1], handshake_timeout: 10m}}\n";
        let config = config::load_text(Path::new("text"), text).unwrap().config;
        let listener = config.listeners[0].clone();
        let handle = ListenerHandle::new(listener.name.clone());
        let entry = ListenerEntry::new(listener, Arc::new(handle), None, RateLimiters::default());
        let table = SharedTable::default();
        table.publish(RoutingTable {
            listeners: [("l".into(), Arc::new(entry))].into_iter().collect(),
            max_connections: 100,
            ..RoutingTable::default()
        });
        let (reporter, _) = report::channel();
        let (metrics, access_logs) = (Arc::default(), Arc::default());
        let proxy = Proxy::start(config.workers, table, reporter, metrics, access_logs);
        let mut proxy = proxy.unwrap();
        let bound = proxy.bind(&config).unwrap();
        proxy.commit(bound, &config);
        let listens = proxy.local_addresses()["l"];
        (proxy, listens)
    }

    /// Waits until both workers together have `total` sessions; returns what each has.
    fn spread_of(proxy: &Proxy, total: usize) -> [usize; 2] {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let [home, other] = &proxy.shared.workers[..] else {
                panic!("two workers");
            };
            let spread = [home.sessions(), other.sessions()];
            if spread[0] + spread[1] == total {
                return spread;
            }
            assert!(Instant::now() < deadline, "{spread:?}, never {total}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_new_session_goes_to_the_worker_with_the_fewest_or_stays_at_home_for_hardly_more() {
        let (proxy, listens) = two_workers();
        let mut clients = Vec::new();
        let mut come = |expected| {
            clients.push(Some(TcpStream::connect(listens).unwrap()));
            assert_eq!(spread_of(&proxy, clients.len()), expected);
        };
        for each in 0..16 {
            come([each + 1, each]);
            come([each + 1, each + 1]);
        }
        // From here on one more is hardly more.
        come([17, 16]);
        come([18, 16]);
        come([18, 17]);

        // Those of the other worker go, but for the last; who comes next goes there.
        clients
            .iter_mut()
            .take(32)
            .skip(1)
            .step_by(2)
            .for_each(|client| *client = None);
        assert_eq!(spread_of(&proxy, 19), [18, 1]);
        for others in 2..=17 {
            clients.push(Some(TcpStream::connect(listens).unwrap()));
            assert_eq!(spread_of(&proxy, 18 + others), [18, others]);
        }
    }

    #[test]
    fn few_sessions_are_spread_exactly_and_many_nearly() {
        assert!(is_near(0, 0));
        assert!(!is_near(1, 0));
        assert!(!is_near(6, 5));
        assert!(is_near(1050, 1000));
        assert!(!is_near(1100, 1000));
    }
}
