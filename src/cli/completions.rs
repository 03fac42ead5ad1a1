//! `evergate completions`: what a shell needs to complete commands and options.

use clap_complete::Shell;

use crate::cli;

#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell that reads them
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the completions.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "evergate", &mut script);
    cli::print(&String::from_utf8(script)?)
}
