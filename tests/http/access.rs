//! Who may come in (class 30), and what is written of every request (class 40).

use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::Plan;
use crate::harness::Stage;
use crate::harness::read_answer;
use crate::harness::status;
use crate::recorder::Recorder;
use crate::support::PATIENCE;
use crate::support::process::run;
use crate::support::wait_for;
use crate::support::wait_until;
use crate::world::Client;

const ASK: &[u8] = b"GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

/// The lines of an access log, when there are so many; each must be JSON.
#[track_caller]
fn lines(count: usize, mut text: impl FnMut() -> String) -> Vec<Value> {
    let text = wait_for(PATIENCE, "the lines of the access log", || {
        let text = text();
        (text.lines().count() >= count && text.ends_with('\n')).then_some(text)
    });
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    assert_eq!(lines.len(), count, "{text}");
    lines
}

#[test]
fn each_request_is_one_line() {
    let backend = Recorder::named("hello");
    let keys = "routes: [{path: /other, cluster: web}], http: {access_log: {}, max_body: 1KiB}";
    let stage = Plan::new(&[backend.addr()]).listener(keys).start();
    let answers = stage.raw(
        b"POST /x?secret=hunter2 HTTP/1.1\r\nHost: a.test\r\nUser-Agent: tests/1\r\n\
          Content-Length: 3\r\nAuthorization: Basic hunter2\r\nCookie: hunter2\r\n\r\nabc\
          GET /other HTTP/1.0\r\n\r\n",
    );
    assert_eq!(answers.matches(" 200 OK\r\n").count(), 2, "{answers}");
    let lines = lines(2, || stage.evergate.stdout());
    let first = &lines[0];
    for (name, value) in [
        ("listener", Value::from("web")),
        ("route", Value::Null),
        ("cluster", "web".into()),
        ("backend", backend.addr().to_string().into()),
        ("method", "POST".into()),
        ("host", "a.test".into()),
        ("path", "/x".into()),
        ("protocol", "HTTP/1.1".into()),
        ("status", 200.into()),
        ("received_bytes", 3.into()),
        ("sent_bytes", 5.into()),
        ("attempts", 1.into()),
        ("cause", Value::Null),
        ("user_agent", "tests/1".into()),
    ] {
        assert_eq!(first[name], value, "{name}: {first}");
    }
    let client = first["client"].as_str().unwrap();
    assert!(client.starts_with("127.0.0.1:"), "{first}");
    assert!(first["time"].as_str().unwrap().ends_with('Z'), "{first}");
    for name in ["duration_ms", "first_byte_ms", "wait_ms", "connect_ms"] {
        assert!(first[name].as_f64().unwrap() >= 0.0, "{name}: {first}");
    }
    let head = backend.text().to_ascii_lowercase();
    let id = crate::recorder::field(&head, "x-request-id");
    assert_eq!(first["request_id"].as_str(), id);
    assert_eq!(lines[1]["route"], 0, "{}", lines[1]);
    assert_eq!(lines[1]["protocol"], "HTTP/1.0", "{}", lines[1]);
    assert_eq!(lines[1]["host"], Value::Null, "{}", lines[1]);
    assert!(!stage.evergate.stdout().contains("hunter2"));
}

#[test]
fn nothing_that_a_client_sends_makes_a_line_of_its_own() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()])
        .listener("http: {access_log: {}, trusted: [127.0.0.0/8]}")
        .start();
    let answer = stage.raw(
        b"GET /a%0a%22,%22x%22:%22y\"{}' HTTP/1.1\r\nHost: a.test\r\n\
          User-Agent: x\", \"cause\": \"forged\"}\\ \t\xc2\x9b31m \xe2\x80\xa8\xff\r\n\
          X-Request-Id: a\",\"b\":\"c\r\nConnection: close\r\n\r\n",
    );
    let answered = status(&answer);
    let line = &lines(1, || stage.evergate.stdout())[0];
    assert_eq!(line["status"], answered, "{line}");
    assert_ne!(line["cause"], "forged", "{line}");
    assert_eq!(line.get("b"), None, "{line}");
    let raw = stage.evergate.stdout();
    let mut letters = raw.trim_end_matches('\n').chars();
    let steers = |letter: char| letter.is_control() || "\u{2028}\u{2029}".contains(letter);
    assert!(!letters.any(steers), "{raw:?}");
}

#[test]
fn a_renamed_log_file_is_opened_again_on_sighup() {
    let backend = Recorder::named("a");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let keys = format!("http: {{access_log: {{path: '{}'}}}}", path.display());
    let stage = Plan::new(&[backend.addr()]).listener(&keys).start();
    let read = |path: &std::path::Path| fs::read_to_string(path).unwrap_or_default();
    assert_eq!(status(&stage.raw(ASK)), 200);
    lines(1, || read(&path));
    let old = dir.path().join("access.log.1");
    fs::rename(&path, &old).unwrap();
    assert_eq!(status(&stage.raw(ASK)), 200);
    lines(2, || read(&old));
    stage.evergate.signal(Signal::HUP);
    wait_until(PATIENCE, "the new file", || path.exists());
    assert_eq!(status(&stage.raw(ASK)), 200);
    lines(1, || read(&path));
    assert_eq!(read(&old).lines().count(), 2);
}

fn logging_to(backend: &Recorder, path: &Path) -> Plan {
    let keys = format!("http: {{access_log: {{path: '{}'}}}}", path.display());
    Plan::new(&[backend.addr()]).listener(&keys)
}

fn dropped(stage: &Stage) -> usize {
    let dropped = stage
        .evergate
        .metric("evergate_access_log_dropped_total", &[]);
    dropped.unwrap() as usize
}

fn fifo(dir: &Path) -> PathBuf {
    let path = dir.join("access.fifo");
    run(&["mkfifo", path.to_str().unwrap()]);
    path
}

#[test]
fn a_full_disk_costs_the_lines_and_no_request() {
    const ASKED: usize = 200;
    let backend = Recorder::named("a");
    let stage = logging_to(&backend, Path::new("/dev/full")).start();
    let mut client = Client::connect(stage.addr).unwrap();
    for _ in 0..ASKED {
        assert_eq!(client.get("/x").unwrap().status, 200);
    }
    wait_until(PATIENCE, "each line is dropped", || {
        dropped(&stage) == ASKED
    });
}

/// It holds so many lines, and so many wait in memory; each further one is dropped and counted.
#[test]
fn a_fifo_that_nobody_reads_costs_lines_and_no_request() {
    let backend = Recorder::named("a");
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let plan = logging_to(&backend, &path);
    // Lines of 1 KiB and more, for there to be fewer.
    let long = "x".repeat(1000);
    let stage = plan.start();
    let mut client = Client::connect(stage.addr).unwrap();
    let mut asked = 0;
    wait_until(PATIENCE, "a line is dropped", || {
        for _ in 0..100 {
            assert_eq!(client.get(&format!("/{long}")).unwrap().status, 200);
            asked += 1;
        }
        dropped(&stage) > 0
    });
    stage.evergate.reload(&plan.yaml(stage.addr));
    assert_eq!(client.get("/last").unwrap().status, 200);
    asked += 1;

    let read = Arc::<Mutex<String>>::default();
    let text = Arc::clone(&read);
    thread::spawn(move || {
        let (mut file, mut buffer) = (File::open(path).unwrap(), vec![0; 64 << 10]);
        while let Ok(count @ 1..) = file.read(&mut buffer) {
            let more = std::str::from_utf8(&buffer[..count]).unwrap();
            text.lock().unwrap().push_str(more);
        }
    });
    let told = || read.lock().unwrap().lines().count();
    wait_until(PATIENCE, "each line is read or dropped", || {
        told() + dropped(&stage) == asked
    });
    lines(told(), || read.lock().unwrap().clone());
}

#[test]
fn a_fifo_that_is_full_does_not_keep_the_process_from_ending() {
    let backend = Recorder::named("a");
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(dir.path());
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = File::options();
    options.read(true).write(true).custom_flags(nonblock);
    let mut open = options.open(&path).unwrap();
    while open.write_all(&[b'x'; 4096]).is_ok() {}
    let mut stage = logging_to(&backend, &path).start();
    assert_eq!(status(&stage.raw(ASK)), 200);
    assert_eq!(stage.evergate.stop(PATIENCE).code(), Some(0));
}

#[test]
fn denied_clients_are_closed_without_an_answer() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()])
        .listener("deny: [127.0.0.2/32]")
        .start();
    let denied = std::net::Ipv4Addr::new(127, 0, 0, 2);
    let mut client = crate::support::talk::connect_from(denied, stage.addr);
    let _ = client.write_all(ASK);
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(status(&stage.raw(ASK)), 200);
    assert_eq!(backend.text().matches("GET /x ").count(), 1);
}

/// Class 30: the header counts only from those who may send it.
#[test]
fn a_proxy_header_names_the_client_of_every_request() {
    let backend = Recorder::named("a");
    let keys = "proxy_protocol: accept, proxy_protocol_from: [127.0.0.1/32], \
                deny: [192.0.2.66/32], http: {access_log: {}}";
    let stage = Plan::new(&[backend.addr()]).listener(keys).start();
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.2 1000 2000\r\n";
    let answer = stage.raw(&[&header[..], ASK].concat());
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = backend.text().to_ascii_lowercase();
    let client = crate::recorder::field(&seen, "x-forwarded-for");
    assert_eq!(client, Some("192.0.2.7"), "{seen}");
    let line = &lines(1, || stage.evergate.stdout())[0];
    assert_eq!(line["client"], "192.0.2.7:1000", "{line}");
    // The one it names is denied; it is missing; it is a spoof.
    let denied = b"PROXY TCP4 192.0.2.66 192.0.2.2 1000 2000\r\n";
    assert_eq!(stage.raw(&[&denied[..], ASK].concat()), "");
    assert_eq!(stage.raw(ASK), "");
    let stranger = std::net::Ipv4Addr::new(127, 0, 0, 2);
    let mut spoof = crate::support::talk::connect_from(stranger, stage.addr);
    let _ = spoof.write_all(&[&header[..], ASK].concat());
    let mut answer = Vec::new();
    let _ = spoof.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "a spoof was believed");
    assert_eq!(backend.text().matches("GET /x ").count(), 1);
}

#[test]
fn over_max_connections_a_client_is_refused_and_others_go_on() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()])
        .listener("max_connections: 2")
        .start();
    let mut clients = [stage.connect(), stage.connect()];
    let ask = |client: &mut std::net::TcpStream| {
        client
            .write_all(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
            .unwrap();
        assert_eq!(status(&read_answer(client)), 200);
    };
    clients.iter_mut().for_each(ask);
    let refused = stage.raw(b"");
    assert!(!refused.contains(" 200 "), "{refused}");
    clients.iter_mut().for_each(ask);
    let [_, gone] = clients;
    drop(gone);
    wait_until(PATIENCE, "the free place", || {
        stage.raw(ASK).contains(" 200 OK")
    });
}

/// Class 41: names that clients make up are no labels.
#[test]
fn what_clients_make_up_adds_no_series() {
    let backend = Recorder::named("a");
    let stage = Plan::new(&[backend.addr()]).start();
    let ask = |nth: usize| {
        format!("M{nth} /p{nth} HTTP/1.1\r\nHost: h{nth}.test\r\nX-Request-Id: {nth}\r\n\r\n")
    };
    let series = || stage.evergate.get("/metrics").text().lines().count();
    let ask_all = |range: std::ops::Range<usize>| {
        let count = range.len();
        let asked: String = range.map(ask).collect();
        let answers = stage.raw(format!("{asked}x\r\n").as_bytes());
        assert_eq!(answers.matches(" 200 OK\r\n").count(), count);
    };
    ask_all(0..2);
    let before = series();
    ask_all(2..500);
    assert!(series() <= before + 5, "{} after {before}", series());
}
