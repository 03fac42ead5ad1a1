//! The command line: one file per subcommand.

mod admin_client;
mod admin_state;
mod check;
mod completions;
mod demo;
mod explain;
mod incidents;
mod manpage;
mod proxy;
mod run;
mod schema;
mod status;
mod switchover;

use std::io;
use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::Parser;
use clap::Subcommand;

use crate::cluster::AdminState;

/// Failover load balancer for database clusters.
#[derive(Debug, Parser)]
#[command(name = "evergate", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the load balancer
    Run(run::Args),
    /// Run without a file: one listener, some backends
    Proxy(proxy::Args),
    /// Show a failover: embedded backends are killed, drained and replaced under load
    Demo(demo::Args),
    /// Check a configuration file and show every problem in it
    Check(check::CheckArgs),
    /// Print the JSON schema of the configuration file
    Schema(schema::SchemaArgs),
    /// Print the completions of a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual, for man
    Manpage(manpage::ManpageArgs),
    /// Show every backend of a running Evergate
    Status(status::StatusArgs),
    /// Show what happened: failovers, outages, split brains, backends that were down
    Incidents(incidents::IncidentsArgs),
    /// Say where a client would go and why, or why a session is where it is
    Explain(Box<explain::ExplainArgs>),
    /// Send no new sessions to a backend; the old ones may finish
    Drain(admin_state::AdminStateArgs),
    /// As drain, and do not act on its health checks
    Maintenance(admin_state::AdminStateArgs),
    /// Send new sessions to a backend again
    Ready(admin_state::AdminStateArgs),
    /// Decide which of several primaries is written to; promotes nobody
    Switchover(switchover::SwitchoverArgs),
}

/// Parses the command line, runs the subcommand and returns the process's exit code.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Proxy(args) => proxy::run(&args),
        Command::Demo(args) => demo::run(&args).unwrap_or_else(|error| exit_code(Err(error))),
        Command::Check(args) => check::run(&args),
        Command::Schema(args) => exit_code(schema::run(&args)),
        Command::Completions(args) => exit_code(completions::run(&args)),
        Command::Manpage(args) => exit_code(manpage::run(&args)),
        Command::Status(args) => exit_code(status::run(&args)),
        Command::Incidents(args) => exit_code(incidents::run(&args)),
        Command::Explain(args) => exit_code(explain::run(&args)),
        Command::Drain(args) => exit_code(admin_state::run(&args, AdminState::Drain)),
        Command::Maintenance(args) => exit_code(admin_state::run(&args, AdminState::Maintenance)),
        Command::Ready(args) => exit_code(admin_state::run(&args, AdminState::Ready)),
        Command::Switchover(args) => exit_code(switchover::run(&args)),
    }
}

fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The command line as clap knows it.
fn command() -> clap::Command {
    Cli::command()
}

/// Prints a command's result. A reader that went away (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A line on stderr. `eprintln!` panics when nobody takes it; the exit code says the same.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
