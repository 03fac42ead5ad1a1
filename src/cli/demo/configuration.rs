//! The files that the demo's proxy reads.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// How fast the script goes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub total: Duration,
    pub check_interval: Duration,
    pub slow_start: Duration,
    /// A kept session connects anew after half of this to all of it.
    pub lifetime: Duration,
}

/// A backend as the file has it.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    pub name: &'static str,
    pub address: SocketAddr,
    pub weight: u32,
}

/// Two failed checks of a stalled machine must not look like a death.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(500);
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Shares of the whole.
const CHECKS: u32 = 15;
const SLOW_STARTS: u32 = 10;
const LIFETIMES: u32 = 12;

impl Pace {
    pub fn new(total: Duration) -> Self {
        let check_interval = total / CHECKS;
        Self {
            total,
            check_interval: check_interval.clamp(MIN_CHECK_INTERVAL, MAX_CHECK_INTERVAL),
            slow_start: total / SLOW_STARTS,
            lifetime: total / LIFETIMES,
        }
    }
}

/// A good file.
pub fn good(bind: SocketAddr, members: &[Member], pace: &Pace) -> String {
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
    let check_interval = pace.check_interval.as_millis();
    let slow_start = pace.slow_start.as_millis();
    format!(
        r#"version: 1
workers: 2
admin: {{bind: none}}

clusters:
  demo:
    backends:
{backends}    health_check:
      kind: tcp
      send: "ping\n"
      expect: pong
      interval: {check_interval}ms
      timeout: {check_interval}ms
      rise: 2
      fall: 3
    balance: {{policy: round_robin}}
    failover: {{slow_start: {slow_start}ms}}

listeners:
  demo:
    bind: {bind}
    cluster: demo
"#
    )
}

/// The same file after a bad day: a misspelt key, a number without its unit, a wrong name.
pub fn bad(good: &str) -> String {
    good.replacen("weight:", "wieght:", 1)
        .replace("      rise: 2", "      fast_interval: 50")
        .replace("    cluster: demo", "    cluster: dmeo")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;
    use std::path::Path;

    fn file(seconds: u64) -> String {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let member = |name, port| Member {
            name,
            address: address(port),
            weight: 100,
        };
        let members = [member("db-1", 4001), member("db-2", 4002)];
        good(
            address(4000),
            &members,
            &Pace::new(Duration::from_secs(seconds)),
        )
    }

    #[test]
    fn the_good_file_is_valid_at_every_pace() {
        for seconds in [5, 15, 600] {
            let loaded = load_text(Path::new("demo.yaml"), &file(seconds)).unwrap();
            assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            assert_eq!(loaded.config.clusters[0].backends.len(), 2);
        }
    }

    #[test]
    fn the_bad_file_has_three_errors() {
        let errors = load_text(Path::new("demo.yaml"), &bad(&file(15))).unwrap_err();
        assert_eq!(errors.0.len(), 3, "{errors}");
    }
}
