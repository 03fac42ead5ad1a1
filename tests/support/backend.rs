//! Backends inside the test process: well-behaved ones that say who they are, and bad ones.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpStream;

use super::ports::free_addr;
use super::service::Counts;
use super::service::Handler;
use super::service::Service;
use super::stream::Pattern;

pub use super::service::End;

/// What a backend does with a connection.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Sends back what it gets, and closes after the client's FIN.
    Echo,
    /// Says its name and a newline at once, then waits for the client's FIN.
    NamePerConnection(String),
    /// Answers each line with its name and a newline.
    NamePerLine(String),
    /// Sends this many bytes of `Pattern`, then closes.
    Stream { bytes: u64 },
    /// Reads and counts until the client's FIN, then answers the number of bytes in decimal.
    Count,
    /// Accepts and never says or reads anything.
    Silent,
    /// Speaks noise without an end.
    Garbage,
    /// Speaks one byte of a banner per second.
    SlowBanner,
    /// Closes at once.
    Close,
    /// Resets at once.
    Reset,
    /// Answers each HTTP/1.1 request with this status, which may change while it runs.
    Http { status: Arc<AtomicU16> },
}

#[derive(Debug)]
pub struct Backend {
    service: Service,
}

impl Backend {
    pub fn start(behaviour: Behaviour) -> Self {
        Self::at(free_addr(), behaviour)
    }

    pub fn at(addr: SocketAddr, behaviour: Behaviour) -> Self {
        let service = Service::start(addr, Handler::Behave(behaviour));
        Self { service }
    }

    pub fn echo() -> Self {
        Self::start(Behaviour::Echo)
    }

    /// Says `name` on each connection.
    pub fn named(name: &str) -> Self {
        Self::start(Behaviour::NamePerConnection(name.to_owned()))
    }

    pub fn addr(&self) -> SocketAddr {
        self.service.addr()
    }

    /// Connections since the first start, killed ones included.
    pub fn accepted(&self) -> u64 {
        self.service.counts().accepted.load(Ordering::Relaxed)
    }

    pub fn active(&self) -> usize {
        self.service.counts().active.load(Ordering::Relaxed)
    }

    pub fn bytes_received(&self) -> u64 {
        let counts = self.service.counts();
        counts.bytes_received.load(Ordering::Relaxed)
    }

    /// Stops listening and ends every connection.
    pub fn kill(&mut self, end: End) {
        self.service.kill(end);
    }

    pub fn kill_connections(&mut self, end: End) {
        self.service.kill_connections(end);
    }

    /// Comes back on the same port.
    pub fn start_again(&mut self) {
        self.service.start_again();
    }

    /// As SIGSTOP: the kernel still accepts, nobody answers.
    pub fn freeze(&self) {
        self.service.freeze();
    }

    pub fn thaw(&self) {
        self.service.thaw();
    }
}

impl Behaviour {
    pub(super) async fn serve(&self, client: &mut TcpStream, counts: &Counts) -> End {
        match self {
            Self::Reset => return End::Rst,
            Self::Close => return End::Fin,
            Self::Silent => std::future::pending::<()>().await,
            _ => {}
        }
        // A client that goes away is a normal end for every behaviour.
        let _ = self.talk(client, counts).await;
        End::Fin
    }

    async fn talk(&self, client: &mut TcpStream, counts: &Counts) -> io::Result<()> {
        match self {
            Self::Echo => {
                let (mut input, mut output) = client.split();
                let mut buffer = vec![0; 16 * 1024];
                loop {
                    let length = input.read(&mut buffer).await?;
                    if length == 0 {
                        return output.shutdown().await;
                    }
                    counts.received(length);
                    output.write_all(&buffer[..length]).await?;
                }
            }
            Self::NamePerConnection(name) => {
                client.write_all(format!("{name}\n").as_bytes()).await?;
                read_to_end(client, counts).await.map(drop)
            }
            Self::NamePerLine(name) => {
                let (input, mut output) = client.split();
                let mut lines = BufReader::new(input).lines();
                while let Some(line) = lines.next_line().await? {
                    counts.received(line.len() + 1);
                    output.write_all(format!("{name}\n").as_bytes()).await?;
                }
                Ok(())
            }
            Self::Stream { bytes } => {
                let mut pattern = Pattern::new();
                let mut left = *bytes;
                while left > 0 {
                    let length = usize::try_from(left.min(16 * 1024)).unwrap();
                    client.write_all(&pattern.next_bytes(length)).await?;
                    left -= length as u64;
                }
                client.shutdown().await?;
                read_to_end(client, counts).await.map(drop)
            }
            Self::Count => {
                let total = read_to_end(client, counts).await?;
                client.write_all(total.to_string().as_bytes()).await
            }
            Self::Garbage => {
                let mut noise = fastrand::Rng::with_seed(7);
                loop {
                    let bytes: Vec<u8> = (0..512).map(|_| noise.u8(..)).collect();
                    client.write_all(&bytes).await?;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            Self::SlowBanner => loop {
                client.write_all(b"x").await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            },
            Self::Http { status } => answer_requests(client, counts, status).await,
            Self::Silent | Self::Close | Self::Reset => Ok(()),
        }
    }
}

impl Counts {
    fn received(&self, bytes: usize) {
        self.bytes_received
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

async fn read_to_end(client: &mut TcpStream, counts: &Counts) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        let length = client.read(&mut buffer).await?;
        if length == 0 {
            return Ok(total);
        }
        counts.received(length);
        total += length as u64;
    }
}

/// Enough for health checks: requests without a body, kept alive.
async fn answer_requests(
    client: &mut TcpStream,
    counts: &Counts,
    status: &AtomicU16,
) -> io::Result<()> {
    let (input, mut output) = client.split();
    let mut lines = BufReader::new(input).lines();
    while let Some(line) = lines.next_line().await? {
        counts.received(line.len() + 2);
        if line.is_empty() {
            let status = status.load(Ordering::Relaxed);
            let head = format!("HTTP/1.1 {status} Status\r\nContent-Length: 3\r\n\r\n");
            output.write_all(format!("{head}ok\n").as_bytes()).await?;
        }
    }
    Ok(())
}

/// A server that runs this script for every connection, for as long as the process lives.
pub fn server(script: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let script = Arc::clone(&script);
            std::thread::spawn(move || script(stream));
        }
    });
    address
}
