//! Attacks: the security classes that layer 4 can meet, but for handshakes (see there).
//!
//! Two more classes have their tests elsewhere.
//! Class 44, comparing the token in constant time: `a_token_matches_only_itself` in `src/admin/access.rs`.
//! Class 45, the supply chain: `no_banned_crate_is_in_the_lock_file`, `every_crate_has_an_allowed_licence`
//! and `every_crate_comes_from_the_registry` in `tests/supply_chain.rs`.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use socket2::SockRef;

use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::backend::End;
use crate::support::evergate::Evergate;
use crate::support::evergate::evergate as run_command;
use crate::support::hello::client_hello;
use crate::support::http;
use crate::support::ports::RefusingPort;
use crate::support::ports::free_addr;
use crate::support::process::run;
use crate::support::talk::connect;
use crate::support::talk::echoes;
use crate::support::talk::file;
use crate::support::talk::name_at;
use crate::support::talk::plain;
use crate::support::talk::read_line;
use crate::support::talk::rest;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
const REJECTED: &str = "evergate_listener_connections_rejected_total";
const ACTIVE: &str = "evergate_listener_connections_active";

/// A file whose admin API has a token and a socket in a directory of its own.
fn with_admin(yaml: &str, dir: &Path) -> (String, SocketAddr) {
    let (token, bind) = (dir.join("token"), free_addr());
    fs::write(&token, "open-sesame-open-sesame\n").unwrap();
    let (token, socket) = (token.display(), dir.join("admin.sock"));
    let socket = socket.display();
    let admin = format!("admin: {{bind: \"{bind}\", socket: {socket}, token_file: {token}}}\n");
    (yaml.to_owned() + &admin, bind)
}

/// Class 31: the data plane carries such headers as any bytes; it neither believes nor adds them.
#[test]
fn forwarded_headers_pass_untouched() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens) = (Backend::echo(), free_addr());
    let _evergate = Evergate::start(&file(listens, &plain(&[backend.addr()]), &[]));
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4, 5.6.7.8\r\n\
                    Forwarded: for=\"_evil\"\r\nX-Real-IP: 127.0.0.1\r\n\r\n";
    echoes(&mut connect(listens), request).unwrap();
}

/// Class 31 and 34: every change by every way in; a header that names a friend opens nothing.
#[test]
fn only_the_token_or_the_unix_socket_may_change_anything() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens, dir) = (Backend::echo(), free_addr(), tempfile::tempdir().unwrap());
    let (yaml, admin) = with_admin(&file(listens, &plain(&[backend.addr()]), &[]), dir.path());
    let evergate = Evergate::start(&yaml);
    let right = ("Authorization", "Bearer open-sesame-open-sesame");
    let own_origin = format!("http://{admin}");
    let ways: &[(&[(&str, &str)], u16)] = &[
        (&[], 401),
        (&[("Authorization", "Bearer wrong")], 401),
        (&[("Authorization", "Bearer open-sesame-open-sesam")], 401),
        (&[("Authorization", "Basic b3Blbi1zZXNhbWU=")], 401),
        (&[("X-Forwarded-For", "127.0.0.1")], 401),
        (&[("Forwarded", "for=127.0.0.1;host=localhost")], 401),
        (&[right, ("Host", "evil.example")], 403),
        (&[right, ("Origin", "http://evil.example")], 403),
        (&[right, ("Origin", "null")], 403),
        (&[right, ("X-Forwarded-Host", "evil.example")], 200),
        (&[right, ("Origin", &own_origin)], 200),
        (&[right], 200),
    ];
    let backend_path = "/api/v1/clusters/c/backends/a";
    let changes = ["drain", "maintenance", "ready"].map(|verb| format!("{backend_path}/{verb}"));
    for path in changes.iter().map(String::as_str).chain(["/api/v1/reload"]) {
        for (headers, expected) in ways {
            let answer = evergate.post(path, headers, b"");
            assert_eq!(answer.status, *expected, "{path} with {headers:?}");
        }
        let mut unix = UnixStream::connect(dir.path().join("admin.sock")).unwrap();
        let answer = http::exchange(&mut unix, "localhost", "POST", path, &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{path} over the socket");
        // A page in somebody's browser can send a GET; it changes nothing.
        assert_eq!(evergate.get(path).status, 405, "{path}");
    }
    for reading in [
        "/metrics",
        "/api/v1/sessions",
        "/api/v1/config",
        "/",
        "/readyz",
    ] {
        let host = [("Host", "evil.example:9187")];
        let answer = http::request(admin, "GET", reading, &host, b"").unwrap();
        assert_eq!(answer.status, 403, "{reading} by a rebound name");
    }
}

/// Class 34: without a token nobody on TCP may change anything, whatever he presents.
#[test]
fn without_a_token_changes_over_tcp_are_forbidden() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens) = (Backend::named("a"), free_addr());
    let evergate = Evergate::start(&file(listens, &plain(&[backend.addr()]), &[]));
    for path in ["/api/v1/reload", "/api/v1/clusters/c/backends/a/drain"] {
        for token in ["Bearer ", "Bearer x", "Bearer null"] {
            let answer = evergate.post(path, &[("Authorization", token)], b"");
            assert_eq!(answer.status, 403, "{path} {token:?}");
        }
    }
    assert_eq!(name_at(listens), "a");
}

/// Routes by name, so that each client can bring a name of its own.
fn hashed_by_sni(listens: SocketAddr, backends: &[SocketAddr], more: &str) -> String {
    let hash = format!("balance: {{policy: consistent_hash, hash: {{key: sni{more}}}}}");
    let yaml = file(listens, &plain(backends), &[&hash]);
    let routes = "cluster: c, routes: [{sni: \"*.example\", cluster: c}]}";
    yaml.replace("cluster: c}", routes)
}

fn session_named(listens: SocketAddr, name: &str) -> (TcpStream, String) {
    let mut stream = connect(listens);
    stream.write_all(&client_hello(name.as_bytes())).unwrap();
    let backend = read_line(&mut stream).unwrap();
    (stream, backend)
}

/// Class 32: whoever can choose the hashed key could aim everything at one backend; the bound spreads it.
#[test]
fn one_key_cannot_load_one_backend_beyond_the_bound() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    const SESSIONS: usize = 60;
    let backends = ["a", "b", "c"].map(Backend::named);
    let addrs = backends.each_ref().map(Backend::addr);
    for (more, most) in [
        (", bounded_load: 1.25", SESSIONS / 3 * 5 / 4),
        ("", SESSIONS),
    ] {
        let listens = free_addr();
        let _evergate = Evergate::start(&hashed_by_sni(listens, &addrs, more));
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|_| session_named(listens, "aimed.example"))
            .collect();
        let on = |name: &str| sessions.iter().filter(|(_, is)| is == name).count();
        let fullest = ["a", "b", "c"].map(on).into_iter().max();
        assert_eq!(fullest, Some(most), "bounded by {more:?}");
    }
}

/// Class 32: a name costs the same whether it is the first of its kind or the thousandth.
#[test]
fn many_keys_cost_no_more_than_one() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    const SESSIONS: usize = 500;
    let backends = ["a", "b", "c"].map(Backend::named);
    let addrs = backends.each_ref().map(Backend::addr);
    let listens = free_addr();
    let evergate = Evergate::start(&hashed_by_sni(listens, &addrs, ""));
    let cost = |name: &dyn Fn(usize) -> String| {
        let before = evergate.cpu_time();
        for number in 0..SESSIONS {
            session_named(listens, &name(number));
        }
        evergate.cpu_time() - before
    };
    cost(&|_| "warm.example".to_owned());
    let same = cost(&|_| "same.example".to_owned());
    let different = cost(&|number| format!("n{number}.example"));
    let bound = 3 * same + Duration::from_millis(300);
    assert!(different < bound, "{different:?} against {same:?}");
}

/// Class 36: at the limit of descriptors it refuses or waits, does not spin, and recovers.
#[test]
fn sixty_four_descriptors_and_two_hundred_clients_are_survived() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens) = (Backend::echo(), free_addr());
    let yaml = file(listens, &plain(&[backend.addr()]), &[]);
    let limited = Evergate::with(&yaml).inside(&["prlimit", "--nofile=64:64"]);
    let evergate = limited.start();
    let clients: Vec<_> = (0..200).map(|_| connect(listens)).collect();
    expect_little_work(&evergate);
    assert_eq!(evergate.get("/healthz").status, 200);
    drop(clients);
    evergate.wait_for_metric(ACTIVE, &[], 0.0);
    echoes(&mut connect(listens), b"again").unwrap();
}

/// Class 36: descriptors are gone altogether: accept() fails, live sessions go on, no backend is blamed.
#[test]
fn without_a_descriptor_left_accepting_pauses_and_nobody_is_blamed() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens) = (Backend::echo(), free_addr());
    let checks = "health_check: {interval: 200ms, timeout: 200ms, fall: 1}";
    let evergate = Evergate::start(&file(listens, &plain(&[backend.addr()]), &[checks]));
    let mut live = connect(listens);
    echoes(&mut live, b"before").unwrap();
    let limit = |files: usize| {
        let pid = evergate.pid().to_string();
        run(&["prlimit", "--pid", &pid, &format!("--nofile={files}:20000")]);
    };
    limit(evergate.open_files() + 4);
    let mut clients: Vec<_> = (0..200).map(|_| connect(listens)).collect();
    evergate.wait_for_log("accepting is paused");
    expect_little_work(&evergate);
    echoes(&mut live, b"during").unwrap();
    limit(20_000);
    // Those who waited in the kernel's queue are served; who was turned away knows it.
    let served = clients
        .iter_mut()
        .filter_map(|client| echoes(client, b"x").ok());
    assert!(served.count() > 100);
    let fell = evergate.logs().into_iter().any(|line| line["to"] == "down");
    assert!(!fell, "our shortage was blamed on the backend");
}

/// While clients press, the process must sleep.
#[track_caller]
fn expect_little_work(evergate: &Evergate) {
    let (before, watched) = (evergate.cpu_time(), Duration::from_secs(2));
    thread::sleep(watched);
    let busy = evergate.cpu_time() - before;
    // Spinning would take all of a core; 10 % is the aim, twice that the bound on a busy machine.
    assert!(busy < watched / 5, "busy for {busy:?} of {watched:?}");
}

/// Class 37: a client that does not read holds a buffer, not the result.
#[test]
fn a_hundred_stalled_readers_cost_no_memory() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let endless = Backend::start(Behaviour::Stream { bytes: 1 << 40 });
    let listens = free_addr();
    let evergate = Evergate::start(&file(listens, &plain(&[endless.addr()]), &[]));
    name_nothing(listens);
    let before = evergate.rss_bytes();
    let stalled: Vec<_> = (0..100)
        .map(|_| {
            let client = connect(listens);
            SockRef::from(&client).set_recv_buffer_size(4096).unwrap();
            client
        })
        .collect();
    let sent = || evergate.metric("evergate_listener_bytes_sent_total", &[]);
    let (mut last, mut still) = (None, Instant::now());
    wait_until(PATIENCE, "all are stalled", || {
        let now = sent();
        if now != last {
            (last, still) = (now, Instant::now());
        }
        evergate.metric(ACTIVE, &[]) == Some(100.0) && still.elapsed() > Duration::from_millis(500)
    });
    let grown = evergate.rss_bytes().saturating_sub(before);
    let bound = stalled.len() as u64 * 2 * 64 * 1024;
    assert!(grown < bound, "{grown} bytes for 100 stalled readers");
}

/// One session to the end, so that what happens once has happened.
fn name_nothing(listens: SocketAddr) {
    let mut client = connect(listens);
    client.read_exact(&mut [0; 1000]).unwrap();
    let _ = client.shutdown(Shutdown::Both);
}

/// Class 39: bombs end in a message, soon and small, and a running process keeps what it has.
#[test]
fn configuration_bombs_are_refused_whole() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let dir = tempfile::tempdir().unwrap();
    let laughs: String = (1..12)
        .map(|level| {
            format!(
                "l{level}: &l{level} [{}]\n",
                vec![format!("*l{}", level - 1); 9].join(",")
            )
        })
        .collect();
    let nested = format!("version: 1\nclusters: {}", "[".repeat(200_000));
    symlink("loop.yaml", dir.path().join("loop.yaml")).unwrap();
    let sparse = fs::File::create(dir.path().join("huge.yaml")).unwrap();
    sparse.set_len(1 << 36).unwrap();
    let bombs = [
        ("laughs", format!("version: 1\nl0: &l0 [lol]\n{laughs}")),
        ("nested", nested),
        ("itself", "version: 1\ninclude: itself.yaml\n".to_owned()),
        ("links", "version: 1\ninclude: loop.yaml\n".to_owned()),
        ("device", "version: 1\ninclude: /dev/zero\n".to_owned()),
        ("sparse", "version: 1\ninclude: huge.yaml\n".to_owned()),
        ("binary", "\0\u{1}\u{7f}".repeat(1000)),
        ("variable", "version: 1\nzone: ${BOMB}\n".to_owned()),
    ];
    let (backend, listens) = (Backend::named("a"), free_addr());
    let good = file(listens, &plain(&[backend.addr()]), &[]);
    let launch = Evergate::with(&good).environment("BOMB", "${BOMB}${BOMB}");
    let evergate = launch.start();
    symlink("loop.yaml", evergate.dir().join("loop.yaml")).unwrap();
    for (name, text) in &bombs {
        let path = dir.path().join(format!("{name}.yaml"));
        fs::write(&path, text).unwrap();
        let output = run_command(&["check", "-c", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        assert!(!output.stderr.is_empty(), "{name}");
        evergate.write_file(text);
        let rejected = [("result", "rejected")];
        let before = evergate.metric("evergate_config_reloads_total", &rejected);
        evergate.signal(rustix::process::Signal::HUP);
        wait_until(PATIENCE, &format!("{name} is rejected"), || {
            evergate.metric("evergate_config_reloads_total", &rejected) > before
        });
        assert_eq!(name_at(listens), "a", "after {name}");
    }
    assert!(evergate.rss_bytes() < 300 << 20, "{}", evergate.rss_bytes());
}

/// Class 39: thousands of slightly wrong files: each is a configuration or a list of errors, never a panic.
#[test]
fn mutated_configurations_never_panic() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let example = file(
        "127.0.0.1:1".parse().unwrap(),
        &[("127.0.0.1:2".parse().unwrap(), "weight: 7, zone: x")],
        &[
            "failover: {hold: {for: 1s, max_sessions: 5}}",
            "connect: {timeout: 1s}",
        ],
    );
    let example = format!("version: 1\n{example}");
    let mut random = fastrand::Rng::with_seed(39);
    let load = |text: &str| evergate::config::load_text(Path::new("mutated.yaml"), text);
    load(&example).unwrap();
    let mut refused = 0;
    for _ in 0..3_000 {
        let mut bytes = example.clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..3) {
                0 => bytes[at] = random.u8(..),
                1 => bytes.insert(at, *random.choice(b"{}[]:,&*!|>\"'%@- \n\t${").unwrap()),
                _ => drop(bytes.drain(at..(at + random.usize(1..9)).min(bytes.len()))),
            }
        }
        if let Err(problems) = load(&String::from_utf8_lossy(&bytes)) {
            assert!(!problems.to_string().is_empty());
            refused += 1;
        }
    }
    assert!(refused > 1000, "only {refused} of 3000 were wrong");
}

const HOSTILE: &str = "a\r\n{\"level\":\"x\"}\u{1b}[31m\u{2028}\u{202e}";

/// Class 40: nothing that a peer or a file says can write a line of its own, in either format.
#[test]
fn hostile_text_stays_inside_its_line_of_the_log() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for format in ["json", "text"] {
        let dir = tempfile::tempdir().unwrap();
        let (backend, listens) = (Backend::named("a"), free_addr());
        let yaml = hashed_by_sni(listens, &[backend.addr()], "");
        let yaml = yaml.replace(
            "routes:",
            "proxy_protocol: accept, proxy_protocol_from: [127.0.0.1], routes:",
        );
        let yaml = format!("{yaml}log: {{format: {format}, level: debug}}\n");
        let (yaml, _) = with_admin(&yaml, dir.path());
        let evergate = Evergate::start(&yaml);
        attack_the_log(&evergate, listens);
        // As YAML writes it, and raw, which YAML forbids.
        for key in [r#""a\r\n{\"level\":\"x\"}\e[31m\u2028\u202e""#, HOSTILE] {
            let refused = || evergate.stderr().matches("reload refused").count();
            let before = refused();
            evergate.write_file(&format!("version: 1\n{key}: 1\n"));
            evergate.signal(rustix::process::Signal::HUP);
            wait_until(PATIENCE, "the refusal", || refused() > before);
        }
        assert!(
            evergate.stderr().contains("[31m"),
            "the hostile text never came"
        );
        for line in evergate.log_lines() {
            let hostile = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{202e}');
            assert!(!line.contains(hostile), "{line:?}");
            if format == "json" {
                let event: Value = serde_json::from_str(&line).unwrap();
                assert_ne!(event["level"], "x", "{line}");
            } else {
                assert!(line.starts_with("20"), "no timestamp: {line:?}");
            }
        }
    }
}

fn attack_the_log(evergate: &Evergate, listens: SocketAddr) {
    let header = b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n";
    for bytes in [
        [&header[..], &client_hello(HOSTILE.as_bytes())].concat(),
        [b"PROXY ", HOSTILE.as_bytes(), b"\r\n"].concat(),
        [&header[..], HOSTILE.as_bytes()].concat(),
    ] {
        let mut client = connect(listens);
        client.write_all(&bytes).unwrap();
        assert_eq!(rest(&mut client), b"");
    }
    let encoded: String = HOSTILE.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let path = format!("/api/v1/clusters/{encoded}/backends/{encoded}/drain");
    let token = [("Authorization", "Bearer open-sesame-open-sesame")];
    assert_eq!(evergate.post(&path, &token, b"").status, 404);
}

/// Class 40: the token and keys are in no log, no answer and no message, whatever goes wrong with them.
#[test]
fn secrets_are_never_shown() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    const SECRETS: [&str; 3] = ["open-sesame-open-sesame", "MIIBszerobytes", "hunter2"];
    let dir = tempfile::tempdir().unwrap();
    let (backend, listens) = (Backend::named("a"), free_addr());
    let yaml =
        file(listens, &plain(&[backend.addr()]), &[]) + "log: {format: json, level: debug}\n";
    let (yaml, _) = with_admin(&yaml, dir.path());
    let evergate = Evergate::start(&yaml);
    let wrong = [("Authorization", "Bearer hunter2")];
    evergate.post("/api/v1/reload", &wrong, b"");
    let right = [("Authorization", "Bearer open-sesame-open-sesame")];
    assert_eq!(evergate.post("/api/v1/reload", &right, b"").status, 200);
    // A key that is none: the message may name the file, not show it.
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let pem = "-----BEGIN PRIVATE KEY-----\nMIIBszerobytes\n-----END PRIVATE KEY-----\n";
    fs::write(&key, pem).unwrap();
    fs::write(&cert, "open-sesame-open-sesame\n").unwrap();
    let tls = format!(
        "cluster: c, tls: {{cert_file: {}, key_file: {}}}}}",
        cert.display(),
        key.display()
    );
    evergate.write_file(&yaml.replace("cluster: c}", &tls));
    let answer = evergate.post("/api/v1/reload", &right, b"");
    assert_eq!(answer.status, 422);
    let mut shown = answer.text() + &evergate.stderr() + &evergate.stdout();
    for path in [
        "/api/v1/config",
        "/api/v1/status",
        "/metrics",
        "/api/v1/sessions",
        "/",
    ] {
        shown += &evergate.get(path).text();
    }
    let check = run_command(&["check", "-c", evergate.file().to_str().unwrap()]);
    shown += &String::from_utf8_lossy(&[check.stdout, check.stderr].concat());
    assert!(shown.contains("token_file") && shown.contains("key.pem"));
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
}

/// Class 41: what clients choose (names, addresses) makes no series.
#[test]
fn clients_cannot_make_series() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, listens) = (Backend::named("a"), free_addr());
    let yaml = hashed_by_sni(listens, &[backend.addr()], "");
    let proxied = "proxy_protocol: accept, proxy_protocol_from: [127.0.0.1], routes:";
    let evergate = Evergate::start(&yaml.replace("routes:", proxied));
    let visit = |number: usize| {
        let mut stream = connect(listens);
        let (high, low) = (number / 250, number % 250 + 1);
        let header = format!(
            "PROXY TCP4 10.1.{high}.{low} 10.0.0.1 {} 5432\r\n",
            number + 1
        );
        let hello = client_hello(format!("n{number}.example").as_bytes());
        stream
            .write_all(&[header.as_bytes(), &hello].concat())
            .unwrap();
        assert_eq!(read_line(&mut stream).unwrap(), "a");
        let _ = stream.shutdown(Shutdown::Both);
    };
    let series = || evergate.get("/metrics").text().lines().count();
    (0..20).for_each(visit);
    evergate.wait_for_metric(ACTIVE, &[], 0.0);
    let before = series();
    (20..1000).for_each(visit);
    evergate.wait_for_metric(ACTIVE, &[], 0.0);
    assert_eq!(series(), before);
}

/// Class 42: who waits does not knock: a dead backend sees its prober and nobody else.
#[test]
fn an_outage_is_not_amplified_by_those_who_wait() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut backend = Backend::start(Behaviour::NamePerLine("a".to_owned()));
    let silent = Backend::start(Behaviour::Count);
    let listens = free_addr();
    let checks = "health_check: {send: \"x\\n\", expect: a, interval: 500ms, timeout: 500ms, \
                  fast_interval: 50ms, fall: 1}";
    let hold = "failover: {hold: {for: 50s, max_sessions: 1000}}";
    let addrs = plain(&[backend.addr(), silent.addr()]);
    let evergate = Evergate::start(&file(listens, &addrs, &[checks, hold]));
    evergate.wait_for_metric("evergate_backend_up", &[], 1.0);
    backend.freeze();
    evergate.wait_for_metric("evergate_backend_up", &[], 0.0);
    let _held: Vec<_> = (0..300).map(|_| connect(listens)).collect();
    evergate.wait_for_metric("evergate_cluster_held_sessions", &[], 300.0);
    let (before, began) = (silent.accepted(), Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        assert!(
            silent.active() <= 2,
            "one prober, and one that it just gave up"
        );
        thread::sleep(Duration::from_millis(20));
    }
    let probes = silent.accepted() - before;
    let most = began.elapsed().as_millis() / 50 + 5;
    assert!(u128::from(probes) <= most, "{probes} connections in 3 s");
    backend.kill(End::Rst);
}

/// Class 42: a thousand failing sessions make no thousand probes.
#[test]
fn failing_sessions_do_not_multiply_probes() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (closing, listens) = (Backend::start(Behaviour::Close), free_addr());
    let check = "health_check: {fast_interval: 50ms}";
    let evergate = Evergate::start(&file(listens, &plain(&[closing.addr()]), &[check]));
    let probes = || {
        evergate
            .metric("evergate_health_checks_total", &[])
            .unwrap_or(0.0)
    };
    let (before, began) = (probes(), Instant::now());
    for _ in 0..1000 {
        rest(&mut connect(listens));
    }
    let made = probes() - before;
    let most = began.elapsed().as_secs_f64() / 0.05 + 10.0;
    assert!(made <= most, "{made} probes, {most} allowed");
    assert_eq!(evergate.metric(REJECTED, &[]).unwrap_or(0.0), 0.0);
}

/// Class 42: the check asks another port and passes, the service refuses: who waits retries at
/// the pace of the waiting room, not all at once.
#[test]
fn a_refusing_service_with_a_passing_check_is_not_stormed() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (healthy, refusing) = (Backend::echo(), RefusingPort::new());
    let listens = free_addr();
    let port = healthy.addr().port();
    let check = format!("health_check: {{port: {port}, fast_interval: 50ms}}");
    let hold = "failover: {hold: {for: 50s, max_sessions: 1000}}";
    let addrs = plain(&[refusing.addr()]);
    let evergate = Evergate::start(&file(listens, &addrs, &[&check, hold]));
    let _waiting: Vec<_> = (0..300).map(|_| connect(listens)).collect();
    let refused = || {
        let labels = [("reason", "connect_refused")];
        let errors = evergate.metric("evergate_backend_connect_errors_total", &labels);
        errors.unwrap_or(0.0)
    };
    wait_until(PATIENCE, "everyone has tried", || refused() >= 300.0);
    let (before, began) = (refused(), Instant::now());
    thread::sleep(Duration::from_secs(2));
    let per_second = (refused() - before) / began.elapsed().as_secs_f64();
    // 32 at once, 50 ms each; all 300 at once would be 6,000.
    assert!(per_second <= 1000.0, "{per_second} connects a second");
    assert!(per_second >= 20.0, "{per_second}: nobody looks any more");
}
