//! The network between the proxy and its peers: faults N1 to N11.

use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustls::version::TLS12;
use rustls::version::TLS13;
use socket2::SockRef;

use crate::pki::Authority;
use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::evergate::Evergate;
use crate::support::netns::Netns;
use crate::support::ports::free_addr;
use crate::support::redis::Redis;
use crate::support::relay::Direction;
use crate::support::relay::FaultRelay;
use crate::support::relay::Faults;
use crate::support::stream::Pattern;
use crate::support::stream::expect_pattern;
use crate::support::stream::write_pattern;
use crate::support::wait_until;
use crate::talk::ask;
use crate::talk::ask_over_tls;
use crate::talk::connect;
use crate::talk::downs;
use crate::talk::ended;
use crate::talk::expect_echo;
use crate::talk::file;
use crate::talk::open_pipes;
use crate::talk::round_trip;
use crate::talk::wait_for_ends;

const LIMIT: Duration = Duration::from_secs(90);
/// Above what the relay copies before it splices, and above every buffer on the way.
const BULK_BYTES: u64 = 12 << 20;
/// A health check that sees no fault for the length of a test.
const RARE_CHECKS: &str = ", health_check: {interval: 1h}";
const FAST_CHECKS: &str = ", health_check: {interval: 100ms}";

/// N1
#[test]
fn a_connection_reset_by_the_network_is_a_reset_for_its_client_and_nobody_else() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (a, b) = (Backend::echo(), Backend::echo());
    let mut breaks = FaultRelay::to(a.addr());
    let listen = free_addr();
    let balance = format!("{FAST_CHECKS}, balance: {{policy: round_robin}}");
    let evergate = Evergate::start(&file(listen, &[breaks.addr(), b.addr()], &balance, ""));
    let mut clients: Vec<TcpStream> = (0..10).map(|_| connect(listen)).collect();
    for client in &mut clients {
        round_trip(client).unwrap();
    }

    breaks.reset_connections();

    let ends: Vec<_> = clients.iter_mut().map(round_trip).collect();
    let broken: Vec<_> = ends.iter().filter_map(|end| end.as_ref().err()).collect();
    assert_eq!(broken.len(), 5, "{ends:?}");
    assert!(
        broken.iter().all(|end| matches!(
            end.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        )),
        "{broken:?}"
    );
    wait_for_ends(&evergate, "reset", 5.0);
    // New sessions never see it: nothing was sent yet.
    for _ in 0..10 {
        round_trip(&mut connect(listen)).unwrap();
    }
}

/// N1, in the middle of an answer: of a short one, which is copied, and of a long one, which is spliced.
#[test]
fn an_answer_cut_off_by_a_reset_never_ends_cleanly() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for bytes in [10_000, BULK_BYTES] {
        let backend = OwnBackend::new();
        let listen = free_addr();
        let evergate = backend.behind(listen, "");
        let mut client = connect(listen);
        client.write_all(b"select\n").unwrap();
        let mut server = backend.accept();
        server.read_exact(&mut [0; 7]).unwrap();

        let sender = thread::spawn(move || {
            write_pattern(&mut server, Pattern::new(), bytes).unwrap();
            server
        });
        let half = bytes / 2;
        let seen = expect_pattern(&mut client, Pattern::new(), half).unwrap();
        assert_eq!(seen, half);
        if bytes == BULK_BYTES {
            assert!(open_pipes(&evergate) > 0, "bulk is spliced");
        }
        // All of it is delivered; that there is no more to come was never said.
        drain_some(&mut client, half);
        reset(sender.join().unwrap());

        let end = client.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{bytes} bytes");
        wait_for_ends(&evergate, "reset", 1.0);
    }
}

/// N1, for a client behind TLS.
#[test]
fn an_answer_cut_off_by_a_reset_never_ends_cleanly_through_tls() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("ca");
    let backend = OwnBackend::new();
    let listen = free_addr();
    let _evergate = backend.behind(listen, &tls_keys(&authority));
    let client = authority.trusting(&[&TLS13]);
    let asking = thread::spawn(move || ask_over_tls(listen, "db.test", client, b"", b"select\n"));
    let mut server = backend.accept();
    server.read_exact(&mut [0; 7]).unwrap();
    write_pattern(&mut server, Pattern::new(), 10_000).unwrap();
    reset(server);
    let end = asking.join().unwrap().unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
}

/// N1, the other way: a half upload must not look like a whole one.
#[test]
fn an_upload_cut_off_by_a_reset_never_ends_cleanly() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for bytes in [10_000, BULK_BYTES] {
        let backend = OwnBackend::new();
        let listen = free_addr();
        let _evergate = backend.behind(listen, "");
        let mut client = connect(listen);
        let uploading = thread::spawn(move || {
            write_pattern(&mut client, Pattern::new(), bytes).unwrap();
            client
        });
        let mut server = backend.accept();
        let seen = expect_pattern(&mut server, Pattern::new(), bytes).unwrap();
        assert_eq!(seen, bytes);

        reset(uploading.join().unwrap());

        let end = server.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{bytes} bytes");
    }
}

/// N2, N5: what a client sent is acknowledged by nobody.
#[test]
fn a_session_into_a_black_hole_ends_after_the_user_timeout() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for one_way in [false, true] {
        let netns = Netns::new();
        let redis = Redis::start_in(&netns.place());
        let listen = free_addr();
        let evergate = Evergate::start(&file(
            listen,
            &[redis.addr()],
            RARE_CHECKS,
            ", user_timeout: 2s, keepalive: {idle: 1h}",
        ));
        let mut client = connect(listen);
        ping(&mut client).unwrap();

        netns.drop_outgoing();
        if !one_way {
            netns.drop_incoming();
        }

        let end = ping(&mut client).unwrap_err();
        assert_ne!(end.kind(), ErrorKind::WouldBlock, "still waiting");
        wait_for_ends(&evergate, "send_timeout", 1.0);
    }
}

/// N2: an idle session has nothing to send; only keepalive notices.
#[test]
fn an_idle_session_into_a_black_hole_is_found_by_keepalive() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let netns = Netns::new();
    let redis = Redis::start_in(&netns.place());
    let listen = free_addr();
    let evergate = Evergate::start(&file(
        listen,
        &[redis.addr()],
        RARE_CHECKS,
        // The kernel takes a user timeout for the limit of keepalive, too.
        ", keepalive: {idle: 1s, interval: 1s, probes: 2}, user_timeout: 3s",
    ));
    let mut client = connect(listen);
    ping(&mut client).unwrap();

    netns.drop_outgoing();

    let end = client.read(&mut [0]);
    assert!(
        !matches!(&end, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "{end:?}"
    );
    wait_for_ends(&evergate, "send_timeout", 1.0);
}

/// N3
#[test]
fn connects_into_a_black_hole_go_to_another_backend() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let netns = Netns::new();
    let lost = Redis::start_in(&netns.place());
    let good = Redis::start();
    let listen = free_addr();
    let cluster =
        format!("{RARE_CHECKS}, balance: {{policy: round_robin}}, connect: {{timeout: 300ms}}");
    let evergate = Evergate::start(&file(listen, &[lost.addr(), good.addr()], &cluster, ""));
    netns.drop_new_connections(lost.addr().port());

    for _ in 0..10 {
        ping(&mut connect(listen)).unwrap();
    }

    let reason = [("reason", "connect_timeout")];
    let errors = evergate.metric("evergate_backend_connect_errors_total", &reason);
    assert!(errors >= Some(1.0), "{errors:?}");
    // The sessions' evidence asked for probes at once; the next regular one is an hour away.
    wait_until(PATIENCE, "the lost backend is down", || {
        downs(&evergate).len() == 1
    });
}

/// N4
#[test]
fn a_backend_that_rebooted_in_silence_is_not_mistaken_for_a_live_one() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let netns = Netns::new();
    let mut redis = Redis::start_in(&netns.place());
    let listen = free_addr();
    let evergate = Evergate::start(&file(listen, &[redis.addr()], RARE_CHECKS, ""));
    let mut client = connect(listen);
    ping(&mut client).unwrap();

    // Neither FIN nor RST leaves: as when the power fails.
    netns.drop_outgoing();
    redis.kill9();
    wait_until(PATIENCE, "no trace of the old connection", || {
        netns
            .run(&["ss", "-Htan", "state", "established"])
            .is_empty()
            && netns
                .run(&["ss", "-Htan", "state", "fin-wait-1"])
                .is_empty()
            || kill_sockets(&netns)
    });
    netns.heal();
    redis.start_again();

    let end = ping(&mut client).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    wait_for_ends(&evergate, "reset", 1.0);
    ping(&mut connect(listen)).unwrap();
}

/// N5: probes that reach the backend but bring nothing back are failures, and the other way round.
#[test]
fn a_one_way_partition_takes_the_backend_out_in_either_direction() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let netns = Netns::new();
    let (cut, good) = (Redis::start_in(&netns.place()), Redis::start());
    let listen = free_addr();
    let evergate = Evergate::start(&file(listen, &[cut.addr(), good.addr()], FAST_CHECKS, ""));
    let partitions: [fn(&Netns); 2] = [Netns::drop_outgoing, Netns::drop_incoming];
    let name = cut.addr().to_string();
    let up = |value| {
        let labels = [("backend", name.as_str())];
        evergate.wait_for_metric("evergate_backend_up", &labels, value);
    };
    for partition in partitions {
        partition(&netns);
        up(0.0);
        for _ in 0..5 {
            ping(&mut connect(listen)).unwrap();
        }
        netns.heal();
        up(1.0);
    }
}

/// N6, for 12 s instead of 10 min. Without netem: 100 ms of jitter and, for 5 % loss, what a
/// lost segment is above TCP, one chunk in twenty that stands still for a retransmission timeout.
#[test]
fn jitter_and_loss_cause_no_failover_and_harm_no_byte() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let bad_line = Faults::both(Direction {
        jitter: Duration::from_millis(100),
        stalled_per_mille: 50,
        stall: Duration::from_millis(250),
        ..Direction::default()
    });
    let echoes = [Backend::echo(), Backend::echo()];
    let relays = [0, 1].map(|index: usize| FaultRelay::to(echoes[index].addr()));
    let listen = free_addr();
    let evergate = Evergate::start(&file(
        listen,
        &[relays[0].addr(), relays[1].addr()],
        ", health_check: {interval: 800ms, timeout: 800ms, send: ping, expect: ping}",
        "",
    ));
    for relay in &relays {
        relay.set(bad_line.clone());
    }

    let end = Instant::now() + Duration::from_secs(12);
    thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                while Instant::now() < end {
                    expect_echo(connect(listen), seed, 3_000);
                }
            });
        }
    });

    let passed = [("result", "passed")];
    let checks = evergate.metric("evergate_health_checks_total", &passed);
    assert!(checks >= Some(10.0), "{checks:?}");
    assert_eq!(downs(&evergate), Vec::<String>::new());
    assert_eq!(ended(&evergate, "reset"), 0.0);
}

/// N7
#[test]
fn a_narrow_line_holds_the_backend_back_and_fills_no_memory() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backend = Backend::start(Behaviour::Stream { bytes: 1 << 30 });
    let listen = free_addr();
    let evergate = Evergate::start(&file(listen, &[backend.addr()], RARE_CHECKS, ""));
    let line = FaultRelay::to(listen);
    let mut narrow = Faults::default();
    // 1 Mbit/s.
    narrow.to_client.bytes_per_second = Some(125_000);
    line.set(narrow);
    let before = evergate.rss_bytes();
    let mut client = connect(line.addr());
    let read = expect_pattern(&mut client, Pattern::new(), 300_000).unwrap();
    assert_eq!(read, 300_000);
    let received = evergate.metric("evergate_backend_bytes_received_total", &[]);
    // The buffers of three sockets and a relay at most, of a gigabyte that waits.
    assert!(received < Some(f64::from(64 << 20)), "{received:?}");
    let grown = evergate.rss_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more resident memory");
}

/// N8: the FIN comes before the answer is known.
#[test]
fn a_half_closed_client_gets_the_whole_answer() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("ca");
    let count = Backend::start(Behaviour::Count);
    for upload in [0, 1, 100_000, BULK_BYTES] {
        let sent = Pattern::new().next_bytes(usize::try_from(upload).unwrap());
        let expected = upload.to_string().into_bytes();

        let plain = free_addr();
        let _evergate = Evergate::start(&file(plain, &[count.addr()], "", ""));
        assert_eq!(ask(plain, &sent).unwrap(), expected);

        let tls = free_addr();
        let listener = tls_keys(&authority);
        let _evergate = Evergate::start(&file(tls, &[count.addr()], "", &listener));
        for version in [&TLS12, &TLS13] {
            let client = authority.trusting(&[version]);
            let answer = ask_over_tls(tls, "db.test", client, b"", &sent).unwrap();
            assert_eq!(answer, expected, "{version:?}");
        }
    }
}

/// N9: the backend's FIN passes, and the client may go on sending.
#[test]
fn a_half_closed_backend_still_gets_what_its_client_sends() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for answer in [1, BULK_BYTES] {
        let backend = Backend::start(Behaviour::Stream { bytes: answer });
        let listen = free_addr();
        let evergate = Evergate::start(&file(listen, &[backend.addr()], RARE_CHECKS, ""));
        let mut client = connect(listen);
        let seen = expect_pattern(&mut client, Pattern::new(), u64::MAX).unwrap();
        assert_eq!(seen, answer);

        write_pattern(&mut client, Pattern::new(), BULK_BYTES).unwrap();
        client.shutdown(Shutdown::Write).unwrap();

        wait_until(PATIENCE, "everything has arrived", || {
            backend.bytes_received() == BULK_BYTES
        });
        wait_for_ends(&evergate, "closed", 1.0);
    }
}

/// N10
#[test]
fn the_size_of_segments_changes_no_byte() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let authority = Authority::new("ca");
    let echo = Backend::echo();
    let behind = FaultRelay::to(echo.addr());
    let (plain, tls, passed) = (free_addr(), free_addr(), free_addr());
    let trusted = "proxy_protocol: accept, proxy_protocol_from: [127.0.0.0/8]";
    let terminating = tls_keys(&authority);
    let yaml = file(plain, &[behind.addr()], RARE_CHECKS, "")
        + &format!("  t: {{bind: \"{tls}\", cluster: c, {trusted}{terminating}}}\n")
        + &format!("  s: {{bind: \"{passed}\", routes: [{{sni: db.test, cluster: c}}]}}\n");
    let _evergate = Evergate::start(&yaml);
    let sent = Pattern::seeded(5).next_bytes(8_000);
    let tiny = Direction {
        max_segment_bytes: Some(1),
        ..Direction::default()
    };
    let merged = Direction {
        coalesce: Duration::from_millis(30),
        ..Direction::default()
    };
    for faults in [Direction::default(), tiny, merged] {
        behind.set(Faults::both(faults.clone()));
        let before = |listen| {
            let relay = FaultRelay::to(listen);
            relay.set(Faults::both(faults.clone()));
            relay
        };
        let relay = before(plain);
        assert_eq!(ask(relay.addr(), &sent).unwrap(), sent, "{faults:?}");

        let relay = before(tls);
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n";
        for version in [&TLS12, &TLS13] {
            let client = authority.trusting(&[version]);
            let answer = ask_over_tls(relay.addr(), "db.test", client, header, &sent).unwrap();
            assert_eq!(answer, sent, "{faults:?}");
        }

        // Read ahead for its server name, then passed on: the echo sends the hello back.
        let relay = before(passed);
        let hello = client_hello(&authority);
        assert_eq!(ask(relay.addr(), &hello).unwrap(), hello, "{faults:?}");
    }
}

/// Bulk both ways at once through splice(2), with a client that stops reading in the middle.
#[test]
fn bulk_survives_a_reader_that_pauses() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let echo = Backend::echo();
    let listen = free_addr();
    let evergate = Evergate::start(&file(listen, &[echo.addr()], RARE_CHECKS, ""));
    let mut client = connect(listen);
    let mut output = client.try_clone().unwrap();
    let writer = thread::spawn(move || {
        write_pattern(&mut output, Pattern::seeded(9), BULK_BYTES)?;
        output.shutdown(Shutdown::Write)
    });
    // Nothing is read until every buffer on the way is full.
    let mut last = 0;
    let mut still = 0;
    wait_until(PATIENCE, "the way is full", || {
        thread::sleep(Duration::from_millis(50));
        let now = echo.bytes_received();
        still = if now == last && now > 0 { still + 1 } else { 0 };
        last = now;
        still == 5
    });
    assert!(last < BULK_BYTES, "it was never full");

    let mut spliced = 0;
    let mut input = Watched {
        stream: &mut client,
        look: || spliced = spliced.max(open_pipes(&evergate)),
    };
    let seen = expect_pattern(&mut input, Pattern::seeded(9), u64::MAX).unwrap();

    assert_eq!(seen, BULK_BYTES);
    writer.join().unwrap().unwrap();
    assert!(spliced > 0, "bulk is spliced");
}

/// N11
#[test]
fn without_ports_for_one_backend_another_takes_over_and_nobody_is_called_down() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let netns = Netns::new();
    netns.run(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40019"]);
    // TIME_WAIT would hold a port for a minute, longer than this test.
    netns.run(&["sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1"]);
    let at = |port| SocketAddr::from((netns.host_ip(), port));
    let [first, spare] = [(); 2].map(|()| Backend::at(at(free_addr().port()), Behaviour::Echo));
    let [listen, admin] = [(); 2].map(|()| SocketAddr::from((netns.ip(), free_addr().port())));
    let yaml = format!(
        "clusters:\n  c:\n    backends: [\"{}\", {{address: \"{}\", tier: 1}}]\n    \
         health_check: {{interval: 300ms}}\n    failover: {{hold: {{for: 300ms, max_sessions: 100}}}}\n\
         listeners:\n  l: {{bind: \"{listen}\", cluster: c}}\n\
         admin: {{bind: \"{admin}\"}}\n",
        first.addr(),
        spare.addr()
    );
    let place = netns.place();
    let words: Vec<&str> = place.prefix.iter().map(String::as_str).collect();
    let evergate = Evergate::with(&yaml).inside(&words).start();

    // Twenty ports for each destination, and sometimes a probe has one of them.
    let mut served: Vec<TcpStream> = Vec::new();
    for _ in 0..30 {
        let mut client = connect(listen);
        round_trip(&mut client).unwrap();
        served.push(client);
    }
    assert!(first.active() >= 15 && spare.active() >= 5);
    let refused = (0..20)
        .filter(|_| {
            let mut client = connect(listen);
            let end = round_trip(&mut client);
            served.push(client);
            end.is_err()
        })
        .count();
    assert!(refused >= 5, "{refused} refused for want of a port");

    let reason = [("reason", "out_of_resources")];
    let errors = evergate.metric("evergate_backend_connect_errors_total", &reason);
    assert!(errors >= Some(10.0), "{errors:?}");
    assert!(ended(&evergate, "out_of_resources") >= 5.0);
    evergate.wait_for_log("Cannot assign requested address");
    assert_eq!(downs(&evergate), Vec::<String>::new());

    drop(served);
    wait_until(PATIENCE, "its recovery", || {
        (0..5).all(|_| round_trip(&mut connect(listen)).is_ok())
    });
}

/// A backend of which the test holds the connection itself; its health is checked elsewhere.
struct OwnBackend {
    listener: TcpListener,
    checked: Backend,
}

impl OwnBackend {
    fn new() -> Self {
        Self {
            listener: TcpListener::bind(free_addr()).unwrap(),
            checked: Backend::echo(),
        }
    }

    fn behind(&self, listen: SocketAddr, listener: &str) -> Evergate {
        let port = self.checked.addr().port();
        let check = format!(", health_check: {{interval: 1h, port: {port}}}");
        let addr = self.listener.local_addr().unwrap();
        Evergate::start(&file(listen, &[addr], &check, listener))
    }

    fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

/// Looks at something after each read.
struct Watched<'a, F> {
    stream: &'a mut TcpStream,
    look: F,
}

impl<F: FnMut()> Read for Watched<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stream.read(buffer);
        (self.look)();
        length
    }
}

/// Ends as a crash does.
fn reset(stream: impl AsFd) {
    let linger = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    linger.unwrap();
}

/// Takes everything there is of an answer that still lacks its end.
fn drain_some(client: &mut TcpStream, bytes: u64) {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        left -= client.read(&mut buffer).unwrap() as u64;
    }
}

fn ping(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    client.read_exact(&mut answer)?;
    assert_eq!(&answer, b"+PONG\r\n");
    Ok(())
}

/// Forgets connections without telling the other side.
fn kill_sockets(netns: &Netns) -> bool {
    netns.run(&["ss", "-K", "-tan"]);
    false
}

pub fn tls_keys(authority: &Authority) -> String {
    let pair = authority.issue("server", &["db.test"]);
    let (cert, key) = (pair.cert_file.display(), pair.key_file.display());
    format!(", tls: {{cert_file: \"{cert}\", key_file: \"{key}\"}}")
}

/// The first flight of a real client.
pub fn client_hello(authority: &Authority) -> Vec<u8> {
    let config = std::sync::Arc::new(authority.trusting(&[&TLS13]));
    let name = "db.test".try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}
