//! The command line: one file per subcommand.

mod proxy;
mod run;

use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

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
}

/// Parses the command line, runs the subcommand and returns the process's exit code.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Proxy(args) => proxy::run(&args),
    }
}
