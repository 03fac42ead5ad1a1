//! Publishes the live counters of everything that is in the routing table.

use crate::cluster::AdminState;
use crate::cluster::Health;
use crate::metrics::Scrape;
use crate::metrics::names;
use crate::routing::BackendEntry;
use crate::routing::ClusterTable;
use crate::routing::ListenerEntry;
use crate::routing::RoutingTable;

/// Adds one table's samples to a scrape.
pub fn publish(table: &RoutingTable, scrape: &Scrape) {
    scrape.gauge(
        &names::ROUTING_TABLE_GENERATION,
        &[],
        table.generation as f64,
    );
    for (name, listener) in &table.listeners {
        publish_listener(name, listener, scrape);
    }
    for (name, cluster) in &table.clusters {
        publish_cluster(name, cluster, scrape);
        for backend in &cluster.backends {
            publish_backend(name, backend, scrape);
            publish_backend_traffic(name, backend, scrape);
        }
    }
}

fn publish_listener(name: &str, listener: &ListenerEntry, scrape: &Scrape) {
    let handle = &listener.handle;
    scrape.counter(&names::LISTENER_CONNECTIONS, &[name], handle.accepted());
    scrape.gauge(&names::LISTENER_ACTIVE, &[name], handle.active() as f64);
    scrape.counter(
        &names::LISTENER_BYTES_RECEIVED,
        &[name],
        handle.received_bytes(),
    );
    scrape.counter(&names::LISTENER_BYTES_SENT, &[name], handle.sent_bytes());
    for (cause, count) in handle.rejected() {
        scrape.counter(&names::LISTENER_REJECTED, &[name, cause.as_str()], count);
    }
    let expiries = listener.tls.iter().flat_map(|tls| tls.expiries());
    for expiry in expiries {
        let file = expiry.path.to_string_lossy();
        scrape.gauge(&names::TLS_NOT_AFTER, &[&file], expiry.not_after as f64);
    }
}

fn publish_cluster(name: &str, cluster: &ClusterTable, scrape: &Scrape) {
    let handle = &cluster.handle;
    scrape.gauge(&names::CLUSTER_HELD, &[name], handle.hold.len() as f64);
    scrape.gauge(&names::CLUSTER_QUEUED, &[name], handle.queue.len() as f64);
    scrape.gauge(&names::CLUSTER_HEADROOM, &[name], cluster.headroom() as f64);
    let expiries = cluster.tls.iter().flat_map(|tls| tls.expiries());
    for expiry in expiries {
        let file = expiry.path.to_string_lossy();
        scrape.gauge(&names::TLS_NOT_AFTER, &[&file], expiry.not_after as f64);
    }
}

fn publish_backend(cluster: &str, backend: &BackendEntry, scrape: &Scrape) {
    let labels = [cluster, &*backend.config.name];
    let up = flag(backend.health == Health::Up);
    scrape.gauge(&names::BACKEND_UP, &labels, up);
    for state in AdminState::ALL {
        let labels = [cluster, &*backend.config.name, state.as_str()];
        let set = flag(backend.admin == state);
        scrape.gauge(&names::BACKEND_ADMIN_STATE, &labels, set);
    }
    let weight = f64::from(backend.config.weight);
    scrape.gauge(&names::BACKEND_WEIGHT, &labels, weight);
    scrape.gauge(&names::BACKEND_LAST_CHANGE, &labels, backend.since_epoch);
}

fn publish_backend_traffic(cluster: &str, backend: &BackendEntry, scrape: &Scrape) {
    let name = &*backend.config.name;
    let labels = [cluster, name];
    let handle = &backend.handle;
    scrape.gauge(&names::BACKEND_ACTIVE, &labels, f64::from(handle.active()));
    scrape.counter(&names::BACKEND_CONNECTIONS, &labels, handle.total());
    scrape.counter(
        &names::BACKEND_BYTES_RECEIVED,
        &labels,
        handle.received_bytes(),
    );
    scrape.counter(&names::BACKEND_BYTES_SENT, &labels, handle.sent_bytes());
    for (cause, count) in handle.connect_errors() {
        let labels = [cluster, name, cause.as_str()];
        scrape.counter(&names::BACKEND_CONNECT_ERRORS, &labels, count);
    }
    let (passed, failed) = handle.checks();
    scrape.counter(&names::HEALTH_CHECKS, &[cluster, name, "passed"], passed);
    scrape.counter(&names::HEALTH_CHECKS, &[cluster, name, "failed"], failed);
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}
