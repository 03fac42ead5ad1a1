//! One request and its answer: where it goes, what is done to it on the way, and to whom it
//! goes next when a backend fails it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::HeaderValue;
use http::Request;
use http::Response;
use http::Version;
use http::header;
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::timeout_at;

use crate::cluster::Cause;
use crate::protocol::http::problem;
use crate::protocol::http::problem::Asked;
use crate::protocol::http::problem::Problem;
use crate::proxy::http::asking::Asking;
use crate::proxy::http::attempt::Attempt;
use crate::proxy::http::attempt::Failed;
use crate::proxy::http::attempt::Trail;
use crate::proxy::http::body::RequestBody;
use crate::proxy::http::body::ResponseBody;
use crate::proxy::http::body::Source;
use crate::proxy::http::hedge;
use crate::proxy::http::link::InFlight;
use crate::proxy::http::link::Link;
use crate::proxy::http::prepare;
use crate::proxy::http::prepare::Prepared;
use crate::proxy::http::prepare::Wanted;
use crate::proxy::http::record::Record;
use crate::proxy::http::refusal::Refusal;
use crate::proxy::http::retries::Retries;
use crate::proxy::http::upload::Upload;
use crate::proxy::seek::Found;
use crate::proxy::seek::Seeker;

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
                upload: record.upload(),
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
        own_answer(refusal, &wanted, is_one.then_some(&link))
    });
    record.set_status(response.status());
    if is_one && link.is_ending() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response.map(|source| ResponseBody::new(source, record, !is_one)))
}

/// A compressed head costs its sender next to nothing.
fn is_oversized(problem: Problem) -> bool {
    matches!(problem, Problem::HeadersTooLarge | Problem::UriTooLong)
}

/// One request on its way.
pub(super) struct Exchange<'a> {
    pub link: &'a Arc<Link>,
    pub prepared: &'a Prepared,
    /// Of the client's body.
    pub upload: Arc<Upload>,
    /// The answer's head is due; `None` = whenever.
    pub deadline: Option<Instant>,
}

impl Exchange<'_> {
    async fn run(
        &self,
        mut request: Box<Request<RequestBody>>,
        record: &mut Record,
    ) -> Result<Response<Source>, Refusal> {
        let asking = self.asking();
        let cluster = self.prepared.cluster.clone();
        let mut seeker = Seeker::new(&asking, cluster, Vec::new(), &self.link.shared);
        let mut retries = Retries::new(self.prepared, &request, self.link);
        let mut trail = Trail::default();
        // Why the next attempt is not the first, if there is a next one.
        let mut again = None;
        loop {
            let found = self.next(&mut seeker, record).await?;
            let backend = found.place.backend().id;
            if let Some(reason) = again.take() {
                found.cluster.handle.http.count_retry(reason);
            }
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
                Err(Failed::Unsent(back, reason)) => {
                    again = Some(reason);
                    request = back;
                }
                Err(Failed::Again(back, reason)) => {
                    again = Some(reason);
                    request = back;
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
        let mut seeking = pin!(seeker.next());
        // Most find one at once, and need no clock.
        if let Poll::Ready(found) = poll_fn(|cx| Poll::Ready(seeking.as_mut().poll(cx))).await {
            return found.map_err(|end| end.cause.into());
        }
        let asked = Instant::now();
        let found = within(self.deadline, seeking).await;
        record.wait += asked.elapsed();
        let found = found.ok_or(Problem::BackendTimeout)?;
        found.map_err(|end| end.cause.into())
    }
}

/// `None`: the deadline came first.
pub(super) async fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = T>,
) -> Option<T> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => timeout_at(deadline.into(), work).await.ok(),
    }
}

/// What the proxy says itself. `one`: the connection, if it speaks HTTP/1.
fn own_answer(refusal: Refusal, wanted: &Wanted, one: Option<&Arc<Link>>) -> Response<Source> {
    let problem = refusal.problem;
    let asked = Asked {
        form: wanted.form,
        request_id: wanted.request_id.as_ref(),
    };
    let mut response = problem::answer(problem, asked, refusal.retry_after);
    // Nobody reads the rest of such a body.
    let leaves_a_body = |link: &Link| match refusal.cause {
        Cause::SendTimeout => true,
        Cause::AnswerTimeout => link.is_cut(),
        _ => false,
    };
    if one.is_some_and(|link| problem.closes() || leaves_a_body(link)) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response.map(|bytes| Source::Own(Full::new(bytes)))
}
