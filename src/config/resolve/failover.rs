//! A cluster's `failover` section.

use std::time::Duration;

use serde_json::Value as Json;

use crate::config::CheckKind;
use crate::config::FailoverConfig;
use crate::config::OnDead;
use crate::config::Panic;
use crate::config::SessionPolicy;
use crate::config::WaitLimit;
use crate::config::keys;
use crate::config::reader::Reader;
use crate::config::resolve::authority;
use crate::config::resolve::hook;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Value;
use crate::config::values;
use crate::config::values::Wrong;

/// Most transactions end sooner; a longer one has most likely lost its writes already.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);

pub(super) fn read(
    sources: &mut Sources,
    cluster: &mut Reader<'_>,
    check: &CheckKind,
    cluster_has_tls: bool,
    drain_timeout: Duration,
) -> FailoverConfig {
    let mut failover = cluster.section(sources, "failover");
    let hold = read_wait_limit(sources, &mut failover, "hold");
    let queue = read_wait_limit(sources, &mut failover, "queue");
    let on_dead = match failover.choice(sources, "on_dead") {
        "keep" => OnDead::Keep,
        _ => OnDead::Sever,
    };
    let mut policy = |sources: &mut Sources, name, default| {
        read_session_policy(sources, &mut failover, name, check, default)
    };
    let on_demoted = policy(sources, "on_demoted", SessionPolicy::Grace(DEFAULT_GRACE));
    let on_fenced = policy(sources, "on_fenced", SessionPolicy::Sever);
    let on_lagging = policy(sources, "on_lagging", SessionPolicy::Keep);
    let authority = authority::read(sources, &mut failover, check, cluster_has_tls);
    let hooks = hook::read(sources, &mut failover, check);
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
        on_demoted,
        on_fenced,
        on_lagging,
        authority,
        hooks,
        panic,
        slow_start,
        drain_timeout: written.unwrap_or(drain_timeout),
    }
}

/// `keep`, `sever` or `{grace: 5s}`.
fn read_session_policy(
    sources: &mut Sources,
    failover: &mut Reader<'_>,
    name: &'static str,
    check: &CheckKind,
    default: SessionPolicy,
) -> SessionPolicy {
    let Some(entry) = failover.entry(name) else {
        failover.derived(name, show_policy(default));
        return default;
    };
    refuse_without_roles(sources, entry.key_at, &format!("`{name}`"), check);
    let node = &entry.value;
    if matches!(node.value, Value::Map(_)) {
        let mut section = failover.section(sources, name);
        let grace = section.duration(sources, "grace");
        failover.attach(name, section);
        return SessionPolicy::Grace(grace);
    }
    let policy = match values::choice(node, &keys::SESSION_WORDS) {
        Ok("keep") => SessionPolicy::Keep,
        Ok(_) => SessionPolicy::Sever,
        Err(mut wrong) => {
            wrong.help = Some("write `keep`, `sever` or `{grace: 5s}`".to_owned());
            sources.error(node.at, wrong);
            return default;
        }
    };
    failover.attach_value(name, show_policy(policy), Vec::new());
    policy
}

fn show_policy(policy: SessionPolicy) -> Json {
    match policy {
        SessionPolicy::Keep => "keep".into(),
        SessionPolicy::Sever => "sever".into(),
        SessionPolicy::Grace(grace) => serde_json::json!({"grace": values::show_duration(grace)}),
    }
}

/// What follows roles does nothing where nobody tells them.
pub(super) fn refuse_without_roles(sources: &mut Sources, at: At, what: &str, check: &CheckKind) {
    if check.tells_roles() {
        return;
    }
    let message = format!(
        "{what} has no effect: a check of kind `{}` tells no roles",
        check.as_str()
    );
    sources.error(at, Wrong::new(message, TELLS_ROLES));
}

/// What to do where roles are needed and nobody tells them.
pub(super) const TELLS_ROLES: &str = "write the cluster's `protocol` (`postgres`, `mysql` or `redis`), \
     or `health_check: {kind: http, primary_path: …, replica_path: …}`";

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
