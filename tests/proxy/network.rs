//! The network between the proxy and its peers: faults N1 to N7 and N11.

use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use std::time::Instant;

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
use crate::support::wait_until;
use crate::talk::connect;
use crate::talk::downs;
use crate::talk::ended;
use crate::talk::expect_echo;
use crate::talk::file;
use crate::talk::round_trip;
use crate::talk::wait_for_ends;

const LIMIT: Duration = Duration::from_secs(90);
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

/// N11: ports for the same backend, once for each address that sessions come from.
#[test]
fn a_second_source_address_makes_room_for_twice_the_sessions() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for sources in [&["127.0.0.2"][..], &["127.0.0.2", "127.0.0.3"]] {
        let netns = Netns::new();
        let redis = Redis::start_in(&netns.place());
        netns.run(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40019"]);
        // Whoever comes from elsewhere is turned away, probes too.
        let (all, port) = (sources.join(", "), redis.addr().port());
        netns.run(&["nft", &format!(
            "add table inet only; add chain inet only input {{ type filter hook input priority 0; }}; \
             add rule inet only input tcp dport {port} ip saddr != {{ {all} }} reject with tcp reset"
        )]);
        let [listen, admin] = [(); 2].map(|()| SocketAddr::from((netns.ip(), free_addr().port())));
        let yaml = format!(
            "clusters:\n  c:\n    backends: [\"{}\"]\n    connect: {{source: [{all}]}}\n    \
             health_check: {{interval: 1h}}\n    failover: {{hold: {{for: 100ms, max_sessions: 100}}}}\n\
             listeners:\n  l: {{bind: \"{listen}\", cluster: c}}\nadmin: {{bind: \"{admin}\"}}\n",
            redis.addr()
        );
        let place = netns.place();
        let words: Vec<&str> = place.prefix.iter().map(String::as_str).collect();
        let evergate = Evergate::with(&yaml).inside(&words).start();
        evergate.wait_for_metric("evergate_backend_up", &[("cluster", "c")], 1.0);

        let mut clients: Vec<TcpStream> = Vec::new();
        let mut served = 0;
        for _ in 0..50 {
            let mut client = connect(listen);
            served += usize::from(ping(&mut client).is_ok());
            clients.push(client);
        }
        // The probe's last connection may still have one of the ports.
        let room = 20 * sources.len();
        assert!((room - 1..=room).contains(&served), "{served} of {room}");
        assert_eq!(downs(&evergate), Vec::<String>::new());
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
