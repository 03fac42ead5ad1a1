//! A TCP service inside the test process that can be killed, frozen and brought back on its port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::PATIENCE;
use super::backend::Behaviour;
use super::relay::Faults;
use super::wait_until;

/// How connections of a killed service end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As an orderly shutdown.
    Fin,
    /// As a crash of the process with unread data, or of the host.
    Rst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// The process is stopped: the kernel still accepts, nobody answers.
    Frozen,
    Ending(End),
}

#[derive(Debug, Clone)]
pub(super) enum Handler {
    Behave(Behaviour),
    Relay {
        target: SocketAddr,
        faults: watch::Receiver<Faults>,
    },
}

/// What a service has seen; read while it runs.
#[derive(Debug, Default)]
pub struct Counts {
    pub accepted: AtomicU64,
    pub active: AtomicUsize,
    pub bytes_received: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Service {
    addr: SocketAddr,
    handler: Handler,
    counts: Arc<Counts>,
    /// `None` while down.
    running: Option<watch::Sender<Phase>>,
}

impl Service {
    pub fn start(addr: SocketAddr, handler: Handler) -> Self {
        let mut service = Self {
            addr,
            handler,
            counts: Arc::default(),
            running: None,
        };
        service.start_again();
        service
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "{} already runs", self.addr);
        let (phase, phases) = watch::channel(Phase::Running);
        let (handler, counts) = (self.handler.clone(), Arc::clone(&self.counts));
        let (addr, (bound, listening)) = (self.addr, mpsc::channel());
        runtime().spawn(async move {
            let listener = TcpListener::bind(addr).await;
            let failed = listener.as_ref().err().map(ToString::to_string);
            let _ = bound.send(failed);
            if let Ok(listener) = listener {
                accept(phases, handler, counts, listener).await;
            }
        });
        let failed = listening.recv_timeout(PATIENCE).unwrap();
        assert_eq!(failed, None, "cannot listen on {addr}");
        self.running = Some(phase);
    }

    /// Stops listening and ends every connection; returns when both happened.
    pub fn kill(&mut self, end: End) {
        let Some(phase) = self.running.take() else {
            return;
        };
        phase.send_replace(Phase::Ending(end));
        wait_until(PATIENCE, "the end of a service", || phase.is_closed());
    }

    /// Ends every connection and goes on listening.
    pub fn kill_connections(&mut self, end: End) {
        self.kill(end);
        self.start_again();
    }

    pub fn freeze(&self) {
        self.turn(Phase::Frozen);
    }

    pub fn thaw(&self) {
        self.turn(Phase::Running);
    }

    fn turn(&self, to: Phase) {
        let phase = self.running.as_ref().expect("the service is down");
        phase.send_replace(to);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill(End::Rst);
    }
}

/// One thread for all services of the test process: enough, and tests keep their own runtime.
fn runtime() -> &'static Handle {
    static RUNTIME: LazyLock<Handle> = LazyLock::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        handle
    });
    &RUNTIME
}

/// The listener comes last, so that it goes first: who waits until nobody follows the phases any
/// more must not be able to connect to it.
async fn accept(
    mut phases: watch::Receiver<Phase>,
    handler: Handler,
    counts: Arc<Counts>,
    listener: TcpListener,
) {
    loop {
        let phase = *phases.borrow_and_update();
        // Seen here, it is no change any more.
        if matches!(phase, Phase::Ending(_)) {
            return;
        }
        tokio::select! {
            biased;
            changed = phases.changed() => if changed.is_err() { return },
            accepted = listener.accept(), if phase == Phase::Running => {
                // The client may be gone before we take it.
                let Ok((client, _)) = accepted else { continue };
                counts.accepted.fetch_add(1, Ordering::Relaxed);
                let (handler, counts) = (handler.clone(), Arc::clone(&counts));
                tokio::spawn(serve(client, handler, counts, phases.clone()));
            }
        }
    }
}

async fn serve(
    mut client: TcpStream,
    handler: Handler,
    counts: Arc<Counts>,
    mut phases: watch::Receiver<Phase>,
) {
    counts.active.fetch_add(1, Ordering::Relaxed);
    let _ = client.set_nodelay(true);
    let mut upstream = None;
    let end = {
        let work = handler.handle(&mut client, &mut upstream, &counts);
        tokio::pin!(work);
        loop {
            let phase = *phases.borrow_and_update();
            if let Phase::Ending(end) = phase {
                break end;
            }
            tokio::select! {
                biased;
                changed = phases.changed() => if changed.is_err() { break End::Rst },
                // Frozen = not polled.
                ended = &mut work, if phase == Phase::Running => break ended,
            }
        }
    };
    if end == End::Rst {
        for socket in std::iter::once(&client).chain(&upstream) {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
    drop((client, upstream));
    counts.active.fetch_sub(1, Ordering::Relaxed);
}

impl Handler {
    async fn handle(
        &self,
        client: &mut TcpStream,
        upstream: &mut Option<TcpStream>,
        counts: &Counts,
    ) -> End {
        match self {
            Self::Behave(behaviour) => behaviour.serve(client, counts).await,
            Self::Relay { target, faults } => {
                let Ok(stream) = TcpStream::connect(target).await else {
                    return End::Rst;
                };
                let _ = stream.set_nodelay(true);
                super::relay::relay(client, upstream.insert(stream), faults.clone()).await
            }
        }
    }
}
