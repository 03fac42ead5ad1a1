//! Publishes the live counters of everything that is in the routing table.

mod http;

use crate::cluster::AdminState;
use crate::cluster::Health;
use crate::cluster::Role;
use crate::metrics::Scrape;
use crate::metrics::names;
use crate::routing::BackendEntry;
use crate::routing::ClusterTable;
use crate::routing::ListenerEntry;
use crate::routing::RoutingTable;

/// Adds one table's samples to a scrape.
pub fn publish(table: &RoutingTable, scrape: &mut Scrape) {
    scrape.gauge(
        &names::ROUTING_TABLE_GENERATION,
        &[],
        table.generation as f64,
    );
    for (name, listener) in &table.listeners {
        publish_listener(name, listener, scrape);
        if listener.config.http.is_some() {
            http::publish_listener(name, &listener.handle.http, scrape);
        }
    }
    for (name, cluster) in &table.clusters {
        publish_cluster(name, cluster, scrape);
        if cluster.config.http.is_some() {
            http::publish_cluster(name, cluster, scrape);
        }
        for backend in &cluster.backends {
            publish_backend(name, backend, scrape);
            publish_backend_traffic(name, backend, scrape);
            if cluster.config.health_check.kind.tells_roles() {
                publish_backend_role(name, backend, scrape);
            }
            if cluster.config.outlier().is_some() {
                publish_backend_ejection(name, backend, scrape);
            }
        }
    }
}

fn publish_listener(name: &str, listener: &ListenerEntry, scrape: &mut Scrape) {
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

fn publish_cluster(name: &str, cluster: &ClusterTable, scrape: &mut Scrape) {
    let handle = &cluster.handle;
    scrape.gauge(&names::CLUSTER_HELD, &[name], handle.held() as f64);
    scrape.gauge(&names::CLUSTER_QUEUED, &[name], handle.queued() as f64);
    let tally = &handle.tally;
    for (kind, count) in [
        ("failover", tally.failovers()),
        ("switchover", tally.switchovers()),
    ] {
        scrape.counter(&names::CLUSTER_FAILOVERS, &[name, kind], count);
    }
    scrape.gauge(&names::CLUSTER_HEADROOM, &[name], cluster.headroom() as f64);
    if cluster.config.health_check.kind.tells_roles() {
        let has_primary = flag(cluster.primary().is_some());
        scrape.gauge(&names::CLUSTER_HAS_PRIMARY, &[name], has_primary);
        let split_brain = flag(cluster.is_split_brain);
        scrape.gauge(&names::CLUSTER_SPLIT_BRAIN, &[name], split_brain);
    }
    let expiries = cluster.tls.iter().flat_map(|tls| tls.expiries());
    for expiry in expiries {
        let file = expiry.path.to_string_lossy();
        scrape.gauge(&names::TLS_NOT_AFTER, &[&file], expiry.not_after as f64);
    }
}

fn publish_backend(cluster: &str, backend: &BackendEntry, scrape: &mut Scrape) {
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

fn publish_backend_role(cluster: &str, backend: &BackendEntry, scrape: &mut Scrape) {
    let name = &*backend.config.name;
    for role in Role::ALL {
        let labels = [cluster, name, role.as_str()];
        let set = flag(backend.role == role);
        scrape.gauge(&names::BACKEND_ROLE, &labels, set);
    }
    let lag = backend.handle.lag();
    if let Some(time) = lag.time() {
        let seconds = time.as_secs_f64();
        scrape.gauge(&names::BACKEND_LAG_SECONDS, &[cluster, name], seconds);
    }
    if let Some(bytes) = lag.bytes() {
        scrape.gauge(&names::BACKEND_LAG_BYTES, &[cluster, name], bytes as f64);
    }
}

fn publish_backend_ejection(cluster: &str, backend: &BackendEntry, scrape: &mut Scrape) {
    let name = &*backend.config.name;
    let ejected = flag(backend.ejected.is_some());
    scrape.gauge(&names::BACKEND_EJECTED, &[cluster, name], ejected);
    for (cause, count) in backend.handle.ejections() {
        let labels = [cluster, name, cause.as_str()];
        scrape.counter(&names::BACKEND_EJECTIONS, &labels, count);
    }
}

fn publish_backend_traffic(cluster: &str, backend: &BackendEntry, scrape: &mut Scrape) {
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
