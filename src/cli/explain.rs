//! `evergate explain`: where a client would go, and why.

use std::fmt::Write;

use clap::Args;
use serde_json::Value;

use crate::cli;
use crate::cli::admin_client::AdminArgs;
use crate::cli::admin_state::encode;
use crate::cli::status::elements;
use crate::cli::status::word;

/// Say where a client would go now and why, or where a session is and why
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The listener that the client connects to
    #[arg(long, value_name = "NAME", required_unless_present = "session")]
    listener: Option<String>,
    /// The client's address; without it, a client of that host
    #[arg(long, value_name = "IP[:PORT]", conflicts_with = "session")]
    source: Option<String>,
    /// The user that it logs in as
    #[arg(long, conflicts_with = "session")]
    user: Option<String>,
    /// The database that it asks for
    #[arg(long, conflicts_with = "session")]
    database: Option<String>,
    /// The server name in its TLS handshake
    #[arg(long, conflicts_with = "session")]
    sni: Option<String>,
    /// A startup parameter of PostgreSQL, where the cluster hashes one (`startup:NAME`)
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "session")]
    startup: Option<String>,
    /// The host of an HTTP request
    #[arg(long, conflicts_with = "session")]
    host: Option<String>,
    /// The path of an HTTP request, with its query
    #[arg(long, conflicts_with = "session")]
    path: Option<String>,
    /// The method of an HTTP request
    #[arg(long, conflicts_with = "session")]
    method: Option<String>,
    /// A header of an HTTP request; may be given several times
    #[arg(long, value_name = "NAME: VALUE", conflicts_with = "session")]
    header: Vec<String>,
    /// A live session, by its number in the log and in /api/v1/sessions
    #[arg(long, value_name = "ID", conflicts_with = "listener")]
    session: Option<u64>,
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

/// Prints the explanation.
///
/// # Errors
/// When the process cannot be reached, or knows no such listener or session.
pub fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let explanation = args.admin.get(&path(args))?;
    let text = if args.json {
        serde_json::to_string_pretty(&explanation)? + "\n"
    } else {
        account(&explanation)
    };
    cli::print(&text)
}

fn path(args: &ExplainArgs) -> String {
    let session = args.session.map(|id| id.to_string());
    let headers = (!args.header.is_empty()).then(|| args.header.join("\n"));
    let pairs = [
        ("session", &session),
        ("listener", &args.listener),
        ("source", &args.source),
        ("user", &args.user),
        ("database", &args.database),
        ("sni", &args.sni),
        ("startup", &args.startup),
        ("host", &args.host),
        ("path", &args.path),
        ("method", &args.method),
        ("header", &headers),
    ];
    let pairs = pairs.into_iter().filter_map(|(name, value)| {
        let value = value.as_ref()?;
        Some(format!("{name}={}", encode(value)))
    });
    let pairs: Vec<String> = pairs.collect();
    format!("/api/v1/explain?{}", pairs.join("&"))
}

fn account(explanation: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10}{value}");
    };
    let session = &explanation["session"];
    if !session.is_null() {
        let age = session["age_seconds"].as_f64().unwrap_or_default();
        let (id, phase) = (word(&session["id"]), word(&session["phase"]));
        line("session", &format!("{id}, {phase}, for {age:.1} s"));
        line("backend", &word(&session["backend"]));
        line("fate", &word(&session["fate"]));
    }
    line("listener", &listener(&explanation["listener"]));
    let assumed = match explanation["source_assumed"].as_bool() {
        Some(true) => " (assumed; say --source IP)",
        _ => "",
    };
    line(
        "client",
        &format!("{}{assumed}", word(&explanation["source"])),
    );
    line("wants", &intent(&explanation["intent"]));
    let route = &explanation["route"];
    if !route.is_null() {
        line("route", &word(&route["text"]));
    }
    for other in elements(&explanation["routes"]) {
        if let Some(why) = passed_over(other) {
            line("", &why);
        }
    }
    if !explanation["cluster"].is_null() {
        line("cluster", &word(&explanation["cluster"]));
        line("policy", &policy(explanation));
    }
    line("table", &word(&explanation["generation"]));
    for backend in elements(&explanation["backends"]) {
        let (name, score) = (word(&backend["name"]), score(backend));
        let (standing, reason) = (word(&backend["standing"]), word(&backend["reason"]));
        let _ = writeln!(text, "  {standing:<10}  {name}: {reason}; {score}");
    }
    let now = if session.is_null() { "" } else { "now, " };
    let _ = writeln!(text, "=> {now}{}", word(&explanation["outcome"]["text"]));
    text
}

/// Why a route of an HTTP listener does not take the request; `None`: it does.
fn passed_over(route: &Value) -> Option<String> {
    let why = match route["verdict"].as_str()? {
        "taken" => return None,
        "less_specific" => "matches, less closely".to_owned(),
        "other_host" => "another host".to_owned(),
        "other_path" => "another path".to_owned(),
        "other_method" => "another method".to_owned(),
        _ => format!("header {} does not match", word(&route["header"])),
    };
    let (number, text) = (word(&route["number"]), word(&route["text"]));
    Some(format!("not {number} ({text}): {why}"))
}

fn listener(listener: &Value) -> String {
    let name = word(&listener["name"]);
    match listener["bind"].as_str() {
        Some(_) => format!("{name} at {}", word(&listener["bind"])),
        None => name,
    }
}

fn intent(intent: &Value) -> String {
    let mut text = format!("role {}", word(&intent["role"]));
    if !intent["max_lag"].is_null() {
        let _ = write!(text, ", max_lag {}", word(&intent["max_lag"]));
    }
    if intent["role"] == "replica" {
        let _ = write!(text, ", fallback {}", word(&intent["fallback"]));
    }
    text
}

fn policy(explanation: &Value) -> String {
    let policy = word(&explanation["policy"]);
    let hash = &explanation["hash"];
    if hash.is_null() {
        return policy;
    }
    let part = |name: &str| word(&hash[name]);
    let (source, value) = (part("source"), part("value"));
    format!("{policy} by {source} {value} (hash {})", part("hash"))
}

/// What the policies compare.
fn score(backend: &Value) -> String {
    let (active, weight) = (&backend["connections_active"], &backend["weight"]);
    let latency = backend["latency_seconds"].as_f64().unwrap_or_default() * 1000.0;
    let tier = &backend["tier"];
    let mut text = format!("{active} sessions, weight {weight}, {latency:.1} ms, tier {tier}");
    if !backend["zone"].is_null() {
        let _ = write!(text, ", zone {}", word(&backend["zone"]));
    }
    if backend["warming"].as_bool() == Some(true) {
        text.push_str(", in slow start");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn explanation() -> Value {
        json!({
            "generation": 9,
            "listener": { "name": "write", "bind": "0.0.0.0:5432" },
            "source": "10.0.0.7", "source_assumed": false,
            "intent": { "role": "primary", "max_lag": null, "fallback": "none" },
            "route": { "cluster": "orders", "number": 1, "text": "route 1 (user: app)" },
            "cluster": "orders", "policy": "consistent_hash",
            "hash": { "source": "client_ip", "value": "10.0.0.7", "hash": "00ff" },
            "backends": [{
                "name": "pg1", "standing": "picked", "reason": "the policy picks it",
                "weight": 100, "connections_active": 3, "latency_seconds": 0.0012, "tier": 0,
                "zone": null, "warming": false,
            }, {
                "name": "pg2", "standing": "excluded", "reason": "its role is replica (claims_replica)",
                "weight": 100, "connections_active": 0, "latency_seconds": 0.0, "tier": 0,
                "zone": "a", "warming": true,
            }],
            "outcome": { "action": "pick", "backends": ["pg1"], "text": "the client goes to pg1" },
        })
    }

    #[test]
    fn the_account_names_everybody_and_the_reason() {
        let expected = "\
listener  write at 0.0.0.0:5432
client    10.0.0.7
wants     role primary
route     route 1 (user: app)
cluster   orders
policy    consistent_hash by client_ip 10.0.0.7 (hash 00ff)
table     9
  picked      pg1: the policy picks it; 3 sessions, weight 100, 1.2 ms, tier 0
  excluded    pg2: its role is replica (claims_replica); 0 sessions, weight 100, 0.0 ms, tier 0, zone a, in slow start
=> the client goes to pg1
";
        assert_eq!(account(&explanation()), expected);
    }

    #[test]
    fn a_session_is_told_with_its_fate() {
        let mut explanation = explanation();
        explanation["session"] = json!({
            "id": 12, "phase": "relay", "age_seconds": 3.0, "backend": "pg1",
            "fate": "it lives as long as its peers like",
        });
        let text = account(&explanation);
        assert!(
            text.starts_with("session   12, relay, for 3.0 s\nbackend   pg1\nfate      it lives")
        );
        assert!(text.ends_with("=> now, the client goes to pg1\n"), "{text}");
    }
}
