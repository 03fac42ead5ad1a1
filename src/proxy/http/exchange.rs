//! One request and its answer: where it goes, what is done to it on the way, and to whom it
//! goes next when a backend fails it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use http::HeaderValue;
use http::Request;
use http::Response;
use http::Version;
use http::header;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::time::timeout_at;

use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Phase;
use crate::config::ClusterConfig;
use crate::config::HttpVersion;
use crate::config::Intent;
use crate::net;
use crate::protocol::http::problem;
use crate::protocol::http::problem::Asked;
use crate::protocol::http::problem::Problem;
use crate::proxy::dial;
use crate::proxy::dial::DialError;
use crate::proxy::dial::Target;
use crate::proxy::hold::Watched;
use crate::proxy::http::body::BackendBody;
use crate::proxy::http::body::BodyError;
use crate::proxy::http::body::BodyWatch;
use crate::proxy::http::body::Lease;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::body::ResponseBody;
use crate::proxy::http::body::Source;
use crate::proxy::http::hedge;
use crate::proxy::http::link::InFlight;
use crate::proxy::http::link::Link;
use crate::proxy::http::link::Upgrade;
use crate::proxy::http::outcome;
use crate::proxy::http::prepare;
use crate::proxy::http::prepare::Prepared;
use crate::proxy::http::prepare::Refusal;
use crate::proxy::http::prepare::Wanted;
use crate::proxy::http::record::Record;
use crate::proxy::http::retries::Retries;
use crate::proxy::http::upstream;
use crate::proxy::http::upstream::BackendIo;
use crate::proxy::http::upstream::Upstream;
use crate::proxy::seek::Asker;
use crate::proxy::seek::Found;
use crate::proxy::seek::Seeker;
use crate::proxy::seek::report;
use crate::routing::Answer;
use crate::routing::BackendHandle;
use crate::routing::ClusterTable;
use crate::routing::KeySource;
use crate::routing::LoginKeys;
use crate::routing::RetryReason;

/// Answers one request; whatever fails is an answer, too.
///
/// # Errors
/// Never.
pub async fn answer(
    request: Request<Incoming>,
    link: Arc<Link>,
    in_flight: InFlight,
) -> Result<Response<ResponseBody>, Infallible> {
    let mut wanted = Wanted::default();
    let is_one = request.version() < Version::HTTP_2;
    let (head, incoming) = request.into_parts();
    let mut record = Record::new(in_flight, &head);
    let answered = match prepare::prepare((head, incoming), &mut record, &mut wanted) {
        Ok((prepared, request)) => {
            let exchange = Exchange {
                link: &link,
                prepared: &prepared,
                deadline: prepared.timeout().map(|limit| Instant::now() + limit),
            };
            exchange.run(request, &mut record).await
        }
        Err(refusal) => {
            if !is_one && is_oversized(refusal.problem) {
                link.note_oversized();
            }
            Err(refusal)
        }
    };
    let mut response = answered.unwrap_or_else(|refusal| {
        record.set_cause(refusal.cause);
        own_answer(refusal, &wanted, is_one)
    });
    record.set_status(response.status());
    if is_one && link.is_ending() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response.map(|source| ResponseBody::new(source, record)))
}

/// A compressed head costs its sender next to nothing.
fn is_oversized(problem: Problem) -> bool {
    matches!(problem, Problem::HeadersTooLarge | Problem::UriTooLong)
}

/// One request on its way.
pub(super) struct Exchange<'a> {
    pub link: &'a Arc<Link>,
    pub prepared: &'a Prepared,
    /// The answer's head is due; `None` = whenever.
    deadline: Option<Instant>,
}

/// As the search for a backend sees it.
pub(super) struct Asking<'a> {
    pub link: &'a Link,
    pub prepared: &'a Prepared,
}

/// A request, and a place to send it to.
pub(super) struct Attempt {
    pub found: Found,
    pub request: Request<RequestBody>,
}

/// What attempts leave behind for the record.
#[derive(Debug, Default)]
pub(super) struct Trail {
    connect: Duration,
    sent: u32,
    backend: Option<Arc<BackendHandle>>,
}

impl Trail {
    /// Enters what another attempt of the same request left.
    fn add(&mut self, other: Self) {
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
    Unsent(Request<RequestBody>),
    /// It has seen the request, which may be sent once more: this copy of it.
    Again(Request<RequestBody>, RetryReason),
    /// It has seen the request, which may not be sent once more; or the client's body came to
    /// no end.
    Lost(Cause),
    /// The route's `timeout` is over.
    Late,
}

impl Watched for Asking<'_> {
    fn set_phase(&self, _: Phase) {}

    fn is_gone(&self) -> bool {
        // hyper drops the exchanges of a client that has gone.
        false
    }
}

impl Asker for Asking<'_> {
    fn intent(&self) -> Intent {
        self.link.cell.intent
    }

    fn with_source<T>(&self, _: &ClusterTable, look: impl FnOnce(KeySource<'_>) -> T) -> T {
        look(KeySource {
            client: self.prepared.client,
            sni: self.link.origin.sni.as_deref(),
            login: LoginKeys {
                parameter: self.prepared.hashed.as_deref(),
                ..LoginKeys::default()
            },
        })
    }

    fn tells_full(&self) -> bool {
        false
    }

    fn prefers(&self, cluster: &ClusterTable) -> Option<BackendId> {
        let backend = cluster.backends.get(self.prepared.sticky?)?;
        Some(backend.handle.id)
    }
}

impl Exchange<'_> {
    async fn run(
        &self,
        mut request: Request<RequestBody>,
        record: &mut Record,
    ) -> Result<Response<Source>, Refusal> {
        let asking = self.asking();
        let cluster = self.prepared.cluster.clone();
        let mut seeker = Seeker::new(&asking, cluster, Vec::new(), &self.link.shared);
        let mut retries = Retries::new(self.prepared, &request, self.link);
        let mut trail = Trail::default();
        loop {
            let found = self.next(&mut seeker, record).await?;
            let backend = found.place.backend().id;
            let handle = Arc::clone(&found.cluster.handle);
            let hedge = hedge::plan(self.prepared, &found.cluster, &request);
            let attempt = Attempt { found, request };
            let attempted = match hedge {
                None => {
                    self.attempt(&mut seeker, attempt, &mut retries, &mut trail)
                        .await
                }
                Some(plan) => {
                    let first = self.attempt(&mut seeker, attempt, &mut retries, &mut trail);
                    // Boxed, as all that few requests need: every one is as large as the largest.
                    let first = Box::pin(first);
                    let raced = Box::pin(hedge::race(self, first, (plan, backend))).await;
                    trail.add(raced.second);
                    raced.attempted
                }
            };
            record.connect += std::mem::take(&mut trail.connect);
            record.attempts += std::mem::take(&mut trail.sent);
            if let Some(backend) = &trail.backend {
                record.set_backend(backend);
            }
            match attempted {
                Ok(response) => {
                    drop(seeker.finish());
                    return Ok(response);
                }
                Err(Failed::Unsent(back)) => {
                    handle.http.count_retry(RetryReason::Unsent);
                    request = back;
                }
                Err(Failed::Again(copy, reason)) => {
                    handle.http.count_retry(reason);
                    request = copy;
                    seeker.tried.push(backend);
                }
                Err(Failed::Lost(cause)) => return Err(cause.into()),
                Err(Failed::Late) => return Err(Problem::BackendTimeout.into()),
            }
        }
    }

    pub fn asking(&self) -> Asking<'_> {
        Asking {
            link: self.link,
            prepared: self.prepared,
        }
    }

    /// A backend, as soon as there is one.
    async fn next(
        &self,
        seeker: &mut Seeker<'_, Asking<'_>>,
        record: &mut Record,
    ) -> Result<Found, Refusal> {
        let asked = Instant::now();
        let found = within(self.deadline, seeker.next()).await;
        record.wait += asked.elapsed();
        let found = found.ok_or(Problem::BackendTimeout)?;
        found.map_err(|end| end.cause.into())
    }

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
            let pooled = pool.take(backend.id, self.link.cell.intent, &cluster.config);
            let is_reused = pooled.is_some();
            let opened = match pooled {
                Some(upstream) => Ok(upstream),
                None => {
                    let started = Instant::now();
                    let opened = Box::pin(self.open(&cluster, entry, &backend));
                    let opened = within(self.deadline, opened).await;
                    trail.connect += started.elapsed();
                    opened.ok_or(Failed::Late)?
                }
            };
            let upstream = match opened {
                Ok(upstream) => upstream,
                Err(failed) => {
                    seeker.note_failure(&backend, &failed, by);
                    let lost = (Instant::now(), None);
                    let answer = Answer::GatewayError;
                    outcome::note(&self.link.shared, &backend, answer, lost);
                    return Err(Failed::Unsent(request));
                }
            };
            if is_reused {
                backend.http().count_reused();
            }
            trail.sent += 1;
            let config = Arc::clone(&cluster.config);
            let mut lease = Lease::new(upstream, config, Arc::clone(pool), place);
            match self
                .send(&mut lease, request, (&cluster, &mut *retries))
                .await
            {
                Ok(mut response) => {
                    if let Some(copy) = retries.after_answer(&cluster, response.status()) {
                        return Err(Failed::Again(copy, RetryReason::Status));
                    }
                    let by = (self.prepared, &**self.link);
                    prepare::set_cookie(response.headers_mut(), by, (&cluster, entry));
                    return self.answered(response, lease).await;
                }
                Err(Failed::Unsent(back)) => request = back,
                Err(failed) => return Err(failed),
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
                    return Err(Failed::Unsent(request));
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

    /// Sends the request and waits for the answer's head.
    async fn send(
        &self,
        lease: &mut Lease,
        request: Request<RequestBody>,
        (cluster, retries): (&ClusterTable, &mut Retries<'_>),
    ) -> Result<Response<Incoming>, Failed> {
        let Some(upstream) = lease.upstream() else {
            return Err(Failed::Unsent(request));
        };
        upstream.cell.count_request();
        let sent = Instant::now();
        let is_read = hedge::is_read(&request);
        let watch = request.body().watch();
        let sending = while_it_moves(upstream.sender.send(request), watch);
        let mut sending = std::pin::pin!(sending);
        let cell = &upstream.cell;
        let note = |answer, retry_after| {
            outcome::note(
                &self.link.shared,
                &cell.backend,
                answer,
                (sent, retry_after),
            );
        };
        let patience = retries.patience().map(|limit| sent + limit);
        let first = match patience {
            Some(patience) if self.deadline.is_none_or(|deadline| patience < deadline) => {
                within(Some(patience), &mut sending).await
            }
            _ => None,
        };
        if first.is_none()
            && patience.is_some_and(|patience| patience <= Instant::now())
            && let Some(copy) = retries.next(&cluster.handle)
        {
            note(Answer::GatewayError, None);
            return Err(Failed::Again(copy, RetryReason::Timeout));
        }
        let answered = match first {
            Some(answered) => answered,
            None => match within(self.deadline, sending).await {
                Some(answered) => answered,
                None => {
                    note(Answer::GatewayError, None);
                    return Err(Failed::Late);
                }
            },
        };
        let Some(answered) = answered else {
            note(Answer::GatewayError, None);
            return Err(Failed::Lost(Cause::SendTimeout));
        };
        let mut error = match answered {
            Ok(response) => {
                let status = Answer::Status(response.status().as_u16());
                note(status, retry_after(&response));
                if is_read && hedge::config(cluster).is_some() {
                    cluster.handle.reads.record(sent.elapsed());
                }
                return Ok(response);
            }
            Err(error) => error,
        };
        if let Some(request) = error.take_message() {
            return Err(Failed::Unsent(request));
        }
        let error = error.into_error();
        let cause = cell.severed().unwrap_or_else(|| cause_of(&error));
        if is_of_client(&error) {
            return Err(Failed::Lost(cause));
        }
        let (next, reason) = if is_refusal(&error) {
            (retries.after_refusal(), RetryReason::Refused)
        } else {
            note(Answer::GatewayError, None);
            report(&self.link.shared, &cell.backend, cause);
            (retries.next(&cluster.handle), RetryReason::Lost)
        };
        Err(next.map_or(Failed::Lost(cause), |copy| Failed::Again(copy, reason)))
    }

    /// What the client gets of a backend's answer.
    async fn answered(
        &self,
        mut response: Response<Incoming>,
        lease: Lease,
    ) -> Result<Response<Source>, Failed> {
        if prepare::is_switch(&response, self.prepared) {
            return Box::pin(self.upgrade(response, lease)).await;
        }
        if prepare::is_framed_twice(&response) {
            return Err(Failed::Lost(Cause::BadProtocol));
        }
        prepare::forward_back(&mut response, self.prepared);
        let timeout = self.prepared.config.limits.body_timeout;
        Ok(response
            .map(|incoming| Source::Backend(Box::new(BackendBody::new(incoming, timeout, lease)))))
    }

    async fn upgrade(
        &self,
        mut response: Response<Incoming>,
        lease: Lease,
    ) -> Result<Response<Source>, Failed> {
        if !prepare::may_switch(self.prepared) {
            return Err(Failed::Lost(Cause::BadProtocol));
        }
        let upgraded = hyper::upgrade::on(&mut response).await;
        let parts = upgraded
            .ok()
            .and_then(|it| it.downcast::<TokioIo<BackendIo>>().ok());
        let (Some(parts), Some(place)) = (parts, lease.into_place()) else {
            return Err(Failed::Lost(Cause::BadProtocol));
        };
        self.link.set_upgrade(Upgrade {
            backend: parts.io.into_inner().into_transport(),
            answer: parts.read_buf,
            lease: place,
        });
        if self.prepared.is_connect {
            prepare::forward_back(&mut response, self.prepared);
            // A tunnel has no body, whatever is said of one.
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        Ok(response.map(|_| Source::Own(Full::default())))
    }
}

/// What hyper's error means for the backend, or for the client whose body it was.
fn cause_of(error: &hyper::Error) -> Cause {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(body) = inner.downcast_ref::<BodyError>() {
            return body.0;
        }
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return net::cause_of(io);
        }
        source = inner.source();
    }
    if error.is_parse() {
        return Cause::BadProtocol;
    }
    Cause::Reset
}

/// Whether it was the client's body that failed.
fn is_of_client(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<BodyError>() {
            return true;
        }
        source = inner.source();
    }
    false
}

/// `Retry-After` in seconds (RFC 9110, 10.2.3); one that names a date is not heeded.
fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?;
    let seconds = value.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// An HTTP/2 backend that has not processed a request says so (RFC 9113, 8.7).
fn is_refusal(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let Some(error) = source.and_then(|source| source.downcast_ref::<h2::Error>()) else {
        return false;
    };
    let reason = error.reason();
    error.is_remote() && (reason == Some(h2::Reason::REFUSED_STREAM) || error.is_go_away())
}

/// `None`: the backend takes no more of the request's body.
async fn while_it_moves<T>(
    sending: impl Future<Output = T>,
    watch: Option<BodyWatch>,
) -> Option<T> {
    let Some(watch) = watch else {
        return Some(sending.await);
    };
    tokio::select! {
        biased;
        answered = sending => Some(answered),
        () = watch.stands_still() => None,
    }
}

/// `None`: the deadline came first.
async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => timeout_at(deadline.into(), work).await.ok(),
    }
}

fn version(config: &ClusterConfig) -> HttpVersion {
    let http = config.http.as_deref();
    http.map_or(HttpVersion::One, |http| http.version)
}

/// What the proxy says itself.
fn own_answer(refusal: Refusal, wanted: &Wanted, is_one: bool) -> Response<Source> {
    let problem = refusal.problem;
    let asked = Asked {
        form: wanted.form,
        request_id: wanted.request_id.as_ref(),
    };
    let mut response = problem::answer(problem, asked, refusal.retry_after);
    if is_one && problem.closes() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response.map(|bytes| Source::Own(Full::new(bytes)))
}
