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
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// What a backend does with a connection whose first head has come.
type Script = dyn Fn(String, &mut Connection) + Send + Sync;

/// What came over each connection.
type Connections = Arc<Mutex<Vec<Arc<Mutex<Vec<u8>>>>>>;
/// At the end of an answer: no more answers on this connection.
const HANG_UP: &[u8] = b"\0hang up";

/// Understands requests with a head, `Content-Length` and chunks, in the simplest way; whatever
/// a proxy smuggles behind them is kept and can be looked at.
pub struct Recorder {
    addr: SocketAddr,
    connections: Connections,
    /// Connections that still last, health checks aside.
    open: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

/// One connection of a proxy.
pub struct Connection {
    pub stream: TcpStream,
    /// Read, and not understood yet.
    unread: Vec<u8>,
    record: Arc<Mutex<Vec<u8>>>,
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
        Self::start(Arc::new(move |first, connection| {
            let mut next = Some(first);
            while let Some(head) = next {
                if connection.skip_body(&head).is_err() {
                    return;
                }
                let answer = answer(&head);
                let said = answer.strip_suffix(HANG_UP).unwrap_or(&answer);
                if !connection.send(said) || said.is_empty() || said.len() < answer.len() {
                    return;
                }
                next = connection.next_head().ok().flatten();
            }
        }))
    }

    /// `script` gets the first head of each connection, and the connection; its end closes it.
    /// Health checks are answered.
    pub fn scripted(script: impl Fn(String, &mut Connection) + Send + Sync + 'static) -> Self {
        Self::start(Arc::new(move |head, connection| {
            match head.starts_with("GET /check ") {
                true => _ = connection.send(&ok("")),
                false => script(head, connection),
            }
        }))
    }

    fn start(script: Arc<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let recorder = Self {
            addr: listener.local_addr().unwrap(),
            connections: Arc::default(),
            open: Arc::default(),
            stopped: Arc::default(),
        };
        let connections = Arc::clone(&recorder.connections);
        let open = Arc::clone(&recorder.open);
        let stopped = Arc::clone(&recorder.stopped);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let record = Arc::<Mutex<Vec<u8>>>::default();
                connections.lock().unwrap().push(Arc::clone(&record));
                let mut connection = Connection {
                    stream,
                    unread: Vec::new(),
                    record,
                };
                let (script, open) = (Arc::clone(&script), Arc::clone(&open));
                // The peer's end ends it.
                thread::spawn(move || {
                    let Ok(Some(head)) = connection.next_head() else {
                        return;
                    };
                    let counts = usize::from(!head.starts_with("GET /check "));
                    open.fetch_add(counts, Ordering::AcqRel);
                    script(head, &mut connection);
                    drop(connection);
                    open.fetch_sub(counts, Ordering::AcqRel);
                });
            }
        });
        recorder
    }

    /// Connections with a request that still last.
    pub fn open_requests(&self) -> usize {
        self.open.load(Ordering::Acquire)
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

impl Connection {
    /// Whether it could be sent.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Until the peer closes.
    pub fn read_to_end(&mut self) {
        while self.more().is_ok_and(|is_open| is_open) {}
    }

    /// The head of the next request; `None`: the peer has closed.
    pub fn next_head(&mut self) -> io::Result<Option<String>> {
        let end = loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more()? {
                return Ok(None);
            }
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        Ok(Some(String::from_utf8_lossy(&head).into_owned()))
    }

    /// Takes off the body of a request with this head.
    pub fn skip_body(&mut self, head: &str) -> io::Result<()> {
        let lower = head.to_ascii_lowercase();
        let end = if field(&lower, "transfer-encoding").is_some() {
            loop {
                if let Some(at) = end_of_chunks(&self.unread) {
                    break at;
                }
                self.must_read()?;
            }
        } else if let Some(length) = field(&lower, "content-length") {
            let length: usize = length.parse().map_err(io::Error::other)?;
            while self.unread.len() < length {
                self.must_read()?;
            }
            length
        } else {
            0
        };
        self.unread.drain(..end);
        Ok(())
    }

    /// The next bytes behind a head, not kept.
    pub fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let ahead = self.unread.len().min(bytes.len());
        for (to, from) in bytes.iter_mut().zip(self.unread.drain(..ahead)) {
            *to = from;
        }
        self.stream.read_exact(&mut bytes[ahead..])
    }

    fn must_read(&mut self) -> io::Result<()> {
        match self.more()? {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Whether the peer has sent more, and not closed.
    fn more(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let read = self.stream.read(&mut buffer)?;
        self.record
            .lock()
            .unwrap()
            .extend_from_slice(&buffer[..read]);
        self.unread.extend_from_slice(&buffer[..read]);
        Ok(read > 0)
    }
}

/// Where a body of chunks ends, with its trailers.
fn end_of_chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        at += line + 2;
        if size == 0 {
            break;
        }
        at += size + 2;
        bytes.get(at..)?;
    }
    match bytes[at..].starts_with(b"\r\n") {
        true => Some(at + 2),
        false => Some(at + find(&bytes[at..], b"\r\n\r\n")? + 4),
    }
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
