//! Every metric: name, kind, labels, help, in one table.
//!
//! Labels are bounded sets: names from the configuration and the closed lists
//! of `cluster.rs`. Nothing that a client sends is ever a label.

/// How a metric's value behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// With these upper bounds, in seconds.
    Histogram(&'static [f64]),
}

/// One metric. The unit is the end of its name, as Prometheus wants it.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// From a local connect to one that waits for a retransmitted SYN.
const CONNECT_BOUNDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];
/// From a cached answer nearby to a long poll.
const REQUEST_BOUNDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// From one short statement to a pool's connection that lives for a day.
const SESSION_BOUNDS: &[f64] = &[
    0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 21_600.0, 86_400.0,
];
/// Up to twice the default of `failover.hold.for`.
const HOLD_BOUNDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0,
];

macro_rules! metrics {
    ($($constant:ident: $kind:expr, $name:literal, [$($label:literal),*], $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: $kind,
                labels: &[$($label),*],
                help: $help,
            };
        )+

        /// Every metric of this program, in the order of the documentation.
        pub const ALL: &[&Metric] = &[$(&$constant,)+];
    };
}

metrics! {
    BUILD_INFO: Kind::Gauge, "evergate_build_info", ["version"],
        "Always 1; the version of the running program.";

    LISTENER_CONNECTIONS: Kind::Counter, "evergate_listener_connections_total", ["listener"],
        "Client connections admitted; those refused at the door (access list, limits) count as rejected only.";
    LISTENER_ACTIVE: Kind::Gauge, "evergate_listener_connections_active", ["listener"],
        "Client connections open now.";
    LISTENER_REJECTED: Kind::Counter,
        "evergate_listener_connections_rejected_total", ["listener", "reason"],
        "Client connections that were refused before bytes could flow.";
    LISTENER_BYTES_RECEIVED: Kind::Counter,
        "evergate_listener_bytes_received_total", ["listener"],
        "Bytes received from clients.";
    LISTENER_BYTES_SENT: Kind::Counter, "evergate_listener_bytes_sent_total", ["listener"],
        "Bytes sent to clients.";

    SESSIONS_ENDED: Kind::Counter,
        "evergate_sessions_ended_total", ["side", "phase", "cause"],
        "Sessions that ended: which side ended them, in which phase and why.";
    SESSION_DURATION: Kind::Histogram(SESSION_BOUNDS),
        "evergate_session_duration_seconds", ["cluster"],
        "How long sessions lived.";
    CONNECT_DURATION: Kind::Histogram(CONNECT_BOUNDS),
        "evergate_connect_duration_seconds", ["cluster"],
        "How long it took to connect to a backend, with its TLS handshake.";

    BACKEND_UP: Kind::Gauge, "evergate_backend_up", ["cluster", "backend"],
        "1 when the health checks say up, 0 when they say down or nothing yet.";
    BACKEND_ADMIN_STATE: Kind::Gauge,
        "evergate_backend_admin_state", ["cluster", "backend", "state"],
        "1 for the state that an operator has set, 0 for the others.";
    BACKEND_WEIGHT: Kind::Gauge, "evergate_backend_weight", ["cluster", "backend"],
        "Share of new sessions relative to the other backends; 0 takes none.";
    BACKEND_ACTIVE: Kind::Gauge,
        "evergate_backend_connections_active", ["cluster", "backend"],
        "Sessions on this backend now.";
    BACKEND_CONNECTIONS: Kind::Counter,
        "evergate_backend_connections_total", ["cluster", "backend"],
        "Connections established to this backend.";
    BACKEND_CONNECT_ERRORS: Kind::Counter,
        "evergate_backend_connect_errors_total", ["cluster", "backend", "reason"],
        "Connections to this backend that could not be established.";
    BACKEND_BYTES_RECEIVED: Kind::Counter,
        "evergate_backend_bytes_received_total", ["cluster", "backend"],
        "Bytes received from this backend.";
    BACKEND_BYTES_SENT: Kind::Counter,
        "evergate_backend_bytes_sent_total", ["cluster", "backend"],
        "Bytes sent to this backend.";
    BACKEND_ROLE: Kind::Gauge, "evergate_backend_role", ["cluster", "backend", "role"],
        "1 for the backend's role, 0 for the others. Only where the health check tells roles.";
    BACKEND_LAG_SECONDS: Kind::Gauge,
        "evergate_backend_replication_lag_seconds", ["cluster", "backend"],
        "How long a replica is behind its primary. Absent where nobody knows.";
    BACKEND_LAG_BYTES: Kind::Gauge,
        "evergate_backend_replication_lag_bytes", ["cluster", "backend"],
        "How much a replica has not applied yet. Absent where nobody knows.";
    BACKEND_EJECTED: Kind::Gauge, "evergate_backend_ejected", ["cluster", "backend"],
        "1 while the backend is ejected for its answers, else 0. Only where outliers are looked for.";
    BACKEND_EJECTIONS: Kind::Counter,
        "evergate_backend_ejections_total", ["cluster", "backend", "reason"],
        "Times that the backend was ejected for its answers. Only where outliers are looked for.";
    BACKEND_LAST_CHANGE: Kind::Gauge,
        "evergate_backend_last_change_timestamp_seconds", ["cluster", "backend"],
        "When health or admin state changed last, in seconds since the epoch.";

    HEALTH_CHECKS: Kind::Counter,
        "evergate_health_checks_total", ["cluster", "backend", "result"],
        "Health checks that passed or failed.";
    HEALTH_CHECK_DURATION: Kind::Histogram(CONNECT_BOUNDS),
        "evergate_health_check_duration_seconds", ["cluster"],
        "How long health checks took.";

    CLUSTER_HAS_PRIMARY: Kind::Gauge, "evergate_cluster_has_primary", ["cluster"],
        "1 when a backend may be written to, else 0. Only where the health check tells roles.";
    CLUSTER_SPLIT_BRAIN: Kind::Gauge, "evergate_cluster_split_brain", ["cluster"],
        "1 while several backends claim to be primary and nobody is written to, else 0. Only where the health check tells roles.";
    CLUSTER_HELD: Kind::Gauge, "evergate_cluster_held_sessions", ["cluster"],
        "Sessions that wait now because no backend is eligible.";
    CLUSTER_HOLD_DURATION: Kind::Histogram(HOLD_BOUNDS),
        "evergate_cluster_hold_duration_seconds", ["cluster"],
        "How long sessions were held before they got a backend or were refused.";
    CLUSTER_QUEUED: Kind::Gauge, "evergate_cluster_queued_sessions", ["cluster"],
        "Sessions that wait now because every eligible backend is full.";
    CLUSTER_FAILOVERS: Kind::Counter, "evergate_cluster_failovers_total", ["cluster", "kind"],
        "Times that another backend became primary: after a failure, or after the old one had yielded.";
    CLUSTER_FAILOVER_DURATION: Kind::Histogram(HOLD_BOUNDS),
        "evergate_cluster_failover_duration_seconds", ["cluster"],
        "From the first error to the first answer of the new primary.";
    CLUSTER_HEADROOM: Kind::Gauge, "evergate_cluster_headroom_backends", ["cluster"],
        "How many eligible backends may fail before the rest are full.";

    HTTP_REQUESTS: Kind::Counter,
        "evergate_http_requests_total", ["listener", "cluster", "status_class"],
        "HTTP requests that are over, by what the client was answered: 1xx to 5xx, or none. Without a cluster: refused before routing.";
    HTTP_REQUEST_DURATION: Kind::Histogram(REQUEST_BOUNDS),
        "evergate_http_request_duration_seconds", ["cluster", "status_class"],
        "From the head of a request to the end of its answer.";
    HTTP_ACTIVE: Kind::Gauge, "evergate_http_requests_active", ["cluster"],
        "HTTP requests under way.";
    HTTP_ANSWERS: Kind::Counter,
        "evergate_http_backend_answers_total", ["cluster", "backend", "status_class"],
        "Answers of this backend, retried ones too; none: it was asked and gave none.";
    HTTP_RETRIES: Kind::Counter, "evergate_http_retries_total", ["cluster", "reason"],
        "Requests that were sent again: connect, unsent, refused, lost or status.";
    HTTP_RETRIES_DENIED: Kind::Counter, "evergate_http_retries_denied_total", ["cluster"],
        "Requests that were not sent again because the retry budget was used up.";
    HTTP_HEDGES: Kind::Counter, "evergate_http_hedges_total", ["cluster"],
        "Second copies of slow reads.";
    HTTP_HEDGES_WON: Kind::Counter, "evergate_http_hedges_won_total", ["cluster"],
        "Second copies that were answered before the first.";
    HTTP_UPSTREAM_CONNECTIONS: Kind::Gauge,
        "evergate_http_upstream_connections", ["cluster", "backend", "state"],
        "Connections to this backend now: active with a request, or idle.";
    HTTP_UPSTREAM_OPENED: Kind::Counter,
        "evergate_http_upstream_connections_opened_total", ["cluster", "backend"],
        "Connections opened to this backend for requests.";
    HTTP_UPSTREAM_REUSED: Kind::Counter,
        "evergate_http_upstream_connections_reused_total", ["cluster", "backend"],
        "Requests that went over a connection which was open already.";
    HTTP_RATE_LIMITED: Kind::Counter, "evergate_http_rate_limited_total", ["listener"],
        "HTTP requests that were refused because their client had made too many.";

    HOOK_RUNS: Kind::Counter, "evergate_hook_runs_total", ["cluster", "event", "result"],
        "Runs of hooks that ended: ok, failed or timeout.";
    HOOK_EVENTS_DROPPED: Kind::Counter, "evergate_hook_events_dropped_total", ["cluster"],
        "Events that a hook was not told of because too many waited for it.";

    ROUTING_TABLE_GENERATION: Kind::Gauge, "evergate_routing_table_generation", [],
        "Number of the routing table that is in use.";
    CONFIG_RELOADS: Kind::Counter, "evergate_config_reloads_total", ["result"],
        "Reloads of the configuration that were accepted or rejected.";
    CONFIG_LAST_RELOAD_SUCCESSFUL: Kind::Gauge,
        "evergate_config_last_reload_successful", [],
        "1 when the last load of the configuration was accepted, else 0.";
    CONFIG_LAST_RELOAD_SUCCESS: Kind::Gauge,
        "evergate_config_last_reload_success_timestamp_seconds", [],
        "When a configuration was accepted last, in seconds since the epoch.";
    TLS_NOT_AFTER: Kind::Gauge,
        "evergate_tls_certificate_not_after_timestamp_seconds", ["file"],
        "When the certificate in this file expires, in seconds since the epoch.";

    LOG_DROPPED: Kind::Counter, "evergate_log_dropped_total", [],
        "Log lines that were dropped because stderr did not take them.";
    ACCESS_LOG_DROPPED: Kind::Counter, "evergate_access_log_dropped_total", [],
        "Lines of access logs that were dropped because their file did not take them.";
}

/// The process metrics that every Prometheus client publishes under the same names.
pub const PROCESS: &[&str] = &[
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
];
