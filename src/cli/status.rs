//! `evergate status`: one look at a running process.

use std::fmt::Write;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use clap::Args;
use serde_json::Value;

use crate::cli::admin_client;
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
    admin_client::print(&text)
}

fn epoch_seconds() -> f64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.unwrap_or_default().as_secs_f64()
}

const HEADINGS: [&str; 9] = [
    "CLUSTER", "BACKEND", "HEALTH", "ADMIN", "WEIGHT", "ACTIVE", "TOTAL", "SINCE", "CAUSE",
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

fn row(cluster: &str, backend: &Value, now_epoch: f64) -> [String; 9] {
    let since = backend["since"].as_f64().unwrap_or(now_epoch);
    [
        cluster.to_owned(),
        word(&backend["name"]),
        word(&backend["health"]),
        word(&backend["admin_state"]),
        word(&backend["weight"]),
        word(&backend["connections_active"]),
        word(&backend["connections_total"]),
        age((now_epoch - since).max(0.0)),
        cause(backend),
    ]
}

/// Why its health is what it is; of one that is ejected, why and for how long.
fn cause(backend: &Value) -> String {
    let ejected = &backend["ejected"];
    match ejected["for_seconds"].as_f64() {
        Some(left) => format!(
            "ejected ({}), {} more",
            word(&ejected["cause"]),
            age(left.ceil())
        ),
        None => word(&backend["cause"]),
    }
}

/// Columns as wide as their longest cell, two spaces apart.
fn table(rows: &[[String; 9]]) -> String {
    let mut widths = [0; 9];
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

CLUSTER  BACKEND            HEALTH  ADMIN  WEIGHT  ACTIVE  TOTAL  SINCE  CAUSE
orders   pg1.internal:5432  up      ready  100     3       12345  1d3h   check_passed
orders   pg2                down    ready  100     3       12345  2s     connect_refused
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
