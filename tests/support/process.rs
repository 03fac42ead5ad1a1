//! A program that a test started: its output is kept and shown on failure, and it never outlives
//! the test.

use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Output;
use std::process::Stdio;
use std::sync::LazyLock;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use rustix::process::kill_process_group;

use super::wait_for;

/// Between two looks at a process's memory: a look takes some microseconds.
const MEMORY_EVERY: Duration = Duration::from_millis(1);
/// A killed process that is not gone after this hangs in the kernel.
const END_OF_DESCENDANTS: Duration = Duration::from_secs(5);

pub struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `words` with its output in `dir`, in a process group of its own.
    pub fn start(words: &[String], envs: &[(String, String)], dir: &Path) -> Self {
        let name = Path::new(&words[0]);
        let name = name.file_name().unwrap().to_string_lossy().into_owned();
        let (stdout, stderr) = free_names(dir, &name);
        // The kernel ends it when the test binary is killed and nothing is dropped.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .args(words)
            .envs(envs.iter().cloned())
            .current_dir(dir)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap());
        let child = spawn(command).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        Self {
            child,
            stdout,
            stderr,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.as_pid(), signal).unwrap();
    }

    /// Everything it forked into its group, too.
    pub fn signal_group(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill_process_group(self.as_pid(), signal);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end; panics after `deadline`.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        wait_for(deadline, "the program's end", || {
            self.child.try_wait().unwrap()
        })
    }

    /// The process and all its descendants, parents first.
    pub fn tree(&self) -> Vec<u32> {
        tree_of(self.pid())
    }

    /// Signals the process first, then its descendants.
    pub fn signal_tree(&self, signal: Signal) {
        for pid in self.tree() {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                // A child may have ended meanwhile.
                let _ = kill_process(pid, signal);
            }
        }
    }

    /// Resident memory of its own: which pages of the binary are mapped says nothing.
    pub fn rss_bytes(&self) -> u64 {
        let status = self.proc_file("status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = line.expect("RssAnon in /proc/PID/status");
        let kilobytes = kilobytes.trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    /// The most that [`Self::rss_bytes`] tells while `work` is done and right after it.
    pub fn peak_rss_bytes<T>(&self, work: impl FnOnce() -> T) -> (T, u64) {
        let (working, done) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let watching = scope.spawn(move || {
                let mut peak = 0;
                loop {
                    let waited = done.recv_timeout(MEMORY_EVERY);
                    peak = peak.max(self.rss_bytes());
                    if waited != Err(mpsc::RecvTimeoutError::Timeout) {
                        return peak;
                    }
                }
            });
            let worked = work();
            drop(working);
            (worked, watching.join().unwrap())
        })
    }

    /// User and system time since its start, in steps of 10 ms.
    pub fn cpu_time(&self) -> Duration {
        let stat = self.proc_file("stat");
        // The second field is the name in parentheses and may hold spaces.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
        let ticks: u64 = fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    pub fn open_files(&self) -> usize {
        let dir = format!("/proc/{}/fd", self.pid());
        fs::read_dir(dir).unwrap().count()
    }

    pub fn threads(&self) -> usize {
        let dir = format!("/proc/{}/task", self.pid());
        fs::read_dir(dir).unwrap().count()
    }

    fn proc_file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid())).unwrap()
    }

    fn as_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let tree = self.tree();
        self.signal_tree(Signal::KILL);
        self.signal_group(Signal::KILL);
        let status = self.child.wait();
        // Descendants let go of ports and memory a moment later; who restarts it needs both.
        let started = Instant::now();
        while tree.iter().any(|pid| is_alive(*pid)) && started.elapsed() < END_OF_DESCENDANTS {
            thread::sleep(Duration::from_millis(1));
        }
        if thread::panicking() {
            let ended = status.map(|status| (status.code(), status.signal()));
            eprintln!("--- {}: {ended:?}", self.stdout.display());
            eprintln!("{}{}", tail(&self.stdout()), tail(&self.stderr()));
        }
    }
}

/// Runs a short program to its end, at most a minute; panics unless it succeeds.
#[track_caller]
pub fn run(words: &[&str]) -> String {
    let output = output_of(words, &[]);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}\n{stdout}{stderr}");
    stdout
}

/// Runs a short program to its end, at most a minute, and lets the caller judge it.
pub fn output_of(words: &[&str], envs: &[(&str, String)]) -> Output {
    Command::new("timeout")
        .args(["--kill-after=5", "60"])
        .args(words)
        .envs(envs.iter().cloned())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// The full path of a server's program; panics with the way to install it.
pub fn installed(program: &str, package: &str) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    // The newest PostgreSQL last; any supported version does.
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.map(|version| version.unwrap().path().join("bin")));
    }
    let found = places.iter().map(|place| place.join(program));
    match found.into_iter().find(|candidate| candidate.is_file()) {
        Some(found) => found.to_str().unwrap().to_owned(),
        None => panic!("{program} is missing: install {package}, or run `make test`"),
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

/// `setpriv --pdeathsig` means the *thread* that forked, and a test's thread ends before a server
/// that several tests share. So one thread that never ends forks for all.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // The one who asked may be gone; nobody else wants the answer.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, result) = mpsc::channel();
    let orders = SPAWNER.lock().unwrap().clone();
    orders.send((command, answer)).unwrap();
    result.recv().unwrap()
}

/// A process and all its descendants, parents first.
pub fn tree_of(pid: u32) -> Vec<u32> {
    let mut tree = vec![pid];
    let mut next = 0;
    while next < tree.len() {
        tree.extend(children_of(tree[next]));
        next += 1;
    }
    tree
}

fn children_of(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .map(|child| child.parse().unwrap())
        .collect()
}

/// Zombies hold nothing any more.
pub fn is_alive(pid: u32) -> bool {
    let state = state_in(&PathBuf::from(format!("/proc/{pid}/stat")));
    !matches!(state, None | Some('Z' | 'X'))
}

/// SIGSTOP is heard by one thread, and the others go on until that one tells them.
pub fn is_stopped_or_gone(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        matches!(
            state_in(&thread.path().join("stat")),
            None | Some('T' | 'Z' | 'X')
        )
    })
}

fn state_in(stat: &Path) -> Option<char> {
    let stat = fs::read_to_string(stat).ok()?;
    // The name in parentheses may hold spaces; the state follows it.
    stat.rsplit(") ").next()?.chars().next()
}

/// A program that is started again must not overwrite what it said before.
fn free_names(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (1..)
        .map(|run| {
            (
                dir.join(format!("{name}.{run}.out")),
                dir.join(format!("{name}.{run}.err")),
            )
        })
        .find(|(stdout, _)| !stdout.exists())
        .unwrap()
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The end of a long output is where the reason is.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(60)..];
    shown.iter().map(|line| format!("{line}\n")).collect()
}
