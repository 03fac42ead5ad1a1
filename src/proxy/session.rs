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
use crate::net::Keepalive;
use crate::proxy::Shared;
use crate::proxy::connect;
use crate::proxy::connect::Again;
use crate::proxy::handshake;
use crate::proxy::handshake::Greeted;
use crate::proxy::listener::Accepted;
use crate::proxy::listener::Handed;
use crate::proxy::listener::keepalive;
use crate::proxy::place::Place;
use crate::proxy::registry::SessionCell;
use crate::proxy::relay::Relay;
use crate::proxy::relay::Untouched;
use crate::proxy::worker::Worker;
use crate::report::Report;

/// The relay and what it occupies.
struct Established {
    relay: Relay,
    place: Place,
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
    handle.spawn(run(Box::new(accepted), shared, worker));
}

async fn run(accepted: Box<Accepted>, shared: Arc<Shared>, worker: Arc<Worker>) {
    let registration = Registration::new(&accepted, shared, worker);
    let mut opened = Box::pin(open(accepted, &registration)).await;
    let end = loop {
        // Borrowed, not moved: a moved relay would take its place in this future twice.
        let end = match &mut opened {
            Ok(established) => (&mut established.relay).await,
            Err(end) => {
                note_refusal(&registration, *end);
                break *end;
            }
        };
        let Some(untouched) = opened.ok().and_then(|it| it.finish(&registration, end)) else {
            break end;
        };
        opened = Box::pin(reopen(untouched, &registration)).await;
    };
    let Registration { shared, cell, .. } = &registration;
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

/// Everything before the relay, unless the session is severed first.
async fn open(
    accepted: Box<Accepted>,
    registration: &Registration,
) -> Result<Established, SessionEnd> {
    let Registration { shared, cell, .. } = registration;
    unless_severed(cell, establish(accepted, shared, cell)).await
}

/// The same client with another backend.
async fn reopen(
    untouched: Untouched,
    registration: &Registration,
) -> Result<Established, SessionEnd> {
    let Registration { shared, cell, .. } = registration;
    let mut again = *untouched.again;
    again.failed += 1;
    let greeted = Greeted {
        client: untouched.client,
        first_bytes: untouched.first_bytes,
        origin: again.origin.clone(),
    };
    let connecting = connect_and_relay(greeted, again, untouched.keepalive, shared, cell);
    unless_severed(cell, connecting).await
}

async fn unless_severed(
    cell: &SessionCell,
    opening: impl Future<Output = Result<Established, SessionEnd>>,
) -> Result<Established, SessionEnd> {
    tokio::select! {
        biased;
        cause = cell.until_severed() => Err(SessionEnd {
            side: Side::Proxy,
            phase: cell.phase(),
            cause,
        }),
        established = opening => established,
    }
}

async fn establish(
    accepted: Box<Accepted>,
    shared: &Arc<Shared>,
    cell: &Arc<SessionCell>,
) -> Result<Established, SessionEnd> {
    let Accepted {
        socket,
        peer,
        entry,
    } = *accepted;
    let tcp = match socket {
        Handed::Here(tcp) => tcp,
        Handed::Over(socket) => TcpStream::from_std(socket).map_err(|error| SessionEnd {
            side: Side::Proxy,
            phase: Phase::Accept,
            cause: net::cause_of(&error),
        })?,
    };

    let greeted = handshake::greet(tcp, peer, &entry, cell).await?;
    cell.set_client(greeted.origin.client);
    let cluster = connect::route(&entry.config, greeted.origin.sni.as_deref())?.clone();
    let keepalive = keepalive(&entry.config.keepalive);
    // An old table's listener must not live as long as this session.
    drop(entry);
    cell.set_cluster(cluster.clone());
    let again = Again {
        origin: greeted.origin.clone(),
        cluster,
        tried: Vec::new(),
        failed: 0,
        max_attempts: 0,
    };
    connect_and_relay(greeted, again, keepalive, shared, cell).await
}

async fn connect_and_relay(
    greeted: Greeted,
    mut again: Again,
    keepalive: Keepalive,
    shared: &Shared,
    cell: &Arc<SessionCell>,
) -> Result<Established, SessionEnd> {
    let (cluster, tried) = (again.cluster.clone(), again.tried);
    let connected = connect::connect(&greeted, cluster, tried, shared, cell).await?;
    again.tried = connected.tried;
    again.max_attempts = connected.max_attempts;
    let (client, cell) = (greeted.client, Arc::clone(cell));
    cell.set_phase(Phase::Relay);
    Ok(Established {
        relay: Relay::new(client, connected.backend, cell, keepalive, Box::new(again)),
        place: connected.place,
    })
}

impl Established {
    /// Measures, and gives the place back. Returns the client when the backend failed
    /// untouched and another one may be tried.
    fn finish(self, registration: &Registration, end: SessionEnd) -> Option<Untouched> {
        let Registration { shared, cell, .. } = registration;
        report_early_close(shared, cell, end);
        let untouched = self.relay.into_untouched();
        if let Some(untouched) = untouched
            && untouched.again.failed + 1 < untouched.again.max_attempts
        {
            cell.set_backend(None);
            return Some(untouched);
        }
        let lasted = Instant::now().saturating_duration_since(cell.started);
        let cluster = &self.place.cluster().name;
        shared.metrics.record_session_duration(cluster, lasted);
        None
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

/// Counts and logs a session that ended before bytes flowed.
fn note_refusal(registration: &Registration, end: SessionEnd) {
    let Registration { shared, cell, .. } = registration;
    cell.listener.count_rejected(end.cause);
    // A client that goes away, or was never one, is not worth an operator's attention …
    let went_away = matches!(end.cause, Cause::Closed | Cause::Reset);
    if end.side == Side::Client && went_away {
        return;
    }
    if let Some(admitted) = shared.refusal_warnings.admit(end.cause, Instant::now()) {
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
}

impl Registration {
    fn new(accepted: &Accepted, shared: Arc<Shared>, worker: Arc<Worker>) -> Self {
        let cell = Arc::new(SessionCell::new(
            shared.next_session_id(),
            Arc::clone(&accepted.entry.handle),
            accepted.entry.config.bind,
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
#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// Thousands of idle sessions are normal; each kilobyte is ten megabytes then.
    #[test]
    fn an_idle_session_stays_small() {
        assert!(size_of_future(run) <= 384);
        assert!(std::mem::size_of::<SessionCell>() <= 256);
    }
}
