//! Bodies go through and are never held: hundreds of megabytes on their way to somebody who reads
//! slower than the other side writes, over both versions on both sides.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::SendStream;
use h2::client;
use h2::server;
use http::Request;
use http::Response;

use crate::harness::Stage;
use crate::harness::read_answer;
use crate::harness::read_head;
use crate::harness::status;
use crate::recorder::Connection;
use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::wait_until;
use crate::world::Background;
use crate::world::TCP_CHECK;
use crate::world::connect_two;
use crate::world::stage;

/// Clients of each version.
const CLIENTS: usize = 3;
/// Of one body: more than all buffers on its way hold.
const LENGTH: usize = 48 << 20;
const ALL: usize = 2 * CLIENTS * LENGTH;
/// What a slow reader takes between two pauses.
const SIP: usize = 256 << 10;
const PAUSE: Duration = Duration::from_millis(2);
/// What the proxy may grow by for an upload: a stream of HTTP/2 has a window of 256 KiB, which comes in
/// many small pieces; one of HTTP/1.1 has less.
const MAX_UPLOAD_BYTES: u64 = 1 << 20;
/// The same for a download: a stream from a backend of HTTP/2 has a window of 1 MiB.
const MAX_DOWNLOAD_BYTES: u64 = 2 << 20;

/// What all bodies of a test have in common.
#[derive(Default)]
struct Flow {
    may_read: AtomicBool,
    sent: AtomicUsize,
    read: AtomicUsize,
}

impl Flow {
    fn note_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes, Ordering::AcqRel);
    }

    fn note_read(&self, bytes: usize) {
        self.read.fetch_add(bytes, Ordering::AcqRel);
    }

    fn may_read(&self) -> bool {
        self.may_read.load(Ordering::Acquire)
    }

    /// Lets the readers begin when nothing moves any more: everybody holds what they may.
    #[track_caller]
    fn begin_when_full(&self) {
        let mut last = (0, Instant::now());
        wait_until(PATIENCE, "full buffers", || {
            let sent = self.sent.load(Ordering::Acquire);
            if sent != last.0 {
                last = (sent, Instant::now());
            }
            sent > 0 && last.1.elapsed() > Duration::from_secs(1)
        });
        eprintln!("{} of {ALL} bytes are under way", last.0);
        assert!(last.0 < ALL, "all of it is somewhere");
        self.may_read.store(true, Ordering::Release);
    }

    #[track_caller]
    fn wait_until_all_is_read(&self) {
        wait_until(3 * PATIENCE, "all bodies", || {
            self.read.load(Ordering::Acquire) == ALL
        });
    }

    fn sip(&self, mut stream: impl FnMut(&mut [u8])) {
        while !self.may_read() {
            thread::sleep(PAUSE);
        }
        let mut piece = vec![0; SIP];
        for _ in 0..LENGTH / SIP {
            stream(&mut piece);
            self.note_read(SIP);
            thread::sleep(PAUSE);
        }
    }

    async fn sip_stream(&self, mut body: RecvStream) {
        while !self.may_read() {
            tokio::time::sleep(PAUSE).await;
        }
        let mut sip = 0;
        while let Some(piece) = body.data().await {
            let bytes = piece.unwrap().len();
            body.flow_control().release_capacity(bytes).unwrap();
            self.note_read(bytes);
            sip += bytes;
            if sip >= SIP {
                sip = 0;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn pour(&self, stream: &mut impl Write) {
        let piece = vec![b'x'; 64 << 10];
        for _ in 0..LENGTH / piece.len() {
            stream.write_all(&piece).unwrap();
            self.note_sent(piece.len());
        }
    }

    async fn pour_stream(&self, mut stream: SendStream<Bytes>) {
        let mut left = LENGTH;
        while left > 0 {
            stream.reserve_capacity(left.min(16 << 10));
            let free = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
            let bytes = free.unwrap().unwrap().min(left);
            left -= bytes;
            let piece = Bytes::from(vec![b'x'; bytes]);
            stream.send_data(piece, left == 0).unwrap();
            self.note_sent(bytes);
        }
    }
}

/// One that speaks HTTP/1.1, and one that speaks HTTP/2.
enum Backend {
    One(Recorder),
    Two(SocketAddr),
}

impl Backend {
    fn stage(&self) -> Stage {
        let (addr, version) = match self {
            Self::One(recorder) => (recorder.addr(), 1),
            Self::Two(addr) => (*addr, 2),
        };
        let cluster = format!("{TCP_CHECK}, http: {{version: {version}}}");
        stage(&[addr], &cluster, "")
    }
}

/// What a backend does with one request of HTTP/2.
type Served = fn(Arc<Flow>, Request<RecvStream>, server::SendResponse<Bytes>);

impl Backend {
    /// The one does with a request what `one` says, the other what `two` says.
    fn speaking(
        version: usize,
        (background, flow): (&Background, &Arc<Flow>),
        one: fn(&Flow, &mut Connection),
        two: Served,
    ) -> Self {
        let flow = Arc::clone(flow);
        if version == 1 {
            let recorder = Recorder::scripted(move |_, connection| one(&flow, connection));
            return Self::One(recorder);
        }
        Self::Two(background.listen(move |stream| {
            let flow = Arc::clone(&flow);
            async move {
                // Health checks connect and say nothing.
                let Ok(mut connection) = server::handshake(stream).await else {
                    return;
                };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    two(Arc::clone(&flow), request, respond);
                }
            }
        }))
    }
}

/// Runs `clients` of both versions against a backend; the proxy may hold so much for each.
#[track_caller]
fn without_holding(
    (backend, flow): (&Backend, &Arc<Flow>),
    each: u64,
    one: fn(&Stage, &Flow),
    two: impl Fn(&Stage, &Arc<Flow>),
) {
    let stage = backend.stage();
    let before = stage.evergate.rss_bytes();
    let ((), peak) = stage.evergate.peak_rss_bytes(|| {
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| one(&stage, flow));
                two(&stage, flow);
            }
            flow.begin_when_full();
        });
        flow.wait_until_all_is_read();
    });
    let growth = peak.saturating_sub(before) / (2 * CLIENTS as u64);
    let version = matches!(backend, Backend::Two(_));
    eprintln!("HTTP/2 to the backend: {version}, {growth} bytes for each body");
    assert!(growth <= each, "{growth} bytes for each body");
}

/// Class 37: what a backend does not take stays with the client.
#[test]
fn uploads_to_slow_backends_are_never_held() {
    let background = Background::start();
    for version in [1, 2] {
        let flow = Arc::<Flow>::default();
        let backend = Backend::speaking(
            version,
            (&background, &flow),
            |flow, connection| {
                flow.sip(|piece| connection.read_exact(piece).unwrap());
                connection.send(&ok("all"));
            },
            |flow, request, mut respond| {
                tokio::spawn(async move {
                    flow.sip_stream(request.into_body()).await;
                    respond.send_response(Response::new(()), true).unwrap();
                });
            },
        );
        without_holding(
            (&backend, &flow),
            MAX_UPLOAD_BYTES,
            |stage, flow| {
                let mut client = stage.connect();
                let head =
                    format!("PUT /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: {LENGTH}\r\n\r\n");
                client.write_all(head.as_bytes()).unwrap();
                flow.pour(&mut client);
                assert_eq!(status(&read_answer(&mut client)), 200);
            },
            |stage, flow| {
                let (addr, flow) = (stage.addr, Arc::clone(flow));
                background.spawn(async move {
                    let put = Request::put("http://a.test/x").body(()).unwrap();
                    let (response, send) = ask(addr, put, false).await;
                    flow.pour_stream(send).await;
                    assert_eq!(response.await.unwrap().status(), 200);
                });
            },
        );
    }
}

/// Class 37 and K1: what a client does not take stays with the backend.
#[test]
fn downloads_to_slow_clients_are_never_held() {
    let background = Background::start();
    for version in [1, 2] {
        let flow = Arc::<Flow>::default();
        let backend = Backend::speaking(
            version,
            (&background, &flow),
            |flow, connection| {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
                connection.send(head.as_bytes());
                flow.pour(&mut connection.stream);
            },
            |flow, _, mut respond| {
                let send = respond.send_response(Response::new(()), false).unwrap();
                tokio::spawn(async move { flow.pour_stream(send).await });
            },
        );
        without_holding(
            (&backend, &flow),
            MAX_DOWNLOAD_BYTES,
            |stage, flow| {
                let mut client = stage.connect();
                client
                    .write_all(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
                    .unwrap();
                assert_eq!(status(&read_head(&mut client)), 200);
                flow.sip(|piece| client.read_exact(piece).unwrap());
            },
            |stage, flow| {
                let (addr, flow) = (stage.addr, Arc::clone(flow));
                background.spawn(async move {
                    let get = Request::get("http://a.test/x").body(()).unwrap();
                    let (response, _) = ask(addr, get, true).await;
                    let response = response.await.unwrap();
                    assert_eq!(response.status(), 200);
                    flow.sip_stream(response.into_body()).await;
                });
            },
        );
    }
}

/// Sends a request over a connection of its own.
async fn ask(
    addr: SocketAddr,
    request: Request<()>,
    is_whole: bool,
) -> (client::ResponseFuture, SendStream<Bytes>) {
    let mut ready = connect_two(addr).await.ready().await.unwrap();
    ready.send_request(request, is_whole).unwrap()
}

/// Class 12: whoever takes some of its answer now and then is not one who takes nothing. What the
/// kernel holds must not hide that: it says so only when a good part of its buffer is free.
#[test]
fn a_client_that_takes_its_answer_drop_by_drop_keeps_it() {
    const DROP: usize = 64 << 10;
    const DROPS: usize = 40;
    let flow = Arc::<Flow>::default();
    let pouring = Arc::clone(&flow);
    let backend = Recorder::scripted(move |_, connection: &mut Connection| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        connection.send(head.as_bytes());
        pouring.pour(&mut connection.stream);
    });
    let limits = "http: {body_timeout: 3s}";
    let stage = stage(&[backend.addr()], TCP_CHECK, limits);
    let mut client = stage.connect();
    client
        .write_all(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .unwrap();
    assert_eq!(status(&read_head(&mut client)), 200);
    let mut drop = vec![0; DROP];
    for at in 0..LENGTH / DROP {
        if at < DROPS {
            thread::sleep(Duration::from_millis(200));
        }
        client.read_exact(&mut drop).unwrap();
    }
}

/// The route's `timeout` lasts until the answer begins. Two bodies that go on after that end when
/// they like.
#[test]
fn an_upload_that_drips_under_its_answer_may_last() {
    const DROPS: usize = 25;
    let backend = Recorder::scripted(|_, connection: &mut Connection| {
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..DROPS {
            let mut drop = [0];
            if connection.read_exact(&mut drop).is_err() {
                return;
            }
            connection.send(&[&b"1\r\n"[..], &drop, b"\r\n"].concat());
        }
        connection.send(b"0\r\n\r\n");
    });
    let listener = "http: {body_timeout: 3s}, routes: [{path: /x, cluster: web, timeout: 2s}]";
    let stage = stage(&[backend.addr()], TCP_CHECK, listener);
    let mut client = stage.connect();
    let head = format!(
        "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: {DROPS}\r\nConnection: close\r\n\r\n"
    );
    client.write_all(head.as_bytes()).unwrap();
    for _ in 0..DROPS {
        thread::sleep(Duration::from_millis(200));
        client.write_all(b"x").unwrap();
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let drops = "1\r\nx\r\n".repeat(DROPS);
    assert!(answer.ends_with(&format!("{drops}0\r\n\r\n")), "{answer}");
}
