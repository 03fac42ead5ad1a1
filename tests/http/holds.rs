//! Requests that wait: for a backend, for a place; bounded, and forgotten with their client.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::evergate::Until;
use crate::support::ports::free_addr;
use crate::support::wait_until;
use crate::support::webserver::Nginx;
use crate::world::CHECK;
use crate::world::Client;
use crate::world::TCP_CHECK;
use crate::world::stage;
use crate::world::stage_until;

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n";
const POST: &[u8] = b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi";

/// Requests that wait for something, by the API.
fn waiting(stage: &crate::harness::Stage, room: &str) -> u64 {
    let shown = stage.evergate.get("/api/v1/explain?listener=web").json();
    shown[room].as_u64().unwrap_or_else(|| panic!("{shown}"))
}

#[test]
fn requests_wait_while_no_backend_is_there_and_are_served_by_the_first_that_is() {
    let addr = free_addr();
    let hold = "failover: {hold: {for: 20s, max_sessions: 100}}";
    let stage = stage_until(Until::Alive, &[addr], &format!("{CHECK}, {hold}"), "");
    let mut clients: Vec<Client> = (0..10)
        .map(|at| {
            let mut client = Client::connect(stage.addr).unwrap();
            // A body waits as well: nothing of it was sent yet.
            client.send(if at % 2 == 0 { GET } else { POST }).unwrap();
            client
        })
        .collect();
    wait_until(PATIENCE, "all wait", || {
        waiting(&stage, "held_sessions") == 10
    });
    let server = format!("server {{ listen {addr}; location / {{ return 200 'there'; }} }}");
    let _nginx = Nginx::http(&server, addr);
    for client in &mut clients {
        let reply = client.reply().unwrap();
        assert_eq!((reply.status, &reply.body[..]), (200, &b"there"[..]));
    }
}

#[test]
fn more_than_may_wait_are_refused_at_once() {
    let hold = "failover: {hold: {for: 20s, max_sessions: 3}}";
    let gone = free_addr();
    let stage = stage_until(Until::Alive, &[gone], &format!("{CHECK}, {hold}"), "");
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(stage.addr).unwrap();
        client.send(GET).unwrap();
        clients.push(client);
    }
    wait_until(PATIENCE, "three wait", || {
        waiting(&stage, "held_sessions") == 3
    });
    let reply = Client::connect(stage.addr).unwrap().get("/x").unwrap();
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(
        String::from_utf8_lossy(&reply.body).contains("hold_full"),
        "{reply:?}"
    );
}

#[test]
fn a_client_that_gives_up_frees_its_place_in_the_line() {
    let hold = "failover: {hold: {for: 20s, max_sessions: 3}}";
    let gone = free_addr();
    let stage = stage_until(Until::Alive, &[gone], &format!("{CHECK}, {hold}"), "");
    for _ in 0..3 {
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Client::connect(stage.addr).unwrap();
            client.send(GET).unwrap();
            clients.push(client);
        }
        wait_until(PATIENCE, "three wait", || {
            waiting(&stage, "held_sessions") == 3
        });
        drop(clients);
        wait_until(PATIENCE, "nobody waits", || {
            waiting(&stage, "held_sessions") == 0
        });
    }
}

#[test]
fn a_backend_with_one_place_is_given_one_request_at_a_time() {
    let is_busy = Arc::new(AtomicBool::new(false));
    let met = Arc::new(AtomicBool::new(false));
    let (busy, both) = (Arc::clone(&is_busy), Arc::clone(&met));
    let backend = Recorder::answering(move |_| {
        if busy.swap(true, Ordering::AcqRel) {
            both.store(true, Ordering::Release);
        }
        std::thread::sleep(Duration::from_millis(5));
        busy.store(false, Ordering::Release);
        ok("one")
    });
    let addr = backend.addr();
    let cluster = format!("{TCP_CHECK}, failover: {{queue: {{for: 20s, max_sessions: 50}}}}");
    let one = format!("[{{address: '{addr}', max_connections: 1}}]");
    let listen = free_addr();
    let yaml =
        crate::world::file(listen, &[addr], &cluster, "").replace(&format!("[{addr}]"), &one);
    let evergate = crate::support::evergate::Evergate::start(&yaml);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(listen).unwrap()).collect();
    for client in &mut clients {
        client.send(GET).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.reply().unwrap().status, 200);
    }
    assert!(!met.load(Ordering::Acquire), "two requests at once");
    drop(evergate);
}

#[test]
fn what_a_client_sends_while_it_waits_for_its_answer_is_served_afterwards() {
    let backend = Recorder::named("a");
    let stage = stage(&[backend.addr()], CHECK, "");
    let mut stream = stage.connect();
    for _ in 0..3 {
        stream.write_all(GET).unwrap();
    }
    stream
        .write_all(b"GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answers = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 4, "{answers}");
}
