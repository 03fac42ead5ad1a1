//! A cluster's `failover` section.

use std::time::Duration;

use crate::config::FailoverConfig;
use crate::config::OnDead;
use crate::config::Panic;
use crate::config::WaitLimit;
use crate::config::reader::Reader;
use crate::config::source::Sources;
use crate::config::values;
use crate::config::values::Wrong;

pub(super) fn read(
    sources: &mut Sources,
    cluster: &mut Reader<'_>,
    drain_timeout: Duration,
) -> FailoverConfig {
    let mut failover = cluster.section(sources, "failover");
    let hold = read_wait_limit(sources, &mut failover, "hold");
    let queue = read_wait_limit(sources, &mut failover, "queue");
    let on_dead = match failover.choice(sources, "on_dead") {
        "keep" => OnDead::Keep,
        _ => OnDead::Sever,
    };
    let panic = match failover.choice(sources, "panic") {
        "try_all" => Panic::TryAll,
        _ => Panic::Fail,
    };
    let slow_start = failover.duration(sources, "slow_start");
    let written = failover.optional_duration(sources, "drain_timeout");
    if written.is_none() {
        failover.derived("drain_timeout", values::show_duration(drain_timeout));
    }
    cluster.attach("failover", failover);
    FailoverConfig {
        hold,
        queue,
        on_dead,
        panic,
        slow_start,
        drain_timeout: written.unwrap_or(drain_timeout),
    }
}

/// A wait without sessions, or sessions without a wait, is a mistake of the one who wrote it.
fn read_wait_limit(
    sources: &mut Sources,
    failover: &mut Reader<'_>,
    name: &'static str,
) -> WaitLimit {
    let mut limit = failover.section(sources, name);
    let max_wait = limit.optional_duration(sources, "for");
    let max_sessions = limit.count(sources, "max_sessions");
    for (there, missing) in [("for", "max_sessions"), ("max_sessions", "for")] {
        if let Some(entry) = limit.entry(there)
            && limit.entry(missing).is_none()
        {
            let message = format!("`{name}.{there}` without `{name}.{missing}`");
            let help = format!("write both: `{name}: {{for: 15s, max_sessions: 10000}}`");
            sources.error(entry.key_at, Wrong::new(message, help));
        }
    }
    let wrong = match (max_wait, max_sessions) {
        (Some(Duration::ZERO), Some(sessions)) if sessions > 0 => Some((
            "max_sessions",
            format!("`{name}` lets sessions wait, but for no time"),
        )),
        (Some(wait), Some(0)) if wait > Duration::ZERO => Some((
            "for",
            format!("`{name}` has a time to wait, but no sessions may"),
        )),
        _ => None,
    };
    if let Some((at, message)) = wrong {
        let help = "set both to 0 to refuse at once, or neither";
        let at = limit.place(at);
        sources.error(at, Wrong::new(message, help));
    }
    failover.attach(name, limit);
    WaitLimit {
        max_wait: max_wait.unwrap_or_default(),
        max_sessions: usize::try_from(max_sessions.unwrap_or_default()).unwrap_or(usize::MAX),
    }
}
