//! HTTP/2 with a client.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::cluster::Cause;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::config::HttpLimits;
use crate::config::HttpListenerConfig;
use crate::protocol::http2::Flood;
use crate::protocol::http2::FrameGuard;
use crate::proxy::http::client_io::ClientIo;
use crate::proxy::http::client_io::Watch;
use crate::proxy::http::exchange;
use crate::proxy::http::link::Link;
use crate::proxy::http::serve::LAST_WORDS;
use crate::proxy::http::serve::end;
use crate::proxy::http::serve::end_of;
use crate::proxy::http::serve::ended;
use crate::proxy::http::serve::may_finish;
use crate::proxy::http::serve::severed;
use crate::proxy::http::serve::timeouts;
use crate::proxy::http::silence::SilenceTimer;
use crate::proxy::http::turn::StreamExecutor;
use crate::proxy::transport::Transport;

const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// What one HTTP/2 stream may have written that its client has not taken.
const MAX_SEND_BUFFER_BYTES: usize = 16 << 10;

/// Streams that a client has reset before anybody looked at them. The guard counts resets, too,
/// and over time; this bounds what is held of them at once.
const MAX_PENDING_RESETS: usize = 64;
/// Streams that were reset for the client's errors; the guard cannot see all of those.
const MAX_LOCAL_RESETS: usize = 256;
/// Finds clients that have vanished while an answer is awaited: after so much silence they are
/// asked, and after as much again they are gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves a client until its connection ends.
pub async fn serve(
    transport: Transport,
    first_bytes: Vec<u8>,
    link: &Arc<Link>,
    http: &HttpListenerConfig,
) -> SessionEnd {
    // An HTTP/2 connection has state that cannot be put away.
    link.cell.set_parked(true);
    let guard = FrameGuard::new(http.limits.max_head_bytes);
    let watch = (Watch::Two(Box::new(guard)), timeouts(&http.limits));
    let io = TokioIo::new(ClientIo::new(
        transport,
        first_bytes,
        Arc::clone(link),
        watch,
    ));
    let service = {
        let link = Arc::clone(link);
        service_fn(move |request: Request<Incoming>| {
            let in_flight = link.begin();
            exchange::answer(request, Arc::clone(&link), in_flight)
        })
    };
    let mut connection = std::pin::pin!(builder(&http.limits, link).serve_connection(io, service));
    let mut is_told = false;
    let mut done = std::future::poll_fn(|cx| {
        // GOAWAY: a client that always has a request under way would never come to rest.
        if !is_told && link.retirement().is_some() {
            is_told = true;
            connection.as_mut().graceful_shutdown();
        }
        match connection.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => end(link, cx),
        }
    })
    .await;
    if let Some(flood) = link.flood() {
        return turned_away(link, flood);
    }
    if done.is_none() && may_finish(link) {
        connection.as_mut().graceful_shutdown();
        done = timeout(LAST_WORDS, connection.as_mut()).await.ok();
    }
    match (done, link.retirement()) {
        (None, _) => severed(&link.cell),
        // It was sent away, and has gone in order.
        (Some(Ok(())), Some(cause)) if is_told => ended(Side::Proxy, cause),
        (Some(result), _) => end_of(link, result.err()),
    }
}

/// The frames were no HTTP/2, or too many.
fn turned_away(link: &Link, flood: Flood) -> SessionEnd {
    tracing::debug!(session = link.cell.id, %flood, "client turned away");
    let cause = match flood {
        Flood::Preface => Cause::BadProtocol,
        _ => Cause::Flood,
    };
    ended(Side::Client, cause)
}

fn builder(limits: &HttpLimits, link: &Arc<Link>) -> http2::Builder<StreamExecutor> {
    let timeout = limits.body_timeout;
    let mut builder = http2::Builder::new(StreamExecutor { timeout });
    let link = Arc::clone(link);
    let head_bytes = u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX);
    builder
        .timer(SilenceTimer { link })
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(head_bytes)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Whether the HTTP/2 library had enough of a client before the guard did.
pub fn is_flood(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let error = source.and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_some_and(|it| it.is_library() && it.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}
