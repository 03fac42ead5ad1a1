//! What the operator decides: who waits and how long, who is severed, who is preferred.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::Behaviour;
use crate::support::backend::End;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::evergate::evergate as run_command;
use crate::support::limits::raise_open_files;
use crate::support::ports::FullBacklog;
use crate::support::ports::RefusingPort;
use crate::support::ports::free_addr;
use crate::support::talk::connect;
use crate::support::talk::echoes;
use crate::support::talk::expect_silence;
use crate::support::talk::file;
use crate::support::talk::greeted;
use crate::support::talk::name_at;
use crate::support::talk::plain;
use crate::support::talk::read_line;
use crate::support::talk::rest;
use crate::support::talk::wait_for_name;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
const REJECTED: &str = "evergate_listener_connections_rejected_total";
const ENDED: &str = "evergate_sessions_ended_total";
const HELD: &str = "evergate_cluster_held_sessions";
const QUEUED: &str = "evergate_cluster_queued_sessions";

#[track_caller]
fn wait_up(evergate: &Evergate, backend: &str, up: bool) {
    let value = if up { 1.0 } else { 0.0 };
    evergate.wait_for_metric("evergate_backend_up", &[("backend", backend)], value);
}

/// Clients that are counted as waiting before the next one comes, so that their order is known.
#[track_caller]
fn waiting_in_order(
    evergate: &Evergate,
    metric: &str,
    listens: SocketAddr,
    count: u32,
) -> Vec<TcpStream> {
    let clients = (1..=count).map(|number| {
        let client = connect(listens);
        evergate.wait_for_metric(metric, &[], f64::from(number));
        client
    });
    clients.collect()
}

#[test]
fn a_full_backend_serves_those_who_wait_in_the_order_they_came() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backend = Backend::named("a");
    let listens = free_addr();
    let backends = [(backend.addr(), "max_connections: 1")];
    let queue = "failover: {queue: {for: 50s, max_sessions: 10}}";
    let evergate = Evergate::start(&file(listens, &backends, &[queue]));
    let (first, _) = greeted(listens).unwrap();
    let mut waiting = waiting_in_order(&evergate, QUEUED, listens, 4);
    assert_eq!(backend.active(), 1);

    let mut served = first;
    while !waiting.is_empty() {
        for client in &mut waiting {
            expect_silence(client);
        }
        // Only the next in line may have the place.
        drop(served);
        served = waiting.remove(0);
        assert_eq!(read_line(&mut served).unwrap(), "a");
    }
    assert_eq!(evergate.metric(REJECTED, &[]).unwrap_or(0.0), 0.0);
}

#[test]
fn a_full_queue_refuses_at_once_and_a_long_wait_ends() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backend = Backend::named("a");
    let listens = free_addr();
    let backends = [(backend.addr(), "max_connections: 1")];
    let queue = "failover: {queue: {for: 3s, max_sessions: 2}}";
    let evergate = Evergate::start(&file(listens, &backends, &[queue]));
    let (mut first, _) = greeted(listens).unwrap();
    let started = Instant::now();
    let mut waiting = waiting_in_order(&evergate, QUEUED, listens, 2);

    assert_eq!(rest(&mut connect(listens)), b"");
    evergate.wait_for_metric(REJECTED, &[("reason", "queue_full")], 1.0);
    for client in &mut waiting {
        assert_eq!(rest(client), b"");
    }
    assert!(started.elapsed() >= Duration::from_secs(3));
    evergate.wait_for_metric(REJECTED, &[("reason", "queue_timeout")], 2.0);
    // "Busy" has harmed nobody who was served.
    first.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut first), b"");
    assert_eq!(name_at(listens), "a");
}

#[test]
fn a_client_that_leaves_the_queue_frees_its_place() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backend = Backend::named("a");
    let listens = free_addr();
    let backends = [(backend.addr(), "max_connections: 1")];
    let queue = "failover: {queue: {for: 50s, max_sessions: 1}}";
    let evergate = Evergate::start(&file(listens, &backends, &[queue]));
    let (first, _) = greeted(listens).unwrap();
    let leaver = waiting_in_order(&evergate, QUEUED, listens, 1);
    drop(leaver);
    evergate.wait_for_metric(QUEUED, &[], 0.0);
    let mut next = waiting_in_order(&evergate, QUEUED, listens, 1);
    drop(first);
    assert_eq!(read_line(&mut next[0]).unwrap(), "a");
    let gone = [("side", "client"), ("phase", "queue"), ("cause", "closed")];
    evergate.wait_for_metric(ENDED, &gone, 1.0);
}

#[test]
fn held_clients_are_served_when_a_backend_returns_in_time() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut backend = Backend::named("a");
    let listens = free_addr();
    let hold = "failover: {hold: {for: 50s, max_sessions: 3}}";
    let evergate = Evergate::start(&file(listens, &plain(&[backend.addr()]), &[hold]));
    backend.kill(End::Rst);
    wait_up(&evergate, "a", false);

    let mut held = waiting_in_order(&evergate, HELD, listens, 3);
    // Full: who comes now is refused at once, not after 50 s.
    assert_eq!(rest(&mut connect(listens)), b"");
    evergate.wait_for_metric(REJECTED, &[("reason", "hold_full")], 1.0);
    // Gone while waiting: the place is free again.
    drop(held.remove(1));
    evergate.wait_for_metric(HELD, &[], 2.0);
    held.push(connect(listens));
    evergate.wait_for_metric(HELD, &[], 3.0);

    backend.start_again();
    for client in &mut held {
        assert_eq!(read_line(client).unwrap(), "a");
    }
    evergate.wait_for_metric(HELD, &[], 0.0);
    let durations = evergate.metric("evergate_cluster_hold_duration_seconds_count", &[]);
    // Three were served, one went away.
    assert_eq!(durations, Some(4.0));
}

#[test]
fn what_a_held_client_has_sent_already_arrives_whole() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut backend = Backend::echo();
    let listens = free_addr();
    let hold = "failover: {hold: {for: 50s, max_sessions: 10}}";
    let evergate = Evergate::start(&file(listens, &plain(&[backend.addr()]), &[hold]));
    backend.kill(End::Rst);
    wait_up(&evergate, "a", false);
    let mut held = connect(listens);
    let bytes = vec![7; 100_000];
    held.write_all(&bytes).unwrap();
    evergate.wait_for_metric(HELD, &[], 1.0);
    backend.start_again();
    let mut answer = vec![0; bytes.len()];
    held.read_exact(&mut answer).unwrap();
    assert_eq!(answer, bytes);
}

#[test]
fn without_hold_clients_of_a_dead_cluster_are_refused_at_once() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let listens = free_addr();
    let dead = RefusingPort::new();
    let hold = "failover: {hold: {for: 0s, max_sessions: 0}}";
    let yaml = file(listens, &plain(&[dead.addr()]), &[hold]);
    let evergate = Evergate::with(&yaml).until(Until::Alive).start();
    wait_up(&evergate, "a", false);
    assert_eq!(rest(&mut connect(listens)), b"");
    assert!(evergate.metric(REJECTED, &[]) >= Some(1.0));
}

#[test]
fn a_dead_backend_severs_its_sessions() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (evergate, mut session, _backend) = session_of_a_dead_backend("sever");
    assert_eq!(rest(&mut session), b"");
    let severed = [
        ("side", "proxy"),
        ("phase", "relay"),
        ("cause", "backend_dead"),
    ];
    evergate.wait_for_metric(ENDED, &severed, 1.0);
}

#[test]
fn a_dead_backend_keeps_its_sessions_when_told_to() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (_evergate, mut session, _backend) = session_of_a_dead_backend("keep");
    // The checks fail, and yet the session may live: only its health check's port is gone.
    for _ in 0..5 {
        echoes(&mut session, b"still here").unwrap();
        thread::sleep(Duration::from_millis(100));
    }
}

/// The check asks another port, which dies while the session's own lives on. The session is
/// older than two tables.
fn session_of_a_dead_backend(on_dead: &str) -> (Evergate, TcpStream, Backend) {
    let (backend, mut checked) = (Backend::echo(), Backend::echo());
    let listens = free_addr();
    let port = checked.addr().port();
    let keys = [
        &format!("failover: {{on_dead: {on_dead}, hold: {{for: 1s, max_sessions: 9}}}}"),
        &format!("health_check: {{port: {port}, interval: 200ms, timeout: 200ms}}"),
    ];
    let keys = keys.map(String::as_str);
    let yaml = |weight| file(listens, &[(backend.addr(), weight)], &keys);
    let evergate = Evergate::start(&yaml("weight: 1"));
    let mut session = connect(listens);
    echoes(&mut session, b"hello").unwrap();
    evergate.reload(&yaml("weight: 2"));
    evergate.reload(&yaml("weight: 3"));
    echoes(&mut session, b"hello again").unwrap();
    checked.kill(End::Rst);
    wait_up(&evergate, "a", false);
    (evergate, session, backend)
}

#[test]
fn drained_sessions_go_on_until_the_deadline_and_new_ones_go_elsewhere() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    for verb in ["drain", "maintenance"] {
        let backends = [Backend::echo(), Backend::named("b")];
        let listens = free_addr();
        let [a, b] = backends.each_ref().map(Backend::addr);
        let drain = "failover: {drain_timeout: 2s}";
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let yaml = format!(
            "{}admin: {{bind: {}, socket: {}}}\n",
            file(listens, &[(a, ""), (b, "tier: 1")], &[drain]),
            free_addr(),
            socket.display()
        );
        let evergate = Evergate::start(&yaml);
        let mut session = connect(listens);
        echoes(&mut session, b"before").unwrap();
        let started = Instant::now();
        let admin = format!("unix:{}", socket.display());
        let done = run_command(&[verb, "c/a", "--admin", &admin]);
        assert!(done.status.success(), "{done:?}");
        assert_eq!(name_at(listens), "b");
        echoes(&mut session, b"during").unwrap();
        assert_eq!(rest(&mut session), b"");
        assert!(started.elapsed() >= Duration::from_millis(1900), "{verb}");
        let drained = [("side", "proxy"), ("cause", "backend_drained")];
        evergate.wait_for_metric(ENDED, &drained, 1.0);

        let done = run_command(&["ready", "c/a", "--admin", &admin]);
        assert!(done.status.success(), "{done:?}");
        wait_until(PATIENCE, "it takes sessions again", || {
            echoes(&mut connect(listens), b"b\n").is_ok() && backends[0].active() > 0
        });
    }
}

#[test]
fn sessions_of_a_backend_removed_by_a_reload_finish_within_the_drain_timeout() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backends = [Backend::echo(), Backend::named("b")];
    let listens = free_addr();
    let [a, b] = backends.each_ref().map(Backend::addr);
    let drain = "failover: {drain_timeout: 2s}";
    let evergate = Evergate::start(&file(listens, &plain(&[a]), &[drain]));
    let mut finishing = connect(listens);
    let mut staying = connect(listens);
    echoes(&mut finishing, b"before").unwrap();
    echoes(&mut staying, b"before").unwrap();
    let started = Instant::now();
    evergate.reload(&file(listens, &plain(&[b]), &[drain]));
    wait_for_name(listens, "b");
    echoes(&mut finishing, b"during").unwrap();
    finishing.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut finishing), b"");
    assert_eq!(rest(&mut staying), b"");
    assert!(started.elapsed() >= Duration::from_millis(1900));
    evergate.wait_for_metric(ENDED, &[("cause", "backend_removed")], 1.0);
    evergate.wait_for_metric(ENDED, &[("cause", "closed"), ("phase", "relay")], 2.0);
}

#[test]
fn spares_of_a_higher_tier_serve_only_while_the_first_is_away() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut backends = ["a", "b", "c"].map(Backend::named);
    let listens = free_addr();
    let [a, b, c] = backends.each_ref().map(Backend::addr);
    let tiers = [(a, ""), (b, "tier: 1"), (c, "tier: 2")];
    let evergate = Evergate::start(&file(listens, &tiers, &[]));
    for expected in ["a", "b", "c"] {
        for _ in 0..10 {
            assert_eq!(name_at(listens), expected);
        }
        let dies = ["a", "b", "c"].iter().position(|name| *name == expected);
        if expected != "c" {
            backends[dies.unwrap()].kill(End::Rst);
        }
    }
    for returning in [1, 0] {
        backends[returning].start_again();
        let name = ["a", "b"][returning];
        wait_up(&evergate, name, true);
        wait_for_name(listens, name);
        assert_eq!(name_at(listens), name);
    }
}

#[test]
fn the_own_zone_is_preferred_until_it_is_empty() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut backends = ["a", "b", "c"].map(Backend::named);
    let listens = free_addr();
    let [a, b, c] = backends.each_ref().map(Backend::addr);
    let zones = [(a, "zone: east"), (b, "zone: west"), (c, "zone: west")];
    let yaml = file(listens, &zones, &["balance: {policy: round_robin}"]) + "zone: west\n";
    let evergate = Evergate::start(&yaml);
    let names: Vec<_> = (0..10).map(|_| name_at(listens)).collect();
    assert!(names.iter().all(|name| name != "a"), "{names:?}");
    assert!(names.iter().any(|name| name == "b"), "{names:?}");
    assert!(names.iter().any(|name| name == "c"), "{names:?}");
    for local in &mut backends[1..] {
        local.kill(End::Rst);
    }
    for _ in 0..5 {
        assert_eq!(name_at(listens), "a");
    }
    wait_up(&evergate, "b", false);
    wait_up(&evergate, "c", false);
    assert_eq!(name_at(listens), "a");
}

#[test]
fn a_backend_that_returns_gets_little_at_first() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut backends = ["a", "b"].map(Backend::named);
    let listens = free_addr();
    let addrs = plain(&backends.each_ref().map(Backend::addr));
    let keys = [
        "balance: {policy: round_robin}",
        "failover: {slow_start: 5m}",
    ];
    let evergate = Evergate::start(&file(listens, &addrs, &keys));
    let share_of_b = || (0..100).filter(|_| name_at(listens) == "b").count();
    // A start of Evergate is no return of its backends.
    let full = share_of_b();
    assert!((45..=55).contains(&full), "{full} of 100");
    backends[1].kill(End::Rst);
    wait_up(&evergate, "b", false);
    backends[1].start_again();
    wait_up(&evergate, "b", true);
    let little = share_of_b();
    assert!((1..=30).contains(&little), "{little} of 100");
}

#[test]
fn a_weight_of_zero_takes_no_new_sessions_and_ends_no_old_one() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backends = [Backend::echo(), Backend::named("b")];
    let listens = free_addr();
    let [a, b] = backends.each_ref().map(Backend::addr);
    let yaml = |weight| file(listens, &[(a, weight), (b, "tier: 1")], &[]);
    let evergate = Evergate::start(&yaml("weight: 5"));
    let mut session = connect(listens);
    echoes(&mut session, b"before").unwrap();
    evergate.reload(&yaml("weight: 0"));
    wait_for_name(listens, "b");
    for _ in 0..10 {
        assert_eq!(name_at(listens), "b");
    }
    echoes(&mut session, b"after").unwrap();
}

#[test]
fn in_a_panic_sessions_are_routed_as_if_all_were_up() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (backend, mut checked) = (Backend::named("a"), Backend::echo());
    let listens = free_addr();
    let port = checked.addr().port();
    let keys = [
        "failover: {panic: try_all}",
        &format!("health_check: {{port: {port}, interval: 200ms, timeout: 200ms}}"),
    ];
    let evergate = Evergate::start(&file(listens, &plain(&[backend.addr()]), &keys));
    let (mut session, _) = greeted(listens).unwrap();
    checked.kill(End::Rst);
    wait_up(&evergate, "a", false);
    assert_eq!(name_at(listens), "a");
    expect_silence(&mut session);
}

#[test]
fn the_client_that_a_proxy_header_names_is_the_one_that_is_hashed() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backends = ["a", "b", "c"].map(Backend::named);
    let listens = free_addr();
    let addrs = plain(&backends.each_ref().map(Backend::addr));
    let hash = "balance: {policy: consistent_hash, hash: {key: client_ip}}";
    let accept = "cluster: c, proxy_protocol: accept, proxy_protocol_from: [127.0.0.1]}";
    let yaml = file(listens, &addrs, &[hash]).replace("cluster: c}", accept);
    let _evergate = Evergate::start(&yaml);
    let backend_of = |number: u8, port: u16| {
        let mut client = connect(listens);
        let header = format!("PROXY TCP4 10.0.0.{number} 10.0.0.254 {port} 5432\r\n");
        client.write_all(header.as_bytes()).unwrap();
        read_line(&mut client).unwrap()
    };
    let first: Vec<_> = (0..60).map(|number| backend_of(number, 1)).collect();
    let again: Vec<_> = (0..60).map(|number| backend_of(number, 2)).collect();
    assert_eq!(first, again, "the same client, the same backend");
    for name in ["a", "b", "c"] {
        assert!(first.iter().any(|is| is == name), "{name} has no client");
    }
}

#[test]
fn a_refused_connect_is_redispatched_before_any_check_notices() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let mut first = Backend::named("a");
    let last = Backend::named("c");
    let refusing = RefusingPort::new();
    let listens = free_addr();
    let evergate = redispatching(listens, &[first.addr(), refusing.addr(), last.addr()]);
    assert_eq!(name_at(listens), "a");
    first.kill(End::Rst);
    // Two refuse, the third of three attempts succeeds.
    assert_eq!(name_at(listens), "c");
    let errors = [("reason", "connect_refused")];
    let refused = evergate.metric("evergate_backend_connect_errors_total", &errors);
    assert!(refused >= Some(1.0), "{refused:?}");
}

#[test]
fn a_connect_into_a_black_hole_is_redispatched_after_its_timeout() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (hole, good) = (FullBacklog::new(), Backend::named("b"));
    let listens = free_addr();
    // The checks ask a port that answers: only sessions meet the hole.
    let port = good.addr().port();
    let check = format!("health_check: {{port: {port}, interval: 1s}}");
    let keys = [check.as_str(), "connect: {timeout: 400ms, attempts: 2}"];
    let backends = [(hole.addr(), ""), (good.addr(), "tier: 1")];
    let evergate = Evergate::start(&file(listens, &backends, &keys));
    let started = Instant::now();
    assert_eq!(name_at(listens), "b");
    assert!(started.elapsed() >= Duration::from_millis(390));
    let errors = [("backend", "a"), ("reason", "connect_timeout")];
    evergate.wait_for_metric("evergate_backend_connect_errors_total", &errors, 1.0);
}

/// A dying listener resets what its kernel had accepted: nothing was said, nothing is lost.
#[test]
fn a_reset_before_the_first_byte_is_redispatched() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (resetting, good) = (Backend::start(Behaviour::Reset), Backend::named("b"));
    let listens = free_addr();
    // The checks ask a port that answers: only sessions meet the resets.
    let check = format!("health_check: {{port: {}}}", good.addr().port());
    let keys = ["balance: {policy: round_robin}", check.as_str()];
    let addrs = plain(&[resetting.addr(), good.addr()]);
    let evergate = Evergate::start(&file(listens, &addrs, &keys));
    // Between a reset and the next check it is shunned.
    wait_until(PATIENCE, "many were reset", || {
        assert_eq!(name_at(listens), "b");
        resetting.accepted() >= 10
    });
    assert_eq!(evergate.metric(REJECTED, &[]).unwrap_or(0.0), 0.0);
}

/// … but not for ever: a service that resets everyone is told to the client.
#[test]
fn a_service_that_resets_everyone_is_not_tried_for_ever() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (resetting, healthy) = (Backend::start(Behaviour::Reset), Backend::echo());
    let listens = free_addr();
    let check = format!("health_check: {{port: {}}}", healthy.addr().port());
    let addrs = plain(&[resetting.addr()]);
    let evergate = Evergate::start(&file(listens, &addrs, &[&check]));
    assert_eq!(rest(&mut connect(listens)), b"");
    // A reset that comes while connecting is a failed dial and counts on its own.
    let dials = resetting.accepted();
    assert!((3..=30).contains(&dials), "{dials}");
    let ended = [("side", "backend"), ("cause", "reset")];
    evergate.wait_for_metric(ENDED, &ended, 1.0);
}

#[test]
fn attempts_are_bounded() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let good = Backend::named("z");
    let refusing = [(); 4].map(|()| RefusingPort::new());
    let listens = free_addr();
    let port = good.addr().port();
    let check = format!("health_check: {{port: {port}, interval: 1s}}");
    let keys = [
        check.as_str(),
        "connect: {attempts: 2}",
        "failover: {hold: {for: 0s, max_sessions: 0}}",
    ];
    let addrs = plain(&refusing.each_ref().map(RefusingPort::addr));
    let evergate = Evergate::start(&file(listens, &addrs, &keys));
    assert_eq!(rest(&mut connect(listens)), b"");
    let tries = evergate.metric("evergate_backend_connect_errors_total", &[]);
    assert_eq!(tries, Some(2.0));
    let end = [
        ("side", "backend"),
        ("phase", "connect"),
        ("cause", "connect_refused"),
    ];
    evergate.wait_for_metric(ENDED, &end, 1.0);
}

/// In this order by tier, with checks that pass whatever happens to the backends.
fn redispatching(listens: SocketAddr, addrs: &[SocketAddr]) -> Evergate {
    let tiers = ["tier: 0", "tier: 1", "tier: 2"];
    let backends: Vec<_> = addrs.iter().copied().zip(tiers).collect();
    // The first check decides for an hour: it has its time.
    let checks = "health_check: {kind: exec, command: [\"true\"], interval: 1h, \
                  fast_interval: 1h, timeout: 20s}";
    Evergate::start(&file(listens, &backends, &[checks]))
}

#[test]
fn a_backend_never_gets_many_more_than_its_limit_and_everyone_is_served() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backend = Backend::start(Behaviour::Echo);
    let listens = free_addr();
    let backends = [(backend.addr(), "max_connections: 3")];
    let checked = Backend::echo();
    let check = format!("health_check: {{port: {}}}", checked.addr().port());
    let queue = "failover: {queue: {for: 50s, max_sessions: 1000}}";
    let _evergate = Evergate::start(&file(listens, &backends, &[&check, queue]));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    echoes(&mut connect(listens), b"mine").unwrap();
                    // The backend may still be about to see the end of the last one.
                    assert!(backend.active() <= 6, "{} at once", backend.active());
                }
            });
        }
    });
    assert_eq!(backend.accepted(), 160);
}

#[test]
fn those_who_queue_when_their_backend_dies_are_served_after_its_return() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    const PLACES: usize = 100;
    // Only the checked port dies: a listener that dies takes those it has just accepted with it.
    let (backend, mut checked) = (Backend::named("a"), Backend::echo());
    let listens = free_addr();
    let places = format!("max_connections: {PLACES}");
    let backends = [(backend.addr(), places.as_str())];
    let waits = "{for: 50s, max_sessions: 1000}";
    let failover = format!("failover: {{queue: {waits}, hold: {waits}}}");
    let port = checked.addr().port();
    let check = format!("health_check: {{port: {port}, interval: 500ms, timeout: 500ms, rise: 1}}");
    let evergate = Evergate::start(&file(listens, &backends, &[&failover, &check]));
    let mut first: Vec<_> = (0..PLACES).map(|_| greeted(listens).unwrap().0).collect();
    let mut waiting: Vec<_> = (0..PLACES).map(|_| connect(listens)).collect();
    evergate.wait_for_metric(QUEUED, &[], 100.0);
    checked.kill(End::Rst);
    for client in &mut first {
        assert_eq!(rest(client), b"");
    }
    for client in &mut waiting[..3] {
        expect_silence(client);
    }
    checked.start_again();
    for client in &mut waiting {
        assert_eq!(read_line(client).unwrap(), "a");
    }
    assert_eq!(backend.active(), PLACES);
}

#[test]
fn places_added_by_a_reload_are_taken_by_all_who_queue() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let backend = Backend::named("a");
    let listens = free_addr();
    let queue = "failover: {queue: {for: 50s, max_sessions: 1000}}";
    let yaml = |places| file(listens, &[(backend.addr(), places)], &[queue]);
    let evergate = Evergate::start(&yaml("max_connections: 1"));
    let _first = greeted(listens).unwrap();
    let mut waiting: Vec<_> = (0..200).map(|_| connect(listens)).collect();
    evergate.wait_for_metric(QUEUED, &[], 200.0);
    evergate.reload(&yaml("max_connections: 201"));
    let started = Instant::now();
    for client in &mut waiting {
        assert_eq!(read_line(client).unwrap(), "a");
    }
    // One at each look of the first in line would take 50 s.
    assert!(started.elapsed() < PATIENCE);
}

#[test]
fn clients_held_in_an_outage_follow_a_reload_that_ends_it() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    let (dead, good) = (RefusingPort::new(), Backend::named("good"));
    let listens = free_addr();
    let hold = "failover: {hold: {for: 50s, max_sessions: 100}}";
    let yaml = |addr| file(listens, &plain(&[addr]), &[hold]);
    let launch = Evergate::with(&yaml(dead.addr())).until(Until::Alive);
    let evergate = launch.start();
    wait_up(&evergate, "a", false);
    let mut held: Vec<_> = (0..20).map(|_| connect(listens)).collect();
    evergate.wait_for_metric(HELD, &[], 20.0);
    evergate.reload(&yaml(good.addr()));
    for client in &mut held {
        assert_eq!(read_line(client).unwrap(), "good");
    }
}

#[test]
fn a_thousand_sessions_of_a_dead_backend_end_and_a_thousand_others_stay() {
    let _watchdog = Watchdog::bites_after(LIMIT);
    raise_open_files();
    let mut backends = ["a", "b"].map(Backend::named);
    let listens = free_addr();
    let addrs = plain(&backends.each_ref().map(Backend::addr));
    let evergate = Evergate::start(&file(listens, &addrs, &[]));
    let sessions: Vec<_> = (0..2000).map(|_| greeted(listens).unwrap()).collect();
    let (dying, staying): (Vec<_>, Vec<_>) =
        sessions.into_iter().partition(|(_, name)| name == "a");
    assert!(dying.len() > 900 && staying.len() > 900);
    backends[0].kill(End::Rst);
    for (mut session, _) in dying {
        assert_eq!(rest(&mut session), b"");
    }
    evergate.wait_for_metric(
        "evergate_listener_connections_active",
        &[],
        staying.len() as f64,
    );
    assert_eq!(backends[1].active(), staying.len());
    for (mut session, _) in staying.into_iter().step_by(100) {
        expect_silence(&mut session);
    }
}
