//! An embedded server: speaks enough of PostgreSQL's protocol for probes and the demo's clients,
//! and can die and come back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::demo::history::History;
use crate::cli::demo::port::ReservedPort;
use crate::cli::demo::port::bound_socket;
use crate::cli::demo::sql;
use crate::protocol::postgres::CancelKey;
use crate::protocol::postgres::TransactionStatus;
use crate::protocol::postgres::backend;
use crate::protocol::postgres::backend::Authentication;
use crate::protocol::postgres::error::ErrorResponse;
use crate::protocol::postgres::frame;
use crate::protocol::postgres::frame::MAX_PROBE_MESSAGE_BYTES;
use crate::protocol::postgres::sqlstate::SqlState;
use crate::protocol::postgres::startup;
use crate::protocol::postgres::startup::Opening;
use crate::protocol::postgres::startup::Request;

/// Longer than any burst of the demo's own load.
const BACKLOG: i32 = 1024;
/// As a statement that a database has to think about: a death finds some of them in the middle.
const WORK_TIME: Duration = Duration::from_millis(2);
const READ_BYTES: usize = 4096;

/// One server with an address that stays its own while it is dead.
#[derive(Debug)]
pub struct Node {
    pub index: usize,
    port: ReservedPort,
    history: Arc<History>,
    handle: Handle,
    running: Option<Running>,
}

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Connections are reset, as when the machine loses its power.
    Crash,
    /// Clients are told; replicas have everything then.
    Shutdown,
}

#[derive(Debug)]
struct Running {
    crash: CancellationToken,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Node {
    pub fn new(index: usize, history: Arc<History>, handle: Handle) -> io::Result<Self> {
        Ok(Self {
            index,
            port: ReservedPort::new()?,
            history,
            handle,
            running: None,
        })
    }

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
        self.history.set_running(self.index, true);
        let (crash, shutdown) = (CancellationToken::new(), CancellationToken::new());
        let session = Session {
            server: self.index,
            port: self.address().port(),
            history: Arc::clone(&self.history),
            crash: crash.clone(),
            shutdown: shutdown.clone(),
        };
        let task = self.handle.spawn(serve(session, listener));
        self.running = Some(Running {
            crash,
            shutdown,
            task,
        });
        Ok(())
    }

    /// Returns when its last connection is gone.
    pub async fn stop(&mut self, ending: Ending) {
        let Some(running) = self.running.take() else {
            return;
        };
        match ending {
            Ending::Crash => running.crash.cancel(),
            Ending::Shutdown => running.shutdown.cancel(),
        }
        // A panic in there has been printed, and shows as broken promises.
        let _ = running.task.await;
        if ending == Ending::Shutdown {
            self.history.replicate();
        }
        self.history.set_running(self.index, false);
    }
}

#[derive(Debug, Clone)]
struct Session {
    server: usize,
    port: u16,
    history: Arc<History>,
    crash: CancellationToken,
    shutdown: CancellationToken,
}

async fn serve(session: Session, listener: TcpListener) {
    // Sessions hear of it only when nobody listens any more: whoever is cut must not be able to
    // come back and be cut again.
    let (crash, shutdown) = (CancellationToken::new(), CancellationToken::new());
    let of_connection = Session {
        crash: crash.clone(),
        shutdown: shutdown.clone(),
        ..session.clone()
    };
    let mut connections = JoinSet::new();
    let ending = loop {
        tokio::select! {
            biased;
            () = session.crash.cancelled() => break &crash,
            () = session.shutdown.cancelled() => break &shutdown,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(of_connection.clone().attend(stream));
                }
                // Out of descriptors: accept() would fail again at once and spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    };
    drop(listener);
    ending.cancel();
    while connections.join_next().await.is_some() {}
}

impl Session {
    async fn attend(self, mut stream: TcpStream) {
        tokio::select! {
            biased;
            () = self.crash.cancelled() => {
                // Closing with a linger time of zero sends a reset. If it cannot be set, the peer
                // sees an orderly end in place of one, which is as final.
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
            // Either way the connection is over: who asked sees what is missing.
            _ = self.converse(&mut stream) => {}
        }
    }

    async fn converse(&self, stream: &mut TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut received = Vec::with_capacity(READ_BYTES);
        if !self.greet(stream, &mut received).await? {
            return Ok(());
        }
        loop {
            let next = frame::next_message(&received, MAX_PROBE_MESSAGE_BYTES);
            let next = next.map_err(io::Error::other)?;
            let Some(message) = next else {
                tokio::select! {
                    biased;
                    () = self.shutdown.cancelled() => return self.dismiss(stream).await,
                    read = stream.read_buf(&mut received) => if read? == 0 {
                        return Ok(());
                    },
                }
                continue;
            };
            if message.tag != b'Q' {
                return Ok(());
            }
            let sql = message.body.strip_suffix(b"\0").unwrap_or_default();
            tokio::time::sleep(WORK_TIME).await;
            let answer = sql::answer(&self.history, self.server, self.port, sql);
            let length = message.length;
            received.drain(..length);
            stream.write_all(&answer).await?;
        }
    }

    /// False: there will be no session.
    async fn greet(&self, stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            match startup::parse(received).map_err(io::Error::other)? {
                Opening::Incomplete { .. } => {
                    if stream.read_buf(received).await? == 0 {
                        return Ok(false);
                    }
                }
                Opening::Tls => return Ok(false),
                Opening::Complete { length, request } => {
                    received.drain(..length);
                    match request {
                        Request::Ssl | Request::GssEnc => stream.write_all(b"N").await?,
                        Request::Cancel(_) => return Ok(false),
                        Request::Startup(_) => break,
                    }
                }
            }
        }
        let key = CancelKey::new(u32::from(self.port), b"demo");
        let key = key.ok_or_else(|| io::Error::other("four bytes are enough"))?;
        let welcome = [
            backend::authentication(Authentication::Ok),
            backend::parameter_status("server_version", "17.0"),
            backend::parameter_status("client_encoding", "UTF8"),
            backend::backend_key_data(&key),
            backend::ready_for_query(TransactionStatus::Idle),
        ];
        stream.write_all(&welcome.concat()).await?;
        Ok(true)
    }

    async fn dismiss(&self, stream: &mut TcpStream) -> io::Result<()> {
        let words = "terminating connection due to administrator command";
        let farewell = ErrorResponse::fatal(SqlState::ADMIN_SHUTDOWN, words);
        stream.write_all(&farewell.encode()).await?;
        stream.shutdown().await
    }
}
