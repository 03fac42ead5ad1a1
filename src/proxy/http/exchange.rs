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
use http::StatusCode;
use http::Version;
use http::header;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

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
use crate::proxy::http::body::Lease;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::body::ResponseBody;
use crate::proxy::http::body::Source;
use crate::proxy::http::link::InFlight;
use crate::proxy::http::link::Link;
use crate::proxy::http::link::Upgrade;
use crate::proxy::http::outcome;
use crate::proxy::http::prepare;
use crate::proxy::http::prepare::Prepared;
use crate::proxy::http::prepare::Refusal;
use crate::proxy::http::prepare::Wanted;
use crate::proxy::http::record::Record;
use crate::proxy::http::upstream;
use crate::proxy::http::upstream::BackendIo;
use crate::proxy::http::upstream::Upstream;
use crate::proxy::seek::Asker;
use crate::proxy::seek::Found;
use crate::proxy::seek::Seeker;
use crate::proxy::seek::report;
use crate::routing::Answer;
use crate::routing::BackendHandle;
use crate::routing::ClusterHandle;
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
    if is_one && link.cell.grace().is_some() {
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
struct Exchange<'a> {
    link: &'a Arc<Link>,
    prepared: &'a Prepared,
}

/// As the search for a backend sees it.
struct Asking<'a> {
    link: &'a Link,
    prepared: &'a Prepared,
}

/// A request, and a place to send it to.
struct Attempt {
    found: Found,
    request: Request<RequestBody>,
}

/// Why there is no answer of this backend.
enum Failed {
    /// It has seen nothing of the request.
    Unsent(Request<RequestBody>),
    /// It says that it has not acted on the request.
    Refused(Cause),
    /// It may have acted on the request.
    Sent(Cause, RetryReason),
    /// The route's `timeout` is over.
    Late,
    /// The client's body came to no end.
    Client(Cause),
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
        let asking = Asking {
            link: self.link,
            prepared: self.prepared,
        };
        let cluster = self.prepared.cluster.clone();
        let mut seeker = Seeker::new(&asking, cluster, Vec::new(), &self.link.shared);
        let mut retries = Retries::new(self, &request);
        loop {
            let found = self.next(&mut seeker, record).await?;
            let backend = found.place.backend().id;
            let handle = Arc::clone(&found.cluster.handle);
            let attempt = Attempt { found, request };
            let attempted = self.attempt(&mut seeker, attempt, &retries, record).await;
            let failed = match attempted {
                Ok(response) => {
                    drop(seeker.finish());
                    return Ok(response);
                }
                Err(failed) => failed,
            };
            let (next, cause) = match failed {
                Failed::Unsent(back) => {
                    handle.http.count_retry(RetryReason::Unsent);
                    request = back;
                    continue;
                }
                Failed::Late => return Err(Problem::BackendTimeout.into()),
                Failed::Client(cause) => return Err(cause.into()),
                Failed::Refused(cause) => {
                    let reason = RetryReason::Refused;
                    (retries.after_refusal().map(|it| (it, reason)), cause)
                }
                Failed::Sent(cause, reason) => {
                    (retries.next(&handle).map(|it| (it, reason)), cause)
                }
            };
            let (next, reason) = next.ok_or_else(|| Refusal::from(cause))?;
            handle.http.count_retry(reason);
            request = next;
            seeker.tried.push(backend);
        }
    }

    /// A backend, as soon as there is one.
    async fn next(
        &self,
        seeker: &mut Seeker<'_, Asking<'_>>,
        record: &mut Record,
    ) -> Result<Found, Refusal> {
        let asked = Instant::now();
        let found = seeker.next().await;
        record.wait += asked.elapsed();
        found.map_err(|end| end.cause.into())
    }

    /// Asks one backend, over a connection that is there or a new one.
    async fn attempt(
        &self,
        seeker: &mut Seeker<'_, Asking<'_>>,
        Attempt { found, mut request }: Attempt,
        retries: &Retries<'_>,
        record: &mut Record,
    ) -> Result<Response<Source>, Failed> {
        let by = (self.link.cell.id, found.max_attempts());
        let pool = &self.link.worker.pool;
        let backend = Arc::clone(found.place.backend());
        let (cluster, entry, mut place) = found.into_parts();
        loop {
            let pooled = pool.take(backend.id, self.link.cell.intent, &cluster.config);
            let is_reused = pooled.is_some();
            let opened = match pooled {
                Some(upstream) => Ok(upstream),
                None => {
                    let started = Instant::now();
                    let opened = self.open(&cluster, entry, &backend).await;
                    record.connect += started.elapsed();
                    opened
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
            record.attempts += 1;
            record.set_backend(&backend);
            let config = Arc::clone(&cluster.config);
            let mut lease = Lease::new(upstream, config, Arc::clone(pool), place);
            match self.send(&mut lease, request).await {
                Ok(response) if retries.wanted(&cluster, response.status()) => {
                    let cause = Cause::UnexpectedAnswer;
                    return Err(Failed::Sent(cause, RetryReason::Status));
                }
                Ok(mut response) => {
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

    async fn send(
        &self,
        lease: &mut Lease,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failed> {
        let Some(upstream) = lease.upstream() else {
            return Err(Failed::Unsent(request));
        };
        upstream.cell.count_request();
        let sent = Instant::now();
        let sending = upstream.sender.send(request);
        let answered = match self.prepared.timeout() {
            None => sending.await,
            Some(limit) => match timeout(limit, sending).await {
                Ok(answered) => answered,
                Err(_) => {
                    let late = Answer::GatewayError;
                    let backend = &upstream.cell.backend;
                    outcome::note(&self.link.shared, backend, late, (sent, None));
                    return Err(Failed::Late);
                }
            },
        };
        let cell = &upstream.cell;
        match answered {
            Ok(response) => {
                let status = Answer::Status(response.status().as_u16());
                let retry_after = retry_after(&response);
                outcome::note(
                    &self.link.shared,
                    &cell.backend,
                    status,
                    (sent, retry_after),
                );
                Ok(response)
            }
            Err(mut error) => match error.take_message() {
                Some(request) => Err(Failed::Unsent(request)),
                None => {
                    let error = error.into_error();
                    let cause = cell.severed().unwrap_or_else(|| cause_of(&error));
                    if is_refusal(&error) {
                        return Err(Failed::Refused(cause));
                    }
                    if is_of_client(&error) {
                        return Err(Failed::Client(cause));
                    }
                    let lost = Answer::GatewayError;
                    outcome::note(&self.link.shared, &cell.backend, lost, (sent, None));
                    report(&self.link.shared, &cell.backend, cause);
                    Err(Failed::Sent(cause, RetryReason::Lost))
                }
            },
        }
    }

    /// What the client gets of a backend's answer.
    async fn answered(
        &self,
        mut response: Response<Incoming>,
        lease: Lease,
    ) -> Result<Response<Source>, Failed> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.upgrade(response, lease).await;
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
        if !prepare::may_switch(&response, self.prepared) {
            return Err(Failed::Sent(Cause::BadProtocol, RetryReason::Lost));
        }
        let upgraded = hyper::upgrade::on(&mut response).await;
        let parts = upgraded
            .ok()
            .and_then(|it| it.downcast::<TokioIo<BackendIo>>().ok());
        let (Some(parts), Some(place)) = (parts, lease.into_place()) else {
            return Err(Failed::Sent(Cause::BadProtocol, RetryReason::Lost));
        };
        self.link.set_upgrade(Upgrade {
            backend: parts.io.into_inner().into_transport(),
            answer: parts.read_buf,
            lease: place,
        });
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

/// A copy of a request that may be sent again, and how often it may.
struct Retries<'a> {
    exchange: &'a Exchange<'a>,
    /// Only of a request whose body can be had again.
    copy: Option<Request<()>>,
    left: u32,
}

impl<'a> Retries<'a> {
    fn new(exchange: &'a Exchange<'a>, request: &Request<RequestBody>) -> Self {
        let prepared = exchange.prepared;
        let may_be_had_again = matches!(request.body(), RequestBody::Empty);
        let is_worth_a_copy = prepared.is_idempotent || prepared.version == HttpVersion::Two;
        Self {
            exchange,
            copy: (prepared.retries > 0 && is_worth_a_copy && may_be_had_again)
                .then(|| head_of(request)),
            left: prepared.retries,
        }
    }

    fn may(&self) -> bool {
        self.left > 0 && self.copy.is_some()
    }

    /// After an attempt that had no effect.
    fn after_refusal(&mut self) -> Option<Request<RequestBody>> {
        if !self.may() {
            return None;
        }
        self.left -= 1;
        let copy = self.copy.as_ref()?;
        Some(head_of(copy).map(|()| RequestBody::Empty))
    }

    /// After an attempt that may have had an effect.
    fn next(&mut self, cluster: &ClusterHandle) -> Option<Request<RequestBody>> {
        let prepared = self.exchange.prepared;
        if !self.may() || !prepared.is_idempotent {
            return None;
        }
        let now = self.exchange.link.shared.uptime();
        if !cluster.retries.take(prepared.min_retries_per_second, now) {
            cluster.http.count_retry_denied();
            return None;
        }
        self.after_refusal()
    }

    /// Whether an answer is worth another attempt: the file says so, or the backend is not the one
    /// for this request (RFC 9110, 15.5.20).
    fn wanted(&self, cluster: &ClusterTable, status: StatusCode) -> bool {
        let http = cluster.config.http.as_deref();
        let is_named = http.is_some_and(|http| http.retry.statuses.contains(&status.as_u16()));
        (is_named || status == StatusCode::MISDIRECTED_REQUEST)
            && self.may()
            && self.exchange.prepared.is_idempotent
            && cluster.eligible_for(self.exchange.link.cell.intent) > 1
    }
}

fn head_of<T>(request: &Request<T>) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
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
