//! One client connection, from accept to its [`SessionEnd`].
//!
//! Everything before the relay runs in a boxed future that is dropped before
//! bytes flow, so that an idle session owns little more than its two sockets.

use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::cluster::Cause;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::net;
use crate::proxy::Shared;
use crate::proxy::connect;
use crate::proxy::connect::Connected;
use crate::proxy::handshake;
use crate::proxy::listener::Accepted;
use crate::proxy::listener::Handed;
use crate::proxy::listener::keepalive;
use crate::proxy::registry::SessionCell;
use crate::proxy::relay::Relay;
use crate::proxy::worker::Worker;
use crate::report::Report;
use crate::routing::ClusterHandle;
use crate::routing::ConnectionGuard;
use crate::routing::ListenerEntry;

/// A session refused or failed before bytes flowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub side: Side,
    pub phase: Phase,
    pub cause: Cause,
}

/// What the relay phase keeps besides the two streams.
struct Established {
    relay: Relay,
    place: ConnectionGuard,
    cluster: Arc<ClusterHandle>,
    /// Sessions may be queued for the place that this session gives back.
    queued: bool,
}

/// Takes everything back that was counted, however the session ends.
struct Registration {
    shared: Arc<Shared>,
    worker: Arc<Worker>,
    cell: Arc<SessionCell>,
    key: usize,
}

/// Runs a session on a worker; callable from any thread.
pub fn spawn(accepted: Accepted, shared: Arc<Shared>, worker: Arc<Worker>) {
    let handle = worker.handle.clone();
    handle.spawn(run(accepted, shared, worker));
}

async fn run(accepted: Accepted, shared: Arc<Shared>, worker: Arc<Worker>) {
    let registration = Registration::new(&accepted, shared, worker);
    let shared = Arc::clone(&registration.shared);
    let cell = Arc::clone(&registration.cell);

    let established = {
        let establishing = Box::pin(establish(accepted, &shared, &cell));
        tokio::select! {
            biased;
            cause = cell.until_severed() => Err(Refusal {
                side: Side::Proxy,
                phase: cell.phase(),
                cause,
            }),
            established = establishing => established,
        }
    };
    let end = match established {
        Ok(Established {
            relay,
            place,
            cluster,
            queued,
        }) => {
            cell.set_phase(Phase::Relay);
            let end = relay.await;
            finish_place(place, &cluster, queued);
            report_early_close(&shared, &cell, end);
            let lasted = Instant::now().saturating_duration_since(cell.started);
            shared
                .metrics
                .record_session_duration(&cluster.name, lasted);
            end
        }
        Err(refusal) => refuse(&shared, &cell, refusal),
    };
    shared.metrics.count_session_end(end);
    tracing::debug!(
        session = cell.id,
        listener = %cell.listener.name,
        side = end.side.as_str(),
        phase = end.phase.as_str(),
        cause = end.cause.as_str(),
        received_bytes = cell.received_bytes(),
        sent_bytes = cell.sent_bytes(),
        "session ended"
    );
}

async fn establish(
    accepted: Accepted,
    shared: &Arc<Shared>,
    cell: &Arc<SessionCell>,
) -> Result<Established, Refusal> {
    let entry = accepted.entry;
    let tcp = match accepted.socket {
        Handed::Here(tcp) => tcp,
        Handed::Over(socket) => TcpStream::from_std(socket).map_err(|error| Refusal {
            side: Side::Proxy,
            phase: Phase::Accept,
            cause: net::cause_of(&error),
        })?,
    };

    let greeted = handshake::greet(tcp, accepted.peer, &entry, cell).await?;
    cell.set_client(greeted.client_address);
    let connected = connect::connect(&greeted, &entry, shared, cell).await?;
    let Connected {
        backend,
        place,
        cluster,
        queued,
    } = connected;
    let relay = Relay::new(greeted.client, backend, Arc::clone(cell));
    keep_alive(&relay, &entry);
    Ok(Established {
        relay,
        place,
        cluster,
        queued,
    })
}

/// The client's socket inherited its options from the listener.
fn keep_alive(relay: &Relay, entry: &ListenerEntry) {
    let (_, backend) = relay.sockets();
    if let Err(error) = net::set_keepalive(backend, keepalive(&entry.config.keepalive)) {
        tracing::debug!(%error, "keepalive could not be set");
    }
}

/// Gives the place back, then tells the first who waits for it.
fn finish_place(place: ConnectionGuard, cluster: &ClusterHandle, queued: bool) {
    drop(place);
    if queued {
        cluster.queue.release_one();
    }
}

/// A backend that ends a session before its first byte may be failing.
fn report_early_close(shared: &Shared, cell: &SessionCell, end: SessionEnd) {
    let early = end.side == Side::Backend && cell.sent_bytes() == 0;
    let cause = match end.cause {
        Cause::Closed | Cause::Reset if early => Cause::EarlyClose,
        Cause::Reset if end.side == Side::Backend => Cause::Reset,
        _ => return,
    };
    if let Some(backend) = cell.backend() {
        shared.reporter.send(Report {
            backend: backend.id,
            cause,
        });
    }
}

fn refuse(shared: &Shared, cell: &SessionCell, refusal: Refusal) -> SessionEnd {
    cell.listener.count_rejected(refusal.cause);
    let end = SessionEnd {
        side: refusal.side,
        phase: refusal.phase,
        cause: refusal.cause,
    };
    // A client that goes away, or was never one, is not worth an operator's attention …
    let went_away = matches!(refusal.cause, Cause::Closed | Cause::Reset);
    if refusal.side == Side::Client && went_away {
        return end;
    }
    if let Some(admitted) = shared.refusal_warnings.admit(refusal.cause, Instant::now()) {
        // … but whoever is turned away is.
        tracing::warn!(
            session = cell.id,
            listener = %cell.listener.name,
            phase = end.phase.as_str(),
            cause = end.cause.as_str(),
            suppressed = admitted.suppressed,
            "client refused"
        );
    }
    end
}

impl Registration {
    fn new(accepted: &Accepted, shared: Arc<Shared>, worker: Arc<Worker>) -> Self {
        let cell = Arc::new(SessionCell::new(
            shared.next_session_id(),
            Arc::clone(&accepted.entry.handle),
            accepted.entry.config.idle_timeout,
            Instant::now(),
        ));
        cell.set_client(accepted.peer);
        let key = worker.registry.insert(Arc::clone(&cell));
        Self {
            shared,
            worker,
            cell,
            key,
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.worker.registry.remove(self.key);
        self.worker.release();
        self.cell.listener.close();
        self.shared.close();
    }
}
