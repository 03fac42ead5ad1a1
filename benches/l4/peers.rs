//! The proxies under comparison, each with one worker on the first core.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use crate::shared::PROXY_CORE;
use crate::shared::cpu_nanoseconds;
use crate::support::ports::free_addr;
use crate::support::process::Process;
use crate::support::process::installed;
use crate::support::process::words;
use crate::support::wait_until;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Evergate,
    Haproxy,
    Nginx,
}

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

impl Peer {
    pub const ALL: [Self; 3] = [Self::Evergate, Self::Haproxy, Self::Nginx];

    pub fn start(self, backend: SocketAddr, splice: bool) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let address = free_addr();
        let mut command = words(&["taskset", "-c", PROXY_CORE]);
        command.extend(match self {
            Self::Evergate => evergate(dir.path(), address, backend),
            Self::Haproxy => haproxy(dir.path(), address, backend, splice),
            Self::Nginx => nginx(dir.path(), address, backend),
        });
        let process = Process::start(&command, &[], dir.path());
        wait_until(crate::support::PATIENCE, "the proxy accepts", || {
            std::net::TcpStream::connect(address).is_ok()
        });
        Running {
            process,
            address,
            _dir: dir,
        }
    }
}

impl Running {
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

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn evergate(dir: &Path, address: SocketAddr, backend: SocketAddr) -> Vec<String> {
    let admin = free_addr();
    let text = format!(
        "version: 1\nworkers: 1\nadmin: {{bind: \"{admin}\"}}\n\
         clusters:\n  c:\n    backends: [\"{backend}\"]\n\
         listeners:\n  l: {{bind: \"{address}\", cluster: c}}\n"
    );
    let file = dir.join("evergate.yaml");
    fs::write(&file, text).unwrap();
    let binary = env!("CARGO_BIN_EXE_evergate");
    words(&[binary, "run", "-c", file.to_str().unwrap()])
}

fn haproxy(dir: &Path, address: SocketAddr, backend: SocketAddr, splice: bool) -> Vec<String> {
    let option = if splice {
        "    option splice-response\n"
    } else {
        ""
    };
    let text = format!(
        "global\n    nbthread 1\n    maxconn 6000\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\
         {option}\
         frontend f\n    bind {address}\n    default_backend b\n\
         backend b\n    balance leastconn\n    server s {backend} check inter 1s\n"
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, text).unwrap();
    let binary = installed("haproxy", "haproxy");
    words(&[&binary, "-db", "-f", file.to_str().unwrap()])
}

fn nginx(dir: &Path, address: SocketAddr, backend: SocketAddr) -> Vec<String> {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let load = if Path::new(module).exists() {
        format!("load_module {module};\n")
    } else {
        String::new()
    };
    let text = format!(
        "{load}daemon off;\nworker_processes 1;\nworker_rlimit_nofile 20000;\n\
         pid {path}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 9900; }}\n\
         stream {{\n  upstream u {{ least_conn; server {backend}; }}\n\
         server {{ listen {address}; proxy_pass u; proxy_timeout 1h; tcp_nodelay on; }}\n}}\n",
        path = dir.display()
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, text).unwrap();
    let binary = installed("nginx", "nginx-light");
    words(&[&binary, "-c", file.to_str().unwrap(), "-e", "stderr"])
}
