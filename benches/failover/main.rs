//! What a failover costs those who write and read through Evergate, HAProxy and PgBouncer.
//!
//! Each run makes one event happen to one real PostgreSQL cluster. All stacks stand in front of
//! that cluster at the same time, each with the same load of its own, so that they see the same
//! event, the same promotion and the same noise of the machine. Beside them an oracle asks every
//! node directly every 10 ms: what a stack's clients went without beyond it is the stack's doing.
//!
//! A run in which even the oracle heard nothing for long says what the machine does, and counts for
//! no stack.
//!
//! Prints a table after each event and all of them as Markdown at the end. Timings are printed and
//! judged by the reader; counts are asserted in `make test`.
//!
//! `BENCH_RUNS` (default 20) is the number of runs per event; `BENCH_ONLY` (part of an event's
//! name) narrows the events.

#![allow(clippy::unwrap_used, reason = "a bench's unwrap is an assertion")]

mod configurations;
mod events;
mod figures;
mod nodes;
mod readers;
mod recorder;
mod role_teller;
#[path = "../shared/mod.rs"]
mod shared;
mod split;
mod stacks;
#[path = "../../tests/support/mod.rs"]
mod support;
mod writers;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::time::Duration;

use events::Event;
use events::Stage;
use figures::Table;
use shared::number_from_env;
use support::Watchdog;

/// An event, its observation and the repair of the cluster; more is a hang, which ends the bench.
const LONGEST_RUN: Duration = Duration::from_secs(240);

fn main() {
    // `cargo bench` passes `--bench`; `cargo test --benches` does not, and wants no minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runs = number_from_env("BENCH_RUNS", 20);
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let chosen = Event::ALL
        .iter()
        .filter(|event| event.name().contains(&only));
    let tables: Vec<Table> = chosen.map(|event| measure(*event, runs)).collect();
    println!();
    for table in &tables {
        println!("{}", table.markdown());
    }
}

fn measure(event: Event, runs: u64) -> Table {
    let mut table = Table::new(event.name());
    let mut stage = {
        let _watchdog = Watchdog::bites_after(LONGEST_RUN);
        Stage::set_for(event)
    };
    for run in 1..=runs {
        let _watchdog = Watchdog::bites_after(LONGEST_RUN);
        match catch_unwind(AssertUnwindSafe(|| stage.run())) {
            Ok(outcome) => {
                let silence = outcome.silence.as_millis();
                eprintln!(
                    "{}: run {run} of {runs}, the oracle was silent for {silence} ms at most",
                    event.name()
                );
                table.add(outcome);
            }
            // Patroni did not repair its cluster, say. It has been printed, and it is counted.
            Err(_) => {
                eprintln!("{}: run {run} of {runs} failed", event.name());
                table.add_a_failed_run();
                stage = Stage::set_for(event);
            }
        }
    }
    println!("{table}");
    table
}
