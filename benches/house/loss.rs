//! Failovers that should not happen: a network that loses 5 % of the packets each way (fault N6).
//!
//! `BENCH_MINUTES` (default 1; 10 for the figure of the fault's row). Needs root.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::shared::echo_backend_at;
use crate::shared::number_from_env;
use crate::support::evergate::Evergate;
use crate::support::netns::Netns;
use crate::support::ports::free_port;
use crate::support::stream::Pattern;
use crate::support::talk::connect;
use crate::support::talk::echoes;

const LOSS_PERCENT: u32 = 5;
const BACKENDS: usize = 4;
const STREAMS: u64 = 8;

pub fn run() {
    let minutes = number_from_env("BENCH_MINUTES", 1);
    let netns = Netns::new();
    let backends: Vec<_> = (0..BACKENDS)
        .map(|_| echo_backend_at((netns.host_ip(), 0).into()))
        .collect();
    let [listens, admin] = [(); 2].map(|()| SocketAddr::from((netns.ip(), free_port())));
    let place = netns.place();
    let prefix: Vec<&str> = place.prefix.iter().map(String::as_str).collect();
    let evergate = Evergate::with(&file(listens, admin, &backends))
        .inside(&prefix)
        .start();
    let generation = || evergate.metric("evergate_routing_table_generation", &[]);
    let before = generation();

    netns.lose(LOSS_PERCENT);
    let (echoed, broken) = stream_for(Duration::from_secs(minutes * 60), listens);
    netns.heal();

    let checks = |result| {
        let count = evergate.metric("evergate_health_checks_total", &[("result", result)]);
        count.unwrap_or(0.0)
    };
    println!(
        "{minutes} min, {LOSS_PERCENT} % lost each way, {BACKENDS} backends with default checks: \
         {} checks passed, {} failed",
        checks("passed"),
        checks("failed")
    );
    println!(
        "tables published {} -> {}; {} pieces echoed, {broken} sessions broken",
        before.unwrap(),
        generation().unwrap(),
        echoed
    );
    for line in evergate.get("/metrics").text().lines() {
        if line.starts_with("evergate_sessions_ended_total{") {
            println!("  {line}");
        }
    }
    let downs: Vec<_> = evergate
        .log_lines()
        .into_iter()
        .filter(|line| line.contains("\"health changed\"") && line.contains("\"to\":\"down\""))
        .collect();
    println!("false failovers: {}", downs.len());
    for line in downs {
        println!("  {line}");
    }
}

fn file(listens: SocketAddr, admin: SocketAddr, backends: &[SocketAddr]) -> String {
    let list: String = backends
        .iter()
        .map(|address| format!("      - \"{address}\"\n"))
        .collect();
    format!(
        "admin: {{bind: \"{admin}\"}}\nclusters:\n  c:\n    backends:\n{list}\
         listeners:\n  l: {{bind: \"{listens}\", cluster: c}}\n"
    )
}

/// Sessions that ask and compare for this long; returns the pieces that came back and the sessions
/// that did not last.
fn stream_for(lasts: Duration, listens: SocketAddr) -> (u64, u64) {
    let (stop, echoed, broken) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for seed in 0..STREAMS {
            let (stop, echoed, broken) = (&stop, &echoed, &broken);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = stream(seed, listens, stop, echoed) {
                        println!("stream {seed}: {error}");
                        broken.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let end = Instant::now() + lasts;
        thread::sleep(end.saturating_duration_since(Instant::now()));
        stop.store(true, Ordering::Relaxed);
    });
    (echoed.into_inner(), broken.into_inner())
}

/// One session; a new one now and then, so that connects are lost too.
fn stream(seed: u64, listens: SocketAddr, stop: &AtomicBool, echoed: &AtomicU64) -> io::Result<()> {
    const PIECES: u32 = 50;
    let mut session = connect(listens);
    let mut pattern = Pattern::seeded(seed);
    for _ in 0..PIECES {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        echoes(&mut session, &pattern.next_bytes(2048))?;
        echoed.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
