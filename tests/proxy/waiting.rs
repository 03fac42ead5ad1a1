//! Who waits for a backend and how long: queues of full backends, holds of dead clusters.

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
