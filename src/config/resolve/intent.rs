//! What a listener's sessions need of a backend: `role`, `max_lag` and `fallback`.

use std::time::Duration;

use crate::cluster::WantedRole;
use crate::config::CheckKind;
use crate::config::Fallback;
use crate::config::Intent;
use crate::config::MaxLag;
use crate::config::keys;
use crate::config::keys::Kind;
use crate::config::reader::Reader;
use crate::config::resolve::failover::TELLS_ROLES;
use crate::config::resolve::fit::Named;
use crate::config::sizes;
use crate::config::source::Sources;
use crate::config::tree::Value;
use crate::config::values;
use crate::config::values::Wrong;

pub(super) fn read(
    sources: &mut Sources,
    listener: &mut Reader<'_>,
    clusters: &[Named<'_>],
) -> Intent {
    let word = listener.choice(sources, "role");
    let role = match word {
        "primary" => WantedRole::Primary,
        "replica" => WantedRole::Replica,
        _ => WantedRole::Any,
    };
    if role != WantedRole::Any {
        refuse_without_roles(sources, listener, word, clusters);
    }
    let max_lag = read_max_lag(sources, listener);
    let fallback = match listener.choice(sources, "fallback") {
        "primary" => Fallback::Primary,
        _ => Fallback::Nobody,
    };
    // With a role that was not understood nothing follows from it.
    let is_known = !word.is_empty();
    for key in ["max_lag", "fallback"] {
        if let Some(entry) = listener.entry(key)
            && role != WantedRole::Replica
            && is_known
        {
            let message = format!("`{key}` has no effect without `role: replica`");
            let help = format!("add `role: replica`, or remove `{key}`");
            sources.error(entry.key_at, Wrong::new(message, help));
            return Intent::ANY;
        }
    }
    if let Some(max_lag) = max_lag {
        refuse_unknown_lag(sources, listener, max_lag, clusters);
    }
    Intent {
        role,
        max_lag,
        fallback,
    }
}

fn refuse_without_roles(
    sources: &mut Sources,
    listener: &Reader<'_>,
    role: &str,
    clusters: &[Named<'_>],
) {
    let mut checks = clusters
        .iter()
        .map(|named| (named.cluster, &named.cluster.health_check.kind));
    if let Some((cluster, check)) = checks.find(|(_, check)| !check.tells_roles()) {
        let message = format!(
            "`role: {role}` needs to know roles, but the cluster `{}` has a check of kind `{}`, which tells none",
            cluster.name,
            check.as_str()
        );
        let at = listener.place("role");
        sources.error(at, Wrong::new(message, TELLS_ROLES));
    }
}

/// `5s`, `16MiB` or `{bytes: 16MiB}`.
fn read_max_lag(sources: &mut Sources, listener: &mut Reader<'_>) -> Option<MaxLag> {
    let (Kind::Duration(shortest, longest), Kind::Size(min, max)) =
        (keys::MAX_LAG_TIME, keys::MAX_LAG_SIZE)
    else {
        unreachable!("the table says that a lag is a time or a size")
    };
    let times = Duration::from_millis(shortest)..=Duration::from_millis(longest);
    let sizes = min..=max;
    let node = listener.node("max_lag")?;
    if matches!(node.value, Value::Map(_)) {
        let mut section = listener.section(sources, "max_lag");
        let show = |bytes: &u64| sizes::show_size(*bytes).into();
        let bytes = section.read(sources, "bytes", |node| sizes::size(node, &sizes), show);
        listener.attach("max_lag", section);
        return bytes.map(MaxLag::Bytes);
    }
    let show = |lag: &MaxLag| match lag {
        MaxLag::Time(time) => values::show_duration(*time).into(),
        MaxLag::Bytes(bytes) => sizes::show_size(*bytes).into(),
    };
    let parse = |node: &_| sizes::max_lag(node, &times, &sizes);
    listener.read(sources, "max_lag", parse, show)
}

/// Not every check can tell how far behind a replica is.
fn refuse_unknown_lag(
    sources: &mut Sources,
    listener: &Reader<'_>,
    max_lag: MaxLag,
    clusters: &[Named<'_>],
) {
    for named in clusters {
        let name = &named.cluster.name;
        let (message, help) = match (&named.cluster.health_check.kind, max_lag) {
            (CheckKind::Http(_), _) => (
                format!("the check of the cluster `{name}` tells roles but no lag"),
                "write `protocol: postgres`, `mysql` or `redis` in the cluster, or remove `max_lag`",
            ),
            (CheckKind::MySql(_), MaxLag::Bytes(_)) => (
                format!("MySQL tells the lag of `{name}` in seconds only"),
                "write a time, as in `max_lag: 5s`",
            ),
            _ => continue,
        };
        let at = listener.place("max_lag");
        sources.error(at, Wrong::new(message, help));
        return;
    }
}
