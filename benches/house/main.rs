//! What Evergate promises about itself, measured on the release binary: checks, reloads, latency
//! under a storm and under scrapes, and failovers that should not happen.
//!
//! The proxy runs on the first core; clients and backends share the second. A figure that compares
//! alternates its two sides (A B A B …) and quotes medians over the pairs.
//!
//! `BENCH_ONLY` (part of a name) narrows a run; the programs say which numbers change their length.

#![allow(clippy::unwrap_used, reason = "a bench's unwrap is an assertion")]

mod checks;
mod latency;
mod loss;
mod reloads;
#[path = "../shared/mod.rs"]
mod shared;
#[path = "../../tests/support/mod.rs"]
mod support;

use support::evergate::Evergate;
use support::evergate::Launch;

fn main() {
    // `cargo bench` passes `--bench`; `cargo test --benches` does not, and wants no minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    shared::pin_this_process();
    evergate::net::raise_open_files_limit();
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let programs: [(&str, fn()); 5] = [
        ("checks", checks::run),
        ("reloads", reloads::run),
        ("latency storm", latency::run_storm),
        ("latency scrapes", latency::run_scrapes),
        ("loss", loss::run),
    ];
    for (name, program) in programs {
        if name.contains(&only) {
            println!("## {name}");
            program();
        }
    }
}

/// The release binary on its core.
fn on_its_core(yaml: &str) -> Launch {
    Evergate::with(yaml).inside(&["taskset", "-c", shared::PROXY_CORE])
}
