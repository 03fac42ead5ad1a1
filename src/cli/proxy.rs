//! `evergate proxy`: no file at all.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::run;
use crate::server::Source;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where clients connect, e.g. `:5432` (all IPv4 addresses) or `127.0.0.1:5432`
    #[arg(long, value_name = "ADDRESS")]
    listen: String,
    /// A backend as `host:port`; give it once for each
    #[arg(long = "backend", value_name = "HOST:PORT", required = true)]
    backends: Vec<String>,
    /// How a backend is chosen
    #[arg(long, value_name = "POLICY", default_value = "least_connections")]
    policy: String,
    /// Where the admin API and /metrics listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9187")]
    admin: String,
}

/// Runs one listener and one cluster with all defaults.
pub fn run(args: &Args) -> ExitCode {
    run::serve(Source::Text {
        name: PathBuf::from("(command line)"),
        text: configuration(args),
    })
}

/// JSON is YAML: nothing the user typed can become structure. A key per line, because messages
/// show the line that is wrong.
fn configuration(args: &Args) -> String {
    let bind = match args.listen.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => args.listen.clone(),
    };
    let config = json!({
        "version": 1,
        "clusters": {
            "backends": {
                "backends": args.backends,
                "balance": {"policy": args.policy},
            },
        },
        "listeners": {"clients": {"bind": bind, "cluster": "backends"}},
        "admin": {"bind": args.admin},
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_becomes_a_valid_configuration() {
        let args = Args {
            listen: ":5432".to_owned(),
            backends: vec!["a:5432".to_owned(), "10.0.0.2:5432".to_owned()],
            policy: "round_robin".to_owned(),
            admin: "127.0.0.1:9187".to_owned(),
        };
        let text = configuration(&args);
        let loaded = crate::config::load_text("(command line)".as_ref(), &text).unwrap();
        assert_eq!(loaded.config.clusters[0].backends.len(), 2);
        assert_eq!(loaded.config.listeners[0].bind.to_string(), "0.0.0.0:5432");
    }
}
