//! From a greeted client to a connected backend: route, pick, dial; redispatch
//! what failed before any byte was sent, wait where waiting may help.

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
use crate::config::ListenerConfig;
use crate::net;
use crate::protocol::proxy_header;
use crate::proxy::Shared;
use crate::proxy::dial;
use crate::proxy::dial::DialError;
use crate::proxy::dial::Target;
use crate::proxy::handshake::Greeted;
use crate::proxy::handshake::Origin;
use crate::proxy::hold;
use crate::proxy::hold::Turn;
use crate::proxy::hold::WaitError;
use crate::proxy::hold::Waiting;
use crate::proxy::place::Place;
use crate::proxy::registry::SessionCell;
use crate::proxy::transport::Transport;
use crate::report::Report;
use crate::routing::ClusterTable;
use crate::routing::Fate;
use crate::routing::KeySource;
use crate::routing::PickError;
use crate::routing::PickRequest;

/// After its connect, a held session keeps its turn this long: the login that
/// follows is what stampedes a backend that has just come back.
const LOGIN_PACE: Duration = Duration::from_millis(20);

/// A session's backend, ready to relay.
#[derive(Debug)]
pub struct Connected {
    pub backend: Transport,
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
    pub cluster: Name,
    pub tried: Vec<BackendId>,
    /// Backends that failed untouched so far; waiting forgets `tried`, but not this.
    pub failed: usize,
    pub max_attempts: usize,
}

/// What one look at the table says.
enum Step {
    Dial(Box<Attempt>),
    Wait(PickError, Arc<ClusterTable>),
}

struct Attempt {
    target: Target,
    place: Place,
    max_attempts: usize,
}

/// One session on its way to a backend.
struct Journey<'a> {
    greeted: &'a Greeted,
    shared: &'a Shared,
    cell: &'a SessionCell,
    cluster: Name,
    tried: Vec<BackendId>,
    /// Dials since the last wait; at most `connect.attempts`.
    attempts: usize,
    last_failure: Option<Cause>,
    wait_started: Option<Instant>,
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
    let journey = Journey {
        greeted,
        shared,
        cell,
        cluster,
        attempts: tried.len(),
        tried,
        last_failure: None,
        wait_started: None,
    };
    journey.travel().await
}

/// The cluster for a requested server name: the first matching route, else the default.
///
/// # Errors
/// No route matches and there is no default.
pub fn route<'a>(config: &'a ListenerConfig, sni: Option<&str>) -> Result<&'a Name, SessionEnd> {
    let routed = sni.and_then(|sni| {
        let mut routes = config.routes.iter();
        routes.find(|route| matches_sni(&route.sni, sni))
    });
    routed
        .map(|route| &route.cluster)
        .or(config.cluster.as_ref())
        .ok_or_else(|| refusal(Side::Proxy, Phase::Handshake, Cause::NoRoute))
}

/// `*.example.com` matches exactly one more label.
fn matches_sni(pattern: &str, sni: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => sni
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => pattern == sni,
    }
}

impl Journey<'_> {
    async fn travel(mut self) -> Result<Connected, SessionEnd> {
        let mut waiting = Waiting::new(self.cell, self.greeted.client.tcp());
        let mut turn: Option<Turn> = None;
        loop {
            match self.look()? {
                Step::Dial(attempt) => {
                    self.cell.set_phase(Phase::Connect);
                    match self.attempt(*attempt).await {
                        Ok(connected) => {
                            self.record_hold(&waiting);
                            waiting.serve(|| self.has_free_place());
                            pass_on(turn.filter(|_| waiting.was_held()));
                            return Ok(connected);
                        }
                        Err(Some(refused)) => return Err(refused),
                        Err(None) => {}
                    }
                }
                Step::Wait(why, table) => {
                    if why == PickError::AllTried {
                        self.pause(&table).await;
                    }
                    // The turn came to nothing: it goes to the next in line while we wait.
                    drop(turn.take());
                    turn = Some(self.wait(&mut waiting, why, &table).await?);
                }
            }
        }
    }

    /// Reads one table: a pick, or why there is none.
    fn look(&self) -> Result<Step, SessionEnd> {
        let table = self.shared.table.load();
        let Some(cluster) = table.clusters.get(&self.cluster) else {
            return Err(refusal(Side::Proxy, Phase::Connect, Cause::NoRoute));
        };
        let max_attempts = cluster.config.connect.attempts.get() as usize;
        if self.attempts >= max_attempts {
            return Ok(Step::Wait(PickError::AllTried, Arc::clone(cluster)));
        }
        // Whoever waits for a place came first.
        let held_back = self.cell.phase() != Phase::Queue && !cluster.handle.queue.is_empty();
        if held_back {
            return Ok(Step::Wait(PickError::AllFull, Arc::clone(cluster)));
        }
        let request = PickRequest {
            source: KeySource {
                client: self.greeted.origin.client,
                sni: self.greeted.origin.sni.as_deref(),
            },
            tried: &self.tried,
            now: Instant::now(),
        };
        let picked = RANDOM.with_borrow_mut(|random| cluster.pick(&request, random));
        let (backend, guard) = match picked {
            Ok(picked) => picked,
            Err(why) => return Ok(Step::Wait(why, Arc::clone(cluster))),
        };
        let Some(address) = backend.address else {
            return Ok(Step::Wait(PickError::NoneEligible, Arc::clone(cluster)));
        };
        let target = Target {
            address,
            tls: cluster.tls.clone().map(|tls| (tls, backend.config.clone())),
            timeout: cluster.config.connect.timeout,
            preamble: if cluster.config.send_proxy_protocol {
                self.preamble()
            } else {
                Vec::new()
            },
        };
        Ok(Step::Dial(Box::new(Attempt {
            target,
            place: Place::new(
                guard,
                Arc::clone(&cluster.handle),
                backend.config.max_connections.is_some(),
            ),
            max_attempts,
        })))
    }

    fn has_free_place(&self) -> bool {
        let table = self.shared.table.load();
        let cluster = table.clusters.get(&self.cluster);
        cluster.is_some_and(|cluster| cluster.has_free_place())
    }

    /// The PROXY header for a backend that wants one.
    fn preamble(&self) -> Vec<u8> {
        let client = self.greeted.origin.client;
        let local = || self.greeted.client.tcp().local_addr().ok();
        // A socket that has lost its address has lost its client, too.
        let server = self.greeted.origin.server.or_else(local).unwrap_or(client);
        proxy_header::encode_v2(client, server)
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
        metrics.record_connect_duration(&self.cluster, took);
        self.tried.push(backend.id);
        if let Fate::Sever { .. } = backend.fate() {
            // It died while we connected, which its sessions are told and this one need not be.
            self.attempts += 1;
            return Err(None);
        }
        self.cell.set_backend(Some(backend));
        self.send_first_bytes(&mut stream).await.map_err(Some)?;
        Ok(Connected {
            backend: stream,
            place: attempt.place,
            tried: std::mem::take(&mut self.tried),
            max_attempts: attempt.max_attempts,
        })
    }

    fn note_failure(&mut self, attempt: &Attempt, failed: &DialError) {
        let backend = attempt.place.backend();
        self.tried.push(backend.id);
        self.attempts += 1;
        self.last_failure = Some(failed.cause);
        backend.count_connect_error(failed.cause);
        // Our own shortage is no evidence against a backend.
        if failed.cause != Cause::OutOfResources {
            self.shared.reporter.send(Report {
                backend: backend.id,
                cause: failed.cause,
            });
        }
        if let Some(admitted) = self
            .shared
            .dial_warnings
            .admit(failed.cause, Instant::now())
        {
            tracing::warn!(
                session = self.cell.id,
                cluster = %self.cluster,
                backend = %backend.name,
                cause = failed.cause.as_str(),
                error = %failed.error,
                attempt = self.attempts,
                attempts = attempt.max_attempts,
                suppressed = admitted.suppressed,
                "connect failed"
            );
        }
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

    /// Everyone whom the table calls up has just failed; a moment later it knows better.
    /// The turn is kept meanwhile, so that the pace of the room bounds the retries.
    async fn pause(&self, table: &ClusterTable) {
        if !table.config.failover.hold.max_wait.is_zero() {
            self.cell.set_phase(Phase::Hold);
            tokio::time::sleep(table.config.health_check.fast_interval).await;
        }
    }

    async fn wait(
        &mut self,
        waiting: &mut Waiting<'_>,
        why: PickError,
        table: &ClusterTable,
    ) -> Result<Turn, SessionEnd> {
        self.wait_started.get_or_insert_with(Instant::now);
        if why == PickError::NoneEligible {
            // What a backend said before it was taken out is not why this client waits now.
            self.last_failure = None;
        }
        let failover = &table.config.failover;
        let (result, phase) = match why {
            PickError::AllFull => {
                let room = &table.handle.queue;
                (waiting.queue(room, failover.queue).await, Phase::Queue)
            }
            PickError::NoneEligible | PickError::AllTried => {
                let room = &table.handle.hold;
                (waiting.hold(room, failover.hold).await, Phase::Hold)
            }
        };
        match result {
            Ok(turn) => {
                // The world has changed since: everyone may be tried again.
                self.tried.clear();
                self.attempts = 0;
                Ok(turn)
            }
            Err(error) => {
                self.record_hold(waiting);
                Err(self.refused(error, phase))
            }
        }
    }

    fn refused(&self, error: WaitError, phase: Phase) -> SessionEnd {
        if error == WaitError::ClientGone {
            return refusal(Side::Client, phase, Cause::Closed);
        }
        // Refused by backends, not for want of one: say what they said.
        match (phase, self.last_failure) {
            (Phase::Hold, Some(cause)) if error == WaitError::TimedOut => {
                refusal(Side::Backend, Phase::Connect, cause)
            }
            _ => refusal(Side::Proxy, phase, hold::refusal(error, phase)),
        }
    }

    fn record_hold(&self, waiting: &Waiting<'_>) {
        if let Some(started) = self.wait_started.filter(|_| waiting.was_held()) {
            let held = Instant::now().saturating_duration_since(started);
            let metrics = &self.shared.metrics;
            metrics.record_hold_duration(&self.cluster, held);
        }
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

thread_local! {
    /// Each worker draws its own numbers.
    static RANDOM: std::cell::RefCell<fastrand::Rng> =
        std::cell::RefCell::new(fastrand::Rng::new());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_matches_exactly_one_label() {
        assert!(matches_sni("*.example.com", "db.example.com"));
        assert!(!matches_sni("*.example.com", "example.com"));
        assert!(!matches_sni("*.example.com", "a.db.example.com"));
        assert!(matches_sni("db.example.com", "db.example.com"));
        assert!(!matches_sni("db.example.com", "other.example.com"));
    }
}
