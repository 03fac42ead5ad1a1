//! The binary at its command line: what it does, what it says, and its exit codes.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::backend::End;
use crate::support::evergate::BINARY;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::evergate::evergate;
use crate::support::http;
use crate::support::ports::free_addr;
use crate::support::process::Process;
use crate::support::process::run;
use crate::support::process::words;
use crate::support::talk::file;
use crate::support::talk::name_at;
use crate::support::talk::plain;
use crate::support::talk::wait_for_name;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

/// Exit code, stdout and stderr of a command that ends by itself.
fn says(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = evergate(arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    (output.status.code(), stdout, stderr)
}

/// A file of a test's own.
fn written(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("evergate.yaml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn every_command_explains_itself() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (code, all, _) = says(&["--help"]);
    assert_eq!(code, Some(0));
    for (command, words) in [
        ("run", &["--config", "Run the load balancer"][..]),
        (
            "proxy",
            &["--listen", "--backend", "--policy", "--admin"][..],
        ),
        ("check", &["--config", "every problem"][..]),
        ("schema", &["JSON schema"][..]),
        ("completions", &["<SHELL>", "bash", "fish", "zsh"][..]),
        ("manpage", &["[COMMAND]"][..]),
        ("status", &["--json", "--admin", "EVERGATE_ADMIN"][..]),
        ("incidents", &["--json", "--admin", "[NUMBER]"][..]),
        (
            "explain",
            &[
                "--listener",
                "--source",
                "--user",
                "--database",
                "--sni",
                "--session",
            ][..],
        ),
        ("switchover", &["CLUSTER/BACKEND", "--token-file"][..]),
        ("drain", &["CLUSTER/BACKEND", "--token-file"][..]),
        ("ready", &["CLUSTER/BACKEND", "--token-file"][..]),
        ("maintenance", &["CLUSTER/BACKEND", "--token-file"][..]),
    ] {
        assert!(all.contains(command), "{command} is not in\n{all}");
        let (code, help, _) = says(&[command, "--help"]);
        assert_eq!(code, Some(0), "{command}");
        for word in words {
            assert!(
                help.contains(word),
                "no {word:?} in the help of {command}:\n{help}"
            );
        }
    }
    let version = format!("evergate {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(says(&["--version"]), (Some(0), version, String::new()));
}

#[test]
fn wrong_usage_exits_2_and_says_what_is_wrong() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for (arguments, part) in [
        (&[][..], "Usage: evergate <COMMAND>"),
        (&["chek"][..], "'check'"),
        (&["run"][..], "--config <FILE>"),
        (&["check"][..], "--config <FILE>"),
        (&["run", "--confg", "x"][..], "'--config'"),
        (&["proxy", "--listen", ":1"][..], "--backend <HOST:PORT>"),
        (
            &["status", "--admin", "nowhere"][..],
            "expected HOST:PORT or unix:/path",
        ),
        (
            &["drain", "orders"][..],
            "expected CLUSTER/BACKEND, for example orders/pg1",
        ),
        (&["drain", "/pg1"][..], "expected CLUSTER/BACKEND"),
    ] {
        let (code, stdout, stderr) = says(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(
            stdout.is_empty() && stderr.contains(part),
            "{arguments:?}: {stderr}"
        );
    }
}

#[test]
fn a_bad_file_gets_the_same_clear_report_from_check_and_run_and_exit_1() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let good = "version: 1\nclusters: {c: {backends: [\"127.0.0.1:1\"]}}\n\
                listeners: {l: {bind: \"127.0.0.1:2\", cluster: c}}\n";
    for (broken, place, part) in [
        (String::new(), ":1:1", "expected a map, found nothing"),
        (good.replace("cluster: c", "cluster: d"), ":3:", "`d`"),
        (good.replace("version: 1", "version: 2"), ":1:", "version"),
        (
            good.replace("backends", "bakends"),
            ":2:",
            "did you mean `backends`",
        ),
        (
            good.replace("127.0.0.1:2", "127.0.0.1"),
            ":3:",
            "not an address to listen on",
        ),
        (format!("{good}drain_timeout: 30\n"), ":4:", "30s"),
        (format!("{good}\tx: 1\n"), ":4:", "tab"),
        (
            format!("{good}admin: {{token_file: nowhere}}\n"),
            ":4:",
            "nowhere",
        ),
        (
            good.replace(
                "cluster: c}",
                "cluster: c, tls: {cert_file: nowhere.crt, key_file: nowhere.key}}",
            ),
            ":3:67",
            "nowhere.crt: cannot be read",
        ),
    ] {
        let (_dir, path) = written(&broken);
        let (code, stdout, checked) = says(&["check", "-c", &path]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{broken}");
        let place = format!("--> {path}{place}");
        assert!(
            checked.contains(&place) && checked.contains(part),
            "{broken}{checked}"
        );
        let (code, _, ran) = says(&["run", "-c", &path]);
        assert_eq!(code, Some(1), "{broken}");
        let (report, _) = checked.rsplit_once(&format!("\n{path}: ")).unwrap();
        assert_eq!(ran.trim_end(), report.trim_end(), "check and run differ");
    }
}

#[test]
fn a_file_that_is_none_is_refused_by_name() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (dir, path) = written("version: 1\n");
    let pipe = dir.path().join("pipe").to_str().unwrap().to_owned();
    run(&["mkfifo", &pipe]);
    let binary = dir.path().join("binary");
    fs::write(&binary, [0, 159, 146, 150, 255]).unwrap();
    let missing = format!("{path}.old");
    for (path, part) in [
        (missing.as_str(), "no such file"),
        ("/", "not a regular file"),
        (pipe.as_str(), "not a regular file"),
        (binary.to_str().unwrap(), "UTF-8"),
        ("/dev/zero", "not a regular file"),
    ] {
        for command in ["check", "run"] {
            let (code, _, stderr) = says(&[command, "-c", path]);
            assert_eq!(code, Some(1), "{command} {path}");
            assert!(stderr.contains(part) && stderr.contains(path), "{stderr}");
            assert_eq!(stderr.matches(part).count(), 1, "told twice: {stderr}");
        }
    }
}

#[test]
fn check_says_what_a_valid_file_has() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (_dir, path) = written(&format!(
        "version: 1\n{}",
        file(free_addr(), &plain(&[free_addr()]), &[])
    ));
    let valid = format!("{path}: valid: 1 listener, 1 cluster, 1 backend\n");
    assert_eq!(
        says(&["check", "-c", &path]),
        (Some(0), valid, String::new())
    );
}

#[test]
fn the_schema_is_json_and_a_reader_that_leaves_is_no_failure() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (code, schema, _) = says(&["schema"]);
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(code, Some(0));
    assert!(schema["properties"]["listeners"].is_object(), "{schema}");
    let script = format!("set -o pipefail; {BINARY} schema | head -c 1");
    run(&["bash", "-c", &script]);
}

#[test]
fn shells_complete_its_commands_and_man_shows_its_pages() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let script = format!(
        "set -e; source <({BINARY} completions bash); COMP_WORDS=(evergate swi); COMP_CWORD=1
        _evergate evergate swi evergate; echo ${{COMPREPLY[@]}}"
    );
    assert_eq!(run(&["bash", "-c", &script]).trim(), "switchover");
    let (code, _, error) = says(&["completions", "tcsh"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("bash, elvish, fish"), "{error}");

    for (arguments, title, words) in [
        (
            &["manpage"][..],
            ".TH evergate 1",
            &["switchover", "explain"][..],
        ),
        (
            &["manpage", "drain"][..],
            ".TH evergate-drain 1",
            &["CLUSTER/BACKEND"][..],
        ),
    ] {
        let (code, page, _) = says(arguments);
        assert_eq!(code, Some(0));
        assert!(page.contains(title), "{page}");
        assert!(words.iter().all(|word| page.contains(word)), "{page}");
    }
    let unknown = "error: no command is named \"drian\"\n".to_owned();
    assert_eq!(
        says(&["manpage", "drian"]),
        (Some(1), String::new(), unknown)
    );
}

#[test]
fn a_port_in_use_at_the_start_is_named_and_exits_1() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens, admin) = (Backend::named("a"), free_addr(), free_addr());
    let with_admin = |at: SocketAddr| {
        file(listens, &plain(&[backend.addr()]), &[]) + &format!("admin: {{bind: \"{at}\"}}\n")
    };
    let occupied = TcpListener::bind(listens).unwrap();
    let mut started = Evergate::with(&with_admin(admin))
        .until(Until::Started)
        .start();
    assert_eq!(started.wait(PATIENCE).code(), Some(1));
    let expected =
        format!("error: listener l cannot bind {listens}: Address already in use (os error 98)\n");
    assert_eq!(started.stderr(), expected);
    drop(occupied);

    let occupied = TcpListener::bind(admin).unwrap();
    let mut started = Evergate::with(&with_admin(admin))
        .until(Until::Started)
        .start();
    assert_eq!(started.wait(PATIENCE).code(), Some(1));
    let expected = format!("error: admin.bind {admin}: Address already in use (os error 98)\n");
    assert_eq!(started.stderr(), expected);
    drop(occupied);
}

#[test]
fn a_second_process_with_the_same_file_ends_and_the_first_serves_on() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens, admin) = (Backend::named("a"), free_addr(), free_addr());
    let keys = format!("admin: {{bind: \"{admin}\", socket: admin.sock}}\n");
    let first = Evergate::start(&(file(listens, &plain(&[backend.addr()]), &[]) + &keys));
    let path = first.file();
    let (code, _, stderr) = says(&["run", "-c", path.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("in use"), "{stderr}");
    assert_eq!(name_at(listens), "a");
    let socket = format!("unix:{}", first.dir().join("admin.sock").display());
    assert_eq!(says(&["status", "--admin", &socket]).0, Some(0));
}

#[test]
fn proxy_serves_without_a_file_and_ends_with_sigterm() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (mut a, b) = (Backend::named("a"), Backend::named("b"));
    let (listens, admin) = (free_addr(), free_addr());
    let dir = tempfile::tempdir().unwrap();
    let (a_addr, b_addr, admin_addr) = (
        a.addr().to_string(),
        b.addr().to_string(),
        admin.to_string(),
    );
    let port = format!(":{}", listens.port());
    let command = words(&[
        BINARY,
        "proxy",
        "--listen",
        &port,
        "--backend",
        &a_addr,
        "--backend",
        &b_addr,
        "--admin",
        &admin_addr,
        "--policy",
        "round_robin",
    ]);
    let mut proxy = Process::start(&command, &[], dir.path());
    wait_until(PATIENCE, "ready", || {
        http::get(admin, "/readyz").is_ok_and(|answer| answer.status == 200)
    });
    wait_for_name(listens, "a");
    wait_for_name(listens, "b");
    a.kill(End::Rst);
    wait_until(PATIENCE, "it is noticed", || {
        proxy.stderr().contains("to=down")
    });
    for _ in 0..10 {
        assert_eq!(name_at(listens), "b");
    }
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait(PATIENCE).code(), Some(0), "{}", proxy.stderr());
}

#[test]
fn proxy_refuses_what_it_cannot_do_and_shows_the_word() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let good = [
        "--listen",
        "127.0.0.1:1",
        "--backend",
        "a:1",
        "--admin",
        "127.0.0.1:2",
    ];
    for (wrong, part) in [
        (
            ["--listen", "300.0.0.1:1"],
            "`300.0.0.1:1` is not an address to listen on",
        ),
        (
            ["--backend", "nohost"],
            "`nohost` is not a backend's address",
        ),
        (
            ["--backend", "a:70000"],
            "`a:70000` is not a backend's address",
        ),
        (["--policy", "best"], "expected one of `least_connections`"),
        (["--admin", "here"], "`here` is not an address to listen on"),
    ] {
        let kept = good.chunks(2).filter(|pair| pair[0] != wrong[0]).flatten();
        let arguments: Vec<&str> = ["proxy"]
            .iter()
            .chain(kept)
            .chain(&wrong)
            .copied()
            .collect();
        let (code, _, stderr) = says(&arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
        assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
        // The line with the word, not the whole text that was made of the arguments.
        assert!(stderr.lines().all(|line| line.len() < 120), "{stderr}");
    }
}

#[test]
fn commands_that_reach_nobody_say_whom_they_tried() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let nobody = free_addr().to_string();
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", dir.path().join("none.sock").display());
    let other = Backend::start(Behaviour::NamePerConnection("not http".to_owned()));
    let other = other.addr().to_string();
    for admin in [&nobody, &socket, &other] {
        for command in [&["status"][..], &["drain", "c/a"][..]] {
            let (code, stdout, stderr) = says(&[command, &["--admin", admin][..]].concat());
            assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
            assert!(
                stderr.starts_with("error: ") && stderr.contains(admin.as_str()),
                "{stderr}"
            );
        }
    }
    let missing = [
        "drain",
        "c/a",
        "--admin",
        &nobody,
        "--token-file",
        "/nowhere/token",
    ];
    let (code, _, stderr) = says(&missing);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("cannot read the token file /nowhere/token"),
        "{stderr}"
    );
}

#[test]
fn where_the_process_is_may_come_from_the_environment() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens) = (Backend::named("a"), free_addr());
    let running = Evergate::start(&file(listens, &plain(&[backend.addr()]), &[]));
    let mut status = Command::new(BINARY)
        .arg("status")
        .env("EVERGATE_ADMIN", running.admin().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // What it does not read must not hold it up.
    let _ = status.stdin.take().unwrap().write_all(b"ignored");
    let output = status.wait_with_output().unwrap();
    assert!(output.status.success());
    let picture = String::from_utf8(output.stdout).unwrap();
    let row = picture.lines().find(|line| line.starts_with("c "));
    assert!(row.is_some_and(|row| row.contains(" up ")), "{picture}");
}
