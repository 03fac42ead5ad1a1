//! One client connection, from accept to its [`SessionEnd`].
//!
//! Everything before the relay runs in a boxed future that is dropped before
//! bytes flow, so that an idle session owns little more than its two sockets.

mod account;

use crate::proxy::session::account::Registration;
use crate::proxy::session::account::finish;
use crate::proxy::session::account::note_refusal;
use crate::proxy::session::account::report_early_close;
use crate::proxy::session::account::tally;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::net;
use crate::net::Keepalive;
use crate::proxy::Shared;
use crate::proxy::connect;
use crate::proxy::connect::Again;
use crate::proxy::connect::Connected;
use crate::proxy::dialect::Dialect;
use crate::proxy::dialect::Follow;
use crate::proxy::handshake;
use crate::proxy::handshake::Greeted;
use crate::proxy::http;
use crate::proxy::http::HttpClient;
use crate::proxy::listener::Accepted;
use crate::proxy::listener::Handed;
use crate::proxy::listener::keepalive;
use crate::proxy::mysql;
use crate::proxy::mysql::Welcome;
use crate::proxy::place::Place;
use crate::proxy::registry::SessionCell;
use crate::proxy::relay::Ends;
use crate::proxy::relay::Relay;
use crate::proxy::relay::Untouched;
use crate::proxy::route;
use crate::proxy::worker::Worker;

/// How a session goes on once it is open.
#[expect(
    clippy::large_enum_variant,
    reason = "taken apart at once, and most sessions are the large one"
)]
enum Opened {
    Relay(Established),
    Http(Box<HttpClient>),
}

/// The relay and what it occupies.
struct Established {
    relay: Relay,
    place: Place,
}

/// Runs a session on a worker; callable from any thread.
pub fn spawn(accepted: Accepted, shared: Arc<Shared>, worker: Arc<Worker>) {
    let handle = worker.handle.clone();
    handle.spawn(run(Box::new(accepted), shared, worker));
}

async fn run(accepted: Box<Accepted>, shared: Arc<Shared>, worker: Arc<Worker>) {
    let registration = Registration::new(&accepted, shared, worker);
    let mut opened = match Box::pin(open(accepted, &registration)).await {
        Ok(Opened::Relay(established)) => Ok(established),
        Ok(Opened::Http(client)) => {
            // A task of its own: nothing of this one is kept while the client is idle.
            tokio::spawn(serve(client, registration));
            return;
        }
        Err(end) => Err(end),
    };
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
    finish(&registration, end);
}

async fn serve(client: Box<HttpClient>, registration: Registration) {
    let Registration {
        shared,
        worker,
        cell,
        ..
    } = &registration;
    let end = http::serve(client, shared, worker, cell).await;
    finish(&registration, end);
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
        dialect: again.dialect,
    };
    // A MySQL client has had a greeting: it never comes here.
    connect_and_relay(greeted, again, untouched.keepalive, None, shared, cell).await
}

async fn unless_severed<T>(
    cell: &SessionCell,
    opening: impl Future<Output = Result<T, SessionEnd>>,
) -> Result<T, SessionEnd> {
    tokio::select! {
        biased;
        cause = cell.until_severed() => Err(SessionEnd {
            side: Side::Proxy,
            phase: cell.phase(),
            cause,
        }),
        opened = opening => opened,
    }
}

/// Everything before the relay, unless the session is severed first.
async fn open(accepted: Box<Accepted>, registration: &Registration) -> Result<Opened, SessionEnd> {
    let Registration { shared, cell, .. } = registration;
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

    let greeting = handshake::greet(tcp, peer, &entry, shared, cell);
    let mut greeted = unless_severed(cell, greeting).await?;
    cell.set_client(greeted.origin.client);
    if entry.config.http.is_some() {
        let client = HttpClient {
            transport: greeted.client,
            first_bytes: greeted.first_bytes,
            origin: greeted.origin,
        };
        drop(entry);
        return Ok(Opened::Http(Box::new(client)));
    }
    let cluster = match route::route(&entry.config, &greeted.origin) {
        Ok(cluster) => cluster.clone(),
        Err(end) => return Err(Box::pin(refuse(&mut greeted, cell, end)).await),
    };
    let keepalive = keepalive(&entry.config.keepalive);
    let welcome = match greeted.dialect {
        Dialect::MySql => Some(Welcome::new(&entry)),
        Dialect::Opaque | Dialect::Postgres | Dialect::SealedPostgres | Dialect::Redis => None,
    };
    // An old table's listener must not live as long as this session.
    drop(entry);
    cell.set_cluster(cluster.clone());
    let again = Again {
        origin: greeted.origin.clone(),
        dialect: greeted.dialect,
        cluster,
        tried: Vec::new(),
        failed: 0,
        max_attempts: 0,
    };
    let established = connect_and_relay(greeted, again, keepalive, welcome, shared, cell).await?;
    Ok(Opened::Relay(established))
}

async fn connect_and_relay(
    mut greeted: Greeted,
    mut again: Again,
    keepalive: Keepalive,
    welcome: Option<Welcome>,
    shared: &Arc<Shared>,
    cell: &Arc<SessionCell>,
) -> Result<Established, SessionEnd> {
    let (cluster, tried) = (again.cluster.clone(), again.tried);
    let connecting = connect::connect(&greeted, cluster, tried, shared, cell);
    let mut connected = match unless_severed(cell, connecting).await {
        Ok(connected) => connected,
        Err(end) => return Err(Box::pin(refuse(&mut greeted, cell, end)).await),
    };
    again.tried = std::mem::take(&mut connected.tried);
    again.max_attempts = connected.max_attempts;
    let (ends, place) = match welcome {
        // Boxed, as all that few sessions need: every one is as large as the largest.
        Some(welcome) => Box::pin(log_in(greeted, connected, welcome, shared, cell)).await?,
        None => begin(greeted, connected, shared),
    };
    cell.set_phase(Phase::Relay);
    Ok(Established {
        relay: Relay::new(ends, Arc::clone(cell), keepalive, Some(Box::new(again))),
        place,
    })
}

/// What to relay, from the backend's first answer on.
fn begin(greeted: Greeted, connected: Connected, shared: &Arc<Shared>) -> (Ends, Place) {
    let mut answer = connected.answer;
    let has_begun = !greeted.first_bytes.is_empty();
    let mut follow = greeted.dialect.follow(connected.peer, shared, has_begun);
    if let Some(follow) = &mut follow {
        // No protocol refuses what a session begins with.
        let _ = follow.see_answer(&mut answer);
    }
    let ends = Ends {
        client: greeted.client,
        backend: connected.backend,
        answer,
        follow,
    };
    (ends, connected.place)
}

/// As [`begin`], where the backend's first answer comes before the client's first word.
async fn log_in(
    greeted: Greeted,
    connected: Connected,
    welcome: Welcome,
    shared: &Arc<Shared>,
    cell: &SessionCell,
) -> Result<(Ends, Place), SessionEnd> {
    let Connected {
        backend,
        answer,
        late_tls,
        peer,
        place,
        ..
    } = connected;
    cell.set_phase(Phase::Handshake);
    let login = mysql::log_in(greeted.client, backend, &answer, welcome, late_tls);
    let login = unless_severed(cell, login).await?;
    // The greeting is not counted: a backend that closes before its next word closes early.
    cell.add_received(login.sent_bytes);
    let shared = Arc::clone(shared);
    let (client, backend, follow) = mysql::Follow::new(login, peer, shared);
    let ends = Ends {
        client,
        backend,
        answer: Vec::new(),
        follow: Some(Box::new(Follow::MySql(follow))),
    };
    Ok((ends, place))
}

/// Tells the client why there is no session for it, where its protocol has words for that.
async fn refuse(greeted: &mut Greeted, cell: &SessionCell, end: SessionEnd) -> SessionEnd {
    let role = cell.intent.role;
    let words = greeted.dialect.refusal(end, role, &greeted.first_bytes);
    if let Some(words) = words {
        greeted.client.say_last(&words).await;
    }
    end
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
        let cluster = self.place.cluster();
        shared
            .metrics
            .record_session_duration(&cluster.name, lasted);
        tally(&cluster.tally, end);
        None
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
        assert!(std::mem::size_of::<SessionCell>() <= 288);
    }
}
