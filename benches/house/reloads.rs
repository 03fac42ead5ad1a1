//! Memory and sessions over thousands of reloads (fault C5).
//!
//! `BENCH_RELOADS` (default 10,000).

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::on_its_core;
use crate::shared::echo_backend;
use crate::shared::number_from_env;
use crate::support::PATIENCE;
use crate::support::evergate::Evergate;
use crate::support::http;
use crate::support::ports::free_addr;
use crate::support::stream::Pattern;
use crate::support::talk::connect;
use crate::support::talk::echoes;
use crate::support::talk::file;

const STREAMS: u64 = 50;
const PARTS: u64 = 5;

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    bytes: AtomicU64,
    broken: AtomicU64,
}

pub fn run() {
    let reloads = number_from_env("BENCH_RELOADS", 10_000);
    let backends = [echo_backend(), echo_backend()];
    let listens = free_addr();
    let evergate = on_its_core(&turn(0, listens, &backends, free_addr())).start();
    let seen = Seen::default();
    thread::scope(|scope| {
        for seed in 0..STREAMS {
            let seen = &seen;
            scope.spawn(move || {
                if let Err(error) = stream(seed, listens, seen) {
                    println!("stream {seed}: {error}");
                    seen.broken.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let result = reload_all(&evergate, reloads, |number| {
            turn(number, listens, &backends, evergate.admin())
        });
        // First, or the streams would never end.
        seen.stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    println!(
        "broken sessions: {} of {STREAMS}, {} MB echoed and compared",
        seen.broken.into_inner(),
        seen.bytes.into_inner() / 1_000_000
    );
}

/// Asks for every reload and prints memory along the way.
fn reload_all(evergate: &Evergate, reloads: u64, text: impl Fn(u64) -> String) -> io::Result<()> {
    let socket = evergate.dir().join("admin.sock");
    let mut memory = vec![evergate.rss_bytes()];
    let started = Instant::now();
    for number in 1..=reloads {
        evergate.write_file(&text(number));
        reload(&socket)?;
        if number.is_multiple_of((reloads / PARTS).max(1)) {
            memory.push(evergate.rss_bytes());
        }
    }
    let kib: Vec<u64> = memory.iter().map(|bytes| bytes / 1024).collect();
    println!(
        "{reloads} reloads, {:.0} a second; {} tables published",
        reloads as f64 / started.elapsed().as_secs_f64(),
        evergate
            .metric("evergate_routing_table_generation", &[])
            .unwrap()
    );
    println!("RSS, KiB, before and after each fifth: {kib:?}");
    Ok(())
}

/// Weights change each time, a second backend comes and goes.
fn turn(number: u64, listens: SocketAddr, backends: &[SocketAddr; 2], admin: SocketAddr) -> String {
    let weight = format!("weight: {}", 50 + number % 100);
    let shown = 1 + usize::from(number % 20 < 10);
    let with_keys: Vec<_> = backends[..shown]
        .iter()
        .map(|address| (*address, weight.as_str()))
        .collect();
    // What a removed backend still serves is not what breaks here.
    file(listens, &with_keys, &[])
        + &format!(
            "drain_timeout: 1h\nworkers: 1\nlog: {{level: error}}\n\
             admin: {{bind: \"{admin}\", socket: admin.sock}}\n"
        )
}

/// Over the Unix socket, which needs no token; the answer comes when the file is in force.
fn reload(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let answer = http::exchange(&mut stream, "localhost", "POST", "/api/v1/reload", &[], b"")?;
    match answer.status {
        200 => Ok(()),
        _ => Err(io::Error::other(answer.text())),
    }
}

fn stream(seed: u64, listens: SocketAddr, seen: &Seen) -> io::Result<()> {
    let mut session = connect(listens);
    let mut pattern = Pattern::seeded(seed);
    while !seen.stop.load(Ordering::Relaxed) {
        let piece = pattern.next_bytes(2048);
        echoes(&mut session, &piece)?;
        seen.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
