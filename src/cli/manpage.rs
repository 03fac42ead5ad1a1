//! `evergate manpage`: the manual, as `man` reads it.

use anyhow::Context;

use crate::cli;

#[derive(Debug, clap::Args)]
pub struct ManpageArgs {
    /// The page of one command instead of the page of all
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Prints a page.
///
/// # Errors
/// There is no such command.
pub fn run(args: &ManpageArgs) -> anyhow::Result<()> {
    let all = cli::command();
    let page = match &args.command {
        None => all,
        Some(name) => {
            let found = all.find_subcommand(name);
            let command = found.with_context(|| format!("no command is named {name:?}"))?;
            let name = format!("evergate-{name}");
            command.clone().name(name.clone()).display_name(name)
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    cli::print(&String::from_utf8(text)?)
}
