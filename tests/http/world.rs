//! Stages with more freedom than `Plan`'s, and a crowd of clients that never stop asking.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use h2::client;
use h2::client::SendRequest;
use tokio::net::TcpStream as Socket;
use tokio::runtime::Handle;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle as Task;

use crate::harness::Stage;
use crate::support::PATIENCE;
use crate::support::evergate::Evergate;
use crate::support::evergate::Until;
use crate::support::ports::free_addr;
use crate::support::wait_until;

/// Down within a second or two, up again sooner.
pub const CHECK: &str = "health_check: {interval: 300ms, timeout: 300ms, rise: 1, fall: 3, path: /check, expect: [200-499]}";
/// The same for what speaks no HTTP/1.1.
pub const TCP_CHECK: &str =
    "health_check: {kind: tcp, interval: 300ms, timeout: 300ms, rise: 1, fall: 3}";

/// The file of one cluster `web` behind one listener `web`.
pub fn file(addr: SocketAddr, backends: &[SocketAddr], cluster: &str, listener: &str) -> String {
    let backends = format!("{backends:?}");
    format!(
        "version: 1\nclusters:\n  web: {{protocol: http, backends: {backends}, {cluster}}}\n\
         listeners:\n  web: {{bind: '{addr}', cluster: web, {listener}}}\n"
    )
}

/// Runs once every backend is up.
#[track_caller]
pub fn stage(backends: &[SocketAddr], cluster: &str, listener: &str) -> Stage {
    let stage = stage_until(Until::Ready, backends, cluster, listener);
    let all = backends.len() as f64;
    stage
        .evergate
        .wait_for_metric("evergate_backend_up", &[], all);
    stage
}

#[track_caller]
pub fn stage_until(until: Until, backends: &[SocketAddr], cluster: &str, listener: &str) -> Stage {
    let addr = free_addr();
    let yaml = file(addr, backends, cluster, listener);
    let evergate = Evergate::with(&yaml).until(until).start();
    Stage { evergate, addr }
}

/// Tasks on a thread of their own, until it is dropped.
pub struct Background {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Background {
    pub fn start() -> Self {
        let runtime = runtime();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        thread::spawn(move || runtime.block_on(stopped));
        Self {
            handle,
            _stop: stop,
        }
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Task<()> {
        self.handle.spawn(task)
    }

    /// Listens, and does this with each connection.
    pub fn listen<T>(&self, serve: impl Fn(Socket) -> T + Send + 'static) -> SocketAddr
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        self.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                tokio::spawn(serve(socket));
            }
        });
        addr
    }
}

/// A connection of HTTP/2 as honest clients have it.
pub async fn connect_two(addr: SocketAddr) -> SendRequest<Bytes> {
    let socket = Socket::connect(addr).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (sender, connection) = client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// For what a test awaits itself.
pub fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// One kept-alive connection of a client.
pub struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            unread: Vec::new(),
        })
    }

    pub fn ask(&mut self, request: &str) -> io::Result<Reply> {
        self.stream.write_all(request.as_bytes())?;
        self.reply()
    }

    pub fn get(&mut self, path: &str) -> io::Result<Reply> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next answer; its body must have a length.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|it| it == b"\r\n\r\n") {
                break at + 4;
            }
            self.more()?;
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).to_ascii_lowercase();
        self.unread.drain(..end);
        let status = crate::harness::status(&head);
        let length = crate::recorder::field(&head, "content-length").unwrap_or("0");
        let length: usize = length.parse().map_err(io::Error::other)?;
        while self.unread.len() < length {
            self.more()?;
        }
        let body = self.unread.drain(..length).collect();
        Ok(Reply { status, head, body })
    }

    /// Whether the proxy closes the connection, with nothing more on it.
    pub fn is_closed_by_the_proxy(&mut self) -> bool {
        let read = self.stream.read(&mut [0; 1]);
        let is_reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
        self.unread.is_empty() && (matches!(read, Ok(0)) || read.is_err_and(|it| is_reset(&it)))
    }

    fn more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.unread.extend_from_slice(&buffer[..read]);
                Ok(())
            }
        }
    }
}

/// Clients that ask over and over again until they are told to stop.
pub struct Crowd {
    stopped: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Each has a connection of its own, and a new one when that was closed between two requests.
    pub fn asking(addr: SocketAddr, clients: usize, request: &'static str) -> Self {
        let mut crowd = Self {
            stopped: Arc::default(),
            answered: Arc::default(),
            failures: Arc::default(),
            clients: Vec::new(),
        };
        for _ in 0..clients {
            let stopped = Arc::clone(&crowd.stopped);
            let answered = Arc::clone(&crowd.answered);
            let failures = Arc::clone(&crowd.failures);
            crowd.clients.push(thread::spawn(move || {
                let mut client = None;
                while !stopped.load(Ordering::Acquire) {
                    let known = client.take().map_or_else(|| Client::connect(addr), Ok);
                    let asked = known.and_then(|mut known| {
                        let reply = known.ask(request)?;
                        Ok((known, reply))
                    });
                    match asked {
                        Ok((known, reply)) if reply.status == 200 => {
                            answered.fetch_add(1, Ordering::AcqRel);
                            let closes = reply.head.contains("\r\nconnection: close");
                            client = (!closes).then_some(known);
                        }
                        Ok((known, reply)) => {
                            let body = String::from_utf8_lossy(&reply.body).into_owned();
                            failures
                                .lock()
                                .unwrap()
                                .push(format!("{} {body}", reply.status));
                            client = Some(known);
                        }
                        Err(error) => failures.lock().unwrap().push(error.to_string()),
                    }
                }
            }));
        }
        crowd
    }

    /// Waits for so many good answers more.
    #[track_caller]
    pub fn wait_for(&self, more: u64) {
        let wanted = self.answered.load(Ordering::Acquire) + more;
        wait_until(Duration::from_secs(60), "the crowd's answers", || {
            self.answered.load(Ordering::Acquire) >= wanted
        });
    }

    /// How many were answered, and how others failed.
    pub fn finish(mut self) -> (u64, Vec<String>) {
        self.stopped.store(true, Ordering::Release);
        for client in self.clients.drain(..) {
            client.join().unwrap();
        }
        let failures = std::mem::take(&mut *self.failures.lock().unwrap());
        (self.answered.load(Ordering::Acquire), failures)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
    }
}
