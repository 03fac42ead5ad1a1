//! `evergate status`: one look at a running process.

use std::fmt::Write;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use clap::Args;
use serde_json::Value;

use crate::cli;
use crate::cli::admin_client::AdminArgs;

/// Show clusters, backends and their health
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

/// Prints the state of a running process.
///
/// # Errors
/// When the process cannot be reached or refuses.
pub fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let status = args.admin.get("/api/v1/status")?;
    let text = if args.json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        picture(&status, epoch_seconds())
    };
    cli::print(&text)
}

fn epoch_seconds() -> f64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.unwrap_or_default().as_secs_f64()
}

const COLUMNS: usize = 10;
const HEADINGS: [&str; COLUMNS] = [
    "CLUSTER", "BACKEND", "ROLE", "HEALTH", "ADMIN", "WEIGHT", "ACTIVE", "TOTAL", "SINCE", "CAUSE",
];

fn picture(status: &Value, now_epoch: f64) -> String {
    let mut text = summary(status);
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    let mut waiting = String::new();
    for cluster in elements(&status["clusters"]) {
        let name = word(&cluster["name"]);
        let (held, queued) = (&cluster["held_sessions"], &cluster["queued_sessions"]);
        if held != 0 || queued != 0 {
            let _ = writeln!(waiting, "{name}: {held} sessions held, {queued} queued");
        }
        for backend in elements(&cluster["backends"]) {
            rows.push(row(&name, backend, now_epoch));
        }
    }
    text.push_str(&table(&rows));
    text.push_str(&waiting);
    text
}

fn summary(status: &Value) -> String {
    let ready = match status["not_ready_because"].as_str() {
        None => "ready".to_owned(),
        Some(reason) => format!("NOT READY: {}", clean(reason)),
    };
    let version = word(&status["version"]);
    let stage = word(&status["stage"]);
    let generation = word(&status["generation"]);
    format!("evergate {version}  {stage}  {ready}  table {generation}\n\n")
}

fn row(cluster: &str, backend: &Value, now_epoch: f64) -> [String; COLUMNS] {
    let since = backend["since"].as_f64().unwrap_or(now_epoch);
    [
        cluster.to_owned(),
        word(&backend["name"]),
        role(backend),
        word(&backend["health"]),
        word(&backend["admin_state"]),
        word(&backend["weight"]),
        word(&backend["connections_active"]),
        word(&backend["connections_total"]),
        age((now_epoch - since).max(0.0)),
        cause(backend),
    ]
}

/// `replica +0.3s`: with its lag, where that is known; `-` where nobody tells roles.
fn role(backend: &Value) -> String {
    let role = word(&backend["role"]);
    if role == "unknown" {
        return "-".to_owned();
    }
    let lag = match (
        backend["lag_seconds"].as_f64(),
        backend["lag_bytes"].as_u64(),
    ) {
        _ if role != "replica" => return role,
        (Some(seconds), _) if seconds < 100.0 => format!("{seconds:.1}s"),
        (Some(seconds), _) => age(seconds),
        (None, Some(bytes)) => format!("{bytes}B"),
        (None, None) => return role,
    };
    format!("{role} +{lag}")
}

/// Why it is not what it could be: of one that is ejected, why and for how long; of one that is
/// up and fenced, why it is fenced.
fn cause(backend: &Value) -> String {
    let ejected = &backend["ejected"];
    if let Some(left) = ejected["for_seconds"].as_f64() {
        let cause = word(&ejected["cause"]);
        return format!("ejected ({cause}), {} more", age(left.ceil()));
    }
    match backend["role"] == "fenced" && backend["health"] == "up" {
        true => word(&backend["role_cause"]),
        false => word(&backend["cause"]),
    }
}

/// Columns as wide as their longest cell, two spaces apart.
fn table(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The two largest units: `3d4h`, `5m12s`.
fn age(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{seconds}s"),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

pub fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => clean(text),
        other => other.to_string(),
    }
}

/// Names come from a file, but a terminal should not trust even that.
pub fn clean(text: &str) -> String {
    text.replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_picture_shows_every_backend_and_who_waits() {
        let backend = |name: &str, health: &str, cause: &str, since: f64| {
            json!({
                "name": name, "health": health, "admin_state": "ready", "weight": 100,
                "connections_active": 3, "connections_total": 12345, "since": since, "cause": cause,
                "role": "unknown", "role_cause": "started",
            })
        };
        let status = json!({
            "version": "0.1.0", "stage": "serving", "generation": 7, "not_ready_because": null,
            "clusters": [{
                "name": "orders", "held_sessions": 2, "queued_sessions": 0,
                "backends": [
                    backend("pg1.internal:5432", "up", "check_passed", 1000.0),
                    backend("pg2", "down", "connect_refused", 99_998.0),
                ],
            }],
        });
        let expected = "\
evergate 0.1.0  serving  ready  table 7

CLUSTER  BACKEND            ROLE  HEALTH  ADMIN  WEIGHT  ACTIVE  TOTAL  SINCE  CAUSE
orders   pg1.internal:5432  -     up      ready  100     3       12345  1d3h   check_passed
orders   pg2                -     down    ready  100     3       12345  2s     connect_refused
orders: 2 sessions held, 0 queued
";
        assert_eq!(picture(&status, 100_000.0), expected);
    }

    #[test]
    fn one_that_is_ejected_shows_why_and_for_how_long() {
        let mut backend = json!({ "cause": "check_passed", "ejected": null });
        assert_eq!(cause(&backend), "check_passed");
        backend["ejected"] = json!({ "cause": "success_rate", "for_seconds": 22.1 });
        assert_eq!(cause(&backend), "ejected (success_rate), 23s more");
    }

    #[test]
    fn the_role_is_shown_with_the_lag_and_a_fence_with_its_reason() {
        let backend = |role: &str, seconds: Option<f64>, bytes: Option<u64>| {
            json!({
                "role": role, "role_cause": "stale_timeline", "health": "up",
                "cause": "check_passed", "lag_seconds": seconds, "lag_bytes": bytes,
            })
        };
        for (shown, expected) in [
            (
                backend("primary", Some(0.0), Some(0)),
                "primary check_passed",
            ),
            (
                backend("replica", Some(0.34), Some(9)),
                "replica +0.3s check_passed",
            ),
            (
                backend("replica", Some(125.0), None),
                "replica +2m5s check_passed",
            ),
            (
                backend("replica", None, Some(9)),
                "replica +9B check_passed",
            ),
            (backend("replica", None, None), "replica check_passed"),
            (backend("fenced", None, None), "fenced stale_timeline"),
            (backend("unknown", None, None), "- check_passed"),
        ] {
            assert_eq!(format!("{} {}", role(&shown), cause(&shown)), expected);
        }
    }

    #[test]
    fn ages_show_two_units() {
        let ages = [0.4, 59.0, 61.0, 3600.0, 90_000.0].map(age);
        assert_eq!(ages, ["0s", "59s", "1m1s", "1h0m", "1d1h"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let picture = picture(
            &json!({"version": "\u{1b}[2J", "not_ready_because": "a\rb"}),
            0.0,
        );
        assert!(!picture.contains(['\u{1b}', '\r']), "{picture:?}");
    }
}
