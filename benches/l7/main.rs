//! What one HTTP request costs the proxy, side by side with HAProxy and nginx.
//!
//! As `benches/l4`: the proxy's own CPU time (user and system, all its processes) per operation,
//! one worker on the first core, clients and the backend on the second, rounds that alternate
//! between the proxies, medians.
//!
//! `BENCH_ROUNDS` (default 5) and `BENCH_ONLY` (part of a case's name) narrow a run. To see what a
//! change has brought, `BENCH_BASELINE` is the path of an older Evergate, whose figures stand in a
//! column of their own; `BENCH_EVERGATE` that of a newer one than was built.

#![allow(clippy::unwrap_used, reason = "a bench's unwrap is an assertion")]

mod cases;
mod load;
mod peers;
#[path = "../../tests/tls/pki.rs"]
#[allow(
    dead_code,
    reason = "a test's vocabulary, of which one word is used here"
)]
mod pki;
#[path = "../shared/mod.rs"]
mod shared;
#[path = "../../tests/support/mod.rs"]
mod support;

use cases::Case;
use cases::IDLE_CLIENTS;
use peers::Fields;
use peers::Peer;
use peers::Stage;
use shared::median;
use shared::number_from_env;
use shared::pin_this_process;
use shared::proxy::Cost;

/// A round of memory takes minutes for all proxies, and varies little.
const IDLE_ROUNDS: u64 = 3;
/// Before memory is counted: tables, pools and the allocator have their size.
const WARMING_CLIENTS: usize = 1_000;

fn main() {
    // `cargo bench` passes `--bench`; `cargo test --benches` does not, and wants no minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let rounds = number_from_env("BENCH_ROUNDS", 5);
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    pin_this_process();
    evergate::net::raise_open_files_limit();

    let stage = Stage::start();
    let peers = Peer::all();
    println!(
        "CPU per operation, median of {rounds} rounds; ratio to the cheapest peer that adds the"
    );
    println!(
        "same fields, and (-) to the cheapest of all, most of which add only the client's address"
    );
    print!("{:<38}", "case");
    peers.iter().for_each(|peer| print!(" {:>10}", peer.name()));
    println!(" {:>8} {:>8}", "ratio", "ratio-");
    for case in cases::all() {
        if case.name.contains(&only) {
            let figures = match case.cost {
                Cost::MemoryKib => idle(&stage, &peers, rounds.min(IDLE_ROUNDS)),
                _ => measure(&case, &stage, &peers, rounds),
            };
            show(&case, &peers, figures);
        }
    }
}

fn measure(case: &Case, stage: &Stage, peers: &[Peer], rounds: u64) -> Vec<Vec<f64>> {
    let running: Vec<_> = peers
        .iter()
        .map(|peer| peer.start(stage, case.speaks))
        .collect();
    let mut figures = vec![Vec::new(); peers.len()];
    for round in 0..=rounds {
        for (proxy, figures) in running.iter().zip(&mut figures) {
            let before = proxy.cost(case.cost);
            let operations = (case.load)(proxy.address(), &stage.authority);
            let spent = proxy.cost(case.cost) - before;
            // The first round warms caches, tables and pools.
            if round > 0 {
                figures.push(spent / operations);
            }
        }
    }
    figures
}

/// Memory that was given once is used again, so each round has a fresh proxy.
fn idle(stage: &Stage, peers: &[Peer], rounds: u64) -> Vec<Vec<f64>> {
    let mut figures = vec![Vec::new(); peers.len()];
    for _ in 0..rounds {
        for (peer, figures) in peers.iter().zip(&mut figures) {
            let proxy = peer.start(stage, peers::Speaks::One);
            let _warm = load::idle(proxy.address(), WARMING_CLIENTS);
            let before = proxy.cost(Cost::MemoryKib);
            let _idle = load::idle(proxy.address(), IDLE_CLIENTS);
            let grown = proxy.cost(Cost::MemoryKib) - before;
            figures.push(grown / IDLE_CLIENTS as f64);
        }
    }
    figures
}

fn show(case: &Case, peers: &[Peer], figures: Vec<Vec<f64>>) {
    let medians: Vec<f64> = figures.into_iter().map(median).collect();
    let cheapest = |fields: &[Fields]| {
        let alike = |peer: &Peer| peer.fields().is_some_and(|it| fields.contains(&it));
        let figures = peers.iter().zip(&medians);
        let figures = figures.filter(|(peer, _)| alike(peer));
        figures.fold(f64::INFINITY, |least, (_, figure)| least.min(*figure))
    };
    print!("{:<38}", case.name);
    medians.iter().for_each(|figure| print!(" {figure:>10.2}"));
    println!(
        " {:>8.2} {:>8.2}",
        medians[0] / cheapest(&[Fields::Same]),
        medians[0] / cheapest(&[Fields::Same, Fields::Few])
    );
}
