//! What is sent again, what never is, and how much of it.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::evergate::Until;
use crate::support::ports::free_addr;
use crate::support::relay::FaultRelay;
use crate::support::wait_until;
use crate::world::CHECK;
use crate::world::Client;
use crate::world::TCP_CHECK;
use crate::world::stage;
use crate::world::stage_until;

const IN_TURN: &str = "balance: {policy: round_robin}";

/// Fails what is not a health check.
fn failing(answer: &'static [u8]) -> Recorder {
    Recorder::answering(move |head| match head.starts_with("GET /check ") {
        true => ok("fine"),
        false => answer.to_vec(),
    })
}

fn count(recorder: &Recorder, method: &str) -> usize {
    recorder
        .text()
        .matches(&format!("{method} /x HTTP/1.1\r\n"))
        .count()
}

#[test]
fn a_post_whose_backend_hangs_up_is_never_sent_twice() {
    let backends = [failing(b""), failing(b"")];
    let addrs = backends.each_ref().map(Recorder::addr);
    let stage = stage(&addrs, &format!("{CHECK}, {IN_TURN}"), "");
    for round in 1..=4 {
        let mut client = Client::connect(stage.addr).unwrap();
        let post = "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi";
        let reply = client.ask(post).unwrap();
        assert_eq!(reply.status, 502, "{reply:?}");
        let sent: usize = backends.iter().map(|it| count(it, "POST")).sum();
        assert_eq!(sent, round);
    }
}

#[test]
fn a_get_whose_backend_hangs_up_is_answered_by_another() {
    let (bad, good) = (failing(b""), Recorder::named("good"));
    let stage = stage(
        &[bad.addr(), good.addr()],
        &format!("{CHECK}, {IN_TURN}"),
        "",
    );
    for _ in 0..4 {
        let reply = Client::connect(stage.addr).unwrap().get("/x").unwrap();
        assert_eq!((reply.status, &reply.body[..]), (200, &b"good"[..]));
    }
    assert!(count(&bad, "GET") > 0, "the bad one was never asked");
}

#[test]
fn half_an_answer_is_never_completed_by_another_backend() {
    let closing = Recorder::closing_after(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    let stage = stage(&[closing.addr()], TCP_CHECK, "");
    let answer = stage.raw(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(answer.ends_with("half"), "{answer}");
    assert_eq!(count(&closing, "GET"), 1);
}

#[test]
fn a_put_whose_body_has_begun_is_not_repeated() {
    let backends = [failing(b""), failing(b"")];
    let addrs = backends.each_ref().map(Recorder::addr);
    let stage = stage(&addrs, &format!("{CHECK}, {IN_TURN}"), "");
    let mut client = Client::connect(stage.addr).unwrap();
    let put = "PUT /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(client.ask(put).unwrap().status, 502);
    let sent: usize = backends.iter().map(|it| count(it, "PUT")).sum();
    assert_eq!(sent, 1);
}

#[test]
fn a_post_to_a_backend_that_refuses_connections_goes_to_another() {
    let (other, good) = (Recorder::named("other"), Recorder::named("good"));
    let mut relay = FaultRelay::to(other.addr());
    // Nobody notices that it refuses but the requests.
    let check = "health_check: {interval: 1h, timeout: 20s, path: /check, expect: [200-499]}";
    let addrs = [relay.addr(), good.addr()];
    let stage = stage(&addrs, &format!("{check}, {IN_TURN}"), "");
    wait_until(PATIENCE, "both are up", || {
        stage.evergate.metric("evergate_backend_up", &[]) == Some(2.0)
    });
    relay.refuse();
    for _ in 0..4 {
        let mut client = Client::connect(stage.addr).unwrap();
        let post = "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(client.ask(post).unwrap().status, 200);
    }
    assert_eq!(count(&good, "POST"), 4);
}

#[test]
fn when_every_backend_is_overloaded_retries_add_no_more_than_their_share() {
    let overloaded: &[u8] = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
    let backends = [(); 3].map(|()| failing(overloaded));
    let addrs = backends.each_ref().map(Recorder::addr);
    let retry = "http: {retry: {statuses: [503], budget: 0.1, min_per_second: 1}}";
    let stage = stage(&addrs, &format!("{CHECK}, {IN_TURN}, {retry}"), "");
    let started = std::time::Instant::now();
    let mut client = Client::connect(stage.addr).unwrap();
    let asked = 300;
    for _ in 0..asked {
        let reply = client.get("/x").unwrap();
        // A retry that the budget denies leaves the backend's own answer.
        assert_eq!((reply.status, &reply.body[..]), (503, &b"busy"[..]));
    }
    let seconds = started.elapsed().as_secs() as usize + 2;
    let sent: usize = backends.iter().map(|it| count(it, "GET")).sum();
    let retried = sent - asked;
    assert!(retried > 0, "nothing was retried");
    assert!(
        retried <= asked / 10 + seconds,
        "{retried} of {asked} in {seconds} s"
    );
}

#[test]
fn an_answer_that_may_be_retried_is_another_backends_answer() {
    let busy = failing(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
    let good = Recorder::named("good");
    let retry = "http: {retry: {statuses: [503]}}";
    let stage = stage(
        &[busy.addr(), good.addr()],
        &format!("{CHECK}, {IN_TURN}, {retry}"),
        "",
    );
    let mut client = Client::connect(stage.addr).unwrap();
    for _ in 0..6 {
        assert_eq!(client.get("/x").unwrap().status, 200);
    }
    let post = "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi";
    let answers = [(); 2].map(|()| client.ask(post).unwrap().status);
    assert!(answers.contains(&503), "{answers:?}");
    assert_eq!(count(&busy, "POST") + count(&good, "POST"), 2);
}

#[test]
fn an_idle_connection_that_the_backend_has_closed_costs_nobody_a_request() {
    let (sender, streams) = std::sync::mpsc::channel();
    let asked = Arc::new(AtomicUsize::new(0));
    let backend = keeping(sender, Arc::clone(&asked));
    let stage = stage(&[backend], TCP_CHECK, "");
    let mut client = Client::connect(stage.addr).unwrap();
    for round in 1..=20 {
        let post = "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi";
        let reply = client.ask(post).unwrap();
        assert_eq!(reply.status, 200, "round {round}: {reply:?}");
        assert_eq!(asked.load(Ordering::Acquire), round);
        // Everything that is idle ends; the proxy has seen it before the next request comes.
        for stream in streams.try_iter() {
            let stream: std::net::TcpStream = stream;
            let _ = stream.shutdown(Shutdown::Both);
        }
        wait_until(PATIENCE, "the proxy closes its idle connection", || {
            open_connections(backend.port()) == 0
        });
    }
}

#[test]
fn what_a_burst_needed_beyond_max_idle_is_closed_soon() {
    const BURST: usize = 8;
    let arrived = Arc::new(std::sync::Barrier::new(BURST));
    let together = Arc::clone(&arrived);
    let backend = Recorder::answering(move |head| {
        if head.starts_with("GET /x ") {
            together.wait();
        }
        ok("done")
    });
    let pool = "http: {max_idle: 2}";
    let stage = stage(&[backend.addr()], &format!("{TCP_CHECK}, {pool}"), "");
    std::thread::scope(|scope| {
        for _ in 0..BURST {
            scope.spawn(|| {
                let mut client = Client::connect(stage.addr).unwrap();
                assert_eq!(client.get("/x").unwrap().status, 200);
            });
        }
    });
    // Each worker keeps as many; a check may be open for a moment.
    let port = backend.addr().port();
    wait_until(PATIENCE, "two are kept by each of two workers", || {
        (1..=4).contains(&open_connections(port))
    });
}

/// Established connections of any process to this port.
fn open_connections(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!(":{port:04X} 01 ");
    table.lines().filter(|line| line.contains(&remote)).count()
}

/// Answers 200 and hands every connection out, so that a test can end it.
fn keeping(
    out: std::sync::mpsc::Sender<std::net::TcpStream>,
    asked: Arc<AtomicUsize>,
) -> std::net::SocketAddr {
    use std::io::Read;
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (out, asked) = (out.clone(), Arc::clone(&asked));
            std::thread::spawn(move || {
                let mut stream = stream;
                let mut buffer = [0; 4096];
                let mut read = Vec::new();
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    read.extend_from_slice(&buffer[..count]);
                    if read.ends_with(b"\r\n\r\nhi") {
                        read.clear();
                        asked.fetch_add(1, Ordering::AcqRel);
                        if out.send(stream.try_clone().unwrap()).is_err() {
                            return;
                        }
                        let _ = stream.write_all(&ok("done"));
                    }
                }
            });
        }
    });
    addr
}

#[test]
fn a_read_that_a_backend_does_not_answer_is_given_to_another_in_time() {
    let hangs = Arc::new(AtomicBool::new(true));
    let hanging = Arc::clone(&hangs);
    let slow = Recorder::answering(move |head| {
        while !head.starts_with("GET /check ") && hanging.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
        ok("slow")
    });
    let good = Recorder::named("good");
    // Longer than the machine may stall: the last attempt has no limit.
    let retry = "http: {retry: {attempt_timeout: 2s}}";
    let stage = stage(
        &[slow.addr(), good.addr()],
        &format!("{CHECK}, {IN_TURN}, {retry}"),
        "",
    );
    for _ in 0..4 {
        let reply = Client::connect(stage.addr).unwrap().get("/x").unwrap();
        assert_eq!((reply.status, &reply.body[..]), (200, &b"good"[..]));
    }
    assert!(count(&slow, "GET") > 0, "the slow one was never asked");
    hangs.store(false, Ordering::Release);
}

#[test]
fn the_only_backend_that_is_left_is_not_given_up_for_being_slow() {
    let slow = Recorder::answering(|head| {
        if !head.starts_with("GET /check ") {
            std::thread::sleep(Duration::from_millis(600));
        }
        ok("slow")
    });
    let gone = free_addr();
    let retry = "http: {retry: {attempt_timeout: 100ms}}";
    let cluster = format!("{CHECK}, {retry}");
    let stage = stage_until(Until::Ready, &[slow.addr(), gone], &cluster, "");
    let evergate = &stage.evergate;
    evergate.wait_for_metric("evergate_backend_up", &[], 1.0);
    let reply = Client::connect(stage.addr).unwrap().get("/x").unwrap();
    assert_eq!((reply.status, &reply.body[..]), (200, &b"slow"[..]));
    assert_eq!(count(&slow, "GET"), 1);
}

#[test]
fn a_routes_timeout_bounds_all_attempts_together() {
    let hangs = Arc::new(AtomicBool::new(true));
    let backends = [(); 3].map(|()| {
        let hanging = Arc::clone(&hangs);
        Recorder::answering(move |head| {
            while !head.starts_with("GET /check ") && hanging.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(5));
            }
            ok("slow")
        })
    });
    let addrs = backends.each_ref().map(Recorder::addr);
    let retry = "http: {retry: {attempt_timeout: 1s}}";
    let routes = "routes: [{path: /, cluster: web, timeout: 2500ms}]";
    let stage = stage(&addrs, &format!("{CHECK}, {IN_TURN}, {retry}"), routes);
    let mut client = Client::connect(stage.addr).unwrap();
    let reply = client.get("/x").unwrap();
    assert_eq!(reply.status, 504, "{reply:?}");
    let sent: usize = backends.iter().map(|it| count(it, "GET")).sum();
    assert!((2..=3).contains(&sent), "{sent}");
    // What cannot be repeated has the whole time, and one attempt.
    let post = "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi";
    let mut client = Client::connect(stage.addr).unwrap();
    assert_eq!(client.ask(post).unwrap().status, 504);
    let sent: usize = backends.iter().map(|it| count(it, "POST")).sum();
    assert_eq!(sent, 1);
    hangs.store(false, Ordering::Release);
}
