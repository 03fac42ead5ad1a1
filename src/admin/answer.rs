//! One request in, one answer out.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::LengthLimitError;
use http_body_util::Limited;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Body;
use hyper::header;
use hyper::header::HeaderValue;
use serde_json::Value;
use serde_json::json;

use crate::admin::Sources;
use crate::admin::access;
use crate::admin::access::Door;
use crate::admin::access::Refusal;
use crate::admin::access::Token;
use crate::admin::explain;
use crate::admin::incidents;
use crate::admin::route::NoRoute;
use crate::admin::route::Route;
use crate::admin::route::route;
use crate::admin::scrape;
use crate::admin::view;
use crate::cluster::AdminState;
use crate::control::CommandError;
use crate::metrics::CONTENT_TYPE;
use crate::shutdown::Stage;

/// No request has a use for a body; this much is read and thrown away.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// A reload reads files and resolves names; everything else takes milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

const INDEX: &str = include_str!("index.html");

pub type Answer = Response<Full<Bytes>>;

/// Answers one request; never fails, an error is an answer too.
pub async fn answer<B>(
    request: Request<B>,
    door: Door,
    token: Option<&Token>,
    sources: &Arc<Sources>,
) -> Answer
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    if let Err(refusal) = access::check_host(door, head.version, &head.uri, &head.headers) {
        return refused(refusal);
    }
    let route = match route(&head.method, head.uri.path(), head.uri.query()) {
        Ok(route) => route,
        Err(no_route) => return unroutable(&no_route),
    };
    if route.changes_something()
        && let Err(refusal) = access::check_change(door, token, &head.headers)
    {
        tracing::warn!(
            request = head.uri.path(),
            reason = refusal.reason,
            "admin change refused"
        );
        return refused(refusal);
    }
    let work = async {
        match Limited::new(body, MAX_BODY_BYTES).collect().await {
            Ok(_) => perform(route, sources).await,
            Err(error) if error.is::<LengthLimitError>() => failed(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is larger than 64 KiB; no request needs one",
            ),
            Err(_) => failed(StatusCode::BAD_REQUEST, "the body could not be read"),
        }
    };
    let outcome = tokio::time::timeout(REQUEST_TIMEOUT, work).await;
    outcome.unwrap_or_else(|_| {
        failed(
            StatusCode::GATEWAY_TIMEOUT,
            "no answer within 30 s; a change may still be under way",
        )
    })
}

async fn perform(route: Route, sources: &Arc<Sources>) -> Answer {
    let now = Instant::now();
    match route {
        Route::Index => typed("text/html; charset=utf-8", INDEX.into()),
        Route::Alive => typed("text/plain; charset=utf-8", "alive\n".into()),
        Route::Ready => ready(sources),
        Route::Metrics => {
            let table = sources.table.load_full();
            let metrics = &sources.metrics;
            let page = metrics.page(now, |scrape| scrape::publish(&table, scrape));
            typed(CONTENT_TYPE, page)
        }
        Route::Status => {
            let table = sources.table.load_full();
            ok(&view::status(sources.stage.get(), &table, now))
        }
        Route::Clusters => ok(&view::clusters(&sources.table.load_full(), now)),
        Route::Sessions { limit } => ok(&view::sessions((sources.sessions)().await, limit)),
        Route::Incidents { limit } => ok(&incidents::incidents(&(sources.incidents)(limit))),
        Route::ExplainClient(client) => {
            explained(explain::client(&sources.table.load_full(), &client, now))
        }
        Route::ExplainSession(id) => {
            let sessions = (sources.sessions)().await;
            let table = sources.table.load_full();
            explained(explain::session(&table, &sessions, id, now))
        }
        Route::Config => ok(&sources.config.load()),
        Route::Appoint { cluster, backend } => appoint(sources, cluster, backend).await,
        Route::SetAdminState {
            cluster,
            backend,
            state,
        } => set_admin_state(sources, cluster, backend, state).await,
        Route::Reload => reload(sources).await,
    }
}

fn explained(result: Result<Value, String>) -> Answer {
    match result {
        Ok(value) => ok(&value),
        Err(unknown) => failed(StatusCode::NOT_FOUND, &unknown),
    }
}

fn ready(sources: &Sources) -> Answer {
    let table = sources.table.load_full();
    match view::not_ready(sources.stage.get(), &table) {
        None => typed("text/plain; charset=utf-8", "ready\n".into()),
        Some(reason) => failed(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

async fn set_admin_state(
    sources: &Sources,
    cluster: String,
    backend: String,
    state: AdminState,
) -> Answer {
    let done = (sources.set_admin_state)(cluster.clone(), backend.clone(), state);
    let done = to_the_end(done).await;
    changed(done, || {
        json!({
            "cluster": cluster,
            "backend": backend,
            "admin_state": state.as_str(),
        })
    })
}

async fn appoint(sources: &Sources, cluster: String, backend: String) -> Answer {
    let done = (sources.appoint)(cluster.clone(), backend.clone());
    let done = to_the_end(done).await;
    changed(done, || json!({ "cluster": cluster, "primary": backend }))
}

/// `None`: whoever did it has panicked.
fn changed(done: Option<Result<(), CommandError>>, what: impl FnOnce() -> Value) -> Answer {
    match done {
        Some(Ok(())) => ok(&what()),
        Some(Err(error @ CommandError::Unknown(_))) => {
            failed(StatusCode::NOT_FOUND, &error.to_string())
        }
        Some(Err(error @ CommandError::Refused(_))) => {
            failed(StatusCode::CONFLICT, &error.to_string())
        }
        Some(Err(error @ (CommandError::State(_) | CommandError::Stopped))) => {
            failed(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
        }
        None => failed(StatusCode::INTERNAL_SERVER_ERROR, "the change was aborted"),
    }
}

async fn reload(sources: &Sources) -> Answer {
    if sources.stage.get() == Stage::Draining {
        return failed(StatusCode::SERVICE_UNAVAILABLE, "the process is stopping");
    }
    match to_the_end((sources.reload)()).await {
        Some(Ok(result)) => ok(&json!({ "result": result })),
        Some(Err(errors)) => failed(StatusCode::UNPROCESSABLE_ENTITY, &errors),
        None => failed(StatusCode::INTERNAL_SERVER_ERROR, "the reload was aborted"),
    }
}

/// Runs a change in a task of its own: a client that goes away, or our own
/// timeout, must not stop it half-way.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    tokio::spawn(change).await.ok()
}

fn refused(refusal: Refusal) -> Answer {
    let mut answer = failed(refusal.status, refusal.reason);
    if refusal.status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        answer
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
    }
    answer
}

fn unroutable(no_route: &NoRoute) -> Answer {
    match no_route {
        NoRoute::NotFound => failed(StatusCode::NOT_FOUND, "no such path; / lists all of them"),
        NoRoute::BadRequest(reason) => failed(StatusCode::BAD_REQUEST, reason),
        NoRoute::WrongMethod(allowed) => {
            let mut answer = failed(StatusCode::METHOD_NOT_ALLOWED, "wrong method for this path");
            let allowed = HeaderValue::from_static(allowed);
            answer.headers_mut().insert(header::ALLOW, allowed);
            answer
        }
    }
}

fn ok(value: &Value) -> Answer {
    typed("application/json", format!("{value}\n").into())
}

fn failed(status: StatusCode, error: &str) -> Answer {
    let mut answer = ok(&json!({ "error": error }));
    *answer.status_mut() = status;
    answer
}

fn typed(content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
