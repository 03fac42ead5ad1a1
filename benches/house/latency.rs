//! What existing sessions notice of a storm of new ones (fault K6) and of scrapes (fault O1).
//!
//! Half of the watched sessions pass the proxy, half go straight to the backend: what those notice is
//! the machine, not the proxy. `BENCH_ROUNDS` (default 7) pairs of `BENCH_SECONDS` (default 3) each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::setpriority_process;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

use crate::on_its_core;
use crate::shared::echo_backend;
use crate::shared::median;
use crate::shared::number_from_env;
use crate::shared::runtime;
use crate::support::http;
use crate::support::ports::free_addr;

/// Sessions on each way.
const SESSIONS: usize = 32;
/// Each session asks this often: the proxy is busy for a few percent of its core.
const PAUSE: Duration = Duration::from_millis(8);
const MESSAGE_BYTES: usize = 100;

const STORM_PER_SECOND: u64 = 5_000;
/// What the storm may have under way; more is a proxy that does not keep up.
const MAX_UNDER_WAY: u64 = 2_000;
/// The storm must not take the processor from those who measure.
const STORM_NICENESS: i32 = 10;

const SCRAPES_PER_SECOND: u32 = 50;
/// Series as of a site that is not small.
const CLUSTERS: usize = 20;

/// 99th percentile of the round trips on each way, in microseconds.
#[derive(Debug, Clone, Copy)]
struct P99 {
    proxied: f64,
    direct: f64,
}

#[derive(Debug, Clone, Copy)]
struct Addresses {
    watched: SocketAddr,
    storm: SocketAddr,
    backend: SocketAddr,
    admin: SocketAddr,
}

pub fn run_storm() {
    println!("new connections a second: {STORM_PER_SECOND} wanted; K6: proxied ratio at most 2");
    compare(|addresses, stop| {
        let done = storm(addresses.storm, stop);
        format!("{done:.0} connections a second")
    });
}

pub fn run_scrapes() {
    println!("scrapes a second: {SCRAPES_PER_SECOND}; O1: proxied ratio at most 1.05");
    compare(|addresses, stop| {
        let (done, bytes) = scrape(addresses.admin, stop);
        format!("{done:.0} scrapes a second of {bytes} bytes")
    });
}

/// Alternates calm and disturbed rounds and prints each pair and the medians.
fn compare(disturb: fn(Addresses, &AtomicBool) -> String) {
    let rounds = number_from_env("BENCH_ROUNDS", 7);
    let lasts = Duration::from_secs(number_from_env("BENCH_SECONDS", 3));
    let (backend, storm_backend) = (echo_backend(), nice_echo_backend());
    let (watched, storm) = (free_addr(), free_addr());
    let evergate = on_its_core(&file(watched, backend, storm, storm_backend)).start();
    let addresses = Addresses {
        watched,
        storm,
        backend,
        admin: evergate.admin(),
    };
    println!(
        "{:>16} {:>16} {:>16} {:>16}   p99 in us",
        "alone", "disturbed", "direct alone", "direct disturbed"
    );
    let mut pairs = Vec::new();
    for round in 0..=rounds {
        let alone = watch(addresses, lasts);
        let stop = AtomicBool::new(false);
        let (disturbed, what) = thread::scope(|scope| {
            let disturbance = scope.spawn(|| disturb(addresses, &stop));
            let disturbed = watch(addresses, lasts);
            stop.store(true, Ordering::Relaxed);
            (disturbed, disturbance.join().unwrap())
        });
        // The first pair warms caches and tables.
        if round > 0 {
            println!(
                "{:>16.0} {:>16.0} {:>16.0} {:>16.0}   {what}",
                alone.proxied, disturbed.proxied, alone.direct, disturbed.direct
            );
            pairs.push((alone, disturbed));
        }
    }
    let ratio = |side: fn(&P99) -> f64| {
        median(
            pairs
                .iter()
                .map(|(alone, with)| side(with) / side(alone))
                .collect(),
        )
    };
    println!(
        "median ratio of p99: proxied {:.2}, direct {:.2}",
        ratio(|p99| p99.proxied),
        ratio(|p99| p99.direct)
    );
}

fn file(
    watched: SocketAddr,
    backend: SocketAddr,
    storm: SocketAddr,
    storm_backend: SocketAddr,
) -> String {
    let more: String = (0..CLUSTERS)
        .map(|n| format!("  more{n}: {{backends: [\"{backend}\", \"{storm_backend}\"]}}\n"))
        .collect();
    format!(
        "workers: 1\nlog: {{level: warn}}\nclusters:\n  watched: {{backends: [\"{backend}\"]}}\n  \
         storm: {{backends: [\"{storm_backend}\"]}}\n{more}listeners:\n  \
         watched: {{bind: \"{watched}\", cluster: watched}}\n  \
         storm: {{bind: \"{storm}\", cluster: storm}}\n"
    )
}

fn nice_echo_backend() -> SocketAddr {
    // A thread inherits the niceness of the one that makes it.
    thread::spawn(|| {
        setpriority_process(None, STORM_NICENESS).unwrap();
        echo_backend()
    })
    .join()
    .unwrap()
}

/// Round trips on open sessions for this long.
fn watch(addresses: Addresses, lasts: Duration) -> P99 {
    runtime().block_on(async {
        let open = |address| (0..SESSIONS).map(move |_| tokio::spawn(round_trips(address, lasts)));
        let proxied: Vec<_> = open(addresses.watched).collect();
        let direct: Vec<_> = open(addresses.backend).collect();
        P99 {
            proxied: p99(proxied).await,
            direct: p99(direct).await,
        }
    })
}

async fn p99(sessions: Vec<tokio::task::JoinHandle<Vec<f64>>>) -> f64 {
    let mut all = Vec::new();
    for session in sessions {
        all.extend(session.await.unwrap());
    }
    all.sort_by(f64::total_cmp);
    all[all.len() * 99 / 100]
}

/// Microseconds of each round trip; a pause between them, so that sessions do not queue for each other.
async fn round_trips(address: SocketAddr, lasts: Duration) -> Vec<f64> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut message = [1; MESSAGE_BYTES];
    let mut taken = Vec::new();
    let end = Instant::now() + lasts;
    tokio::time::sleep(PAUSE.mul_f64(fastrand::f64())).await;
    while Instant::now() < end {
        let asked = Instant::now();
        stream.write_all(&message).await.unwrap();
        stream.read_exact(&mut message).await.unwrap();
        taken.push(asked.elapsed().as_secs_f64() * 1e6);
        tokio::time::sleep(PAUSE).await;
    }
    taken
}

/// Opens connections at a steady pace, each for one message; returns how many a second it made.
fn storm(address: SocketAddr, stop: &AtomicBool) -> f64 {
    setpriority_process(None, STORM_NICENESS).unwrap();
    let started = Instant::now();
    let done = Arc::new(AtomicU64::new(0));
    runtime().block_on(async {
        let mut beats = tokio::time::interval(Duration::from_millis(1));
        beats.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut begun = 0;
        while !stop.load(Ordering::Relaxed) {
            beats.tick().await;
            for _ in 0..STORM_PER_SECOND / 1_000 {
                if begun - done.load(Ordering::Relaxed) < MAX_UNDER_WAY {
                    begun += 1;
                    tokio::spawn(one_message(address, Arc::clone(&done)));
                }
            }
        }
    });
    done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

async fn one_message(address: SocketAddr, done: Arc<AtomicU64>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut message = [1; MESSAGE_BYTES];
    stream.write_all(&message).await.unwrap();
    stream.read_exact(&mut message).await.unwrap();
    done.fetch_add(1, Ordering::Relaxed);
}

/// Returns the scrapes a second and the size of the last answer.
fn scrape(admin: SocketAddr, stop: &AtomicBool) -> (f64, usize) {
    setpriority_process(None, STORM_NICENESS).unwrap();
    let started = Instant::now();
    let (mut done, mut bytes) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        bytes = http::get(admin, "/metrics").unwrap().body.len();
        done += 1;
        let next = started + Duration::from_secs(1) * done / SCRAPES_PER_SECOND;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    (f64::from(done) / started.elapsed().as_secs_f64(), bytes)
}
