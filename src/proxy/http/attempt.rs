//! One backend is asked: over a connection that is there or a new one, once.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use http::Request;
use http::Response;
use http::header;
use http_body_util::Full;

use crate::cluster::Cause;
use crate::config::ClusterConfig;
use crate::config::HttpVersion;
use crate::proxy::dial;
use crate::proxy::dial::DialError;
use crate::proxy::dial::Target;
use crate::proxy::http::asking::Asking;
use crate::proxy::http::back;
use crate::proxy::http::body::BackendBody;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::body::Source;
use crate::proxy::http::exchange::Exchange;
use crate::proxy::http::exchange::within;
use crate::proxy::http::failure;
use crate::proxy::http::hedge;
use crate::proxy::http::lease::Lease;
use crate::proxy::http::link::Upgrade;
use crate::proxy::http::outcome;
use crate::proxy::http::retries::Retries;
use crate::proxy::http::upstream;
use crate::proxy::http::upstream::Arriving;
use crate::proxy::http::upstream::SendError;
use crate::proxy::http::upstream::Upstream;
use crate::proxy::seek::Found;
use crate::proxy::seek::Seeker;
use crate::proxy::seek::report;
use crate::routing::Answer;
use crate::routing::BackendHandle;
use crate::routing::ClusterTable;
use crate::routing::RetryReason;

/// A request, and a place to send it to.
pub(super) struct Attempt {
    pub found: Found,
    /// Boxed: it passes through many hands.
    pub request: Box<Request<RequestBody>>,
}

/// What attempts leave behind for the record.
#[derive(Debug, Default)]
pub(super) struct Trail {
    pub connect: Duration,
    pub sent: u32,
    pub backend: Option<Arc<BackendHandle>>,
}

impl Trail {
    /// Enters what another attempt of the same request left.
    pub fn add(&mut self, other: Self) {
        self.connect += other.connect;
        self.sent += other.sent;
        if other.backend.is_some() {
            self.backend = other.backend;
        }
    }

    /// Not the one who has answered.
    pub fn forget_backend(&mut self) {
        self.backend = None;
    }
}

/// Why there is no answer of this backend.
pub(super) enum Failed {
    /// It has seen nothing of the request.
    Unsent(Box<Request<RequestBody>>, RetryReason),
    /// It has seen the request, which may be sent once more.
    Again(Box<Request<RequestBody>>, RetryReason),
    /// It has seen the request, which may not be sent once more; or the client's body came to
    /// no end.
    Lost(Cause),
    /// The route's `timeout` is over.
    Late,
}

/// Why a connection has brought no answer.
enum Unanswered {
    /// Nothing of the request was sent.
    Unsent,
    /// The request may be sent once more.
    Again(RetryReason),
    Lost(Cause),
    Late,
}

impl Exchange<'_> {
    /// Asks one backend, over a connection that is there or a new one.
    pub async fn attempt(
        &self,
        seeker: &mut Seeker<'_, Asking<'_>>,
        Attempt { found, mut request }: Attempt,
        retries: &mut Retries<'_>,
        trail: &mut Trail,
    ) -> Result<Response<Source>, Failed> {
        let by = (self.link.cell.id, found.max_attempts());
        let pool = &self.link.worker.pool;
        let backend = Arc::clone(found.place.backend());
        let (cluster, entry, mut place) = found.into_parts();
        trail.backend = Some(Arc::clone(&backend));
        loop {
            let mut now = Instant::now();
            let pooled = pool.take(backend.id, self.link.cell.intent, (&cluster.config, now));
            let is_reused = pooled.is_some();
            let opened = match pooled {
                Some(upstream) => Ok(upstream),
                None => {
                    let opened = Box::pin(self.open(&cluster, entry, &backend));
                    let opened = within(self.deadline, opened).await;
                    let opening = now;
                    now = Instant::now();
                    trail.connect += now.saturating_duration_since(opening);
                    opened.ok_or(Failed::Late)?
                }
            };
            let upstream = match opened {
                Ok(upstream) => upstream,
                Err(failed) => {
                    seeker.note_failure(&backend, &failed, by);
                    let lost = (now, None);
                    let answer = Answer::GatewayError;
                    outcome::note(&self.link.shared, &backend, answer, lost);
                    return Err(Failed::Unsent(request, RetryReason::Connect));
                }
            };
            if is_reused {
                backend.http().count_reused();
            }
            trail.sent += 1;
            let config = Arc::clone(&cluster.config);
            let mut lease = Lease::new(upstream, config, Arc::clone(pool), place);
            let sent = self.send((&mut lease, now), &mut request, (&cluster, &mut *retries));
            match sent.await {
                Ok(mut response) => {
                    if let Some(reason) = retries.after_answer(&cluster, response.status()) {
                        return Err(Failed::Again(request, reason));
                    }
                    let by = (self.prepared, &**self.link);
                    back::set_cookie(response.headers_mut(), by, (&cluster, entry));
                    return self.answered(response, lease).map_err(Failed::Lost);
                }
                Err(Unanswered::Unsent) => {}
                Err(Unanswered::Again(reason)) => return Err(Failed::Again(request, reason)),
                Err(Unanswered::Lost(cause)) => return Err(Failed::Lost(cause)),
                Err(Unanswered::Late) => return Err(Failed::Late),
            }
            // An idle connection that the backend has closed meanwhile says nothing about it.
            match lease.into_place() {
                Some(back) if is_reused => place = back,
                _ => {
                    let failed = DialError {
                        cause: Cause::EarlyClose,
                        error: io::ErrorKind::UnexpectedEof.into(),
                    };
                    seeker.note_failure(&backend, &failed, by);
                    return Err(Failed::Unsent(request, RetryReason::Unsent));
                }
            }
        }
    }

    async fn open(
        &self,
        cluster: &ClusterTable,
        entry: usize,
        backend: &Arc<BackendHandle>,
    ) -> Result<Upstream, DialError> {
        let entry = &cluster.backends[entry];
        let Some(address) = entry.address else {
            return Err(DialError {
                cause: Cause::Unresolved,
                error: io::ErrorKind::AddrNotAvailable.into(),
            });
        };
        let target = Target::new(cluster, &entry.config, address, Vec::new);
        let started = Instant::now();
        let transport = dial::dial(&target).await?;
        backend.count_connected();
        let metrics = &self.link.shared.metrics;
        metrics.record_connect_duration(&backend.cluster, started.elapsed());
        let to = (Arc::clone(backend), self.link.cell.intent);
        let upstream = upstream::open(transport, version(&cluster.config), to).await?;
        self.link.worker.pool.enter(&upstream, &cluster.config);
        Ok(upstream)
    }

    /// Sends the request at this moment and waits for the answer's head.
    async fn send(
        &self,
        (lease, sent): (&mut Lease, Instant),
        request: &mut Request<RequestBody>,
        (cluster, retries): (&ClusterTable, &mut Retries<'_>),
    ) -> Result<Response<Arriving>, Unanswered> {
        let Some(upstream) = lease.upstream() else {
            return Err(Unanswered::Unsent);
        };
        upstream.cell.count_request();
        let is_read = hedge::is_read(request);
        let has_body = matches!(request.body(), RequestBody::Client(_));
        let mut sending = std::pin::pin!(upstream.sender.send(request));
        let cell = &upstream.cell;
        let note = |answer, retry_after| {
            outcome::note(
                &self.link.shared,
                &cell.backend,
                answer,
                (sent, retry_after),
            );
        };
        let patience = retries.patience(cluster).map(|limit| sent + limit);
        let first = match patience {
            Some(patience) if self.deadline.is_none_or(|deadline| patience < deadline) => {
                within(Some(patience), &mut sending).await
            }
            _ => None,
        };
        if first.is_none()
            && patience.is_some_and(|patience| patience <= Instant::now())
            && retries.next(&cluster.handle)
        {
            note(Answer::GatewayError, None);
            return Err(Unanswered::Again(RetryReason::Timeout));
        }
        let answered = match first {
            Some(answered) => answered,
            None => match self.while_taken(has_body, sending).await {
                Ok(answered) => answered,
                Err(failed) => {
                    note(Answer::GatewayError, None);
                    return Err(failed);
                }
            },
        };
        let error = match answered {
            Ok(response) => {
                let status = Answer::Status(response.status().as_u16());
                note(status, failure::retry_after(&response));
                if is_read && hedge::config(cluster).is_some() {
                    cluster.handle.reads.record(sent.elapsed());
                }
                return Ok(response);
            }
            Err(error) => error,
        };
        let by_sweep = |cause| cell.severed().unwrap_or(cause);
        let (cause, is_next, reason) = match error {
            SendError::Unsent => return Err(Unanswered::Unsent),
            SendError::Client(cause) => return Err(Unanswered::Lost(by_sweep(cause))),
            SendError::Refused(cause) => (
                by_sweep(cause),
                retries.after_refusal(),
                RetryReason::Refused,
            ),
            SendError::Backend(cause) => {
                let cause = by_sweep(cause);
                note(Answer::GatewayError, None);
                report(&self.link.shared, &cell.backend, cause);
                (cause, retries.next(&cluster.handle), RetryReason::Lost)
            }
        };
        Err(match is_next {
            true => Unanswered::Again(reason),
            false => Unanswered::Lost(cause),
        })
    }

    /// Waits for an answer until the route's time is over, or the backend takes no more of the body.
    async fn while_taken<T>(
        &self,
        has_body: bool,
        answer: impl Future<Output = T>,
    ) -> Result<T, Unanswered> {
        let answer = within(self.deadline, answer);
        if !has_body {
            return answer.await.ok_or(Unanswered::Late);
        }
        let began = self.link.cell.started;
        let timeout = self.prepared.config.limits.body_timeout;
        // Boxed: few requests have a body.
        let stalled = Box::pin(self.upload.stalled(began, timeout));
        tokio::select! {
            biased;
            answer = answer => answer.ok_or(Unanswered::Late),
            () = stalled => Err(Unanswered::Lost(Cause::SendTimeout)),
        }
    }

    /// What the client gets of a backend's answer.
    fn answered(
        &self,
        mut response: Response<Arriving>,
        lease: Lease,
    ) -> Result<Response<Source>, Cause> {
        if back::is_switch(&response, self.prepared) {
            return self.upgrade(response, lease);
        }
        back::forward_back(&mut response, self.prepared);
        let timeout = self.prepared.config.limits.body_timeout;
        Ok(response
            .map(|arriving| Source::Backend(Box::new(BackendBody::new(arriving, timeout, lease)))))
    }

    fn upgrade(
        &self,
        mut response: Response<Arriving>,
        lease: Lease,
    ) -> Result<Response<Source>, Cause> {
        if !back::may_switch(self.prepared) {
            return Err(Cause::BadProtocol);
        }
        let (Some((backend, answer)), Some(place)) = lease.into_tunnel() else {
            return Err(Cause::BadProtocol);
        };
        self.link.set_upgrade(Upgrade {
            backend,
            answer,
            lease: place,
        });
        if self.prepared.is_connect {
            back::forward_back(&mut response, self.prepared);
            // A tunnel has no body, whatever is said of one.
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        Ok(response.map(|_| Source::Own(Full::default())))
    }
}

fn version(config: &ClusterConfig) -> HttpVersion {
    let http = config.http.as_deref();
    http.map_or(HttpVersion::One, |http| http.version)
}
