//! What several benches measure with.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub mod proxy;

use std::fs;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use crate::support::process::run;

/// Proxies run on the first core …
pub const PROXY_CORE: &str = "0";
/// … clients and backends share the second.
const LOAD_CORE: &str = "1";

pub fn pin_this_process() {
    let pid = std::process::id().to_string();
    run(&["taskset", "-a", "-p", "-c", LOAD_CORE, &pid]);
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Answers every message with its own bytes, for ever.
pub fn echo_backend() -> SocketAddr {
    echo_backend_at(([127, 0, 0, 1], 0).into())
}

pub fn echo_backend_at(address: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(echo(stream));
            }
        });
    });
    address
}

async fn echo(mut stream: tokio::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// From the scheduler: exact, unlike the ticks of /proc/PID/stat.
pub fn cpu_nanoseconds(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let of_task = |path: &Path| -> Option<u64> {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    tasks
        .flatten()
        .filter_map(|task| of_task(&task.path()))
        .sum()
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

pub fn mean(figures: Vec<f64>) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

/// A number from the environment, e.g. `BENCH_ROUNDS`.
pub fn number_from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}
