//! `evergate schema`: the JSON schema of the configuration, for editors.

use std::io::Write;
use std::process::ExitCode;

use crate::config;

#[derive(Debug, clap::Args)]
pub struct SchemaArgs {}

/// Prints the schema.
pub fn run(_args: &SchemaArgs) -> ExitCode {
    // A reader that closes early, as `head` does, is no failure of ours.
    match writeln!(std::io::stdout(), "{:#}", config::schema()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
