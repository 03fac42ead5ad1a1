//! gRPC as it is on the wire: HTTP/2 frames to a backend that speaks HTTP/2 without TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use h2::Reason;
use h2::RecvStream;
use h2::client;
use h2::server;
use http::HeaderMap;
use http::Request;
use http::Response;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::PATIENCE;
use crate::support::evergate::Until;
use crate::support::ports::free_addr;
use crate::world::Background;
use crate::world::TCP_CHECK;
use crate::world::connect_two;
use crate::world::runtime;
use crate::world::stage;
use crate::world::stage_until;

const TWO: &str = "http: {version: 2}";

/// What a backend does with the calls it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Sends each message back at once, then `grpc-status: 0`.
    Echo,
    /// Refuses every stream before it looks at it (RFC 9113, 8.7).
    RefuseStreams,
    /// Takes one call, then says that it takes no more on this connection.
    GoAwayAfterOne,
}

/// An h2c server on a thread of its own.
struct GrpcBackend {
    addr: SocketAddr,
    calls: Arc<AtomicUsize>,
    _background: Background,
}

impl GrpcBackend {
    fn start(manner: Manner) -> Self {
        let background = Background::start();
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        let addr = background.listen(move |stream| serve(stream, manner, Arc::clone(&counted)));
        Self {
            addr,
            calls,
            _background: background,
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }
}

async fn serve(stream: TcpStream, manner: Manner, calls: Arc<AtomicUsize>) {
    // Health checks connect and say nothing.
    let Ok(mut connection) = server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        calls.fetch_add(1, Ordering::AcqRel);
        if manner == Manner::RefuseStreams {
            respond.send_reset(Reason::REFUSED_STREAM);
            continue;
        }
        if manner == Manner::GoAwayAfterOne {
            connection.graceful_shutdown();
        }
        tokio::spawn(echo(request, respond));
    }
}

async fn echo(request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>) {
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let Ok(mut send) = respond.send_response(response, false) else {
        return;
    };
    let mut body = request.into_body();
    while let Some(Ok(message)) = body.data().await {
        let _ = body.flow_control().release_capacity(message.len());
        if send.send_data(message, false).is_err() {
            return;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("x-of-the-backend", "kept".parse().unwrap());
    let _ = send.send_trailers(trailers);
}

fn call() -> Request<()> {
    Request::post("http://grpc.test/pkg.Echo/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

async fn next(body: &mut RecvStream) -> Bytes {
    let chunk = timeout(PATIENCE, body.data()).await.unwrap();
    let chunk = chunk.unwrap().unwrap();
    body.flow_control().release_capacity(chunk.len()).unwrap();
    chunk
}

async fn trailers(body: &mut RecvStream) -> HeaderMap {
    while let Some(chunk) = timeout(PATIENCE, body.data()).await.unwrap() {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
    let trailers = timeout(PATIENCE, body.trailers()).await.unwrap();
    trailers.unwrap().expect("trailers")
}

/// One message there and back.
async fn unary(sender: &mut client::SendRequest<Bytes>) -> HeaderMap {
    let mut ready = sender.clone().ready().await.unwrap();
    let (response, mut send) = ready.send_request(call(), false).unwrap();
    send.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), true)
        .unwrap();
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert_eq!(next(&mut body).await, &b"\0\0\0\0\x02hi"[..]);
    trailers(&mut body).await
}

#[test]
fn a_unary_call_gets_its_answer_and_its_trailers() {
    let backend = GrpcBackend::start(Manner::Echo);
    let stage = stage(&[backend.addr], &format!("{TCP_CHECK}, {TWO}"), "");
    runtime().block_on(async {
        let mut sender = connect_two(stage.addr).await;
        for _ in 0..3 {
            let trailers = unary(&mut sender).await;
            assert_eq!(trailers["grpc-status"], "0");
            assert_eq!(trailers["x-of-the-backend"], "kept");
        }
    });
    assert_eq!(backend.calls(), 3);
}

#[test]
fn a_call_that_streams_both_ways_flows_message_by_message() {
    let backend = GrpcBackend::start(Manner::Echo);
    let stage = stage(&[backend.addr], &format!("{TCP_CHECK}, {TWO}"), "");
    runtime().block_on(async {
        let sender = connect_two(stage.addr).await;
        let mut ready = sender.ready().await.unwrap();
        let (response, mut send) = ready.send_request(call(), false).unwrap();
        let mut response = Some(response);
        let mut body = None;
        for number in 0..50_u32 {
            let message = Bytes::from(number.to_string());
            send.send_data(message.clone(), false).unwrap();
            // The next is sent only when this one has come back: nothing waits for the end.
            if let Some(response) = response.take() {
                let response = timeout(PATIENCE, response).await.unwrap().unwrap();
                body = Some(response.into_body());
            }
            assert_eq!(next(body.as_mut().unwrap()).await, message);
        }
        send.send_data(Bytes::new(), true).unwrap();
        let trailers = trailers(body.as_mut().unwrap()).await;
        assert_eq!(trailers["grpc-status"], "0");
    });
}

#[test]
fn without_a_backend_a_call_is_answered_in_the_language_of_grpc() {
    let gone = free_addr();
    let keys = format!("{TCP_CHECK}, {TWO}, failover: {{hold: {{for: 200ms, max_sessions: 10}}}}");
    let stage = stage_until(Until::Alive, &[gone], &keys, "");
    runtime().block_on(async {
        let mut ready = connect_two(stage.addr).await.ready().await.unwrap();
        let (response, _) = ready.send_request(call(), true).unwrap();
        let response = timeout(PATIENCE, response).await.unwrap().unwrap();
        assert_eq!(response.status(), 200, "{response:?}");
        // UNAVAILABLE: the caller may try again.
        assert_eq!(response.headers()["grpc-status"], "14", "{response:?}");
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert!(response.into_body().is_end_stream());
    });
}

#[test]
fn a_stream_that_a_backend_refuses_is_taken_by_another() {
    let refusing = GrpcBackend::start(Manner::RefuseStreams);
    let good = GrpcBackend::start(Manner::Echo);
    let cluster = format!("{TCP_CHECK}, {TWO}, balance: {{policy: round_robin}}");
    let stage = stage(&[refusing.addr, good.addr], &cluster, "");
    runtime().block_on(async {
        let sender = connect_two(stage.addr).await;
        for _ in 0..4 {
            let mut ready = sender.clone().ready().await.unwrap();
            // A POST: it may go on only because the first has not looked at it.
            let request = Request::post("http://a.test/x").body(()).unwrap();
            let (response, _) = ready.send_request(request, true).unwrap();
            let response = timeout(PATIENCE, response).await.unwrap().unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(
                trailers(&mut response.into_body()).await["grpc-status"],
                "0"
            );
        }
    });
    assert_eq!(good.calls(), 4);
    assert!(refusing.calls() > 0, "it was never asked");
}

#[test]
fn no_call_is_lost_to_a_backend_that_sends_its_connections_away() {
    let backends = [(); 2].map(|()| GrpcBackend::start(Manner::GoAwayAfterOne));
    let addrs = backends.each_ref().map(|backend| backend.addr);
    let stage = stage(&addrs, &format!("{TCP_CHECK}, {TWO}"), "");
    runtime().block_on(async {
        let mut sender = connect_two(stage.addr).await;
        for _ in 0..30 {
            let trailers = unary(&mut sender).await;
            assert_eq!(trailers["grpc-status"], "0");
        }
    });
    assert_eq!(backends.iter().map(GrpcBackend::calls).sum::<usize>(), 30);
}

#[test]
fn a_client_that_cancels_ends_its_call_at_the_backend() {
    let backend = GrpcBackend::start(Manner::Echo);
    let stage = stage(&[backend.addr], &format!("{TCP_CHECK}, {TWO}"), "");
    runtime().block_on(async {
        let sender = connect_two(stage.addr).await;
        let mut ready = sender.clone().ready().await.unwrap();
        let (response, mut send) = ready.send_request(call(), false).unwrap();
        send.send_data(Bytes::from_static(b"first"), false).unwrap();
        let response = timeout(PATIENCE, response).await.unwrap().unwrap();
        send.send_reset(Reason::CANCEL);
        drop(response);
    });
    crate::support::wait_until(PATIENCE, "the place is free again", || {
        let active = stage
            .evergate
            .metric("evergate_backend_connections_active", &[]);
        active == Some(0.0)
    });
}
