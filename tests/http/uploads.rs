//! Bodies on their way to a backend: one that stops reading, one that has heard enough, one that
//! wants to be asked first, and other framing on its side.

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;

use crate::frames::HEADERS;
use crate::frames::POST;
use crate::frames::data;
use crate::frames::open;
use crate::harness::Plan;
use crate::harness::Stage;
use crate::harness::read_answer;
use crate::harness::read_head;
use crate::harness::status;
use crate::recorder::Connection;
use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::support::process::run;
use crate::support::relay::FaultRelay;
use crate::support::wait_until;
use crate::world::CHECK;
use crate::world::connect_two;
use crate::world::runtime;
use crate::world::stage;

/// More than all buffers on the way hold.
const LARGE: usize = 48 << 20;
/// Bodies that drip: much longer than their route allows.
const DROPS: u32 = 400;
const PAUSE: Duration = Duration::from_millis(100);
const LIMITS: &str = "http: {body_timeout: 1s}";

fn put(length: usize, more: &str) -> String {
    format!("PUT /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n{more}\r\n")
}

/// Sends a large body for as long as it is taken.
fn push(client: &std::net::TcpStream) {
    let mut writer = client.try_clone().unwrap();
    thread::spawn(move || {
        let piece = vec![b'x'; 1 << 16];
        for _ in 0..LARGE / piece.len() {
            if writer.write_all(&piece).is_err() {
                return;
            }
        }
    });
}

/// Reads heads and nothing else until it is let go.
struct Deaf {
    recorder: Recorder,
    is_let_go: Arc<AtomicBool>,
}

impl Deaf {
    fn start() -> Self {
        let is_let_go = Arc::<AtomicBool>::default();
        let let_go = Arc::clone(&is_let_go);
        let recorder = Recorder::scripted(move |_, _| {
            while !let_go.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            recorder,
            is_let_go,
        }
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        self.is_let_go.store(true, Ordering::Release);
    }
}

fn once(backend: &Recorder, limits: &str) -> Stage {
    let once = "http: {retry: {attempts: 0}}";
    let plan = Plan::default().cluster("web", &[backend.addr()], once);
    plan.listener(limits).start()
}

#[test]
fn an_upload_to_a_backend_that_stops_reading_is_504() {
    let deaf = Deaf::start();
    let stage = once(&deaf.recorder, LIMITS);
    let mut client = stage.connect();
    let head = put(LARGE, "Accept: application/json\r\n");
    client.write_all(head.as_bytes()).unwrap();
    push(&client);
    let answer = read_answer(&mut client);
    assert_eq!(status(&answer), 504, "{answer}");
    assert!(answer.contains("backend_timeout"), "{answer}");
    assert!(
        answer
            .to_ascii_lowercase()
            .contains("\r\nconnection: close\r\n")
    );
    // Its place is free again, and others are served.
    let active = "evergate_backend_connections_active";
    stage.evergate.wait_for_metric(active, &[], 0.0);
}

#[test]
fn an_upload_over_http_2_to_a_backend_that_stops_reading_is_504() {
    let deaf = Deaf::start();
    let stage = once(&deaf.recorder, LIMITS);
    let addr = stage.addr;
    runtime().block_on(async move {
        let mut ready = connect_two(addr).await.ready().await.unwrap();
        let request = Request::put("http://a.test/x").body(()).unwrap();
        let (response, mut send) = ready.send_request(request, false).unwrap();
        tokio::spawn(async move {
            for _ in 0..LARGE >> 14 {
                send.reserve_capacity(1 << 14);
                let free = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                let Some(Ok(free)) = free else { return };
                if send
                    .send_data(Bytes::from(vec![b'x'; free]), false)
                    .is_err()
                {
                    return;
                }
            }
        });
        let response = tokio::time::timeout(PATIENCE, response).await.unwrap();
        assert_eq!(response.unwrap().status(), 504);
    });
}

#[test]
fn an_upload_of_a_client_that_stops_sending_is_408() {
    let backend = Recorder::named("a");
    let stage = once(&backend, LIMITS);
    let mut one = stage.connect();
    one.write_all(put(10, "").as_bytes()).unwrap();
    one.write_all(b"half ").unwrap();
    assert_eq!(status(&read_answer(&mut one)), 408);
    let mut two = crate::frames::Client::new(&stage);
    two.send(&[open(1, &POST), data(1, b"half ")].concat());
    let answer = two.until(|frame| frame.kind == HEADERS);
    assert_eq!(answer.status(), Some(408));
}

/// Class 12: each byte begins `body_timeout` anew; only the route's `timeout` goes on.
#[test]
fn an_upload_that_drips_ends_with_the_timeout_of_its_route() {
    let backend = Recorder::named("a");
    let route = "routes: [{path: /x, cluster: web, timeout: 6s}]";
    let stage = once(&backend, &format!("http: {{body_timeout: 3s}}, {route}"));
    let chunked = put(LARGE, "").replace(
        &format!("Content-Length: {LARGE}"),
        "Transfer-Encoding: chunked",
    );
    let stage = &stage;
    thread::scope(|scope| {
        for (head, byte) in [(put(LARGE, ""), "x"), (chunked, "1\r\nx\r\n")] {
            scope.spawn(move || {
                let mut client = stage.connect();
                client.write_all(head.as_bytes()).unwrap();
                let mut drip = client.try_clone().unwrap();
                scope.spawn(move || {
                    let mut drops = 0..DROPS;
                    while drops.next().is_some() && drip.write_all(byte.as_bytes()).is_ok() {
                        thread::sleep(PAUSE);
                    }
                });
                let head = read_head(&mut client).to_ascii_lowercase();
                assert_eq!(status(&head), 504, "{head}");
                assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
                // The proxy closes: a reset is an end, too.
                if let Err(error) = client.read_to_end(&mut Vec::new()) {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                }
            });
        }
        scope.spawn(|| runtime().block_on(drip_over_http_2(stage.addr)));
    });
    // One connection is good, and kept.
    wait_until(PATIENCE, "the ends at the backend", || {
        backend.open_requests() == 1
    });
    assert!(!backend.text().contains("0\r\n\r\n"));
}

/// The connection stays.
async fn drip_over_http_2(addr: SocketAddr) {
    let mut ready = connect_two(addr).await.ready().await.unwrap();
    let put = Request::put("http://a.test/x").body(()).unwrap();
    let (response, mut send) = ready.send_request(put, false).unwrap();
    tokio::spawn(async move {
        for _ in 0..DROPS {
            if send.send_data(Bytes::from_static(b"x"), false).is_err() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    let response = tokio::time::timeout(PATIENCE, response).await.unwrap();
    assert_eq!(response.unwrap().status(), 504);
    let mut ready = ready.ready().await.unwrap();
    let get = Request::get("http://a.test/x").body(()).unwrap();
    let (response, _) = ready.send_request(get, true).unwrap();
    let response = tokio::time::timeout(PATIENCE, response).await.unwrap();
    assert_eq!(response.unwrap().status(), 200);
}

#[test]
fn a_backend_that_reads_slowly_gets_all_of_an_upload() {
    const TAKEN: usize = 24 << 20;
    let backend = Recorder::scripted(|_, connection: &mut Connection| {
        let mut left = TAKEN;
        while left > 0 {
            // Less than `body_timeout` between two pieces, and much more in all.
            thread::sleep(Duration::from_millis(250));
            let mut piece = vec![0; left.min(2 << 20)];
            if connection.read_exact(&mut piece).is_err() {
                return;
            }
            left -= piece.len();
        }
        connection.send(&ok("all"));
    });
    let stage = once(&backend, LIMITS);
    let mut client = stage.connect();
    client.write_all(put(TAKEN, "").as_bytes()).unwrap();
    let piece = vec![b'x'; 1 << 16];
    for _ in 0..TAKEN / piece.len() {
        client.write_all(&piece).unwrap();
    }
    assert!(read_answer(&mut client).ends_with("\r\n\r\nall"));
}

/// A backend that has heard enough answers and closes; what it has not read makes that a reset.
#[test]
fn an_early_refusal_of_a_backend_that_closes_reaches_its_client() {
    let backend = Recorder::scripted(|_, connection| {
        connection.send(
            b"HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig",
        );
    });
    let stage = once(&backend, "");
    for round in 0..20 {
        let mut client = stage.connect();
        client.write_all(put(LARGE, "").as_bytes()).unwrap();
        push(&client);
        let answer = read_answer(&mut client);
        assert_eq!(status(&answer), 413, "{round}: {answer}");
        assert!(answer.ends_with("\r\n\r\nbig"), "{round}: {answer}");
        let _ = client.shutdown(Shutdown::Both);
    }
    for round in 0..20 {
        let mut client = crate::frames::Client::new(&stage);
        let body = data(1, &[b'x'; 16 << 10]);
        client.send(&[open(1, &POST), body.repeat(4)].concat());
        let answer = client.until(|frame| frame.stream == 1 && frame.kind == HEADERS);
        // 413 has no index of its own; 502 would be our own answer.
        assert_eq!(answer.status(), Some(413), "{round}");
    }
}

#[test]
fn a_client_that_asks_first_is_told_what_the_backend_says() {
    let asked = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&asked);
    let backend = Recorder::scripted(move |head, connection| {
        counted.fetch_add(1, Ordering::AcqRel);
        match head.starts_with("PUT /refused ") {
            true => _ = connection.send(b"HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno"),
            false => {
                if connection.skip_body(&head).is_ok() {
                    connection.send(&ok("taken"));
                }
            }
        }
    });
    let stage = once(&backend, "http: {max_body: 1KiB}");
    // Over a limit of ours: nobody is asked to send.
    let mut client = stage.connect();
    let expect = "Expect: 100-continue\r\n";
    client.write_all(put(2000, expect).as_bytes()).unwrap();
    assert_eq!(status(&read_answer(&mut client)), 413);
    assert_eq!(asked.load(Ordering::Acquire), 0);

    let mut client = stage.connect();
    client.write_all(put(5, expect).as_bytes()).unwrap();
    assert_eq!(status(&read_head(&mut client)), 100);
    client.write_all(b"hello").unwrap();
    assert!(read_answer(&mut client).ends_with("\r\n\r\ntaken"));

    let mut client = stage.connect();
    let refused = put(5, expect).replace("/x", "/refused");
    client.write_all(refused.as_bytes()).unwrap();
    let mut answer = read_head(&mut client);
    if status(&answer) == 100 {
        answer = read_head(&mut client);
    }
    assert_eq!(status(&answer), 417, "{answer}");
}

#[test]
fn a_body_that_was_asked_for_goes_to_the_backend_that_is_there() {
    let (gone, good) = (Recorder::named("gone"), Recorder::named("good"));
    let mut relay = FaultRelay::to(gone.addr());
    let check = "health_check: {interval: 1h, timeout: 20s, path: /check, expect: [200-499]}";
    let cluster = format!("{check}, balance: {{policy: round_robin}}");
    let stage = stage(&[relay.addr(), good.addr()], &cluster, "");
    relay.refuse();
    for _ in 0..4 {
        let mut client = stage.connect();
        let head = put(5, "Expect: 100-continue\r\n");
        client.write_all(head.as_bytes()).unwrap();
        assert_eq!(status(&read_head(&mut client)), 100);
        client.write_all(b"hello").unwrap();
        assert!(read_answer(&mut client).ends_with("\r\n\r\ngood"));
    }
    let text = good.text();
    assert_eq!(text.matches("\r\n\r\nhello").count(), 4, "{text}");
    assert_eq!(text.matches("PUT /x ").count(), 4, "{text}");
}

/// What sends a body over HTTP/2 need not say how long it is; HTTP/1.1 needs chunks for it.
#[test]
fn a_body_without_a_length_changes_its_framing_and_nothing_else() {
    let backend = Recorder::named("a");
    let stage = once(&backend, "");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("body");
    let body: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&path, &body).unwrap();
    let url = format!("http://{}/x", stage.addr);
    let upload = |version: &str| {
        let pipe = format!(
            "cat {} | curl -sS {version} -T - -w '%{{http_version}} %{{http_code}}' {url}",
            path.display()
        );
        run(&["sh", "-c", &pipe])
    };
    for (version, told) in [
        ("--http2-prior-knowledge", "a2 200"),
        ("--http1.1", "a1.1 200"),
    ] {
        assert_eq!(upload(version), told);
        let seen = last_body(&backend.bytes().concat());
        assert!(seen == body, "{version}: {} bytes", seen.len());
    }
}

/// The body of the last request, its chunks put together.
fn last_body(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.windows(7).rposition(|it| it == b"PUT /x ").unwrap();
    let head = bytes[start..].windows(4).position(|it| it == b"\r\n\r\n");
    let mut rest = &bytes[start + head.unwrap() + 4..];
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|it| it == b"\r\n").unwrap();
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
        if size == 0 {
            return body;
        }
    }
}

/// The other way round: chunks and their trailers of HTTP/1.1 become frames.
#[test]
fn chunks_and_trailers_reach_a_backend_of_http_2_and_come_back() {
    let background = crate::world::Background::start();
    let addr = background.listen(echo_with_trailers);
    let check = "health_check: {kind: tcp, interval: 300ms}";
    let stage = stage(&[addr], &format!("{check}, http: {{version: 2}}"), "");
    let answer = stage.raw(
        b"POST /x HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE, close\r\n\
          Transfer-Encoding: chunked\r\nTrailer: X-Check\r\n\r\n\
          5\r\nhello\r\n6\r\n world\r\n0\r\nX-Check: 42\r\n\r\n",
    );
    assert_eq!(status(&answer), 200, "{answer}");
    let answer = answer.to_ascii_lowercase();
    assert!(
        answer.contains("hello") && answer.contains(" world"),
        "{answer}"
    );
    assert!(answer.contains("\r\n0\r\nx-check: 42\r\n\r\n"), "{answer}");
}

async fn echo_with_trailers(stream: tokio::net::TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            // HTTP/1.1 announces its trailers.
            let response = Response::builder().header("trailer", "x-check");
            let mut send = respond
                .send_response(response.body(()).unwrap(), false)
                .unwrap();
            let mut body = request.into_body();
            while let Some(Ok(piece)) = body.data().await {
                let _ = body.flow_control().release_capacity(piece.len());
                send.send_data(piece, false).unwrap();
            }
            let trailers = body.trailers().await.unwrap().unwrap_or_default();
            send.send_trailers(trailers).unwrap();
        });
    }
}

/// A stream lasts as long as something comes: `body_timeout` is not its length.
#[test]
fn a_stream_of_events_may_last() {
    let backend = Recorder::scripted(|_, connection| {
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..8 {
            thread::sleep(Duration::from_millis(300));
            if !connection.send(b"6\r\nevent\n\r\n") {
                return;
            }
        }
        connection.send(b"0\r\n\r\n");
    });
    let stage = once(&backend, LIMITS);
    let url = format!("http://{}/x", stage.addr);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let told = run(&["curl", "-sSN", "-m", "60", version, &url]);
        assert_eq!(told, "event\n".repeat(8), "{version}");
    }
    wait_until(PATIENCE, "the place is free", || {
        let active = "evergate_backend_connections_active";
        stage.evergate.metric(active, &[]) == Some(0.0)
    });
}

/// They have no body whatever their head says, and the next answer is not taken for one.
#[test]
fn answers_without_a_body_have_none_over_http_2() {
    let backend = Recorder::answering(|head| {
        let answer: &[u8] = match head.split(' ').nth(1).unwrap_or_default() {
            "/204" => b"HTTP/1.1 204 No Content\r\n\r\n",
            "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: \"x\"\r\n\r\n",
            "/head" => b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
            _ => return ok("body"),
        };
        answer.to_vec()
    });
    let stage = stage(&[backend.addr()], CHECK, "");
    let asked = [
        ("HEAD", "/head"),
        ("GET", "/204"),
        ("GET", "/304"),
        ("GET", "/x"),
    ];
    runtime().block_on(async {
        let sender = connect_two(stage.addr).await;
        for (method, path) in asked.repeat(3) {
            let mut ready = sender.clone().ready().await.unwrap();
            let request = Request::builder()
                .method(method)
                .uri(format!("http://a.test{path}"))
                .body(())
                .unwrap();
            let (response, _) = ready.send_request(request, true).unwrap();
            let response = tokio::time::timeout(PATIENCE, response).await.unwrap();
            let response = response.unwrap();
            let status: u16 = path[1..].parse().unwrap_or(200);
            assert_eq!(response.status().as_u16(), status, "{path}");
            let mut body = response.into_body();
            let mut bytes = Vec::new();
            while let Some(piece) = body.data().await {
                bytes.extend_from_slice(&piece.unwrap());
            }
            let wanted: &[u8] = if path == "/x" { b"body" } else { b"" };
            assert_eq!(bytes, wanted, "{path}");
        }
    });
}
