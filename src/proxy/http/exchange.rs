//! One request and its answer: where it goes, what is done to it on the way, and to whom it
//! goes next when a backend fails it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
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
use crate::proxy::http::link::Link;
use crate::proxy::http::link::Upgrade;
use crate::proxy::http::prepare;
use crate::proxy::http::prepare::Prepared;
use crate::proxy::http::prepare::Wanted;
use crate::proxy::http::prepare::problem_of;
use crate::proxy::http::upstream;
use crate::proxy::http::upstream::BackendIo;
use crate::proxy::http::upstream::Upstream;
use crate::proxy::seek::Asker;
use crate::proxy::seek::Found;
use crate::proxy::seek::Seeker;
use crate::proxy::seek::report;
use crate::routing::BackendHandle;
use crate::routing::ClusterTable;
use crate::routing::KeySource;
use crate::routing::LoginKeys;

/// Answers one request; whatever fails is an answer, too.
///
/// # Errors
/// Never.
pub async fn answer(
    request: Request<Incoming>,
    link: Arc<Link>,
) -> Result<Response<ResponseBody>, Infallible> {
    let in_flight = link.begin();
    let mut wanted = Wanted::default();
    let is_one = request.version() < Version::HTTP_2;
    let answered = match prepare::prepare(request, &link, &mut wanted) {
        Ok((prepared, request)) => Exchange::new(&link, &prepared).run(request).await,
        Err(problem) => Err(problem),
    };
    let mut response = answered.unwrap_or_else(|problem| own_answer(problem, &wanted, is_one));
    if is_one && link.cell.grace().is_some() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response.map(|source| ResponseBody::new(source, in_flight)))
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

/// Why there is no answer of this backend.
enum Failed {
    /// It has seen nothing of the request.
    Unsent(Request<RequestBody>),
    /// It may have acted on the request.
    Sent(Cause),
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

impl<'a> Exchange<'a> {
    fn new(link: &'a Arc<Link>, prepared: &'a Prepared) -> Self {
        Self { link, prepared }
    }

    async fn run(self, mut request: Request<RequestBody>) -> Result<Response<Source>, Problem> {
        let asking = Asking {
            link: self.link,
            prepared: self.prepared,
        };
        let cluster = self.prepared.cluster.clone();
        let mut seeker = Seeker::new(&asking, cluster, Vec::new(), &self.link.shared);
        let mut retries = self.prepared.retries;
        // Only what may be sent twice is worth a copy.
        let copy = (retries > 0).then(|| again(&request)).flatten();
        loop {
            let found = seeker.next().await.map_err(|end| problem_of(end.cause))?;
            let backend = found.place.backend().id;
            match self.attempt(&mut seeker, found, request).await {
                Ok(response) => {
                    drop(seeker.finish());
                    return Ok(response);
                }
                Err(Failed::Unsent(back)) => request = back,
                Err(Failed::Late) => return Err(Problem::BackendTimeout),
                Err(Failed::Sent(cause)) => {
                    let next = copy.as_ref().filter(|_| retries > 0).and_then(again);
                    let Some(next) = next else {
                        return Err(problem_of(cause));
                    };
                    retries -= 1;
                    seeker.tried.push(backend);
                    request = next;
                }
            }
        }
    }

    /// Asks one backend, over a connection that is there or a new one.
    async fn attempt(
        &self,
        seeker: &mut Seeker<'_, Asking<'_>>,
        found: Found,
        mut request: Request<RequestBody>,
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
                None => self.open(&cluster, entry, &backend).await,
            };
            let upstream = match opened {
                Ok(upstream) => upstream,
                Err(failed) => {
                    seeker.note_failure(&backend, &failed, by);
                    return Err(Failed::Unsent(request));
                }
            };
            let config = Arc::clone(&cluster.config);
            let mut lease = Lease::new(upstream, config, Arc::clone(pool), place);
            match self.send(&mut lease, request).await {
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
                Err(_) => return Err(Failed::Late),
            },
        };
        let cell = &upstream.cell;
        match answered {
            Ok(response) => {
                let now = Instant::now();
                cell.backend
                    .record_latency(now.saturating_duration_since(sent), now);
                cell.backend.first_answer().strike(now);
                Ok(response)
            }
            Err(mut error) => match error.take_message() {
                Some(request) => Err(Failed::Unsent(request)),
                None => {
                    let cause = cause_of(&error.into_error());
                    let cause = cell.severed().unwrap_or(cause);
                    if cause == Cause::Reset {
                        report(&self.link.shared, &cell.backend, cause);
                    }
                    Err(Failed::Sent(cause))
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
            return Err(Failed::Sent(Cause::BadProtocol));
        }
        let upgraded = hyper::upgrade::on(&mut response).await;
        let parts = upgraded
            .ok()
            .and_then(|it| it.downcast::<TokioIo<BackendIo>>().ok());
        let (Some(parts), Some(place)) = (parts, lease.into_place()) else {
            return Err(Failed::Sent(Cause::BadProtocol));
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

fn again(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let body = request.body().again()?;
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

fn version(config: &ClusterConfig) -> HttpVersion {
    let http = config.http.as_deref();
    http.map_or(HttpVersion::One, |http| http.version)
}

/// What the proxy says itself.
fn own_answer(problem: Problem, wanted: &Wanted, is_one: bool) -> Response<Source> {
    let asked = Asked {
        form: wanted.form,
        request_id: wanted.request_id.as_ref(),
    };
    let mut response = problem::answer(problem, asked, None);
    if is_one && problem.closes() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response.map(|bytes| Source::Own(Full::new(bytes)))
}
