//! A new file while the process runs: all of it or nothing, whoever asks and whatever it is.

use std::fs;
use std::io::Read;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::evergate::Evergate;
use crate::support::http::Response;
use crate::support::ports::free_addr;
use crate::support::process::run;
use crate::support::talk::connect;
use crate::support::talk::echoes;
use crate::support::talk::expect_silence;
use crate::support::talk::file;
use crate::support::talk::greeted;
use crate::support::talk::name_at;
use crate::support::talk::plain;
use crate::support::talk::rest;
use crate::support::talk::wait_for_name;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
const TOKEN: &str = "a-token-of-some-length";

/// Two backends that say their names, and a proxy in front of the first.
struct Stage {
    a: Backend,
    b: Backend,
    listens: SocketAddr,
    evergate: Evergate,
}

impl Stage {
    #[track_caller]
    fn start() -> Self {
        Self::inside(&[])
    }

    #[track_caller]
    fn inside(wrapper: &[&str]) -> Self {
        let (a, b, listens) = (Backend::named("a"), Backend::named("b"), free_addr());
        let yaml = file(listens, &plain(&[a.addr()]), &[]);
        let evergate = Evergate::with(&yaml).inside(wrapper).start();
        assert_eq!(name_at(listens), "a");
        Self {
            a,
            b,
            listens,
            evergate,
        }
    }

    /// The same listener in front of the other backend.
    fn other(&self) -> String {
        file(self.listens, &plain(&[self.b.addr()]), &[])
    }

    #[track_caller]
    fn wait_for_refusals(&self, number: f64) {
        wait_until(PATIENCE, "the file is refused", || {
            reloads(&self.evergate, "rejected") >= number
        });
    }

    /// A refused file has changed nothing, and the metrics say so.
    #[track_caller]
    fn expect_old(&self) {
        assert_eq!(name_at(self.listens), "a");
        let successful = "evergate_config_last_reload_successful";
        assert_eq!(self.evergate.metric(successful, &[]), Some(0.0));
        assert_eq!(reloads(&self.evergate, "accepted"), 0.0);
    }

    /// The next good file is taken, noticed by itself.
    #[track_caller]
    fn expect_recovery(&self) {
        self.evergate.write_file(&self.other());
        wait_for_name(self.listens, "b");
        let successful = "evergate_config_last_reload_successful";
        self.evergate.wait_for_metric(successful, &[], 1.0);
    }
}

fn reloads(evergate: &Evergate, result: &str) -> f64 {
    let labels = [("result", result)];
    let reloads = evergate.metric("evergate_config_reloads_total", &labels);
    reloads.unwrap_or(0.0)
}

/// The line of the log about one problem.
fn logged(evergate: &Evergate, message: &str) -> Value {
    let is_it = |event: &Value| {
        let text = event["message"].as_str();
        text.is_some_and(|text| text.contains(message))
    };
    let found = evergate.logs().into_iter().find(is_it);
    found.unwrap_or_else(|| panic!("no {message:?} in\n{}", evergate.stderr()))
}

/// Line 8 has two mistakes, the third stands in line 9.
fn broken(listens: SocketAddr) -> String {
    format!(
        "version: 1\nclusters:\n  c:\n    backends: [\"127.0.0.1:1\"]\n\
         listeners:\n  l:\n    bind: \"{listens}\"\n    clutser: c\n    idle_timeout: 5\n"
    )
}

/// C1
#[test]
fn an_invalid_file_is_refused_on_a_signal_and_each_error_names_its_line() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::start();
    let mut session = connect(stage.listens);
    stage.evergate.write_file(&broken(stage.listens));
    stage.evergate.signal(Signal::HUP);
    stage.wait_for_refusals(1.0);
    stage.expect_old();

    stage.evergate.wait_for_log("nothing has changed");
    let unknown = logged(&stage.evergate, "unknown key `clutser`");
    assert_eq!(unknown["level"], "ERROR");
    assert_eq!(
        (&unknown["line"], &unknown["column"]),
        (&8.into(), &5.into())
    );
    let file = unknown["file"].as_str().unwrap();
    assert!(file.ends_with("evergate.yaml"), "{unknown}");
    assert!(
        unknown["help"].as_str().unwrap().contains("cluster"),
        "{unknown}"
    );
    let number = stage
        .evergate
        .logs()
        .into_iter()
        .find(|event| event["line"] == 9);
    assert!(number.is_some(), "{}", stage.evergate.stderr());
    for line in stage.evergate.log_lines() {
        assert!(!line.contains("\\n"), "several lines in one: {line}");
    }
    let mut name = [0; 2];
    session.read_exact(&mut name).unwrap();
    stage.expect_recovery();
}

/// C1
#[test]
fn in_a_text_log_each_problem_is_one_readable_line() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens) = (Backend::named("a"), free_addr());
    let text = "log: {format: text}\n";
    let good = file(listens, &plain(&[backend.addr()]), &[]) + text;
    let evergate = Evergate::start(&good);
    evergate.write_file(&(broken(listens) + text));
    evergate.wait_for_log("nothing has changed");
    let log = evergate.stderr();
    let place = |line: &&str| line.contains("evergate.yaml line=8 column=5 ");
    let about = log.lines().find(place).unwrap_or_else(|| panic!("{log}"));
    assert!(about.contains("ERROR unknown key `clutser`"), "{about}");
    assert!(!log.contains("\\n"), "{log}");
    let last = log
        .lines()
        .find(|line| line.contains("nothing has changed"));
    assert!(last.unwrap().contains(" errors="), "{log}");
}

/// C1
#[test]
fn an_invalid_file_is_refused_when_it_is_saved() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::start();
    stage.evergate.write_file(&broken(stage.listens));
    stage.wait_for_refusals(1.0);
    stage.expect_old();
    stage.expect_recovery();
}

/// C1
#[test]
fn an_invalid_file_is_refused_over_the_api_with_the_full_report() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, b, listens) = (Backend::named("a"), Backend::named("b"), free_addr());
    let admin = free_addr();
    let with_admin = |yaml: String| {
        format!("{yaml}admin: {{bind: \"{admin}\", token_file: token}}\nlog: {{format: json}}\n")
    };
    let good = with_admin(file(listens, &plain(&[a.addr()]), &[]));
    let launch = Evergate::with(&good);
    fs::write(launch.dir().join("token"), TOKEN).unwrap();
    let evergate = launch.start();
    let reload = || -> Response {
        let authorization = format!("Bearer {TOKEN}");
        evergate.post("/api/v1/reload", &[("Authorization", &authorization)], b"")
    };

    evergate.write_file(&with_admin(broken(listens)));
    let refused = reload();
    assert_eq!(refused.status, 422, "{}", refused.text());
    let report = refused.json()["error"].as_str().unwrap().to_owned();
    for part in [
        "unknown key `clutser`",
        "evergate.yaml:8:5",
        "did you mean",
        ":9:",
    ] {
        assert!(report.contains(part), "no {part:?} in\n{report}");
    }
    assert_eq!(name_at(listens), "a");

    evergate.write_file(&with_admin(file(listens, &plain(&[b.addr()]), &[])));
    let accepted = reload();
    assert_eq!(accepted.status, 200, "{}", accepted.text());
    wait_for_name(listens, "b");
}

/// C2
#[test]
fn a_half_written_file_is_never_applied() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::start();
    // The first half ends before any listener: on its own it is wrong.
    let new = stage.other().replace(
        "listeners:",
        &format!("{}listeners:", "# padding\n".repeat(100)),
    );
    stage.evergate.write_file_in_two_steps(&new, || {
        stage.wait_for_refusals(1.0);
        stage.expect_old();
    });
    wait_for_name(stage.listens, "b");
    assert_eq!(reloads(&stage.evergate, "accepted"), 1.0);
}

/// C3
#[test]
fn a_file_renamed_over_the_old_one_is_noticed_each_time() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::start();
    let old = file(stage.listens, &plain(&[stage.a.addr()]), &[]);
    for _ in 0..3 {
        stage.evergate.write_file(&stage.other());
        wait_for_name(stage.listens, "b");
        stage.evergate.write_file(&old);
        wait_for_name(stage.listens, "a");
    }
}

/// C3
#[test]
fn the_symlink_swap_of_kubernetes_is_noticed_each_time() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, b, listens, admin) = (
        Backend::named("a"),
        Backend::named("b"),
        free_addr(),
        free_addr(),
    );
    let complete = |backend: &Backend| {
        let yaml = file(listens, &plain(&[backend.addr()]), &[]);
        format!("version: 1\n{yaml}admin: {{bind: \"{admin}\"}}\nlog: {{format: json}}\n")
    };
    let launch = Evergate::with(&complete(&a));
    let dir = launch.dir().to_owned();
    fs::create_dir(dir.join("..v0")).unwrap();
    symlink("..v0", dir.join("..data")).unwrap();
    symlink("..data/evergate.yaml", dir.join("evergate.yaml")).unwrap();
    let _evergate = launch.start();
    assert_eq!(name_at(listens), "a");
    for (version, backend, name) in [(1, &b, "b"), (2, &a, "a"), (3, &b, "b")] {
        let fresh = format!("..v{version}");
        fs::create_dir(dir.join(&fresh)).unwrap();
        fs::write(dir.join(&fresh).join("evergate.yaml"), complete(backend)).unwrap();
        symlink(&fresh, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        fs::remove_dir_all(dir.join(format!("..v{}", version - 1))).unwrap();
        wait_for_name(listens, name);
    }
}

/// C4
#[test]
fn a_file_that_is_gone_or_no_text_or_huge_changes_nothing() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::start();
    let path = stage.evergate.file();
    type Fault = (&'static str, fn(&Path));
    let faults: [Fault; 5] = [
        ("deleted", |path| fs::remove_file(path).unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a pipe without a writer", |path| {
            fs::remove_dir(path).unwrap();
            run(&["mkfifo", path.to_str().unwrap()]);
        }),
        ("1 GB of nothing", |path| {
            fs::remove_file(path).unwrap();
            fs::File::create(path).unwrap().set_len(1 << 30).unwrap();
        }),
        ("binary", |path| {
            let noise: Vec<u8> = (0..100_000).map(|_| fastrand::u8(..)).collect();
            fs::write(path, noise).unwrap();
        }),
    ];
    let rss = stage.evergate.rss_bytes();
    for (what, make) in faults {
        let before = reloads(&stage.evergate, "rejected");
        make(&path);
        stage.evergate.signal(Signal::HUP);
        wait_until(PATIENCE, what, || {
            reloads(&stage.evergate, "rejected") > before
        });
        stage.expect_old();
    }
    let grown = stage.evergate.rss_bytes().saturating_sub(rss);
    assert!(grown < 100 << 20, "a huge file cost {grown} bytes");
    stage.expect_recovery();
}

/// C4
#[test]
fn a_file_that_may_not_be_read_any_more_changes_nothing() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    // Root reads everything, unless it may not override permissions.
    let drop = "--bounding-set=-dac_override,-dac_read_search";
    let stage = Stage::inside(&["setpriv", drop, "--"]);
    let path = stage.evergate.file();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    stage.evergate.signal(Signal::HUP);
    stage.wait_for_refusals(1.0);
    stage.expect_old();
    logged(&stage.evergate, "permission denied");
    stage.expect_recovery();
}

/// C6
#[test]
fn sessions_of_a_removed_backend_drain_and_are_severed_at_the_deadline() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, b, listens) = (Backend::named("a"), Backend::named("b"), free_addr());
    let yaml = |backend: &Backend| {
        let backend = backend.addr();
        format!(
            "clusters:\n  c:\n    backends: [\"{backend}\"]\n    failover: {{drain_timeout: 3s}}\n\
             listeners:\n  l: {{bind: \"{listens}\", cluster: c}}\n"
        )
    };
    let evergate = Evergate::start(&yaml(&a));
    let (mut finishes, name) = greeted(listens).unwrap();
    let (mut lingers, _) = greeted(listens).unwrap();
    assert_eq!(name, "a");

    evergate.reload(&yaml(&b));
    expect_silence(&mut lingers);
    finishes.shutdown(Shutdown::Write).unwrap();
    assert!(rest(&mut finishes).is_empty());
    wait_for_name(listens, "b");

    assert!(rest(&mut lingers).is_empty());
    let severed = [("cause", "backend_removed"), ("side", "proxy")];
    evergate.wait_for_metric("evergate_sessions_ended_total", &severed, 1.0);
    assert_eq!(name_at(listens), "b");
}

/// C7
#[test]
fn a_port_in_use_refuses_the_whole_file() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let stage = Stage::start();
    let (taken, free) = (free_addr(), free_addr());
    let occupied = TcpListener::bind(taken).unwrap();
    let new = format!(
        "{}  m: {{bind: \"{free}\", cluster: c}}\n  n: {{bind: \"{taken}\", cluster: c}}\n",
        stage.other()
    );
    stage.evergate.write_file(&new);
    stage.wait_for_refusals(1.0);
    stage.expect_old();
    assert!(
        TcpStream::connect(free).is_err(),
        "half of the file is in force"
    );
    let problem = logged(&stage.evergate, "cannot bind");
    assert_eq!(problem["listener"], "n");
    assert_eq!(problem["bind"], taken.to_string());

    drop(occupied);
    stage.evergate.signal(Signal::HUP);
    for listens in [stage.listens, free, taken] {
        wait_for_name(listens, "b");
    }
}

/// C7
#[test]
fn listeners_are_added_rebound_and_removed_and_the_others_never_notice() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let (steady, first, second) = (free_addr(), free_addr(), free_addr());
    let yaml = |more: &str| file(steady, &plain(&[echo.addr()]), &[]) + more;
    let moving = |bind: SocketAddr| yaml(&format!("  m: {{bind: \"{bind}\", cluster: c}}\n"));
    let evergate = Evergate::start(&yaml(""));
    let mut session = connect(steady);
    echoes(&mut session, b"before").unwrap();

    evergate.reload(&moving(first));
    let mut of_first = connect(first);
    echoes(&mut of_first, b"first").unwrap();

    evergate.reload(&moving(second));
    echoes(&mut connect(second), b"second").unwrap();
    assert!(
        TcpStream::connect(first).is_err(),
        "the old place still listens"
    );
    echoes(&mut of_first, b"my listener lives on").unwrap();

    evergate.reload(&yaml("drain_timeout: 500ms\n"));
    assert!(
        TcpStream::connect(second).is_err(),
        "the removed listener still listens"
    );
    assert!(rest(&mut of_first).is_empty());
    let severed = [("cause", "listener_removed"), ("side", "proxy")];
    evergate.wait_for_metric("evergate_sessions_ended_total", &severed, 1.0);
    echoes(&mut session, b"after").unwrap();
    let accepted = evergate.metric("evergate_listener_connections_total", &[("listener", "l")]);
    assert_eq!(accepted, Some(1.0));
}
