//! One client connection: HTTP/1.1 or HTTP/2, put away while it is idle.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::io::Interest;
use tokio::time::timeout;

use crate::cluster::Cause;
use crate::cluster::Phase;
use crate::cluster::SessionEnd;
use crate::cluster::Side;
use crate::config::HttpLimits;
use crate::config::HttpListenerConfig;
use crate::net;
use crate::protocol::http1::Guard;
use crate::protocol::http1::Limits;
use crate::protocol::http2::Flood;
use crate::protocol::http2::FrameGuard;
use crate::proxy::Shared;
use crate::proxy::http::client_io::ClientIo;
use crate::proxy::http::client_io::LINGER;
use crate::proxy::http::client_io::MAX_DRAINED_BYTES;
use crate::proxy::http::client_io::Timeouts;
use crate::proxy::http::client_io::Watch;
use crate::proxy::http::exchange;
use crate::proxy::http::link::HttpClient;
use crate::proxy::http::link::Link;
use crate::proxy::http::link::Upgrade;
use crate::proxy::http::refusal;
use crate::proxy::http::silence::SilenceTimer;
use crate::proxy::http::turn::StreamExecutor;
use crate::proxy::listener::keepalive;
use crate::proxy::registry::SessionCell;
use crate::proxy::registry::Transaction;
use crate::proxy::relay::Ends;
use crate::proxy::relay::Relay;
use crate::proxy::transport::Transport;
use crate::proxy::worker::Worker;
use crate::tls::ClientHandshake;

/// How an HTTP/2 connection begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A connection that ends has this long to send its last answer.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What a connection of HTTP/1.1 may hold in one direction while its client takes nothing: enough
/// for a fast transfer, and bounded for many clients that do not read.
const MAX_BUFFER_BYTES: usize = 32 << 10;
/// hyper counts a head's bytes a little differently from the guard, which comes first.
const HEAD_SLACK_BYTES: usize = 4 << 10;
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

/// Why serving stopped.
enum Stopped {
    /// Nothing has happened for a while: only the socket is worth keeping.
    Idle(Transport, Vec<u8>),
    Upgraded(Box<Upgraded>),
    Ended(SessionEnd),
}

struct Upgraded {
    client: Transport,
    /// Read ahead from the client.
    first_bytes: Vec<u8>,
    upgrade: Upgrade,
}

/// Serves a client until its connection ends.
pub async fn serve(
    client: Box<HttpClient>,
    shared: &Arc<Shared>,
    worker: &Arc<Worker>,
    cell: &Arc<SessionCell>,
) -> SessionEnd {
    let HttpClient {
        mut transport,
        mut first_bytes,
        origin,
    } = *client;
    let is_tls = transport.plain().is_none();
    let link = Link::new(
        Arc::clone(shared),
        Arc::clone(worker),
        Arc::clone(cell),
        origin,
        is_tls,
    );
    let link = Arc::new(link.timed());
    cell.set_phase(Phase::Relay);
    cell.set_transaction(Transaction::Idle);
    // The end of a TLS handshake often has the first request behind it: what was decrypted
    // already would not be seen on the socket.
    let mut may_be_read_ahead = is_tls;
    loop {
        let is_silent = first_bytes.is_empty() && !std::mem::take(&mut may_be_read_ahead);
        if is_silent && wait_for_bytes(&transport, cell).await.is_err() {
            return severed(cell);
        }
        match Box::pin(attend(transport, first_bytes, &link)).await {
            Stopped::Idle(back, bytes) => {
                link.rest();
                (transport, first_bytes) = (back, bytes);
            }
            Stopped::Upgraded(upgraded) => return Box::pin(relay(*upgraded, &link)).await,
            Stopped::Ended(end) => return end,
        }
    }
}

/// The socket alone, until its client says something.
async fn wait_for_bytes(transport: &Transport, cell: &SessionCell) -> Result<(), Cause> {
    cell.set_parked(true);
    let result = tokio::select! {
        biased;
        cause = cell.until_severed() => Err(cause),
        // A failed wait is found again by the next read.
        _ = transport.tcp().ready(Interest::READABLE) => Ok(()),
    };
    cell.set_parked(false);
    result
}

fn severed(cell: &SessionCell) -> SessionEnd {
    let cause = cell.severed_cause().unwrap_or(Cause::Shutdown);
    ended(Side::Proxy, cause)
}

fn ended(side: Side, cause: Cause) -> SessionEnd {
    SessionEnd {
        side,
        phase: Phase::Relay,
        cause,
    }
}

/// Speaks HTTP with a client that has something to say.
async fn attend(mut transport: Transport, mut first_bytes: Vec<u8>, link: &Arc<Link>) -> Stopped {
    let Some(entry) = link.entry() else {
        return Stopped::Ended(ended(Side::Proxy, Cause::ListenerRemoved));
    };
    let Some(http) = entry.config.http.clone() else {
        return Stopped::Ended(ended(Side::Proxy, Cause::Reload));
    };
    drop(entry);
    link.cell.set_keep_alive(http.limits.keep_alive);
    let deadline = std::time::Instant::now() + http.limits.header_timeout;
    link.cell.set_deadline(deadline, Cause::HandshakeTimeout);
    let is_two = match transport_speaks_two(&mut transport, &mut first_bytes, &link.cell).await {
        Ok(is_two) => is_two,
        Err(end) => return Stopped::Ended(end),
    };
    link.cell.clear_deadline(Cause::HandshakeTimeout);
    match is_two {
        true => serve_two(transport, first_bytes, link, &http).await,
        false => serve_one(transport, first_bytes, link, &http).await,
    }
}

/// HTTP/2 by ALPN, or by prior knowledge in the clear.
async fn transport_speaks_two(
    transport: &mut Transport,
    first_bytes: &mut Vec<u8>,
    cell: &SessionCell,
) -> Result<bool, SessionEnd> {
    if let Transport::Client(tls) = transport {
        return Ok(tls.alpn() == Some(b"h2"));
    }
    loop {
        let known = first_bytes.len().min(PREFACE.len());
        if first_bytes[..known] != PREFACE[..known] {
            return Ok(false);
        }
        if known == PREFACE.len() {
            return Ok(true);
        }
        let read = tokio::select! {
            biased;
            _ = cell.until_severed() => return Err(severed(cell)),
            read = transport.read_buf(first_bytes) => read,
        };
        match read {
            Ok(0) => return Err(ended(Side::Client, Cause::Closed)),
            Ok(bytes) => cell.add_received(bytes),
            Err(error) => return Err(ended(Side::Client, net::cause_of(&error))),
        }
    }
}

async fn serve_one(
    transport: Transport,
    first_bytes: Vec<u8>,
    link: &Arc<Link>,
    http: &HttpListenerConfig,
) -> Stopped {
    let limits = &http.limits;
    let guard = Guard::new(Limits {
        max_head_bytes: limits.max_head_bytes,
        max_headers: limits.max_headers,
        max_uri_bytes: limits.max_uri_bytes,
        max_body_bytes: limits.max_body_bytes,
        allow_connect: http.allow_connect,
    });
    let watch = (Watch::One(Box::new(guard)), timeouts(limits));
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
            link.note_version(request.version());
            exchange::answer(request, Arc::clone(&link), in_flight)
        })
    };
    let mut builder = http1::Builder::new();
    builder
        // One more than the guard lets through.
        .max_headers(limits.max_headers.saturating_add(1))
        .max_header_size(limits.max_head_bytes.saturating_add(HEAD_SLACK_BYTES))
        .max_buf_size(MAX_BUFFER_BYTES.max(limits.max_head_bytes + HEAD_SLACK_BYTES))
        // No `pipeline_flush`: it keeps an answer back while part of a next request is there.
        .half_close(false);
    let mut connection = builder.serve_connection(io, service);
    let mut done = std::future::poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => stop(link, cx),
    })
    .await;
    if done.is_none() && may_finish(link) {
        Pin::new(&mut connection).graceful_shutdown();
        done = timeout(LAST_WORDS, &mut connection).await.ok();
    }
    let is_unfinished =
        link.in_flight() > 0 || matches!(&done, Some(Err(error)) if error.is_user());
    // hyper drops a body that is under way without a word.
    link.set_gone(true);
    let parts = connection.into_parts();
    let io = parts.io.into_inner();
    if is_unfinished && link.is_http_1_0() {
        // Such a client takes an orderly close for the end of its answer (RFC 1945, 7.2.2).
        net::reset_on_close(io.tcp());
    }
    let ahead = [io.ahead().to_vec(), parts.read_buf.to_vec()].concat();
    match done {
        None if link.cell.severed_cause().is_some() => Stopped::Ended(severed(&link.cell)),
        _ if link.is_refused() => {
            let mut client = io.into_transport();
            Stopped::Ended(refuse(&mut client, link).await)
        }
        None => {
            link.set_gone(false);
            Stopped::Idle(io.into_transport(), parts.read_buf.to_vec())
        }
        Some(result) => match link.take_upgrade() {
            Some(upgrade) => Stopped::Upgraded(Box::new(Upgraded {
                client: io.into_transport(),
                first_bytes: ahead,
                upgrade,
            })),
            None => {
                if link.is_cut() || !ahead.is_empty() {
                    linger(&mut io.into_transport()).await;
                }
                Stopped::Ended(end_of(link, result.err()))
            }
        },
    }
}

fn timeouts(limits: &HttpLimits) -> Timeouts {
    Timeouts {
        head: limits.header_timeout,
        stall: limits.body_timeout,
    }
}

async fn serve_two(
    transport: Transport,
    first_bytes: Vec<u8>,
    link: &Arc<Link>,
    http: &HttpListenerConfig,
) -> Stopped {
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
    let mut connection = std::pin::pin!(two(&http.limits, link).serve_connection(io, service));
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
        return Stopped::Ended(turned_away(link, flood));
    }
    if done.is_none() && may_finish(link) {
        connection.as_mut().graceful_shutdown();
        done = timeout(LAST_WORDS, connection.as_mut()).await.ok();
    }
    Stopped::Ended(match (done, link.retirement()) {
        (None, _) => severed(&link.cell),
        // It was sent away, and has gone in order.
        (Some(Ok(())), Some(cause)) if is_told => ended(Side::Proxy, cause),
        (Some(result), _) => end_of(link, result.err()),
    })
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

fn two(limits: &HttpLimits, link: &Arc<Link>) -> http2::Builder<StreamExecutor> {
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

/// Ready when the connection must end, or may be put away.
fn stop<T>(link: &Link, cx: &mut Context<'_>) -> Poll<Option<T>> {
    match link.cell.take_park() && link.is_idle() {
        true => Poll::Ready(None),
        false => end(link, cx),
    }
}

/// Ready when the connection must end.
fn end<T>(link: &Link, cx: &mut Context<'_>) -> Poll<Option<T>> {
    match link.cell.severed(cx) {
        Some(_) => Poll::Ready(None),
        None => Poll::Pending,
    }
}

/// Its last answer may still be on its way out; exchanges under way are cut off.
fn may_finish(link: &Link) -> bool {
    link.cell.severed_cause().is_some() && link.in_flight() == 0
}

/// Tells a client what was wrong with its request; nothing of that request went to a backend.
async fn refuse(client: &mut Transport, link: &Link) -> SessionEnd {
    if let Some(violation) = link.refusal() {
        let answer = refusal::answer(violation).unwrap_or_default();
        client.say_last(&answer).await;
        linger(client).await;
    }
    ended(Side::Client, Cause::BadRequest)
}

/// A reset would overtake the last answer while unread bytes are here.
async fn linger(client: &mut Transport) {
    let _ = timeout(LINGER, drain(client)).await;
}

async fn drain(client: &mut Transport) {
    let mut scrap = [0; 4096];
    for _ in 0..MAX_DRAINED_BYTES / scrap.len() {
        if !matches!(client.read(&mut scrap).await, Ok(1..)) {
            return;
        }
    }
}

fn end_of(link: &Link, error: Option<hyper::Error>) -> SessionEnd {
    if link.cell.severed_cause().is_some() {
        return severed(&link.cell);
    }
    match link.cause_of_cut_body() {
        Cause::Closed => {}
        cause => return ended(Side::Client, cause),
    }
    let Some(error) = error else {
        return ended(Side::Client, Cause::Closed);
    };
    tracing::trace!(session = link.cell.id, %error, "connection of a client ended");
    let cause = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .map(net::cause_of);
    match cause {
        Some(cause) => ended(Side::Client, cause),
        // Its PING.
        None if error.is_timeout() => ended(Side::Client, Cause::SendTimeout),
        None if is_flood(&error) => ended(Side::Client, Cause::Flood),
        None if error.is_parse() => ended(Side::Client, Cause::BadRequest),
        None if error.is_incomplete_message() || error.is_canceled() => {
            ended(Side::Client, Cause::Closed)
        }
        None => ended(Side::Client, Cause::BadProtocol),
    }
}

/// Whether the HTTP/2 library had enough of a client before the guard did.
fn is_flood(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let error = source.and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_some_and(|it| it.is_library() && it.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

/// Bytes that are no HTTP any more: WebSocket and the like.
async fn relay(upgraded: Upgraded, link: &Arc<Link>) -> SessionEnd {
    let Upgraded {
        client,
        first_bytes,
        upgrade,
    } = upgraded;
    let Upgrade {
        mut backend,
        answer,
        lease,
    } = upgrade;
    let cell = &link.cell;
    cell.set_keep_alive(Duration::ZERO);
    cell.set_transaction(Transaction::Unknown);
    cell.set_stalled_until(None);
    cell.set_backend(Some(Arc::clone(lease.backend())));
    if !first_bytes.is_empty() {
        let sent = tokio::io::AsyncWriteExt::write_all(&mut backend, &first_bytes);
        match timeout(LAST_WORDS, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return ended(Side::Backend, net::cause_of(&error)),
            Err(_) => return ended(Side::Backend, Cause::SendTimeout),
        }
    }
    let Some(entry) = link.entry() else {
        return ended(Side::Proxy, Cause::ListenerRemoved);
    };
    let keepalive = keepalive(&entry.config.keepalive);
    drop(entry);
    let ends = Ends {
        client,
        backend,
        answer: answer.into(),
        follow: None,
    };
    let mut relay = Relay::new(ends, Arc::clone(cell), keepalive, None);
    (&mut relay).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// Each request's is written once, and those of HTTP/2 have a task of their own.
    #[test]
    fn an_exchange_stays_small() {
        let size = size_of_future(exchange::answer);
        assert!(size <= 5_500, "{size} bytes");
    }
}
