//! What health checks cost, and whether they are spread (fault O3).
//!
//! `BENCH_SECONDS` (default 20) is how long each set is watched.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::on_its_core;
use crate::shared::cpu_nanoseconds;
use crate::shared::number_from_env;
use crate::shared::runtime;
use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::ports::free_port;

/// The spread is looked at in parts of an interval.
const PARTS: u32 = 10;
/// Until every backend has its own beat.
const WARM_UP: Duration = Duration::from_secs(5);

pub fn run() {
    let seconds = number_from_env("BENCH_SECONDS", 20);
    println!(
        "{:>9} {:>9} {:>9} {:>11} {:>10} {:>8} {:>8} {:>22}",
        "backends",
        "interval",
        "checks/s",
        "core, %",
        "us/check",
        "threads",
        "RSS MiB",
        "busiest tenth / mean"
    );
    for (backends, interval) in [
        (2_000, Duration::from_secs(1)),
        (500, Duration::from_millis(100)),
    ] {
        measure(backends, interval, seconds);
    }
}

fn measure(backends: u32, interval: Duration, seconds: u64) {
    let port = free_port();
    let asked = Arc::new(AtomicU64::new(0));
    accept_on_all_addresses(port, Arc::clone(&asked));
    let evergate = on_its_core(&file(backends, interval, port)).start();
    thread::sleep(WARM_UP);

    let (cpu_before, checks_before) = (cpu_nanoseconds(evergate.pid()), checks(&evergate));
    let mut tenths = Vec::new();
    let watched = Duration::from_secs(seconds);
    let parts = watched.as_nanos() / (interval / PARTS).as_nanos();
    for _ in 0..parts {
        let before = asked.load(Ordering::Relaxed);
        thread::sleep(interval / PARTS);
        tenths.push((asked.load(Ordering::Relaxed) - before) as f64);
    }
    let cpu = (cpu_nanoseconds(evergate.pid()) - cpu_before) as f64;
    let checks = checks(&evergate) - checks_before;
    let mean = tenths.iter().sum::<f64>() / tenths.len() as f64;
    let busiest = tenths.iter().copied().fold(0.0, f64::max);

    let seconds = seconds as f64;
    println!(
        "{:>9} {:>9} {:>9.0} {:>11.1} {:>10.1} {:>8} {:>8.1} {:>22.2}",
        backends,
        format!("{interval:?}"),
        checks / seconds,
        cpu / seconds / 1e7,
        cpu / checks / 1e3,
        evergate.threads(),
        evergate.rss_bytes() as f64 / f64::from(1 << 20),
        busiest / mean
    );
}

fn checks(evergate: &Evergate) -> f64 {
    let passed = [("result", "passed")];
    let checks = evergate.metric("evergate_health_checks_total", &passed);
    checks.unwrap()
}

/// 127.1.0.0/16 is ours, so that every backend has an address of its own.
fn file(backends: u32, interval: Duration, port: u16) -> String {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    let list: String = (0..backends)
        .map(|number| format!("      - {}:{port}\n", Ipv4Addr::from(first + number)))
        .collect();
    format!(
        "workers: 1\nclusters:\n  c:\n    health_check: {{interval: {}ms}}\n    backends:\n{list}\
         listeners:\n  l: {{bind: \"{}\", cluster: c}}\n",
        interval.as_millis(),
        free_addr()
    )
}

fn accept_on_all_addresses(port: u16, asked: Arc<AtomicU64>) {
    thread::spawn(move || {
        runtime().block_on(async move {
            let address = SocketAddr::from(([0, 0, 0, 0], port));
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(address).unwrap();
            let listener = socket.listen(4096).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move { stream.read(&mut [0]).await });
            }
        });
    });
}
