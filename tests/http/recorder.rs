//! An HTTP backend that keeps every byte it was sent.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// What the backend answers once it has a whole request.
pub type Answer = dyn Fn(&str) -> Vec<u8> + Send + Sync;

/// What came over each connection.
type Connections = Arc<Mutex<Vec<Arc<Mutex<Vec<u8>>>>>>;
/// At the end of an answer: no more answers on this connection.
const HANG_UP: &[u8] = b"\0hang up";

/// Understands requests with a head, `Content-Length` and chunks, in the simplest way; whatever
/// a proxy smuggles behind them is kept and can be looked at.
pub struct Recorder {
    addr: SocketAddr,
    connections: Connections,
    stopped: Arc<AtomicBool>,
}

impl Recorder {
    /// Answers everything with `200` and its name.
    pub fn named(name: &str) -> Self {
        let body = name.to_owned();
        Self::answering(move |_| ok(&body))
    }

    /// Says this to each request that is no health check, and hangs up.
    pub fn closing_after(answer: &'static [u8]) -> Self {
        Self::answering(move |head| match head.starts_with("GET /check ") {
            true => ok("fine"),
            false => [answer, HANG_UP].concat(),
        })
    }

    /// `answer` gets the head of each request and gives the whole answer; an empty one hangs up.
    pub fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let recorder = Self {
            addr,
            connections: Arc::default(),
            stopped: Arc::default(),
        };
        let connections = Arc::clone(&recorder.connections);
        let stopped = Arc::clone(&recorder.stopped);
        let answer: Arc<Answer> = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let bytes = Arc::<Mutex<Vec<u8>>>::default();
                connections.lock().unwrap().push(Arc::clone(&bytes));
                let answer = Arc::clone(&answer);
                // The peer's end ends it.
                thread::spawn(move || serve(stream, &bytes, &*answer));
            }
        });
        recorder
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All bytes of all connections but those of health checks, in the order of the connections.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        let connections = self.connections.lock().unwrap();
        let all = connections
            .iter()
            .map(|bytes| bytes.lock().unwrap().clone());
        all.filter(|bytes| !bytes.is_empty() && !bytes.starts_with(b"GET /check "))
            .collect()
    }

    /// The same as text.
    pub fn text(&self) -> String {
        let all: Vec<u8> = self.bytes().concat();
        String::from_utf8_lossy(&all).into_owned()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

/// A whole answer.
pub fn ok(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn serve(mut stream: TcpStream, record: &Mutex<Vec<u8>>, answer: &Answer) {
    let mut unread = Vec::new();
    while let Ok(Some(head)) = next_request(&mut stream, &mut unread, record) {
        let answer = answer(&head);
        let said = answer.strip_suffix(HANG_UP).unwrap_or(&answer);
        if stream.write_all(said).is_err() || said.is_empty() || said.len() < answer.len() {
            return;
        }
    }
}

/// The head of the next request, its body taken off; `None`: the peer has closed.
fn next_request(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
    record: &Mutex<Vec<u8>>,
) -> io::Result<Option<String>> {
    let end = loop {
        if let Some(at) = find(unread, b"\r\n\r\n") {
            break at + 4;
        }
        if !more(stream, unread, record)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&unread[..end]).into_owned();
    unread.drain(..end);
    let lower = head.to_ascii_lowercase();
    if lower.contains("\r\ntransfer-encoding:") {
        while find(unread, b"0\r\n\r\n").is_none() {
            if !more(stream, unread, record)? {
                return Ok(None);
            }
        }
        let end = find(unread, b"0\r\n\r\n").unwrap() + 5;
        unread.drain(..end);
    } else if let Some(length) = field(&lower, "content-length") {
        let length: usize = length.parse().map_err(io::Error::other)?;
        while unread.len() < length {
            if !more(stream, unread, record)? {
                return Ok(None);
            }
        }
        unread.drain(..length);
    }
    Ok(Some(head))
}

fn more(stream: &mut TcpStream, unread: &mut Vec<u8>, record: &Mutex<Vec<u8>>) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    let read = stream.read(&mut buffer)?;
    record.lock().unwrap().extend_from_slice(&buffer[..read]);
    unread.extend_from_slice(&buffer[..read]);
    Ok(read > 0)
}

/// The value of a field in a head of lower case.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found == name).then(|| value.trim())
    })
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|it| it == wanted)
}
