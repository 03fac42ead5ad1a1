//! Clients that are slow, greedy, rude, many or gone: faults K1 to K3, K6 and K7.

use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;
use rustls::version::TLS13;
use socket2::SockRef;

use crate::bytes::client_hello;
use crate::bytes::tls_client;
use crate::bytes::tls_keys;
use crate::pki::Authority;
use crate::support::PATIENCE;
use crate::support::SetWhenDropped;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::evergate::Evergate;
use crate::support::limits::raise_open_files;
use crate::support::netns::Netns;
use crate::support::ports::FullBacklog;
use crate::support::ports::free_addr;
use crate::support::stream::Pattern;
use crate::support::stream::expect_pattern;
use crate::support::wait_until;
use crate::talk::ask;
use crate::talk::ask_over_tls;
use crate::talk::connect;
use crate::talk::file;
use crate::talk::round_trip;
use crate::talk::wait_for_ends;

const LIMIT: Duration = Duration::from_secs(90);
const RARE_CHECKS: &str = ", health_check: {interval: 1h}";
const MIB: u64 = 1 << 20;

/// K1: fifty clients each want a gigabyte and read next to nothing of it.
#[test]
fn readers_that_stop_cost_a_fixed_amount_and_slow_nobody() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let source = Backend::start(Behaviour::Stream { bytes: 1 << 30 });
    let echo = Backend::echo();
    let (slow, quick) = (free_addr(), free_addr());
    let yaml = format!(
        "clusters:\n  source: {{backends: [\"{}\"]{RARE_CHECKS}}}\n  \
         echo: {{backends: [\"{}\"]{RARE_CHECKS}}}\n\
         listeners:\n  slow: {{bind: \"{slow}\", cluster: source}}\n  \
         quick: {{bind: \"{quick}\", cluster: echo}}\n",
        source.addr(),
        echo.addr()
    );
    let evergate = Evergate::start(&yaml);
    let before = evergate.rss_bytes();
    let mut readers: Vec<TcpStream> = (0..50).map(|_| connect(slow)).collect();
    for reader in &mut readers {
        let seen = expect_pattern(reader, Pattern::new(), 1_000).unwrap();
        assert_eq!(seen, 1_000);
    }
    let received = || {
        let backend = [("cluster", "source")];
        let bytes = evergate.metric("evergate_backend_bytes_received_total", &backend);
        bytes.unwrap_or(0.0)
    };

    let mut other = connect(quick);
    wait_until(PATIENCE, "the backend is held back", || {
        let earlier = received();
        for _ in 0..50 {
            round_trip(&mut other).unwrap();
        }
        thread::sleep(Duration::from_millis(600));
        earlier > 0.0 && received() == earlier
    });

    let per_reader = received() / 50.0;
    assert!(
        per_reader < 16.0 * MIB as f64,
        "{per_reader} bytes for each"
    );
    let grown = evergate.rss_bytes().saturating_sub(before);
    println!(
        "{} KiB of resident memory per stopped reader",
        grown / 50 / 1024
    );
    assert!(grown < 16 * MIB, "{grown} bytes for 50 stopped readers");
    // Where they stopped, nothing is lost.
    let mut rest = Pattern::new();
    rest.next_bytes(1_000);
    let seen = expect_pattern(&mut readers[0], rest, 8 * MIB).unwrap();
    assert_eq!(seen, 8 * MIB);
}

/// K1, for readers behind TLS, whose records are sealed before anybody takes them.
#[test]
fn tls_readers_that_stop_cost_a_fixed_amount() {
    const READERS: u64 = 30;
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("ca");
    let source = Backend::start(Behaviour::Stream { bytes: 1 << 30 });
    let listen = free_addr();
    let keys = tls_keys(&authority);
    let evergate = Evergate::start(&file(listen, &[source.addr()], RARE_CHECKS, &keys));
    let before = evergate.rss_bytes();
    let mut readers: Vec<_> = (0..READERS)
        .map(|_| tls_client(&authority, &TLS13, connect(listen)))
        .collect();
    for reader in &mut readers {
        let seen = expect_pattern(reader, Pattern::new(), 1_000).unwrap();
        assert_eq!(seen, 1_000);
    }
    let received = || evergate.metric("evergate_backend_bytes_received_total", &[]);
    wait_until(PATIENCE, "the backend is held back", || {
        let earlier = received();
        thread::sleep(Duration::from_millis(600));
        received() == earlier
    });
    let each = evergate.rss_bytes().saturating_sub(before) / READERS / 1024;
    println!("{each} KiB of resident memory per stopped reader behind TLS");
    assert!(each < 512, "{each} KiB per stopped reader");
}

/// K1: patience with those who never read again has a limit.
#[test]
fn a_client_that_never_reads_is_let_go_after_the_user_timeout() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backend = Backend::start(Behaviour::Stream { bytes: 1 << 30 });
    let listen = free_addr();
    let evergate = Evergate::start(&file(
        listen,
        &[backend.addr()],
        RARE_CHECKS,
        ", user_timeout: 1s",
    ));
    let _client = connect(listen);
    wait_for_ends(&evergate, "send_timeout", 1.0);
    wait_until(PATIENCE, "the backend is free", || backend.active() == 0);
}

/// K2: a byte now and then does not buy more time, in whatever part of the handshake.
#[test]
fn a_slow_handshake_ends_at_its_timeout() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let doors = Doors::open("handshake_timeout: 1s");
    let hello = client_hello(&doors.authority);
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n".to_vec();
    let stories = [
        (doors.header, Vec::new(), header.clone()),
        (doors.sni, Vec::new(), hello.clone()),
        (doors.tls, Vec::new(), hello.clone()),
        (doors.header_tls, header.clone(), hello.clone()),
        // The handshake's second flight never comes.
        (doors.tls, hello.clone(), Vec::new()),
        // Nothing at all.
        (doors.header, Vec::new(), Vec::new()),
        (doors.sni, Vec::new(), Vec::new()),
        (doors.tls, Vec::new(), Vec::new()),
    ];
    thread::scope(|scope| {
        for (door, at_once, slowly) in &stories {
            scope.spawn(move || {
                let started = Instant::now();
                trickle(*door, at_once, slowly);
                let lasted = started.elapsed();
                assert!(lasted > Duration::from_millis(900), "{lasted:?}");
                // All of a ClientHello would take longer.
                assert!(lasted < Duration::from_secs(15), "{lasted:?}");
            });
        }
    });
    let count = stories.len() as f64;
    wait_for_ends(&doors.evergate, "handshake_timeout", count);
    assert!(
        doors.echo.accepted() <= 1,
        "more than the health check got through"
    );
}

/// K2: five hundred who stand in the door do not keep anybody out.
#[test]
fn handshakes_that_hang_do_not_hold_others_up() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let doors = Doors::open("handshake_timeout: 1h");
    let hello = client_hello(&doors.authority);
    let hanging: Vec<TcpStream> = (0..500)
        .map(|index| {
            let mut client = connect(doors.tls);
            client.write_all(&hello[..index % 5]).unwrap();
            client
        })
        .collect();
    for _ in 0..5 {
        let client = doors.authority.trusting(&[&TLS13]);
        let answer = ask_over_tls(doors.tls, "db.test", client, b"", b"hello").unwrap();
        assert_eq!(answer, b"hello");
    }
    assert_eq!(hanging.len(), 500);
}

/// K2: on a plain listener the proxy has nothing to wait for; idleness has its own limit.
#[test]
fn a_client_that_says_nothing_ends_by_the_idle_timeout() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let listen = free_addr();
    let idle = ", idle_timeout: 2s";
    let evergate = Evergate::start(&file(listen, &[echo.addr()], RARE_CHECKS, idle));
    let mut silent = connect(listen);
    let mut talking = connect(listen);
    let started = Instant::now();
    let end = thread::spawn(move || silent.read(&mut [0]));
    while started.elapsed() < Duration::from_secs(5) {
        round_trip(&mut talking).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    assert!(!matches!(end.join().unwrap(), Ok(1..)));
    wait_for_ends(&evergate, "idle_timeout", 1.0);
}

/// K2: a client whose power failed says nothing more, not even goodbye.
#[test]
fn a_half_open_client_is_found_by_keepalive() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let netns = Netns::new();
    let echo = Backend::at(
        SocketAddr::from((netns.host_ip(), free_addr().port())),
        Behaviour::Echo,
    );
    let at = |port| SocketAddr::from((netns.ip(), port));
    let (listen, admin) = (at(free_addr().port()), at(free_addr().port()));
    let keepalive = ", keepalive: {idle: 1s, interval: 1s, probes: 2}, user_timeout: 3s";
    let yaml = file(listen, &[echo.addr()], RARE_CHECKS, keepalive)
        + &format!("admin: {{bind: \"{admin}\"}}\n");
    let place = netns.place();
    let words: Vec<&str> = place.prefix.iter().map(String::as_str).collect();
    let evergate = Evergate::with(&yaml).inside(&words).start();
    let mut client = connect(listen);
    round_trip(&mut client).unwrap();

    netns.run(&[
        "nft",
        &format!(
            "add table inet gone; \
             add chain inet gone input {{ type filter hook input priority 0; }}; \
             add rule inet gone input tcp dport {} drop",
            listen.port()
        ),
    ]);

    wait_for_ends(&evergate, "send_timeout", 1.0);
    wait_until(PATIENCE, "the backend is free", || echo.active() == 0);
}

/// K3
#[test]
fn a_request_of_100_mb_is_streamed_and_not_kept() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let count = Backend::start(Behaviour::Count);
    let listen = free_addr();
    let evergate = Evergate::start(&file(listen, &[count.addr()], RARE_CHECKS, ""));
    let before = evergate.rss_bytes();
    let mut client = connect(listen);
    let mut most = 0;
    for _ in 0..100 {
        client.write_all(&[7; 1 << 20]).unwrap();
        most = most.max(evergate.rss_bytes());
    }
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, (100 * MIB).to_string());
    let grown = most.saturating_sub(before);
    assert!(grown < 8 * MIB, "{grown} bytes more resident memory");
}

/// K6: as many as this machine can open, for three seconds.
#[test]
fn a_storm_of_connections_leaves_old_sessions_alone_and_nothing_behind() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let listen = free_addr();
    let evergate = Evergate::start(&file(listen, &[echo.addr()], RARE_CHECKS, ""));
    let mut old = connect(listen);
    round_trip(&mut old).unwrap();
    let (files, memory) = (evergate.open_files(), evergate.rss_bytes());
    let (over, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut slowest = Duration::ZERO;

    thread::scope(|scope| {
        let _over = SetWhenDropped(&over);
        for _ in 0..8 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut client = connect(listen);
                    round_trip(&mut client).unwrap();
                    // Leaves no TIME_WAIT: ports would run out before the proxy does.
                    leave_rudely(client);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let began = Instant::now();
        // Enough of them, however slow the machine is.
        while began.elapsed() < Duration::from_secs(3) || served.load(Ordering::Relaxed) <= 300 {
            assert!(began.elapsed() < PATIENCE, "{served:?} is no storm");
            let asked = Instant::now();
            round_trip(&mut old).unwrap();
            slowest = slowest.max(asked.elapsed());
        }
    });

    let served = served.into_inner();
    println!("{served} sessions; slowest answer of an old one {slowest:?}");
    wait_until(PATIENCE, "all of them are gone", || {
        let active = evergate.metric("evergate_listener_connections_active", &[]);
        active == Some(1.0) && evergate.open_files() <= files + 4
    });
    let grown = evergate.rss_bytes().saturating_sub(memory);
    assert!(grown < 16 * MIB, "{grown} bytes are left");
    round_trip(&mut old).unwrap();
}

/// K7
#[test]
fn strangers_are_shown_out_at_once_and_do_not_fill_the_log() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let doors = Doors::open("handshake_timeout: 1h");
    let http = b"GET / HTTP/1.1\r\nHost: db\r\n\r\n".to_vec();
    let hello = client_hello(&doors.authority);
    let stories = [
        (doors.tls, &http, "tls_failed"),
        (doors.sni, &http, "bad_protocol"),
        (doors.header, &http, "bad_proxy_header"),
        (doors.header, &hello, "bad_proxy_header"),
    ];
    let started = Instant::now();
    for _ in 0..100 {
        for (door, bytes, _) in &stories {
            expect_end(*door, bytes);
        }
    }
    let seconds = started.elapsed().as_secs() + 1;

    for (cause, count) in [
        ("tls_failed", 100.0),
        ("bad_protocol", 100.0),
        ("bad_proxy_header", 200.0),
    ] {
        wait_for_ends(&doors.evergate, cause, count);
    }
    let lines = doors.evergate.log_lines();
    let warnings = lines.iter().filter(|line| line.contains("client refused"));
    // Ten lines for each second and cause.
    let allowed = usize::try_from(10 * 3 * (seconds + 1)).unwrap();
    let count = warnings.count();
    assert!((1..=allowed).contains(&count), "{count} of {allowed} lines");
    assert!(
        doors.echo.accepted() <= 1,
        "more than the health check got through"
    );
}

/// K7: who only looks whether a port is open is not worth a line.
#[test]
fn port_scanners_leave_no_trace() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let doors = Doors::open("handshake_timeout: 1h");
    let files = doors.evergate.open_files();
    for _ in 0..200 {
        for door in [doors.tls, doors.sni, doors.header, doors.header_tls] {
            drop(connect(door));
            leave_rudely(connect(door));
        }
    }
    wait_until(PATIENCE, "all of them are gone", || {
        let active = doors
            .evergate
            .metric("evergate_listener_connections_active", &[]);
        active == Some(0.0) && doors.evergate.open_files() <= files + 4
    });
    let lines = doors.evergate.log_lines();
    let mentioned = lines.iter().filter(|line| line.contains("client refused"));
    assert_eq!(mentioned.count(), 0, "{}", lines.join("\n"));
}

/// K7: without TLS of its own a listener passes on what it does not understand.
#[test]
fn tls_to_a_plain_listener_reaches_the_backend_unharmed() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let listen = free_addr();
    let _evergate = Evergate::start(&file(listen, &[echo.addr()], RARE_CHECKS, ""));
    let hello = client_hello(&Authority::new("ca"));
    assert_eq!(ask(listen, &hello).unwrap(), hello);
}

/// Five thousand sessions that say nothing, as connection pools make them.
#[test]
fn five_thousand_idle_sessions_cost_little_memory_each() {
    const SESSIONS: usize = 5_000;
    let _watchdog = Watchdog::bites_after(LIMIT);
    raise_open_files();
    let echo = Backend::echo();
    let listen = free_addr();
    let evergate = Evergate::start(&file(listen, &[echo.addr()], RARE_CHECKS, ""));
    // What the first session allocates for all is not the price of one.
    round_trip(&mut connect(listen)).unwrap();
    let before = evergate.rss_bytes();

    let mut clients = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        let mut client = connect(listen);
        round_trip(&mut client).unwrap();
        clients.push(client);
    }

    let grown = evergate.rss_bytes().saturating_sub(before);
    let each = grown as f64 / SESSIONS as f64 / 1024.0;
    println!("{each:.2} KiB of resident memory per idle session");
    assert!(each < 8.0, "{each:.2} KiB per idle session");
    let busy = evergate.cpu_time();
    thread::sleep(Duration::from_secs(2));
    let busy = evergate.cpu_time() - busy;
    println!("{busy:?} of processor time in 2 s while idle");
    assert!(busy < Duration::from_secs(1), "{busy:?} while idle");
    for client in clients.iter_mut().step_by(100) {
        round_trip(client).unwrap();
    }
    drop(clients);
    wait_until(PATIENCE, "all of them are gone", || {
        evergate.metric("evergate_listener_connections_active", &[]) == Some(0.0)
    });
}

/// The kernel's queue of a stopped process overflows; whoever waited is served when it goes on.
#[test]
fn clients_outlast_an_accept_queue_that_was_full() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let listen = free_addr();
    let evergate = Evergate::start(&file(listen, &[echo.addr()], RARE_CHECKS, ", backlog: 2"));
    let mut old = connect(listen);
    round_trip(&mut old).unwrap();

    evergate.signal(Signal::STOP);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..20)
            .map(|_| scope.spawn(move || round_trip(&mut connect(listen))))
            .collect();
        wait_until(PATIENCE, "the queue is full", || {
            let wait = Duration::from_millis(100);
            TcpStream::connect_timeout(&listen, wait).is_err()
        });
        evergate.signal(Signal::CONT);
        for client in waiting {
            client.join().unwrap().unwrap();
        }
    });
    round_trip(&mut old).unwrap();
}

/// The same at a backend: it costs a session time, and no session is lost.
#[test]
fn a_backend_with_a_full_accept_queue_is_passed_by() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (full, good) = (FullBacklog::new(), Backend::echo());
    let listen = free_addr();
    // Its health is asked elsewhere and stays good.
    let port = good.addr().port();
    let cluster = format!(
        ", health_check: {{interval: 1h, timeout: 20s, port: {port}}}, connect: {{timeout: 200ms}}, \
         balance: {{policy: round_robin}}"
    );
    let evergate = Evergate::start(&file(listen, &[full.addr(), good.addr()], &cluster, ""));
    for _ in 0..10 {
        round_trip(&mut connect(listen)).unwrap();
    }
    let reason = [("reason", "connect_timeout")];
    let errors = evergate.metric("evergate_backend_connect_errors_total", &reason);
    assert!(errors >= Some(3.0), "{errors:?}");
}

/// One listener for each way to begin a session.
struct Doors {
    evergate: Evergate,
    echo: Backend,
    authority: Authority,
    header: SocketAddr,
    sni: SocketAddr,
    tls: SocketAddr,
    header_tls: SocketAddr,
}

impl Doors {
    fn open(timeout: &str) -> Self {
        let echo = Backend::echo();
        let authority = Authority::new("ca");
        let [header, sni, tls, header_tls] = [(); 4].map(|()| free_addr());
        let trusted = "proxy_protocol: accept, proxy_protocol_from: [127.0.0.0/8]";
        let keys = tls_keys(&authority);
        let yaml = format!(
            "clusters:\n  c: {{backends: [\"{}\"]{RARE_CHECKS}}}\nlisteners:\n  \
             header: {{bind: \"{header}\", cluster: c, {timeout}, {trusted}}}\n  \
             sni: {{bind: \"{sni}\", routes: [{{sni: db.test, cluster: c}}], {timeout}}}\n  \
             tls: {{bind: \"{tls}\", cluster: c, {timeout}{keys}}}\n  \
             header_tls: {{bind: \"{header_tls}\", cluster: c, {timeout}, {trusted}{keys}}}\n",
            echo.addr()
        );
        Self {
            evergate: Evergate::start(&yaml),
            echo,
            authority,
            header,
            sni,
            tls,
            header_tls,
        }
    }
}

/// Sends a byte every 100 ms and never the last one; returns when the other side ends it.
fn trickle(addr: SocketAddr, at_once: &[u8], slowly: &[u8]) {
    let mut client = connect(addr);
    client.write_all(at_once).unwrap();
    let pause = Duration::from_millis(100);
    client.set_read_timeout(Some(pause)).unwrap();
    let mut rest = slowly.iter().take(slowly.len().saturating_sub(1));
    let started = Instant::now();
    loop {
        match client.read(&mut [0; 4096]) {
            Ok(0) => return,
            // The answer to a ClientHello.
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {}
            Err(_) => return,
        }
        assert!(started.elapsed() < PATIENCE, "never shown out");
        if let Some(byte) = rest.next() {
            // Fails when the other side has just ended it.
            let _ = client.write_all(&[*byte]);
        }
    }
}

/// Says something wrong and is shown out without a wait.
#[track_caller]
fn expect_end(addr: SocketAddr, bytes: &[u8]) {
    let mut client = connect(addr);
    client.write_all(bytes).unwrap();
    let end = client.read_to_end(&mut Vec::new());
    assert!(
        !matches!(&end, Err(error) if is_timeout(error)),
        "still open: {end:?}"
    );
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Ends with a reset.
fn leave_rudely(client: TcpStream) {
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}
