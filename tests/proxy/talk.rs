//! What the tests of faults say to the proxy, and what they look up about it.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use crate::support::PATIENCE;
use crate::support::evergate::Evergate;
use crate::support::stream::Pattern;
use crate::support::stream::expect_pattern;
use crate::support::stream::write_pattern;
use crate::support::wait_until;

/// One cluster `c` of these backends behind one listener `l`; `cluster` and `listener` are further
/// keys in flow style, each led by a comma.
pub fn file(listen: SocketAddr, backends: &[SocketAddr], cluster: &str, listener: &str) -> String {
    let mut list = String::new();
    for backend in backends {
        write!(list, "\"{backend}\", ").unwrap();
    }
    format!(
        "clusters:\n  c: {{protocol: tcp, backends: [{list}]{cluster}}}\n\
         listeners:\n  l: {{bind: \"{listen}\", cluster: c{listener}}}\n"
    )
}

/// A connection on which nothing hangs for ever.
#[track_caller]
pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One small round trip through an echo.
pub fn round_trip(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

/// Sends, half-closes and reads to the end; a connection that breaks is an error, not an answer.
pub fn ask(addr: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(addr);
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Sends a pattern to an echo and checks every byte that comes back, both at the same time.
#[track_caller]
pub fn expect_echo(stream: TcpStream, seed: u64, bytes: u64) {
    let (mut input, mut output) = (stream.try_clone().unwrap(), stream);
    let writer = thread::spawn(move || {
        write_pattern(&mut output, Pattern::seeded(seed), bytes)?;
        output.shutdown(Shutdown::Write)
    });
    let seen = expect_pattern(&mut input, Pattern::seeded(seed), u64::MAX).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(seen, bytes);
}

/// The same through TLS that ends at the proxy, after what is to be sent in the clear.
/// Half-closes with close_notify and FIN.
pub fn ask_over_tls(
    addr: SocketAddr,
    name: &str,
    client: ClientConfig,
    first: &[u8],
    bytes: &[u8],
) -> io::Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let exchange = async {
        let mut tcp = tokio::net::TcpStream::connect(addr).await?;
        tcp.write_all(first).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let (mut input, mut output) = tokio::io::split(connector.connect(name, tcp).await?);
        let mut answer = Vec::new();
        let write = async {
            output.write_all(bytes).await?;
            output.shutdown().await
        };
        tokio::try_join!(write, input.read_to_end(&mut answer))?;
        Ok(answer)
    };
    runtime.block_on(async {
        let in_time = tokio::time::timeout(PATIENCE, exchange).await;
        in_time.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    })
}

/// Pipes that the process has open: one per direction that splices.
pub fn open_pipes(evergate: &Evergate) -> usize {
    let dir = format!("/proc/{}/fd", evergate.pid());
    let links = fs::read_dir(dir).unwrap().flatten();
    let targets = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    let pipes = targets.filter(|target| target.to_string_lossy().starts_with("pipe:"));
    pipes.count() / 2
}

/// Sessions ended for this cause, on whatever side.
pub fn ended(evergate: &Evergate, cause: &str) -> f64 {
    let labels = [("cause", cause)];
    let count = evergate.metric("evergate_sessions_ended_total", &labels);
    count.unwrap_or(0.0)
}

/// A session is counted after its peers have seen its end.
#[track_caller]
pub fn wait_for_ends(evergate: &Evergate, cause: &str, count: f64) {
    wait_until(PATIENCE, &format!("{count} ended by {cause}"), || {
        ended(evergate, cause) == count
    });
}

/// Lines of the log that say that a backend went down.
pub fn downs(evergate: &Evergate) -> Vec<String> {
    let lines = evergate.log_lines().into_iter();
    lines
        .filter(|line| line.contains("\"health changed\"") && line.contains("\"to\":\"down\""))
        .collect()
}
