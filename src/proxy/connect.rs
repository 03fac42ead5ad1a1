//! From a greeted client to a connected backend: route, pick, dial; redispatch
//! what failed before any byte was sent, wait where waiting may help.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio::io::AsyncWriteExt;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Name;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::config::Intent;
use crate::net;
use crate::proxy::Shared;
use crate::proxy::dial;
use crate::proxy::dial::DialError;
use crate::proxy::dial::Target;
use crate::proxy::dialect::Dialect;
use crate::proxy::dialect::Peer;
use crate::proxy::handshake::Greeted;
use crate::proxy::handshake::Origin;
use crate::proxy::hold::Turn;
use crate::proxy::hold::Watched;
use crate::proxy::mysql::LateTls;
use crate::proxy::place::Place;
use crate::proxy::registry::SessionCell;
use crate::proxy::seek::Asker;
use crate::proxy::seek::Found;
use crate::proxy::seek::Seeker;
use crate::proxy::transport::Transport;
use crate::routing::BackendHandle;
use crate::routing::ClusterTable;
use crate::routing::Fate;
use crate::routing::KeySource;

/// After its connect, a held session keeps its turn this long: the login that
/// follows is what stampedes a backend that has just come back.
const LOGIN_PACE: Duration = Duration::from_millis(20);

/// A session's backend, ready to relay.
#[derive(Debug)]
pub struct Connected {
    pub backend: Transport,
    /// What it has said already; the client gets it first.
    pub answer: Vec<u8>,
    /// For the session to begin.
    pub late_tls: Option<LateTls>,
    pub peer: Peer,
    pub place: Place,
    /// Backends tried so far, this one last.
    pub tried: Vec<BackendId>,
    /// The cluster's `connect.attempts`.
    pub max_attempts: usize,
}

/// What another backend needs, should this one fail before a byte went either way.
#[derive(Debug)]
pub struct Again {
    pub origin: Origin,
    pub dialect: Dialect,
    pub cluster: Name,
    pub tried: Vec<BackendId>,
    /// Backends that failed untouched so far; waiting forgets `tried`, but not this.
    pub failed: usize,
    pub max_attempts: usize,
}

struct Attempt {
    target: Target,
    late_tls: Option<LateTls>,
    place: Place,
    max_attempts: usize,
}

/// A greeted client, as its search for a backend sees it.
struct Seeking<'a> {
    greeted: &'a Greeted,
    cell: &'a SessionCell,
}

/// One session on its way to a backend.
struct Journey<'a> {
    greeted: &'a Greeted,
    shared: &'a Shared,
    cell: &'a SessionCell,
    seeker: Seeker<'a, Seeking<'a>>,
}

/// Finds a backend of `cluster` that is not among `tried` and connects to it.
///
/// # Errors
/// Nobody eligible in time, or every attempt failed.
pub async fn connect(
    greeted: &Greeted,
    cluster: Name,
    tried: Vec<BackendId>,
    shared: &Shared,
    cell: &SessionCell,
) -> Result<Connected, SessionEnd> {
    let seeking = Seeking { greeted, cell };
    let journey = Journey {
        greeted,
        shared,
        cell,
        seeker: Seeker::new(&seeking, cluster, tried, shared),
    };
    journey.travel().await
}

impl Watched for Seeking<'_> {
    fn set_phase(&self, phase: Phase) {
        self.cell.set_phase(phase);
    }

    fn is_gone(&self) -> bool {
        net::peer_is_gone(self.greeted.client.tcp())
    }
}

impl Asker for Seeking<'_> {
    fn intent(&self) -> Intent {
        self.cell.intent
    }

    fn with_source<T>(&self, cluster: &ClusterTable, look: impl FnOnce(KeySource<'_>) -> T) -> T {
        let parameter = self.greeted.parameter(&cluster.config.balance.key);
        look(KeySource {
            client: self.greeted.origin.client,
            sni: self.greeted.origin.sni.as_deref(),
            login: self.greeted.origin.login.keys(parameter.as_deref()),
        })
    }

    fn tells_full(&self) -> bool {
        self.greeted.dialect.tells_full()
    }
}

impl Journey<'_> {
    async fn travel(mut self) -> Result<Connected, SessionEnd> {
        loop {
            let found = self.seeker.next().await?;
            let Some(attempt) = self.attempt_at(found) else {
                continue;
            };
            self.cell.set_phase(Phase::Connect);
            match self.attempt(attempt).await {
                Ok(connected) => {
                    pass_on(self.seeker.finish());
                    return Ok(connected);
                }
                Err(Some(refused)) => return Err(refused),
                Err(None) => {}
            }
        }
    }

    fn attempt_at(&self, found: Found) -> Option<Attempt> {
        let backend = found.backend();
        let address = backend.address?;
        let mut target = Target::new(&found.cluster, &backend.config, address, || {
            self.greeted.origin.preamble(self.greeted.client.tcp())
        });
        // TLS begins behind the server's greeting, and behind the client's login.
        let late_tls = match self.greeted.dialect {
            Dialect::MySql => target.tls.take(),
            Dialect::Opaque | Dialect::Postgres | Dialect::SealedPostgres | Dialect::Redis => None,
        };
        let late_tls = late_tls.map(|tls| LateTls { tls, address });
        Some(Attempt {
            target,
            late_tls,
            max_attempts: found.max_attempts(),
            place: found.place,
        })
    }

    /// One dial. `Err(None)` = try another backend.
    async fn attempt(&mut self, attempt: Attempt) -> Result<Connected, Option<SessionEnd>> {
        let started = Instant::now();
        let backend = Arc::clone(attempt.place.backend());
        let dialed = dial::dial(&attempt.target).await;
        let now = Instant::now();
        let took = now.saturating_duration_since(started);
        let mut stream = match dialed {
            Ok(stream) => stream,
            Err(failed) => {
                self.note_failure(&attempt, &failed);
                return Err(None);
            }
        };
        backend.count_connected();
        backend.record_latency(took, now);
        let metrics = &self.shared.metrics;
        metrics.record_connect_duration(&self.seeker.cluster, took);
        let answer = match self.first_answer(&mut stream, &attempt).await {
            Ok(answer) => answer,
            Err(failed) => {
                self.note_failure(&attempt, &failed);
                return Err(None);
            }
        };
        self.seeker.tried.push(backend.id);
        if let Fate::Sever { .. } | Fate::Grace { .. } = backend.fate(self.cell.intent) {
            // It died or was demoted while we connected, which its sessions are told and this one need not be.
            self.seeker.attempts += 1;
            return Err(None);
        }
        self.cell.set_backend(Some(Arc::clone(&backend)));
        if answer.is_none() {
            self.send_first_bytes(&mut stream).await.map_err(Some)?;
        }
        Ok(Connected {
            backend: stream,
            answer: answer.unwrap_or_default(),
            late_tls: attempt.late_tls,
            peer: Peer {
                backend,
                address: attempt.target.address,
                tls: attempt.target.tls,
                role: self.cell.intent.role,
            },
            place: attempt.place,
            tried: std::mem::take(&mut self.seeker.tried),
            max_attempts: attempt.max_attempts,
        })
    }

    /// Where the protocol has a first answer: sends what the client has said and waits for it.
    async fn first_answer(
        &self,
        stream: &mut Transport,
        attempt: &Attempt,
    ) -> Result<Option<Vec<u8>>, DialError> {
        let Greeted {
            client,
            dialect,
            first_bytes,
            ..
        } = self.greeted;
        let asked = Instant::now();
        let patience = attempt.target.timeout;
        let answer = tokio::select! {
            biased;
            answer = dialect.first_answer(client, stream, first_bytes, patience) => answer.transpose()?,
            cause = self.until_unfit(attempt.place.backend()) => {
                let error = io::Error::other("the backend was given up");
                return Err(DialError { cause, error });
            }
        };
        if answer.is_some() {
            let now = Instant::now();
            let latency = now.saturating_duration_since(asked);
            attempt.place.backend().record_latency(latency, now);
            self.cell.add_received(first_bytes.len());
        }
        Ok(answer)
    }

    /// Resolves when the sessions of a backend are to end: this one can still go elsewhere.
    async fn until_unfit(&self, backend: &BackendHandle) -> Cause {
        let mut published = self.shared.table.follow();
        loop {
            match backend.fate(self.cell.intent) {
                Fate::Sever { cause } | Fate::Grace { cause, .. } => return cause,
                Fate::Serve | Fate::Drain { .. } => {}
            }
            // The sender lives as long as the process.
            if published.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn note_failure(&mut self, attempt: &Attempt, failed: &DialError) {
        let by = (self.cell.id, attempt.max_attempts);
        let backend = attempt.place.backend();
        self.seeker.note_failure(backend, failed, by);
    }

    async fn send_first_bytes(&self, stream: &mut Transport) -> Result<(), SessionEnd> {
        let bytes = &self.greeted.first_bytes;
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = stream.write_all(bytes).await;
        // From here on the backend may have acted: no redispatch.
        sent.map_err(|error| refusal(Side::Backend, Phase::Connect, net::cause_of(&error)))?;
        self.cell.add_received(bytes.len());
        Ok(())
    }
}

/// Lets the next held session go a moment after this one is connected.
fn pass_on(turn: Option<Turn>) {
    if let Some(turn) = turn {
        tokio::spawn(async move {
            tokio::time::sleep(LOGIN_PACE).await;
            drop(turn);
        });
    }
}

fn refusal(side: Side, phase: Phase, cause: Cause) -> SessionEnd {
    SessionEnd { side, phase, cause }
}
