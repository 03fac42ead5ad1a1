//! The metrics that every Prometheus client publishes of its own process, from /proc.

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use rustix::process::Resource;

/// Seconds since the epoch. Read once: /proc/stat takes long on large machines.
static BOOT_EPOCH: LazyLock<u64> =
    LazyLock::new(|| boot_epoch(&fs::read_to_string("/proc/stat").unwrap_or_default()));

/// One value of the process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessSample {
    pub name: &'static str,
    pub kind: &'static str,
    pub help: &'static str,
    pub value: f64,
}

/// What /proc says; what could not be read is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    cpu: Duration,
    threads: u64,
    virtual_bytes: u64,
    resident_bytes: u64,
    /// Seconds since the epoch.
    start_epoch: f64,
    open_fds: u64,
    max_fds: u64,
    max_virtual_bytes: u64,
}

/// What the kernel counts in.
#[derive(Debug, Clone, Copy)]
struct Units {
    ticks_per_second: u64,
    page_bytes: u64,
}

impl Process {
    pub fn read() -> Self {
        let limit = |resource| rustix::process::getrlimit(resource).current.unwrap_or(0);
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let units = Units {
            ticks_per_second: rustix::param::clock_ticks_per_second(),
            page_bytes: rustix::param::page_size() as u64,
        };
        let mut process = Self::parse(&stat, units, *BOOT_EPOCH).unwrap_or_default();
        process.open_fds = open_fds();
        process.max_fds = limit(Resource::Nofile);
        process.max_virtual_bytes = limit(Resource::As);
        process
    }

    /// Reads the fields of /proc/PID/stat (proc_pid_stat(5)).
    fn parse(stat: &str, units: Units, boot_epoch: u64) -> Option<Self> {
        // The name, in parentheses, may have spaces and parentheses.
        let (_, fields) = stat.rsplit_once(") ")?;
        // From the third on.
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let seconds = |ticks: u64| ticks as f64 / units.ticks_per_second as f64;
        let start_ticks = field(22)?;
        Some(Self {
            cpu: Duration::from_secs_f64(seconds(field(14)? + field(15)?)),
            threads: field(20)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * units.page_bytes,
            start_epoch: boot_epoch as f64 + seconds(start_ticks),
            ..Self::default()
        })
    }

    /// Under the names, kinds and texts of all Prometheus clients.
    #[rustfmt::skip]
    pub fn samples(&self) -> [ProcessSample; 8] {
        let sample = |name, kind, help, value| ProcessSample { name, kind, help, value };
        [
            sample("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", self.cpu.as_secs_f64()),
            sample("process_max_fds", "gauge", "Maximum number of open file descriptors.", self.max_fds as f64),
            sample("process_open_fds", "gauge", "Number of open file descriptors.", self.open_fds as f64),
            sample("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", self.resident_bytes as f64),
            sample("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", self.start_epoch),
            sample("process_threads", "gauge", "Number of OS threads in the process.", self.threads as f64),
            sample("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", self.virtual_bytes as f64),
            sample("process_virtual_memory_max_bytes", "gauge", "Maximum amount of virtual memory available in bytes.", self.max_virtual_bytes as f64),
        ]
    }
}

/// The line `btime` of /proc/stat, in seconds since the epoch.
fn boot_epoch(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok())
        .unwrap_or(0)
}

/// Since Linux 6.2 the directory's size tells; before, each has to be counted.
fn open_fds() -> u64 {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER).map(|folder| folder.len()) {
        Ok(0) | Err(_) => fs::read_dir(FOLDER).map_or(0, |entries| entries.count() as u64),
        Ok(open) => open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNITS: Units = Units {
        ticks_per_second: 100,
        page_bytes: 4096,
    };

    #[test]
    fn the_kernels_line_is_understood_whatever_the_program_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 75 0 0 20 0 9 0 4200 \
                    1048576 25 18446744073709551615 1 1 0";
        let process = Process::parse(stat, UNITS, 1_000_000).unwrap();
        let expected = Process {
            cpu: Duration::from_millis(2250),
            threads: 9,
            virtual_bytes: 1_048_576,
            resident_bytes: 25 * 4096,
            start_epoch: 1_000_042.0,
            ..Process::default()
        };
        assert_eq!(process, expected);
        assert_eq!(Process::parse("7 (a", UNITS, 0), None);
        assert_eq!(Process::parse("7 (a) S 1 2", UNITS, 0), None);
        assert_eq!(
            boot_epoch("cpu 1 2\nbtime 1795256511\nx 1\n"),
            1_795_256_511
        );
    }

    #[test]
    fn this_process_is_seen() {
        let before = Process::read();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/proc/self/stat")).collect();
        let after = Process::read();
        // Other tests open and close some, too.
        assert!(after.open_fds >= before.open_fds.saturating_sub(20) + 50 - 20);
        assert!(after.max_fds >= after.open_fds);
        assert!(after.threads >= 1 && after.resident_bytes > 0);
        assert!(after.start_epoch > 1.7e9, "{}", after.start_epoch);
        drop(files);
    }
}
