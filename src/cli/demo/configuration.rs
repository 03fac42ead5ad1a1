//! The files that the demo's proxy reads.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// How fast the script goes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub total: Duration,
    /// A session ends after half of this to all of it; its client connects anew.
    pub lifetime: Duration,
    /// Between two statements of a client, on average.
    pub think_time: Duration,
}

/// Where clients connect.
#[derive(Debug, Clone, Copy)]
pub struct Entrances {
    pub write: SocketAddr,
    pub read: SocketAddr,
}

/// A backend as the file has it.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    pub name: &'static str,
    pub address: SocketAddr,
    pub weight: u32,
}

/// Shares of the whole.
const LIFETIMES: u32 = 12;
const THOUGHTS: u32 = 750;
/// Fewer writes in a long run: all are read again in the end.
const MIN_THINK_TIME: Duration = Duration::from_millis(15);
const MAX_THINK_TIME: Duration = Duration::from_millis(100);

impl Pace {
    pub fn new(total: Duration) -> Self {
        Self {
            total,
            lifetime: total / LIFETIMES,
            think_time: (total / THOUGHTS).clamp(MIN_THINK_TIME, MAX_THINK_TIME),
        }
    }
}

/// A good file. The directory `state` is next to it.
pub fn good(entrances: Entrances, members: &[Member]) -> String {
    let mut backends = String::new();
    for Member {
        name,
        address,
        weight,
    } in members
    {
        // Writing to a String cannot fail.
        let _ = writeln!(
            backends,
            "      - {{name: {name}, address: {address}, weight: {weight}}}"
        );
    }
    let Entrances { write, read } = entrances;
    format!(
        r#"version: 1
workers: 2
admin: {{bind: none}}
state_dir: state

clusters:
  demo:
    protocol: postgres
    backends:
{backends}    health_check:
      user: postgres
      interval: 500ms
      timeout: 500ms
      rise: 2

listeners:
  write: {{bind: {write}, cluster: demo, role: primary}}
  read: {{bind: {read}, cluster: demo, role: replica, fallback: primary}}
"#
    )
}

/// The same file after a bad day: a misspelt key, a number without its unit, a wrong name.
pub fn bad(good: &str) -> String {
    good.replacen("weight:", "wieght:", 1)
        .replace("      rise: 2", "      fast_interval: 50")
        .replacen("cluster: demo", "cluster: dmeo", 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;
    use std::path::Path;

    fn file() -> String {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let member = |name, port| Member {
            name,
            address: address(port),
            weight: 100,
        };
        let entrances = Entrances {
            write: address(4000),
            read: address(4001),
        };
        good(entrances, &[member("db-1", 4002), member("db-2", 4003)])
    }

    #[test]
    fn the_good_file_is_valid() {
        let loaded = load_text(Path::new("demo.yaml"), &file()).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert_eq!(loaded.config.clusters[0].backends.len(), 2);
    }

    #[test]
    fn the_bad_file_has_three_errors() {
        let errors = load_text(Path::new("demo.yaml"), &bad(&file())).unwrap_err();
        assert_eq!(errors.0.len(), 3, "{errors}");
    }
}
