//! `evergate demo`: a primary and two replicas, the real proxy, writers and readers, and everything
//! that can happen to databases, with what clients saw of it.

mod account;
mod client;
mod configuration;
mod embedded;
mod fleet;
mod front;
mod history;
mod ledger;
mod load;
mod node;
mod port;
mod programs;
mod script;
mod servers;
mod sql;
mod steps;
mod verdict;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::timeout;

use crate::cli::demo::account::Account;
use crate::cli::demo::account::Style;
use crate::cli::demo::configuration::Pace;
use crate::cli::demo::fleet::Cast;
use crate::cli::demo::ledger::Clock;

/// Show failovers: database servers are killed, promoted, fenced and drained under load
#[derive(Debug, clap::Args)]
pub struct Args {
    /// No colours, for scripts; the account is the same
    #[arg(long)]
    plain: bool,
    /// About how long it takes, 5 to 600
    #[arg(
        long,
        value_name = "N",
        default_value_t = 15,
        value_parser = clap::value_parser!(u64).range(5..=600)
    )]
    seconds: u64,
    /// With real PostgreSQL servers, if they are installed here, instead of embedded ones
    #[arg(long)]
    postgres: bool,
}

/// The first is the first primary.
const NAMES: [&str; MEMBERS] = ["db-1", "db-2", "db-3"];
const MEMBERS: usize = 3;

/// Every step has its own limit; this one ends a script that hangs all the same.
const MAX_OVERTIME: Duration = Duration::from_secs(120);

/// Exit codes beside 0 and 1: as a shell reports a process that the signal killed.
const EXIT_SIGINT: u8 = 130;
const EXIT_SIGTERM: u8 = 143;

/// Runs the demo. The exit code is 0 when every promise was kept.
///
/// # Errors
/// What kept the demo from running at all.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            code = play(args) => code,
            _ = interrupt.recv() => Ok(ExitCode::from(EXIT_SIGINT)),
            _ = terminate.recv() => Ok(ExitCode::from(EXIT_SIGTERM)),
        }
    })
}

async fn play(args: &Args) -> anyhow::Result<ExitCode> {
    let style = if args.plain {
        Style::Plain
    } else {
        Style::detect()
    };
    let cast = if args.postgres {
        Cast::Real
    } else {
        Cast::Embedded
    };
    let account = Account {
        clock: Clock::start(),
        style,
    };
    let total = Duration::from_secs(args.seconds);
    let playing = script::play(account, Pace::new(total), cast);
    let played = timeout(total + MAX_OVERTIME, playing).await;
    let measured = played.context("the demo did not come to its end")??;
    let broken = verdict::broken(&measured);
    account.conclude(&measured, &broken);
    Ok(if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
