//! One client connection: HTTP/1.1 or HTTP/2, put away while it is idle.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
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
use crate::proxy::Shared;
use crate::proxy::http::client_io::ClientIo;
use crate::proxy::http::client_io::LINGER;
use crate::proxy::http::client_io::MAX_DRAINED_BYTES;
use crate::proxy::http::client_io::Timeouts;
use crate::proxy::http::client_io::Watch;
use crate::proxy::http::exchange;
use crate::proxy::http::link::HttpClient;
use crate::proxy::http::link::Link;
use crate::proxy::http::refusal;
use crate::proxy::http::tunnel;
use crate::proxy::http::tunnel::Upgraded;
use crate::proxy::http::two;
use crate::proxy::registry::SessionCell;
use crate::proxy::registry::Transaction;
use crate::proxy::transport::Transport;
use crate::proxy::worker::Worker;
use crate::tls::ClientHandshake;

/// How an HTTP/2 connection begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A connection that ends has this long to send its last answer.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);
/// What a connection of HTTP/1.1 may hold in one direction while its client takes nothing: enough
/// for a fast transfer, and bounded for many clients that do not read.
const MAX_BUFFER_BYTES: usize = 32 << 10;
/// hyper counts a head's bytes a little differently from the guard, which comes first.
const HEAD_SLACK_BYTES: usize = 4 << 10;
/// Why serving stopped.
enum Stopped {
    /// Nothing has happened for a while: only the socket is worth keeping.
    Idle(Transport, Vec<u8>),
    Upgraded(Box<Upgraded>),
    Ended(SessionEnd),
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
            Stopped::Upgraded(upgraded) => return Box::pin(tunnel::relay(*upgraded, &link)).await,
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

pub(super) fn severed(cell: &SessionCell) -> SessionEnd {
    let cause = cell.severed_cause().unwrap_or(Cause::Shutdown);
    ended(Side::Proxy, cause)
}

pub(super) fn ended(side: Side, cause: Cause) -> SessionEnd {
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
        true => Stopped::Ended(two::serve(transport, first_bytes, link, &http).await),
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

pub(super) fn timeouts(limits: &HttpLimits) -> Timeouts {
    Timeouts {
        head: limits.header_timeout,
        stall: limits.body_timeout,
    }
}

/// Ready when the connection must end, or may be put away.
fn stop<T>(link: &Link, cx: &mut Context<'_>) -> Poll<Option<T>> {
    match link.cell.take_park() && link.is_idle() {
        true => Poll::Ready(None),
        false => end(link, cx),
    }
}

/// Ready when the connection must end.
pub(super) fn end<T>(link: &Link, cx: &mut Context<'_>) -> Poll<Option<T>> {
    match link.cell.severed(cx) {
        Some(_) => Poll::Ready(None),
        None => Poll::Pending,
    }
}

/// Its last answer may still be on its way out; exchanges under way are cut off.
pub(super) fn may_finish(link: &Link) -> bool {
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

pub(super) fn end_of(link: &Link, error: Option<hyper::Error>) -> SessionEnd {
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
        None if two::is_flood(&error) => ended(Side::Client, Cause::Flood),
        None if error.is_parse() => ended(Side::Client, Cause::BadRequest),
        None if error.is_incomplete_message() || error.is_canceled() => {
            ended(Side::Client, Cause::Closed)
        }
        None => ended(Side::Client, Cause::BadProtocol),
    }
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
