//! The real binary, with its file, its log and its admin API.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::process::Output;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::PATIENCE;
use super::http;
use super::http::Response;
use super::ports::free_addr;
use super::process::Process;
use super::process::output_of;
use super::process::words;
use super::wait_until;

pub const BINARY: &str = env!("CARGO_BIN_EXE_evergate");

/// Parts of the names of counters that tell of no failure.
const UNTROUBLED: [&str; 4] = ["_bytes_", "_cpu_", "_reused_", "_opened_"];

/// What the start waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// `/readyz`: somebody can be served. And every backend has been asked how it is: who is
    /// asked last would otherwise miss the first sessions.
    Ready,
    /// `/healthz`: the process serves, its backends may be down.
    Alive,
    /// Nothing: the test looks itself.
    Started,
}

/// A running Evergate; derefs to its `Process` for signals, memory and so on.
pub struct Evergate {
    process: Process,
    admin: SocketAddr,
    dir: TempDir,
}

/// How to start; `Evergate::with(yaml)` begins one.
pub struct Launch {
    yaml: String,
    until: Until,
    wrapper: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    dir: TempDir,
}

impl Evergate {
    /// Starts with this file and waits until ready.
    ///
    /// `admin` and `log` are added when the text has no such key.
    #[track_caller]
    pub fn start(yaml: &str) -> Self {
        Self::with(yaml).start()
    }

    pub fn with(yaml: &str) -> Launch {
        Launch {
            yaml: yaml.to_owned(),
            until: Until::Ready,
            wrapper: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            dir: tempfile::Builder::new()
                .prefix("evergate-test-")
                .tempdir()
                .unwrap(),
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(&self) -> PathBuf {
        self.dir().join("evergate.yaml")
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        http::get(self.admin, path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    #[track_caller]
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        http::request(self.admin, "POST", path, headers, body)
            .unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// The sum of all series of this name that carry all of these labels; `None` if there is none.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        sum_of(&self.get("/metrics").text(), name, labels)
    }

    #[track_caller]
    pub fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        wait_until(PATIENCE, &format!("{name}{labels:?} = {value}"), || {
            self.metric(name, labels) == Some(value)
        });
    }

    /// Writes a new file beside the old one and renames it over, as a careful operator does.
    pub fn write_file(&self, yaml: &str) {
        let beside = self.dir().join(".evergate.yaml.new");
        fs::write(&beside, with_defaults(yaml, self.admin)).unwrap();
        fs::rename(&beside, self.file()).unwrap();
    }

    /// Overwrites in place with a flush in the middle, as a careless editor does.
    pub fn write_file_in_two_steps(&self, yaml: &str, between: impl FnOnce()) {
        let text = with_defaults(yaml, self.admin);
        let (first, second) = text.as_bytes().split_at(text.len() / 2);
        let mut file = fs::File::create(self.file()).unwrap();
        file.write_all(first).unwrap();
        file.sync_all().unwrap();
        between();
        file.write_all(second).unwrap();
    }

    /// Replaces the file, sends SIGHUP and waits until the new generation is published.
    #[track_caller]
    pub fn reload(&self, yaml: &str) {
        let reloads = || {
            let labels = [("result", "accepted")];
            self.metric("evergate_config_reloads_total", &labels)
        };
        let before = reloads().unwrap_or(0.0);
        self.write_file(yaml);
        self.signal(Signal::HUP);
        wait_until(PATIENCE, "the reload", || reloads().unwrap_or(0.0) > before);
    }

    /// Each line of the log that is JSON; what is not is a bug that `log_lines` shows.
    pub fn logs(&self) -> Vec<Value> {
        let text = self.stderr();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    pub fn log_lines(&self) -> Vec<String> {
        self.stderr().lines().map(str::to_owned).collect()
    }

    #[track_caller]
    pub fn wait_for_log(&self, part: &str) {
        wait_until(PATIENCE, &format!("{part:?} in the log"), || {
            self.stderr().contains(part)
        });
    }

    /// SIGTERM, and its end within `deadline`.
    #[track_caller]
    pub fn stop(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.process.wait(deadline)
    }

    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        self.process.wait(deadline)
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}

impl Deref for Evergate {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Drop for Evergate {
    /// Who looks into a failure wants to know what was counted, too; the log follows.
    fn drop(&mut self) {
        if thread::panicking()
            && let Ok(page) = http::get(self.admin, "/metrics")
        {
            eprintln!("--- what has failed or ended at {}:", self.admin);
            eprintln!("{}", troubles(&page.text()));
        }
    }
}

impl Launch {
    pub fn until(mut self, until: Until) -> Self {
        self.until = until;
        self
    }

    /// Runs inside another program that execs it: `prlimit --nofile=64:64`, `faketime -f +2d`.
    pub fn inside(mut self, wrapper: &[&str]) -> Self {
        self.wrapper.extend(words(wrapper));
        self
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where the file will be; certificates and includes can be put beside it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    #[track_caller]
    pub fn start(self) -> Evergate {
        let admin = admin_of(&self.yaml).unwrap_or_else(free_addr);
        let file = self.dir.path().join("evergate.yaml");
        fs::write(&file, with_defaults(&self.yaml, admin)).unwrap();
        let mut command = self.wrapper;
        command.extend(words(&[BINARY, "run", "-c", file.to_str().unwrap()]));
        command.extend(self.arguments);
        let mut evergate = Evergate {
            process: Process::start(&command, &self.environment, self.dir.path()),
            admin,
            dir: self.dir,
        };
        let path = match self.until {
            Until::Ready => "/readyz",
            Until::Alive => "/healthz",
            Until::Started => return evergate,
        };
        wait_until(PATIENCE, path, || {
            assert!(evergate.is_running(), "it ended during its start");
            http::get(admin, path).is_ok_and(|answer| answer.status == 200)
        });
        if self.until == Until::Ready {
            wait_until(PATIENCE, "every backend has been asked", || {
                http::get(admin, "/api/v1/clusters").is_ok_and(|answer| has_asked_all(&answer))
            });
        }
        evergate
    }
}

/// Runs a subcommand to its end.
pub fn evergate(arguments: &[&str]) -> Output {
    output_of(&[&[BINARY], arguments].concat(), &[])
}

/// What is missing for a test to watch it: an admin address and a log that can be parsed.
fn with_defaults(yaml: &str, admin: SocketAddr) -> String {
    let mut text = yaml.trim_end().to_owned() + "\n";
    if !has_key(yaml, "version") {
        text.insert_str(0, "version: 1\n");
    }
    if !has_key(yaml, "admin") {
        text += &format!("admin: {{bind: \"{admin}\"}}\n");
    }
    if !has_key(yaml, "log") {
        text += "log: {format: json}\n";
    }
    text
}

fn has_key(yaml: &str, key: &str) -> bool {
    yaml.lines().any(|line| {
        line.strip_prefix(key)
            .is_some_and(|rest| rest.starts_with(':'))
    })
}

/// The first `bind: IP:PORT` after `admin:`, when the text has one.
fn admin_of(yaml: &str) -> Option<SocketAddr> {
    let (_, admin) = format!("\n{yaml}")
        .split_once("\nadmin:")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))?;
    let (_, bind) = admin.split_once("bind:")?;
    let end = |c: char| matches!(c, ',' | '}' | '\n');
    let bind = bind.split(end).next()?;
    bind.trim().trim_matches('"').parse().ok()
}

/// Whether each backend that has an address has had its first verdict; nobody knows where the API
/// is closed.
fn has_asked_all(clusters: &Response) -> bool {
    if clusters.status != 200 {
        return true;
    }
    let clusters = clusters.json();
    let backends = |cluster: &Value| cluster["backends"].as_array().cloned();
    let clusters = clusters.as_array().into_iter().flatten();
    let mut backends = clusters.filter_map(backends).flatten();
    backends.all(|it| it["health"] != "unknown" || it["address"].is_null())
}

/// The counters that are not zero, without those of what goes well.
fn troubles(page: &str) -> String {
    let is_trouble = |line: &&str| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        name.ends_with("_total") && !UNTROUBLED.iter().any(|part| name.contains(part))
    };
    let lines = page.lines().filter(is_trouble);
    let lines: Vec<&str> = lines.filter(|line| !line.ends_with(" 0")).collect();
    lines.join("\n")
}

/// Reads the text format of Prometheus as far as our own metrics need it.
pub fn sum_of(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut sum = None;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(name) else {
            continue;
        };
        let Some((series, value)) = rest.rsplit_once(' ') else {
            continue;
        };
        let this_name = series.is_empty() || series.starts_with('{');
        let wanted = |(key, value): &(&str, &str)| {
            let pair = format!("{key}=\"{value}\"");
            [format!("{{{pair}"), format!(",{pair}")]
                .iter()
                .any(|pair| series.contains(pair))
        };
        if this_name && labels.iter().all(wanted) {
            sum = Some(sum.unwrap_or(0.0) + value.parse::<f64>().unwrap());
        }
    }
    sum
}
