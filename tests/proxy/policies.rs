//! What the operator decides: who is severed, and who is preferred.

use std::io::Write;
use std::net::Shutdown;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support::PATIENCE;
use crate::support::Watchdog;
use crate::support::backend::Backend;
use crate::support::backend::End;
use crate::support::evergate::Evergate;
use crate::support::evergate::evergate as run_command;
use crate::support::limits::raise_open_files;
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
const ENDED: &str = "evergate_sessions_ended_total";

#[track_caller]
fn wait_up(evergate: &Evergate, backend: &str, up: bool) {
    let value = if up { 1.0 } else { 0.0 };
    evergate.wait_for_metric("evergate_backend_up", &[("backend", backend)], value);
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
