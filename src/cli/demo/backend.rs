//! The demo's backends: small servers in this process that can die and come back.

use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::thread::JoinHandle as ThreadHandle;
use std::time::Duration;

use socket2::Domain;
use socket2::SockRef;
use socket2::Socket;
use socket2::Type;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::demo::wire;

/// Longer than any burst of the demo's own load.
const BACKLOG: i32 = 1024;
/// As a query that a database has to think about: a death finds some of them in the middle.
const WORK_TIME: Duration = Duration::from_millis(5);
/// The longest request of the protocol fits; more is not one.
pub const MAX_LINE_BYTES: u64 = 4096;

/// A thread with an event loop for all backends.
#[derive(Debug)]
pub struct BackendThread {
    handle: Handle,
    stop: CancellationToken,
    thread: Option<ThreadHandle<()>>,
}

/// One backend with an address that stays its own while it is dead.
#[derive(Debug)]
pub struct Backend {
    pub name: &'static str,
    port: ReservedPort,
    handle: Handle,
    running: Option<Running>,
}

/// A port of the loopback that stays ours: bound and never listening, so that nobody else gets
/// it and connects to it are refused while nothing of ours listens there.
#[derive(Debug)]
pub struct ReservedPort {
    pub address: SocketAddr,
    _socket: Socket,
}

#[derive(Debug)]
struct Running {
    kill: CancellationToken,
    task: JoinHandle<()>,
}

impl BackendThread {
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("demo-backends".to_owned())
            .spawn(move || runtime.block_on(stopped.cancelled()))?;
        Ok(Self {
            handle,
            stop,
            thread: Some(thread),
        })
    }

    /// Starts a backend on a port that the kernel picks.
    pub fn backend(&self, name: &'static str) -> io::Result<Backend> {
        let mut backend = Backend {
            name,
            port: ReservedPort::new()?,
            handle: self.handle.clone(),
            running: None,
        };
        backend.start()?;
        Ok(backend)
    }
}

impl Drop for BackendThread {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed, and shows as broken promises.
            let _ = thread.join();
        }
    }
}

impl ReservedPort {
    /// A port that the kernel picks.
    pub fn new() -> io::Result<Self> {
        let socket = bound_socket(0)?;
        let address = socket.local_addr()?.as_socket();
        Ok(Self {
            address: address.ok_or_else(|| io::Error::other("no address on the loopback"))?,
            _socket: socket,
        })
    }
}

impl Backend {
    pub fn address(&self) -> SocketAddr {
        self.port.address
    }

    /// Listens on the same port as before.
    pub fn start(&mut self) -> io::Result<()> {
        let socket = bound_socket(self.address().port())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let entered = self.handle.enter();
        let listener = TcpListener::from_std(socket.into())?;
        drop(entered);
        let kill = CancellationToken::new();
        let task = self.handle.spawn(serve(self.name, listener, kill.clone()));
        self.running = Some(Running { kill, task });
        Ok(())
    }

    /// Closes the listener and resets every connection, as a crash does. Returns when the last
    /// one is gone.
    pub async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill.cancel();
            // A panic in there has been printed, and shows as broken promises.
            let _ = running.task.await;
        }
    }
}

fn bound_socket(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Lets the reserving socket and the listening one share the port.
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket)
}

async fn serve(name: &'static str, listener: TcpListener, kill: CancellationToken) {
    let reset = CancellationToken::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = kill.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(name, stream, reset.clone()));
                }
                // Out of descriptors: accept() would fail again at once and spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    }
    // First the listener: whoever is reset must not be able to come back and die again.
    drop(listener);
    reset.cancel();
    while connections.join_next().await.is_some() {}
}

async fn converse(name: &'static str, mut stream: TcpStream, reset: CancellationToken) {
    let is_reset = tokio::select! {
        biased;
        () = reset.cancelled() => true,
        // Either way the connection is over: who asked sees what is missing.
        _ = answer_all(name, &mut stream) => false,
    };
    if is_reset {
        // Closing with a linger time of zero sends a reset. If it cannot be set, the peer
        // sees an orderly close, which is a death, too.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}

async fn answer_all(name: &str, stream: &mut TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    write.write_all(wire::greeting(name).as_bytes()).await?;
    let mut line = String::new();
    loop {
        line.clear();
        (&mut read)
            .take(MAX_LINE_BYTES)
            .read_line(&mut line)
            .await?;
        if !line.ends_with('\n') {
            return Ok(());
        }
        tokio::time::sleep(WORK_TIME).await;
        write
            .write_all(wire::answer(name, &line).as_bytes())
            .await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::io::Read;
    use std::net::TcpStream as StdTcpStream;

    #[tokio::test]
    async fn a_killed_backend_resets_refuses_and_returns_on_its_port() {
        let thread = BackendThread::start().unwrap();
        let mut backend = thread.backend("db-1").unwrap();
        let mut client = StdTcpStream::connect(backend.address()).unwrap();
        let mut greeting = [0; 11];
        client.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"hello db-1\n");

        backend.kill().await;
        let error = client.read(&mut greeting).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let error = StdTcpStream::connect(backend.address()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

        backend.start().unwrap();
        let mut client = StdTcpStream::connect(backend.address()).unwrap();
        client.read_exact(&mut greeting).unwrap();
    }
}
