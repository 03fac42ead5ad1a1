//! What a client may make the proxy hold (class 13), and how long it may take (classes 12, 37, K2).

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::frames;
use crate::frames::PREFACE;
use crate::frames::SETTINGS;
use crate::frames::settings;
use crate::harness::Plan;
use crate::harness::Stage;
use crate::harness::read_answer;
use crate::harness::status;
use crate::recorder::Recorder;
use crate::recorder::field;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::limits::raise_open_files;
use crate::support::wait_until;

fn stage(backend: &Recorder, limits: &str) -> Stage {
    let keys = format!("http: {{{limits}}}");
    Plan::new(&[backend.addr()]).listener(&keys).start()
}

#[test]
fn heads_and_bodies_over_their_limit_are_refused_before_a_backend_is_asked() {
    let backend = Recorder::named("a");
    let limits = "max_head: 4KiB, max_uri: 1KiB, max_headers: 20, max_body: 10KiB";
    let stage = stage(&backend, limits);
    let host = "Host: a.test\r\n";
    let probes = [
        (
            431,
            format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "y".repeat(4096)),
        ),
        (
            431,
            format!("GET / HTTP/1.1\r\n{host}X: {}", "y".repeat(1 << 20)),
        ),
        (
            431,
            format!("GET / HTTP/1.1\r\n{host}{}\r\n", "X: y\r\n".repeat(20)),
        ),
        (
            431,
            format!("GET / HTTP/1.1\r\n{host}{}", "X: y\r\n".repeat(10_000)),
        ),
        (
            431,
            format!(
                "GET / HTTP/1.1\r\n{host}Cookie: {}\r\n\r\n",
                "a=b; ".repeat(30)
            ),
        ),
        (
            414,
            format!("GET /{} HTTP/1.1\r\n{host}\r\n", "y".repeat(1024)),
        ),
        (
            414,
            format!("GET /{} HTTP/1.1\r\n{host}\r\n", "y".repeat(64 << 10)),
        ),
        (
            413,
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 10241\r\n\r\n"),
        ),
        (
            413,
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n2801\r\n"),
        ),
        (
            501,
            format!("{} / HTTP/1.1\r\n{host}\r\n", "M".repeat(1000)),
        ),
    ];
    for (wanted, request) in &probes {
        let mut client = stage.connect();
        // The proxy need not read all of it.
        let _ = client.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(status(&answer), *wanted, "{:.60}: {answer}", request);
        let head = answer.to_ascii_lowercase();
        assert_eq!(field(&head, "connection"), Some("close"), "{answer}");
    }
    assert_eq!(backend.text(), "");
    // Just within all of them.
    let within = format!(
        "POST /{} HTTP/1.1\r\n{host}{}Content-Length: 10240\r\nConnection: close\r\n\r\n{}",
        "y".repeat(1023),
        "X: y\r\n".repeat(17),
        "b".repeat(10240)
    );
    let answer = stage.raw(within.as_bytes());
    assert_eq!(status(&answer), 200, "{answer}");
}

/// Chunks that come one by one: the limit is crossed when the backend has the head already.
#[test]
fn a_body_of_chunks_ends_at_its_limit() {
    let backend = Recorder::named("a");
    let stage = stage(&backend, "max_body: 10KiB");
    let mut client = stage.connect();
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = format!("400\r\n{}\r\n", "b".repeat(1024));
    for nth in 1..=10 {
        client.write_all(chunk.as_bytes()).unwrap();
        wait_until(PATIENCE, "the chunk at the backend", || {
            backend.text().matches('b').count() >= nth * 1024
        });
    }
    let _ = client.write_all(chunk.as_bytes());
    let answer = read_answer(&mut client);
    assert_eq!(status(&answer), 413, "{answer}");
    wait_until(PATIENCE, "the end at the backend", || {
        backend.open_requests() == 0
    });
    assert!(!backend.text().contains("0\r\n\r\n"));
}

/// Reads until the proxy closes; the time that took.
fn time_to_close(client: &mut TcpStream) -> (String, Duration) {
    let started = Instant::now();
    let mut rest = Vec::new();
    // A reset is an end, too; a time-out is not.
    if let Err(error) = client.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    let rest = String::from_utf8_lossy(&rest).into_owned();
    (rest, started.elapsed())
}

#[test]
fn a_head_that_never_ends_costs_its_connection() {
    let backend = Recorder::named("a");
    let stage = stage(&backend, "header_timeout: 1s");
    for sent in [
        "G",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX",
    ] {
        let mut client = stage.connect();
        client.write_all(sent.as_bytes()).unwrap();
        let mut drip = client.try_clone().unwrap();
        let dripping = std::thread::spawn(move || {
            // A byte now and then is no excuse.
            while drip.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let (answer, _) = time_to_close(&mut client);
        assert!(!answer.contains(" 200 "), "{answer}");
        dripping.join().unwrap();
    }
    assert_eq!(backend.text(), "");
}

/// While an answer is under way, a next head that has begun is not read on: that is not the
/// client's fault, however long the answer takes.
#[test]
fn half_a_next_request_does_not_cut_off_a_slow_answer() {
    let backend = Recorder::scripted(|_, connection| {
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n");
        for _ in 0..12 {
            std::thread::sleep(Duration::from_millis(200));
            connection.send(b"x");
        }
        connection.read_to_end();
    });
    let stage = stage(&backend, "header_timeout: 1s");
    let mut client = stage.connect();
    client
        .write_all(b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\nGET /b HT")
        .unwrap();
    let answer = read_answer(&mut client);
    assert!(answer.ends_with("\r\n\r\nxxxxxxxxxxxx"), "{answer}");
}

#[test]
fn a_body_that_stands_still_is_given_up() {
    let backend = Recorder::named("a");
    let stage = stage(&backend, "body_timeout: 1s");
    for framing in ["Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut client = stage.connect();
        let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n5\r\n");
        client.write_all(head.as_bytes()).unwrap();
        let (answer, _) = time_to_close(&mut client);
        assert_eq!(status(&answer), 408, "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    wait_until(PATIENCE, "the ends at the backend", || {
        backend.open_requests() == 0
    });
}

/// The client may be long gone: what it has sent hides its end. Such an exchange used to stay for
/// `idle_timeout`.
#[test]
fn a_backend_that_takes_no_more_of_a_body_is_given_up() {
    let (test_lasts, its_end) = mpsc::channel::<()>();
    let its_end = Mutex::new(its_end);
    let backend = Recorder::scripted(move |head, connection| {
        if head.starts_with("GET /check ") {
            connection.send(&ok(""));
            return;
        }
        let _ = its_end.lock().unwrap().recv();
    });
    let stage = stage(&backend, "body_timeout: 1s, access_log: {}");
    let mut client = stage.connect();
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1073741824\r\n\r\n";
    client.write_all(head.as_bytes()).unwrap();
    let mut upload = client.try_clone().unwrap();
    let writer = thread::spawn(move || while upload.write_all(&[b'x'; 64 << 10]).is_ok() {});
    assert_eq!(status(&read_answer(&mut client)), 504);
    drop(client);
    wait_until(PATIENCE, "the end of the exchange", || {
        stage.evergate.stdout().lines().count() == 1
    });
    let line: serde_json::Value = serde_json::from_str(stage.evergate.stdout().trim()).unwrap();
    assert_eq!(line["cause"], "send_timeout", "{line}");
    stage
        .evergate
        .wait_for_metric("evergate_http_requests_active", &[], 0.0);
    writer.join().unwrap();
    drop(test_lasts);
}

#[test]
fn an_answer_that_stands_still_is_cut_off_and_does_not_look_whole() {
    let backend = Recorder::scripted(|_, connection| {
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        connection.read_to_end();
    });
    let stage = stage(&backend, "body_timeout: 1s");
    let mut client = stage.connect();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .unwrap();
    let (answer, _) = time_to_close(&mut client);
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.ends_with("5\r\nhello\r\n"), "{answer}");
}

#[test]
fn idle_and_silent_connections_are_closed_after_keep_alive() {
    let backend = Recorder::named("a");
    let stage = stage(&backend, "keep_alive: 1s");
    let mut silent = stage.connect();
    let mut idle = stage.connect();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .unwrap();
    assert_eq!(status(&read_answer(&mut idle)), 200);
    for client in [&mut silent, &mut idle] {
        let (rest, _) = time_to_close(client);
        assert_eq!(rest, "");
    }
}

#[test]
fn a_connection_over_max_age_gets_no_further_request() {
    let backend = Recorder::named("a");
    let stage = stage(&backend, "max_age: 2s, keep_alive: 2s");
    let mut idle = stage.connect();
    let mut busy = stage.connect();
    let mut last = String::new();
    wait_until(PATIENCE, "the announced end", || {
        busy.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            .unwrap();
        last = read_answer(&mut busy).to_ascii_lowercase();
        assert_eq!(status(&last), 200, "{last}");
        field(&last, "connection") == Some("close")
    });
    assert_eq!(time_to_close(&mut busy).0, "");
    assert_eq!(time_to_close(&mut idle).0, "");
}

/// What waits for a client: 36 KiB and the piece of 16 KiB that comes on top, in buffers that may
/// be half full, and what its request was read into and the answer's head is written from.
const CLIENT_SIDE_BYTES: u64 = 128 << 10;
/// The next piece of the answer, and the exchange itself.
const BACKEND_SIDE_BYTES: u64 = 32 << 10;

/// What the kernel holds for a client: 512 KiB, what was written on top of that, and what is on its way.
const KERNEL_BYTES: u64 = 1 << 20;

/// The most that the kernel holds for one of the clients at this port, of what they have not taken.
fn most_queued(port: u16) -> u64 {
    const ESTABLISHED: &str = "01";
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let queued = sockets.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_ours = fields[1].ends_with(&local) && fields[3] == ESTABLISHED;
        let (sending, _) = fields[4].split_once(':')?;
        is_ours.then(|| u64::from_str_radix(sending, 16).unwrap())
    });
    queued.max().unwrap_or(0)
}

/// Classes 12 and 37, K1: what a client does not take stays with the backend, and after
/// `body_timeout` the client has lost it.
#[test]
fn clients_that_do_not_read_cost_little_and_not_for_ever() {
    const CLIENTS: usize = 100;
    const LENGTH: usize = 1 << 30;
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&taken);
    let backend = Recorder::scripted(move |_, connection| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        let part = vec![b'x'; 64 << 10];
        let mut sent = 0;
        connection.send(head.as_bytes());
        while sent < LENGTH && connection.send(&part) {
            sent += part.len();
            counter.fetch_add(part.len(), std::sync::atomic::Ordering::AcqRel);
        }
    });
    let stage = stage(&backend, "body_timeout: 3s, access_log: {}");
    let before = stage.evergate.rss_bytes();
    let mut queued = 0;
    let (_clients, peak) = stage.evergate.peak_rss_bytes(|| {
        let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| stage.connect()).collect();
        for client in &mut clients {
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
                .unwrap();
        }
        wait_until(PATIENCE, "all ends", || {
            queued = queued.max(most_queued(stage.addr.port()));
            stage.evergate.stdout().lines().count() == CLIENTS
        });
        clients
    });
    let each = peak.saturating_sub(before) / CLIENTS as u64;
    let sent = taken.load(std::sync::atomic::Ordering::Acquire) / CLIENTS;
    println!("{each} bytes for each client, {queued} in the kernel, {sent} left the backend");
    assert!(
        each <= CLIENT_SIDE_BYTES + BACKEND_SIDE_BYTES,
        "{each} bytes"
    );
    assert!((1..=KERNEL_BYTES).contains(&queued), "{queued} bytes");
    // In the buffers of the kernel between backend and proxy, and in the client's.
    assert!(sent < 16 << 20, "{sent} bytes left the backend");
    for line in stage.evergate.stdout().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["cause"], "body_timeout", "{line}");
    }
}

/// Waits until so many clients are there and have been put away.
fn wait_until_parked(stage: &Stage, count: usize) {
    let query = format!("/api/v1/sessions?limit={count}");
    wait_until(PATIENCE, "parked clients", || {
        let sessions = stage.evergate.get(&query).json();
        let sessions = sessions["sessions"].as_array().unwrap();
        // Longer than it takes to put a client away.
        let is_parked = |it: &serde_json::Value| it["idle_seconds"].as_f64() >= Some(2.0);
        sessions.len() == count && sessions.iter().all(is_parked)
    });
}

/// It was put away as if it rested, just when it had begun to speak: its first request was lost.
#[test]
fn a_preface_that_comes_slowly_begins_a_connection_that_lasts() {
    let backend = Recorder::named("a");
    let stage = stage(&backend, "");
    let mut client = frames::Client::silent(&stage);
    let (first, rest) = PREFACE.split_at(10);
    assert!(client.send(first));
    wait_until_parked(&stage, 1);
    assert!(client.send(rest));
    assert!(client.send(&settings(&[])));
    client.until(|frame| frame.kind == SETTINGS);
    assert_eq!(client.get(1), 200);
}

/// The socket, its session and little else: what served the clients before is used again.
#[test]
fn idle_connections_cost_little() {
    const BATCH: usize = 1000;
    assert!(raise_open_files() > 6 * BATCH as u64);
    let backend = Recorder::named("a");
    let stage = stage(&backend, "keep_alive: 600s");
    let ask = |client: &mut TcpStream| {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            .unwrap();
        assert_eq!(status(&read_answer(client)), 200);
    };
    let mut clients: Vec<TcpStream> = Vec::new();
    let mut grow = || {
        // One by one: who says nothing for long is shown out.
        for _ in 0..BATCH {
            let mut client = stage.connect();
            ask(&mut client);
            clients.push(client);
        }
        wait_until_parked(&stage, clients.len());
        stage.evergate.rss_bytes()
    };
    let first = grow();
    let third = [grow(), grow()][1];
    println!("{first} bytes, {third} when the last one rests");
    // By itself 2 KiB. Not everything that a burst took is given back: its pages are shared with what rests.
    let each = || stage.evergate.rss_bytes().saturating_sub(first) / (2 * BATCH as u64);
    wait_until(PATIENCE, "an idle connection costs 8 KiB at most", || {
        each() <= 8 << 10
    });
    println!("{} bytes for each idle connection", each());
    // They are served again.
    clients.iter_mut().step_by(100).for_each(ask);
}
