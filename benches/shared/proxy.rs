//! A proxy under comparison: one worker on the first core, and what it has cost so far.

use std::fs;
use std::net::SocketAddr;

use tempfile::TempDir;

use super::PROXY_CORE;
use super::cpu_nanoseconds;
use crate::support::PATIENCE;
use crate::support::process::Process;
use crate::support::process::words;
use crate::support::wait_until;

/// What a case counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Microseconds of CPU.
    CpuMicroseconds,
    /// Milliseconds of CPU.
    CpuMilliseconds,
    /// Resident memory in KiB.
    MemoryKib,
}

pub struct Running {
    process: Process,
    address: SocketAddr,
    _dir: TempDir,
}

impl Running {
    /// Starts a proxy that listens there, with its files in `dir`, and waits until it accepts.
    pub fn start(command: Vec<String>, address: SocketAddr, dir: TempDir) -> Self {
        let mut pinned = words(&["taskset", "-c", PROXY_CORE]);
        pinned.extend(command);
        let process = Process::start(&pinned, &[], dir.path());
        wait_until(PATIENCE, "the proxy accepts", || {
            std::net::TcpStream::connect(address).is_ok()
        });
        Self {
            process,
            address,
            _dir: dir,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Spent since the start, over the whole process tree.
    pub fn cost(&self, cost: Cost) -> f64 {
        let tree = self.process.tree();
        let nanoseconds = || tree.iter().map(|pid| cpu_nanoseconds(*pid)).sum::<u64>() as f64;
        match cost {
            Cost::CpuMicroseconds => nanoseconds() / 1e3,
            Cost::CpuMilliseconds => nanoseconds() / 1e6,
            Cost::MemoryKib => tree.iter().map(|pid| resident_kib(*pid)).sum::<u64>() as f64,
        }
    }
}

/// The binary that cargo has built, or another one to look at: `BENCH_EVERGATE`.
pub fn evergate_binary() -> String {
    let built = env!("CARGO_BIN_EXE_evergate");
    std::env::var("BENCH_EVERGATE").unwrap_or_else(|_| built.to_owned())
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
