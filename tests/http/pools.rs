//! How long a connection to a backend is used: by requests, age and rest, counted where it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use h2::server;
use http::Response;
use tokio::net::TcpStream;

use crate::harness::Stage;
use crate::recorder::Recorder;
use crate::support::PATIENCE;
use crate::support::wait_until;
use crate::world::Background;
use crate::world::Client;
use crate::world::TCP_CHECK;
use crate::world::stage;

/// Knows which requests came over which connection.
enum Backend {
    One(Recorder),
    Two(Streams),
}

/// An h2c server on a thread of its own.
struct Streams {
    addr: SocketAddr,
    seen: Arc<Seen>,
    _background: Background,
}

#[derive(Default)]
struct Seen {
    /// The numbers of the requests of each connection.
    connections: Mutex<Vec<Vec<usize>>>,
    /// Connections with a request that still last.
    open: AtomicUsize,
}

impl Backend {
    /// One that speaks HTTP/1.1, and one that speaks HTTP/2.
    fn both() -> [Self; 2] {
        [Self::One(Recorder::named("")), Self::Two(Streams::start())]
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Self::One(recorder) => recorder.addr(),
            Self::Two(streams) => streams.addr,
        }
    }

    fn version(&self) -> u8 {
        match self {
            Self::One(_) => 1,
            Self::Two(_) => 2,
        }
    }

    /// The numbers of the requests of each connection that had one.
    fn connections(&self) -> Vec<Vec<usize>> {
        match self {
            Self::One(recorder) => recorder.bytes().iter().map(|it| numbers(it)).collect(),
            Self::Two(streams) => streams.seen.connections.lock().unwrap().clone(),
        }
    }

    /// Connections with a request that still last.
    fn open(&self) -> usize {
        match self {
            Self::One(recorder) => recorder.open_requests(),
            Self::Two(streams) => streams.seen.open.load(Ordering::Acquire),
        }
    }

    #[track_caller]
    fn stage(&self, pool: &str) -> Stage {
        let version = self.version();
        let keys = format!("{TCP_CHECK}, http: {{version: {version}, {pool}}}");
        stage(&[self.addr()], &keys, "")
    }
}

/// Of the requests in what came over a connection.
fn numbers(bytes: &[u8]) -> Vec<usize> {
    let text = String::from_utf8_lossy(bytes);
    let heads = text.lines().filter(|line| line.starts_with("GET "));
    heads
        .map(|head| number(head.split(' ').nth(1).unwrap()))
        .collect()
}

fn number(path: &str) -> usize {
    path.strip_prefix("/x/").unwrap().parse().unwrap()
}

impl Streams {
    fn start() -> Self {
        let background = Background::start();
        let seen = Arc::<Seen>::default();
        let shared = Arc::clone(&seen);
        let addr = background.listen(move |stream| serve(stream, Arc::clone(&shared)));
        Self {
            addr,
            seen,
            _background: background,
        }
    }
}

async fn serve(stream: TcpStream, seen: Arc<Seen>) {
    // Health checks connect and say nothing.
    let Ok(mut connection) = server::handshake(stream).await else {
        return;
    };
    let mut place = None;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let place = *place.get_or_insert_with(|| seen.enter());
        let number = number(request.uri().path());
        seen.connections.lock().unwrap()[place].push(number);
        let response = Response::builder().header("content-length", "0");
        let _ = respond.send_response(response.body(()).unwrap(), true);
    }
    if place.is_some() {
        seen.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Seen {
    /// A connection has its first request; returns its place.
    fn enter(&self) -> usize {
        self.open.fetch_add(1, Ordering::AcqRel);
        let mut connections = self.connections.lock().unwrap();
        connections.push(Vec::new());
        connections.len() - 1
    }
}

/// One client that asks one request after the other, and knows when.
struct Asking {
    client: Client,
    times: Vec<Times>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    sent: Instant,
    answered: Instant,
}

impl Asking {
    fn of(stage: &Stage) -> Self {
        Self {
            client: Client::connect(stage.addr).unwrap(),
            times: Vec::new(),
        }
    }

    #[track_caller]
    fn ask(&mut self) {
        let sent = Instant::now();
        let path = format!("/x/{}", self.times.len());
        assert_eq!(self.client.get(&path).unwrap().status, 200);
        let answered = Instant::now();
        self.times.push(Times { sent, answered });
    }

    /// Of the first and the last request of a connection.
    fn ends(&self, connection: &[usize]) -> (Times, Times) {
        let [first, .., last] = connection else {
            let only = self.times[connection[0]];
            return (only, only);
        };
        (self.times[*first], self.times[*last])
    }
}

#[test]
fn a_connection_that_has_had_max_requests_is_closed_and_another_one_opened() {
    for backend in Backend::both() {
        let stage = backend.stage("max_requests: 2");
        let mut asking = Asking::of(&stage);
        for _ in 0..10 {
            asking.ask();
        }
        let pairs: Vec<_> = (0..5).map(|pair| vec![2 * pair, 2 * pair + 1]).collect();
        assert_eq!(backend.connections(), pairs);
        // The last one of HTTP/2 stays until somebody wants it, or its time is over.
        wait_until(PATIENCE, "those that are used up are closed", || {
            backend.open() <= usize::from(backend.version() == 2)
        });
        let connections = "evergate_http_upstream_connections";
        let wait_for = |event: &str| {
            let name = format!("{connections}_{event}_total");
            stage.evergate.wait_for_metric(&name, &[], 5.0);
        };
        wait_for("opened");
        wait_for("reused");
    }
}

#[test]
fn a_connection_is_used_until_max_age_and_not_after_it() {
    const MAX_AGE: Duration = Duration::from_secs(1);
    for backend in Backend::both() {
        // It never rests for so long.
        let stage = backend.stage("max_age: 1s, idle_timeout: 1s");
        let mut asking = Asking::of(&stage);
        wait_until(PATIENCE, "a third connection", || {
            asking.ask();
            backend.connections().len() == 3
        });
        let connections = backend.connections();
        let ends: Vec<_> = connections.iter().map(|it| asking.ends(it)).collect();
        // It was opened while its first request waited for its answer.
        for (first, last) in &ends {
            let used = last.sent.saturating_duration_since(first.answered);
            assert!(used < MAX_AGE, "{used:?}");
        }
        for pair in ends.windows(2) {
            let (before, next) = (pair[0].0, pair[1].0);
            let lasted = next.answered - before.sent;
            assert!(lasted >= MAX_AGE, "{lasted:?}");
        }
    }
}

#[test]
fn a_connection_that_rests_for_idle_timeout_is_closed() {
    const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
    for backend in Backend::both() {
        let stage = backend.stage("idle_timeout: 1s");
        let mut asking = Asking::of(&stage);
        asking.ask();
        wait_until(PATIENCE, "it is closed", || backend.open() == 0);
        assert!(asking.times[0].sent.elapsed() >= IDLE_TIMEOUT);
        asking.ask();
        assert_eq!(backend.connections(), [[0], [1]]);
    }
}

#[test]
fn a_connection_that_does_not_rest_for_idle_timeout_is_kept() {
    const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
    for backend in Backend::both() {
        let stage = backend.stage("idle_timeout: 1s");
        let mut asking = Asking::of(&stage);
        asking.ask();
        let began = Instant::now();
        wait_until(PATIENCE, "it is older than it may rest", || {
            asking.ask();
            began.elapsed() > 2 * IDLE_TIMEOUT
        });
        // One more for each time that the machine stood still.
        for pair in backend.connections().windows(2) {
            let (_, last) = asking.ends(&pair[0]);
            let (first, _) = asking.ends(&pair[1]);
            let rested = first.answered - last.sent;
            assert!(rested >= IDLE_TIMEOUT, "{rested:?}");
        }
    }
}
