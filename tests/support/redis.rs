//! A real Redis of a test's own.

use std::net::SocketAddr;
use std::process::Output;

use rustix::process::Signal;
use tempfile::TempDir;

use super::PATIENCE;
use super::netns::Place;
use super::ports::free_port;
use super::process::Process;
use super::process::installed;
use super::process::output_of;
use super::process::words;
use super::wait_until;

pub struct Redis {
    addr: SocketAddr,
    prefix: Vec<String>,
    process: Option<Process>,
    dir: TempDir,
}

impl Redis {
    #[track_caller]
    pub fn start() -> Self {
        Self::start_in(&Place::host())
    }

    #[track_caller]
    pub fn start_in(place: &Place) -> Self {
        let mut redis = Self {
            addr: SocketAddr::new(place.ip, free_port()),
            prefix: place.prefix.clone(),
            process: None,
            dir: tempfile::Builder::new()
                .prefix("evergate-redis-")
                .tempdir()
                .unwrap(),
        };
        redis.start_again();
        redis
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("Redis is down")
    }

    /// Starts, empty, on the same port and waits until it answers.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "Redis already runs");
        let mut command = self.prefix.clone();
        command.push(installed("redis-server", "redis-server"));
        let (ip, port) = (self.addr.ip().to_string(), self.addr.port().to_string());
        command.extend(words(&["--bind", &ip, "--port", &port, "--save", ""]));
        command.extend(words(&["--appendonly", "no", "--protected-mode", "no"]));
        let mut process = Process::start(&command, &[], self.dir.path());
        wait_until(PATIENCE, "Redis answers", || {
            assert!(process.is_running(), "Redis did not start");
            redis_cli(self.addr, &["PING"]).stdout.starts_with(b"PONG")
        });
        self.process = Some(process);
    }

    pub fn kill9(&mut self) {
        self.process = None;
    }

    #[track_caller]
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("Redis is down");
        process.signal(Signal::TERM);
        process.wait(PATIENCE);
    }

    pub fn freeze(&self) {
        self.process().signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.process().signal(Signal::CONT);
    }
}

pub fn redis_cli(addr: SocketAddr, arguments: &[&str]) -> Output {
    let cli = installed("redis-cli", "redis-tools");
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let place = [cli.as_str(), "-h", &ip, "-p", &port];
    output_of(&[&place, arguments].concat(), &[])
}

/// What a run of redis-benchmark reports.
#[derive(Debug, Clone)]
pub struct RedisBenchmark {
    /// It ends with another exit code when a connection fails.
    pub complete: bool,
    pub requests_per_second: f64,
    pub output: String,
}

/// Runs it to its end with one kind of request, e.g. `["-t", "get", "-c", "20", "-n", "20000"]`.
pub fn redis_benchmark(addr: SocketAddr, arguments: &[&str]) -> RedisBenchmark {
    let benchmark = installed("redis-benchmark", "redis-tools");
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let place = [benchmark.as_str(), "-h", &ip, "-p", &port, "--csv"];
    let output = output_of(&[&place, arguments].concat(), &[]);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // "test","rps","avg_latency_ms",... then one line per test.
    let result = text
        .lines()
        .find(|line| line.starts_with("\"GET\"") || line.starts_with("\"SET\""));
    let rate = result.and_then(|line| line.split(',').nth(1));
    RedisBenchmark {
        complete: output.status.success(),
        requests_per_second: rate
            .and_then(|rate| rate.trim_matches('"').parse().ok())
            .unwrap_or(0.0),
        output: text,
    }
}
