//! `evergate incidents`: the flight recorder, for people.

use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::calendar::Utc;
use crate::cli;
use crate::cli::admin_client::AdminArgs;
use crate::cli::status::clean;
use crate::cli::status::elements;
use crate::cli::status::word;

/// Show the latest incidents, the newest last
#[derive(Debug, Args)]
pub struct IncidentsArgs {
    /// How many, 1 to 256
    #[arg(default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=256))]
    number: u16,
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

/// Prints the latest incidents of a running process.
///
/// # Errors
/// When the process cannot be reached or refuses.
pub fn run(args: &IncidentsArgs) -> anyhow::Result<()> {
    let path = format!("/api/v1/incidents?limit={}", args.number);
    let incidents = args.admin.get(&path)?;
    let text = if args.json {
        serde_json::to_string_pretty(&incidents)? + "\n"
    } else {
        account(&incidents)
    };
    cli::print(&text)
}

fn account(answer: &Value) -> String {
    let mut incidents: Vec<&Value> = elements(&answer["incidents"]).collect();
    if incidents.is_empty() {
        return "no incident since the process started\n".to_owned();
    }
    // The newest is next to the prompt.
    incidents.reverse();
    let incidents: Vec<String> = incidents.into_iter().map(tell).collect();
    incidents.join("\n")
}

fn tell(incident: &Value) -> String {
    let mut text = headline(incident);
    for step in elements(&incident["steps"]) {
        let after = step["after_seconds"].as_f64().unwrap_or_default();
        let _ = writeln!(text, "  {after:>+10.3} s  {}", sentence(step));
    }
    let omitted = &incident["steps_omitted"];
    if omitted.as_u64().unwrap_or_default() > 0 {
        let _ = writeln!(text, "  {omitted} more steps left out");
    }
    let sessions = &incident["sessions"];
    let count = |what: &str| word(&sessions[what]);
    let _ = writeln!(
        text,
        "  sessions: {} severed, {} ended by their backend, {} held, {} refused",
        count("severed"),
        count("lost"),
        count("held"),
        count("refused")
    );
    text
}

fn headline(incident: &Value) -> String {
    let kind = word(&incident["kind"]).replace('_', " ");
    let (id, cluster) = (word(&incident["id"]), word(&incident["cluster"]));
    let mut text = format!("incident {id}: {kind} in {cluster}");
    match (incident["lost"].as_str(), incident["found"].as_str()) {
        (Some(lost), Some(found)) if lost != found => {
            let _ = write!(text, ", {} to {}", clean(lost), clean(found));
        }
        (Some(one), _) | (None, Some(one)) => {
            let _ = write!(text, ", {}", clean(one));
        }
        (None, None) => {}
    }
    let times = incident["times"].as_u64().unwrap_or(1);
    if times > 1 {
        let _ = write!(text, ", {times} times");
    }
    let is_open = incident["open"].as_bool().unwrap_or_default();
    match incident["duration_seconds"].as_f64() {
        _ if is_open => text.push_str(", not over yet"),
        Some(seconds) => {
            let _ = write!(text, ", {seconds:.3} s");
        }
        None => {}
    }
    if let Some(started) = incident["started"].as_f64() {
        let _ = write!(text, ", began {}", utc(started));
    }
    text.push('\n');
    text
}

fn sentence(step: &Value) -> String {
    let backend = word(&step["backend"]);
    let mut text = match step["phase"].as_str().unwrap_or_default() {
        "last_good_answer" => format!("last good answer of {backend}"),
        "first_error" => format!("first error of {backend}"),
        "detected" if step["backend"].is_null() => "detected".to_owned(),
        "detected" => format!("detected: {backend} is lost"),
        "fenced" => "fenced: no new session is sent there".to_owned(),
        "holding" => "first session held".to_owned(),
        "split_brain" => "split brain: several claim to be primary".to_owned(),
        "split_brain_over" => "split brain over".to_owned(),
        "backend_down" => format!("{backend} down"),
        "backend_up" => format!("{backend} up"),
        "backend_ejected" => format!("{backend} ejected for its answers"),
        "backend_returns" => format!("{backend} returns"),
        "role_changed" => format!("{backend} is {} now", word(&step["role"])),
        "new_primary_seen" => format!("new primary {backend} seen"),
        "served_again" => format!("{backend} serves again"),
        "released" => "released: sessions may go there".to_owned(),
        "first_good_answer" => format!("first good answer of {backend}"),
        "closed" => "closed".to_owned(),
        other => format!("{} {backend}", clean(other)),
    };
    let mut notes = Vec::new();
    if let Some(timeline) = step["timeline"].as_u64() {
        notes.push(format!("timeline {timeline}"));
    }
    if let Some(cause) = step["cause"].as_str() {
        notes.push(clean(cause));
    }
    if !notes.is_empty() {
        let _ = write!(text, " ({})", notes.join(", "));
    }
    text
}

/// `2026-11-21 10:21:51 UTC`, from seconds since the epoch.
fn utc(epoch_seconds: f64) -> String {
    let since_epoch = Duration::from_secs(epoch_seconds.max(0.0) as u64);
    let Utc {
        year,
        month,
        day,
        hour,
        minute,
        second,
        ..
    } = Utc::new(since_epoch);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_failover_reads_as_a_story() {
        let step = |phase: &str, after: f64, backend: Option<&str>, cause: Option<&str>| {
            json!({ "phase": phase, "after_seconds": after, "backend": backend,
                "cause": cause, "role": null, "timeline": null })
        };
        let mut seen = step("new_primary_seen", 0.412, Some("pg2"), None);
        seen["timeline"] = json!(4);
        let answer = json!({ "incidents": [{
            "id": 7, "kind": "failover", "cluster": "orders", "lost": "pg1", "found": "pg2",
            "times": 1, "open": false, "started": 1_795_256_511.0, "duration_seconds": 0.42,
            "steps_omitted": 0,
            "sessions": { "severed": 12, "lost": 3, "held": 40, "refused": 0 },
            "steps": [
                step("last_good_answer", -0.35, Some("pg1"), None),
                step("first_error", 0.0, Some("pg1"), Some("connect_refused")),
                seen,
                step("first_good_answer", 0.42, Some("pg2"), None),
            ],
        }]});
        let expected = "\
incident 7: failover in orders, pg1 to pg2, 0.420 s, began 2026-11-21 10:21:51 UTC
      -0.350 s  last good answer of pg1
      +0.000 s  first error of pg1 (connect_refused)
      +0.412 s  new primary pg2 seen (timeline 4)
      +0.420 s  first good answer of pg2
  sessions: 12 severed, 3 ended by their backend, 40 held, 0 refused
";
        assert_eq!(account(&answer), expected);
    }

    #[test]
    fn nothing_has_happened_is_said_too() {
        let text = account(&json!({ "incidents": [] }));
        assert_eq!(text, "no incident since the process started\n");
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        for (seconds, expected) in [
            (0.0, "1970-01-01 00:00:00 UTC"),
            (951_782_399.0, "2000-02-28 23:59:59 UTC"),
            (951_782_400.0, "2000-02-29 00:00:00 UTC"),
            (1_709_251_200.0, "2024-03-01 00:00:00 UTC"),
            (4_107_542_400.0, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let answer = json!({ "incidents": [{
            "kind": "\u{1b}[2J", "cluster": "a\rb", "lost": "\u{7}",
            "steps": [{ "phase": "\u{1b}x", "cause": "\u{1b}y", "backend": "\u{1b}z" }],
        }]});
        assert!(!account(&answer).contains(['\u{1b}', '\r', '\u{7}']));
    }
}
