//! How many connections the process can afford.

use crate::config::Config;
use crate::net;

/// Descriptors kept for listeners, files, the admin API and the event loops.
const RESERVED_DESCRIPTORS: usize = 256;
/// Each backend is asked by one probe at a time, and no more than this many at once.
const MAX_PROBE_DESCRIPTORS: usize = 2048;
/// The pipes that a worker keeps for bulk transfers.
const PIPE_DESCRIPTORS_PER_WORKER: usize = 32;
/// A relayed connection has two sockets.
const DESCRIPTORS_PER_CONNECTION: usize = 2;

/// More connections than descriptors would fail at the worst moment: lower the limit now.
pub fn fit_descriptors(mut config: Config, effective: &serde_json::Value) -> Config {
    let limit = usize::try_from(net::raise_open_files_limit()).unwrap_or(usize::MAX);
    let affordable = affordable_connections(limit, &config);
    if config.max_connections <= affordable {
        return config;
    }
    // Nobody asked for the default: it is simply what the process can afford.
    if !is_default(effective, "/max_connections") {
        tracing::warn!(
            max_connections = config.max_connections,
            in_force = affordable,
            open_files_limit = limit,
            "max_connections needs more descriptors than the process may open; raise LimitNOFILE"
        );
    }
    config.max_connections = affordable;
    config
}

fn affordable_connections(open_files_limit: usize, config: &Config) -> usize {
    let backends: usize = config.clusters.iter().map(|it| it.backends.len()).sum();
    let reserved = RESERVED_DESCRIPTORS
        + backends.min(MAX_PROBE_DESCRIPTORS)
        + config.workers.get() * PIPE_DESCRIPTORS_PER_WORKER;
    // Where descriptors are few, most of them are needed by the process itself.
    let reserved = reserved.min(open_files_limit / 3 * 2);
    (open_files_limit - reserved) / DESCRIPTORS_PER_CONNECTION
}

fn is_default(effective: &serde_json::Value, pointer: &str) -> bool {
    let defaults = effective["defaults"].as_array();
    defaults.is_some_and(|defaults| defaults.iter().any(|known| known == pointer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::path::Path;

    #[test]
    fn connections_fit_the_descriptors_that_there_are() {
        let text = "version: 1\nworkers: 2\nclusters: {c: {backends: [\"a:1\", \"b:1\"]}}\n\
                    listeners: {l: {bind: \"127.0.0.1:1\", cluster: c}}\n";
        let config = config::load_text(Path::new("text"), text).unwrap().config;
        assert_eq!(affordable_connections(20_000, &config), 9_839);
        assert_eq!(affordable_connections(64, &config), 11);
        assert_eq!(affordable_connections(0, &config), 0);
    }
}
