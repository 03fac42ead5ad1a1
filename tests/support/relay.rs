//! A relay that damages connections as networks do, for machines whose kernel cannot (no netem).

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::net::tcp::WriteHalf;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;

use super::ports::free_addr;
use super::service::End;
use super::service::Handler;
use super::service::Service;

/// What happens to bytes in each direction; may change while connections run.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub to_target: Direction,
    pub to_client: Direction,
}

#[derive(Debug, Clone, Default)]
pub struct Direction {
    pub delay: Duration,
    /// Up to this much more delay, different for each chunk; order is kept.
    pub jitter: Duration,
    /// What the loss of a segment looks like above TCP: of 1,000 chunks this many wait `stall` more.
    pub stalled_per_mille: u32,
    pub stall: Duration,
    pub bytes_per_second: Option<u64>,
    /// Cuts into segments of at most this size.
    pub max_segment_bytes: Option<usize>,
    /// Collects what arrives within this time into one segment.
    pub coalesce: Duration,
    /// Forwards nothing, neither bytes nor FIN, and closes nothing.
    pub blackhole: bool,
}

impl Faults {
    pub fn both(direction: Direction) -> Self {
        Self {
            to_target: direction.clone(),
            to_client: direction,
        }
    }
}

#[derive(Debug)]
pub struct FaultRelay {
    service: Service,
    faults: watch::Sender<Faults>,
}

impl FaultRelay {
    /// Harmless until `set`.
    pub fn to(target: SocketAddr) -> Self {
        let (faults, watched) = watch::channel(Faults::default());
        let handler = Handler::Relay {
            target,
            faults: watched,
        };
        let service = Service::start(free_addr(), handler);
        Self { service, faults }
    }

    pub fn addr(&self) -> SocketAddr {
        self.service.addr()
    }

    pub fn set(&self, faults: Faults) {
        self.faults.send_replace(faults);
    }

    pub fn heal(&self) {
        self.set(Faults::default());
    }

    pub fn blackhole(&self) {
        let nothing = Direction {
            blackhole: true,
            ..Direction::default()
        };
        self.set(Faults::both(nothing));
    }

    /// Resets every connection, on both sides, and goes on.
    pub fn reset_connections(&mut self) {
        self.service.kill_connections(End::Rst);
    }

    /// Resets every connection and refuses new ones.
    pub fn refuse(&mut self) {
        self.service.kill(End::Rst);
    }

    pub fn accept_again(&mut self) {
        self.service.start_again();
    }

    pub fn accepted(&self) -> u64 {
        self.service.counts().accepted.load(Ordering::Relaxed)
    }
}

/// How many chunks may be under way in one direction: bounds memory, not what a delay lets through.
const MAX_CHUNKS: usize = 64;
const CHUNK_BYTES: usize = 16 * 1024;

pub(super) async fn relay(
    client: &mut TcpStream,
    target: &mut TcpStream,
    faults: watch::Receiver<Faults>,
) -> End {
    let (client_in, client_out) = client.split();
    let (target_in, target_out) = target.split();
    let both = tokio::try_join!(
        pump(client_in, target_out, faults.clone(), |all| &all.to_target),
        pump(target_in, client_out, faults, |all| &all.to_client),
    );
    // A reset on one side is a reset on the other.
    if both.is_ok() { End::Fin } else { End::Rst }
}

type Chunk = (Instant, Vec<u8>);

async fn pump(
    input: ReadHalf<'_>,
    output: WriteHalf<'_>,
    faults: watch::Receiver<Faults>,
    direction: impl Fn(&Faults) -> &Direction + Copy,
) -> io::Result<()> {
    let (chunks, due) = mpsc::channel(MAX_CHUNKS);
    tokio::try_join!(
        take_in(input, chunks, faults.clone(), direction),
        give_out(output, due, faults, direction),
    )
    .map(|_| ())
}

/// Reads and stamps each chunk with the time it is due; an empty chunk is the FIN.
async fn take_in(
    mut input: ReadHalf<'_>,
    chunks: mpsc::Sender<Chunk>,
    mut faults: watch::Receiver<Faults>,
    direction: impl Fn(&Faults) -> &Direction,
) -> io::Result<()> {
    let mut chance = fastrand::Rng::with_seed(11);
    let mut last_due = Instant::now();
    loop {
        let mut bytes = vec![0; CHUNK_BYTES];
        let length = input.read(&mut bytes).await?;
        bytes.truncate(length);
        // The sender lives as long as the relay: an error here means that it is going down.
        let now = faults.wait_for(|all| !direction(all).blackhole).await;
        let now = now.map_or_else(|_| Direction::default(), |all| direction(&all).clone());
        if length > 0 && !now.coalesce.is_zero() {
            collect(&mut input, &mut bytes, now.coalesce).await?;
        }
        let mut due = Instant::now() + now.delay + now.jitter.mul_f64(chance.f64());
        if chance.u32(..1000) < now.stalled_per_mille {
            due += now.stall;
        }
        last_due = last_due.max(due);
        if chunks.send((last_due, bytes)).await.is_err() || length == 0 {
            return Ok(());
        }
    }
}

async fn collect(
    input: &mut ReadHalf<'_>,
    bytes: &mut Vec<u8>,
    within: Duration,
) -> io::Result<()> {
    let until = Instant::now() + within;
    while bytes.len() < CHUNK_BYTES {
        match tokio::time::timeout_at(until, input.read_buf(bytes)).await {
            Err(_) | Ok(Ok(0)) => break,
            Ok(read) => read?,
        };
    }
    Ok(())
}

async fn give_out(
    mut output: WriteHalf<'_>,
    mut chunks: mpsc::Receiver<Chunk>,
    mut faults: watch::Receiver<Faults>,
    direction: impl Fn(&Faults) -> &Direction,
) -> io::Result<()> {
    while let Some((due, bytes)) = chunks.recv().await {
        tokio::time::sleep_until(due).await;
        let now = faults.wait_for(|all| !direction(all).blackhole).await;
        let now = now.map_or_else(|_| Direction::default(), |all| direction(&all).clone());
        if bytes.is_empty() {
            return output.shutdown().await;
        }
        let largest = now.max_segment_bytes.unwrap_or(bytes.len()).max(1);
        let mut segments = bytes.chunks(largest).peekable();
        while let Some(segment) = segments.next() {
            output.write_all(segment).await?;
            if let Some(rate) = now.bytes_per_second {
                let share = segment.len() as f64 / rate.max(1) as f64;
                tokio::time::sleep(Duration::from_secs_f64(share)).await;
            } else if segments.peek().is_some() {
                // Lets the reader on the other side see this segment alone.
                tokio::task::yield_now().await;
            }
        }
    }
    Ok(())
}
