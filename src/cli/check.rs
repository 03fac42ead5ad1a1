//! `evergate check`: every problem of a file at once.

use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli;
use crate::config;
use crate::config::Config;
use crate::config::Diagnostics;
use crate::tls::TlsMaterial;

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Exit code 0 for a valid file, 1 with every error on stderr. (2, wrong usage, is clap's.)
pub fn run(args: &CheckArgs) -> ExitCode {
    let loaded = match config::load(&args.config) {
        Ok(loaded) => loaded,
        Err(problems) => {
            let errors = problems.errors();
            let count = counted(errors, "error");
            cli::complain(&format!("{problems}\n{}: {count}", args.config.display()));
            return ExitCode::FAILURE;
        }
    };
    for warning in &loaded.warnings {
        cli::complain(&warning.to_string());
    }
    if let Err(errors) = TlsMaterial::load(&loaded.config) {
        let problems = errors.iter().map(|error| {
            let path = error.path().unwrap_or_else(|| args.config.clone());
            loaded.problem_with(&path, error.to_string())
        });
        let problems = Diagnostics(problems.collect());
        let count = counted(errors.len(), "error");
        cli::complain(&format!("{problems}\n{}: {count}", args.config.display()));
        return ExitCode::FAILURE;
    }
    let summary = summary(&loaded.config);
    // The exit code says the same to whoever does not read it.
    let _ = writeln!(io::stdout(), "{}: {summary}", args.config.display());
    ExitCode::SUCCESS
}

fn summary(config: &Config) -> String {
    let backends = config.clusters.iter().map(|c| c.backends.len()).sum();
    format!(
        "valid: {}, {}, {}",
        counted(config.listeners.len(), "listener"),
        counted(config.clusters.len(), "cluster"),
        counted(backends, "backend"),
    )
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
