//! Every metric: name, unit, labels, help, in one table.

use crate::cluster::SessionEnd;
use std::time::Duration;

/// Counters and histograms that belong to no backend, listener or cluster handle.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// Counts one ended session (`sessions_ended_total{side,phase,cause}`).
    pub fn count_session_end(&self, _end: SessionEnd) {
        todo!()
    }

    /// `session_duration_seconds{cluster}`
    pub fn record_session_duration(&self, _cluster: &str, _duration: Duration) {
        todo!()
    }

    /// `connect_duration_seconds{cluster}`
    pub fn record_connect_duration(&self, _cluster: &str, _duration: Duration) {
        todo!()
    }

    /// `health_check_duration_seconds{cluster}`
    pub fn record_check_duration(&self, _cluster: &str, _duration: Duration) {
        todo!()
    }

    /// `cluster_hold_duration_seconds{cluster}`
    pub fn record_hold_duration(&self, _cluster: &str, _duration: Duration) {
        todo!()
    }

    /// `config_reloads_total{result}`, `config_last_reload_*`
    pub fn count_reload(&self, _accepted: bool) {
        todo!()
    }
}
