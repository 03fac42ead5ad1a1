//! `evergate schema`: the JSON schema of the configuration, for editors.

use crate::cli;
use crate::config;

#[derive(Debug, clap::Args)]
pub struct SchemaArgs {}

/// Prints the schema.
pub fn run(_args: &SchemaArgs) -> anyhow::Result<()> {
    cli::print(&format!("{:#}\n", config::schema()))
}
