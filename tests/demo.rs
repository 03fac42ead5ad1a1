//! `evergate demo`, as a user runs it.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

use std::fs::File;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use tempfile::TempDir;

const STEPS: [&str; 7] = [
    "start", "kill", "return", "switch", "drain", "reload", "end",
];

/// A running demo with a directory for its temporary files and its output.
struct Demo {
    child: Child,
    temporary: TempDir,
    output: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let output = tempfile::tempdir().unwrap();
        let create = |name| File::create(output.path().join(name)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_evergate"))
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(create("stdout"))
            .stderr(create("stderr"))
            .spawn()
            .unwrap();
        Self {
            child,
            temporary,
            output,
        }
    }

    fn output(&self) -> String {
        let read = |name| std::fs::read_to_string(self.output.path().join(name)).unwrap();
        format!("{}{}", read("stdout"), read("stderr"))
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        self.wait_until("its end", |demo| demo.child.try_wait().unwrap())
    }

    #[track_caller]
    fn wait_until<T>(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(180);
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "no {what}:\n{}", self.output());
            sleep(Duration::from_millis(20));
        }
    }

    fn files_left(&self) -> usize {
        files_in(self.temporary.path())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It has ended by then unless an assertion failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn files_in(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn the_demo_keeps_its_promises_and_shows_the_figures() {
    let mut demo = Demo::start(&["--plain", "--seconds", "6"]);
    let status = demo.wait();
    let output = demo.output();
    assert_eq!(status.code(), Some(0), "{output}");
    assert_eq!(demo.files_left(), 0);
    assert!(!output.contains('\x1b'), "{output}");

    // The account: time, step, what.
    for step in STEPS {
        let told = output.lines().any(|line| {
            let mut words = line.split_whitespace();
            let time = words.next().and_then(|word| word.parse::<f64>().ok());
            time.is_some() && words.next() == Some("s") && words.next() == Some(step)
        });
        assert!(told, "no account of {step}:\n{output}");
    }
    assert!(output.contains("did you mean `weight`?"), "{output}");

    let rows = table(&output);
    let names: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(names, [&STEPS[..], &["all"]].concat(), "{output}");
    for row in &rows {
        assert_eq!(row[3], "0", "read-only errors, {row:?}\n{output}");
        assert_eq!(row[6], "0", "failed reads, {row:?}\n{output}");
        assert_eq!(row[8], "0", "failed connects, {row:?}\n{output}");
    }
    let writes: u64 = rows[STEPS.len()][1].parse().unwrap();
    assert!(writes > 0, "{output}");
    assert!(output.contains("db-1 fenced (stale_timeline)"), "{output}");
    assert!(output.contains(", lost 0, doubled 0"), "{output}");
    assert!(output.contains("promises were kept"), "{output}");
    assert!(!output.contains("BROKEN"), "{output}");
}

#[test]
fn an_interrupted_demo_ends_at_once_and_leaves_nothing() {
    let mut demo = Demo::start(&["--plain", "--seconds", "600"]);
    demo.wait_until("load", |demo| {
        demo.output().contains("load runs").then_some(())
    });
    assert_eq!(demo.files_left(), 1);
    let pid = Pid::from_child(&demo.child);
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(demo.wait().code(), Some(130), "{}", demo.output());
    assert_eq!(demo.files_left(), 0);
}

#[test]
fn a_demo_that_is_too_short_for_its_script_is_refused() {
    let mut demo = Demo::start(&["--seconds", "1"]);
    assert_eq!(demo.wait().code(), Some(2));
    assert!(demo.output().contains("5..=600"), "{}", demo.output());
}

/// The table's rows as words, without its header.
fn table(output: &str) -> Vec<Vec<&str>> {
    let lines = output.lines().skip_while(|line| !line.starts_with("step"));
    let rows = lines.skip(1).take_while(|line| !line.is_empty());
    rows.map(|row| row.split_whitespace().collect()).collect()
}

#[test]
fn real_servers_play_the_same_story_and_leave_nothing() {
    let is_installed = std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut versions| {
        versions.any(|version| version.unwrap().path().join("bin/initdb").is_file())
    });
    let mut demo = Demo::start(&["--plain", "--seconds", "10", "--postgres"]);
    let status = demo.wait();
    let output = demo.output();
    assert_eq!(demo.files_left(), 0, "{output}");
    if is_installed {
        assert_eq!(status.code(), Some(0), "{output}");
        assert!(output.contains("db-1 fenced"), "{output}");
    } else {
        assert_eq!(status.code(), Some(1), "{output}");
        assert!(output.contains("install `postgresql`"), "{output}");
    }
}
