//! What one operation costs the proxy, side by side with HAProxy and nginx.
//!
//! The figure is the proxy's own CPU time (user and system, all its processes) per
//! operation: it survives a noisy machine better than throughput. Each proxy runs one
//! worker on the first core; clients and backends share the second. Rounds alternate
//! between the proxies (A B C A B C …) and the median is quoted.
//!
//! `BENCH_ROUNDS` (default 5) and `BENCH_ONLY` (part of a case's name) narrow a run.

#![allow(clippy::unwrap_used, reason = "a bench's unwrap is an assertion")]

mod cases;
mod load;
mod peers;
#[path = "../shared/mod.rs"]
mod shared;
#[path = "../../tests/support/mod.rs"]
mod support;

use cases::Case;
use peers::Peer;
use shared::mean;
use shared::median;
use shared::number_from_env;
use shared::pin_this_process;
use shared::proxy::Cost;

fn main() {
    // `cargo bench` passes `--bench`; `cargo test --benches` does not, and wants no minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let rounds = number_from_env("BENCH_ROUNDS", 5);
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    pin_this_process();
    evergate::net::raise_open_files_limit();

    println!("CPU per operation, median of {rounds} rounds; ratio to the cheapest peer");
    println!(
        "{:<34} {:>10} {:>10} {:>10} {:>8}",
        "case", "evergate", "haproxy", "nginx", "ratio"
    );
    for case in cases::all() {
        if case.name.contains(&only) {
            measure(&case, rounds);
        }
    }
}

fn measure(case: &Case, rounds: u64) {
    let backend = (case.backend)();
    let peers: Vec<_> = Peer::ALL
        .iter()
        .map(|kind| kind.start(backend.address(), case))
        .collect();
    let mut figures = vec![Vec::new(); peers.len()];
    for round in 0..=rounds {
        for (peer, figures) in peers.iter().zip(&mut figures) {
            let before = peer.cost(case.cost);
            let operations = (case.load)(peer.address());
            let spent = peer.cost(case.cost) - before;
            // The first round warms caches, tables and pools.
            if round > 0 {
                figures.push(spent / operations);
            }
        }
    }
    let middle = match case.cost {
        // Taken from the kernel in steps: a round may cost nothing, and the next one twice.
        Cost::MemoryKib => mean,
        Cost::CpuMicroseconds | Cost::CpuMilliseconds => median,
    };
    let medians: Vec<f64> = figures.into_iter().map(middle).collect();
    let cheapest = medians[1..].iter().copied().fold(f64::INFINITY, f64::min);
    println!(
        "{:<34} {:>10.2} {:>10.2} {:>10.2} {:>8.2}",
        case.name,
        medians[0],
        medians[1],
        medians[2],
        medians[0] / cheapest
    );
}
