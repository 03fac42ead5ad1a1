//! Reload after reload while large bodies stream both ways.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::task::JoinHandle as Task;

use crate::support::evergate::Evergate;
use crate::support::ports::free_addr;
use crate::support::wait_until;
use crate::world::Background;
use crate::world::TCP_CHECK;
use crate::world::connect_two;
use crate::world::file;
use crate::world::runtime;

/// In each round, of which each has a crowd of its own.
const RELOADS: usize = 34;
const ROUNDS: usize = 3;
const CLIENTS: usize = 50;
const BODY_BYTES: usize = 1 << 20;
const CHUNK_BYTES: usize = 32 << 10;
/// What the allocator's luck varies by from one crowd to the next.
const MAX_GROWTH_BYTES: u64 = 12 << 20;
/// Slow machines stream slowly.
const PATIENCE: Duration = Duration::from_secs(120);

/// Told to stop, and how many bodies came back whole.
type Told = Arc<(AtomicBool, AtomicUsize)>;

/// The byte at a position of client `number`'s body: nobody else's has the same sequence.
fn byte(number: usize, at: usize) -> u8 {
    (at.wrapping_mul(31) ^ (at >> 8) ^ number.wrapping_mul(97)) as u8
}

fn chunk(number: usize, from: usize) -> Vec<u8> {
    let end = (from + CHUNK_BYTES).min(BODY_BYTES);
    (from..end).map(|at| byte(number, at)).collect()
}

#[track_caller]
fn assert_is_of(number: usize, from: usize, bytes: &[u8]) {
    let mut found = bytes.iter().enumerate();
    let wrong = found.find(|(at, found)| **found != byte(number, from + at));
    assert!(wrong.is_none(), "client {number}, from {from}: {wrong:?}");
}

/// The end of a head, reading on until it is there.
fn read_head(stream: &mut TcpStream, unread: &mut Vec<u8>) -> std::io::Result<usize> {
    loop {
        if let Some(at) = unread.windows(4).position(|it| it == b"\r\n\r\n") {
            return Ok(at + 4);
        }
        read_more(stream, unread)?;
    }
}

fn read_more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let read = stream.read(&mut buffer)?;
    unread.extend_from_slice(&buffer[..read]);
    match read {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Sends each body back while it comes.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Its peer's end ends it.
            thread::spawn(move || echo(stream));
        }
    });
    addr
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    loop {
        let end = read_head(&mut stream, &mut unread)?;
        unread.drain(..end);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut left = BODY_BYTES;
        while left > 0 {
            if unread.is_empty() {
                read_more(&mut stream, &mut unread)?;
            }
            stream.write_all(&unread)?;
            left -= unread.len();
            unread.clear();
        }
    }
}

/// Bodies over one connection, one after the other.
fn stream_over_one(addr: SocketAddr, number: usize, told: &Told) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut unread = Vec::new();
    while !told.0.load(Ordering::Acquire) {
        let mut writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || {
            let head =
                format!("PUT /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
            writer.write_all(head.as_bytes()).unwrap();
            for from in (0..BODY_BYTES).step_by(CHUNK_BYTES) {
                writer.write_all(&chunk(number, from)).unwrap();
            }
        });
        let end = read_head(&mut stream, &mut unread).unwrap();
        let head = String::from_utf8_lossy(&unread[..end]).into_owned();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        unread.drain(..end);
        let mut received = 0;
        while received < BODY_BYTES {
            if unread.is_empty() {
                read_more(&mut stream, &mut unread).unwrap();
            }
            assert_is_of(number, received, &unread);
            received += unread.len();
            unread.clear();
        }
        writing.join().unwrap();
        told.1.fetch_add(1, Ordering::AcqRel);
    }
}

/// The same as one stream after the other of an HTTP/2 connection.
async fn stream_over_two(addr: SocketAddr, number: usize, told: Told) {
    let sender = connect_two(addr).await;
    while !told.0.load(Ordering::Acquire) {
        let mut ready = sender.clone().ready().await.unwrap();
        let request = Request::put("http://a.test/x");
        // The echo understands no chunks.
        let request = request
            .header("content-length", BODY_BYTES)
            .body(())
            .unwrap();
        let (response, send) = ready.send_request(request, false).unwrap();
        let writing = tokio::spawn(send_body(send, number));
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let mut received = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            assert_is_of(number, received, &data);
            received += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        assert_eq!(received, BODY_BYTES, "client {number}");
        writing.await.unwrap();
        told.1.fetch_add(1, Ordering::AcqRel);
    }
}

async fn send_body(mut send: h2::SendStream<Bytes>, number: usize) {
    for from in (0..BODY_BYTES).step_by(CHUNK_BYTES) {
        let mut rest = Bytes::from(chunk(number, from));
        while !rest.is_empty() {
            send.reserve_capacity(rest.len());
            let free = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
            let part = rest.split_to(free.unwrap().unwrap().min(rest.len()));
            let is_end = rest.is_empty() && from + CHUNK_BYTES >= BODY_BYTES;
            send.send_data(part, is_end).unwrap();
        }
    }
}

/// Clients that stream until they are told to stop.
struct Crowd {
    told: Told,
    threads: Vec<JoinHandle<()>>,
    tasks: Vec<Task<()>>,
    _background: Background,
}

impl Crowd {
    fn start(listens: SocketAddr) -> Self {
        let told = Told::default();
        let background = Background::start();
        let over_one = |number| {
            let told = Arc::clone(&told);
            thread::spawn(move || stream_over_one(listens, number, &told))
        };
        let over_two = |number| {
            let told = Arc::clone(&told);
            background.spawn(stream_over_two(listens, CLIENTS + number, told))
        };
        Self {
            threads: (0..CLIENTS).map(over_one).collect(),
            tasks: (0..CLIENTS).map(over_two).collect(),
            _background: background,
            told,
        }
    }

    /// Waits for so many whole bodies more.
    fn wait_for(&self, more: usize) {
        let wanted = self.told.1.load(Ordering::Acquire) + more;
        let are_there = || self.told.1.load(Ordering::Acquire) >= wanted;
        wait_until(PATIENCE, "bodies that came back", are_there);
    }

    /// None of them has seen anything wrong.
    fn finish(self) {
        self.told.0.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().unwrap();
        }
        runtime().block_on(async {
            for task in self.tasks {
                task.await.unwrap();
            }
        });
    }
}

/// Reloads under a crowd; what is resident when the crowd has gone.
fn reload_under_streams(evergate: &Evergate, listens: SocketAddr, files: [&str; 2]) -> u64 {
    let crowd = Crowd::start(listens);
    crowd.wait_for(2 * CLIENTS);
    for file in files.iter().cycle().take(RELOADS) {
        evergate.reload(file);
    }
    crowd.wait_for(2 * CLIENTS);
    crowd.finish();
    evergate.wait_for_metric("evergate_listener_connections_active", &[], 0.0);
    evergate.wait_for_metric("evergate_http_requests_active", &[], 0.0);
    evergate.rss_bytes()
}

#[test]
fn a_hundred_reloads_break_none_of_a_hundred_streams_and_leave_nothing_behind() {
    let backends = [(); 3].map(|()| echo_server());
    let listens = free_addr();
    let one = file(listens, &backends, TCP_CHECK, "");
    let other = "http: {max_headers: 100}, max_connections: 5000";
    let two = file(listens, &backends, TCP_CHECK, other);
    let evergate = Evergate::start(&one);
    // The first crowds bring the allocator to its size, whatever is reloaded: without a reload they
    // leave the same behind.
    let resident: Vec<u64> = (0..ROUNDS)
        .map(|_| reload_under_streams(&evergate, listens, [&two, &one]))
        .collect();
    eprintln!("resident after each round: {resident:?}");
    let grown = resident[ROUNDS - 1].saturating_sub(resident[ROUNDS - 2]);
    assert!(grown < MAX_GROWTH_BYTES, "{resident:?}");
}
