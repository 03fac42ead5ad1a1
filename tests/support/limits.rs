//! Less of everything: open files, memory, processor time, threads.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;

use super::ports::reserve;
use super::process::words;

/// What a group of processes may use.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    MemoryBytes(u64),
    /// Of one core.
    CpuPercent(u32),
    Threads(u32),
}

/// A control group of its own, version 1 or 2, whichever the machine has.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    root: PathBuf,
}

impl Cgroup {
    #[track_caller]
    pub fn new(limit: Limit) -> Self {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let controller = limit.controller();
        let root = if unified {
            let root = PathBuf::from("/sys/fs/cgroup");
            write(
                &root.join("cgroup.subtree_control"),
                &format!("+{controller}"),
            );
            root
        } else {
            PathBuf::from("/sys/fs/cgroup").join(controller)
        };
        let dir = root.join(format!("evergate-test-{}", reserve("cgroup", 0..10_000)));
        if !dir.exists() {
            let made = fs::create_dir(&dir);
            made.unwrap_or_else(|error| panic!("{}: {error} (root?)", dir.display()));
        }
        for (name, value) in limit.settings(unified) {
            write(&dir.join(name), &value);
        }
        Self { dir, root }
    }

    /// Takes in a running process with all its threads.
    #[track_caller]
    pub fn add(&self, pid: u32) {
        write(&self.dir.join("cgroup.procs"), &pid.to_string());
    }

    /// What to put before a command that is to start inside: nothing of it escapes the limit.
    pub fn wrapper(&self) -> Vec<String> {
        let procs = self.dir.join("cgroup.procs");
        let script = format!("echo $$ > '{}' && exec \"$@\"", procs.display());
        words(&["sh", "-c", &script, "sh"])
    }

    /// Replaces the limit, e.g. `pids.max` by another number.
    #[track_caller]
    pub fn set(&self, name: &str, value: &str) {
        write(&self.dir.join(name), value);
    }

    /// A file of the group, e.g. `memory.failcnt`.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let procs = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines() {
            // It may end while we look.
            let _ = fs::write(self.root.join("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.dir);
    }
}

impl Limit {
    fn controller(self) -> &'static str {
        match self {
            Self::MemoryBytes(_) => "memory",
            Self::CpuPercent(_) => "cpu",
            Self::Threads(_) => "pids",
        }
    }

    fn settings(self, unified: bool) -> Vec<(&'static str, String)> {
        match (self, unified) {
            (Self::MemoryBytes(bytes), false) => vec![("memory.limit_in_bytes", bytes.to_string())],
            (Self::MemoryBytes(bytes), true) => vec![("memory.max", bytes.to_string())],
            (Self::CpuPercent(percent), false) => vec![
                ("cpu.cfs_period_us", "100000".to_owned()),
                ("cpu.cfs_quota_us", (percent * 1000).to_string()),
            ],
            (Self::CpuPercent(percent), true) => {
                vec![("cpu.max", format!("{} 100000", percent * 1000))]
            }
            (Self::Threads(number), _) => vec![("pids.max", number.to_string())],
        }
    }
}

/// Lets this test process open as many files as the machine allows; returns how many.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    limit.maximum.unwrap_or(u64::MAX)
}

#[track_caller]
fn write(path: &Path, value: &str) {
    fs::write(path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
