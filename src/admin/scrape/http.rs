//! Publishes what HTTP exchanges count.

use crate::metrics::Metric;
use crate::metrics::Scrape;
use crate::metrics::names;
use crate::routing::BackendEntry;
use crate::routing::ClusterTable;
use crate::routing::ListenerHttp;

pub fn publish_listener(name: &str, http: &ListenerHttp, scrape: &mut Scrape) {
    let requests = http.requests();
    let routed = requests
        .iter()
        .map(|(cluster, counts)| (&**cluster, &**counts));
    for (cluster, counts) in routed.chain([("", http.unrouted())]) {
        for (class, count) in counts.read() {
            let labels = [name, cluster, class.as_str()];
            scrape.counter(&names::HTTP_REQUESTS, &labels, count);
        }
    }
    scrape.counter(&names::HTTP_RATE_LIMITED, &[name], http.rate_limited());
}

pub fn publish_cluster(name: &str, cluster: &ClusterTable, scrape: &mut Scrape) {
    let http = &cluster.handle.http;
    scrape.gauge(&names::HTTP_ACTIVE, &[name], http.active() as f64);
    for (reason, count) in http.retries() {
        scrape.counter(&names::HTTP_RETRIES, &[name, reason.as_str()], count);
    }
    let (hedges, won) = http.hedges();
    let counts: [(&'static Metric, u64); 3] = [
        (&names::HTTP_RETRIES_DENIED, http.retries_denied()),
        (&names::HTTP_HEDGES, hedges),
        (&names::HTTP_HEDGES_WON, won),
    ];
    for (metric, count) in counts {
        scrape.counter(metric, &[name], count);
    }
    for backend in &cluster.backends {
        publish_backend(name, backend, scrape);
    }
}

fn publish_backend(cluster: &str, backend: &BackendEntry, scrape: &mut Scrape) {
    let name = &*backend.config.name;
    let http = backend.handle.http();
    for (class, count) in http.answers.read() {
        let labels = [cluster, name, class.as_str()];
        scrape.counter(&names::HTTP_ANSWERS, &labels, count);
    }
    let (active, idle) = http.connections();
    for (state, count) in [("active", active), ("idle", idle)] {
        let labels = [cluster, name, state];
        scrape.gauge(&names::HTTP_UPSTREAM_CONNECTIONS, &labels, count as f64);
    }
    let (opened, reused) = http.totals();
    let labels = [cluster, name];
    scrape.counter(&names::HTTP_UPSTREAM_OPENED, &labels, opened);
    scrape.counter(&names::HTTP_UPSTREAM_REUSED, &labels, reused);
}
