//! The API over real sockets, with a control plane that only remembers.

mod answers;
mod bounds;
mod permissions;

use super::*;
use crate::config::AdminConfig;
use crate::config::Secret;
use std::path::PathBuf;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(20);
const DRAIN: &str = "/api/v1/clusters/orders/backends/pg1%3A5432/drain";

struct Api {
    address: std::net::SocketAddr,
    socket: PathBuf,
    stage: SharedStage,
    commands: Arc<Mutex<Vec<String>>>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn sources(stage: &SharedStage, commands: &Arc<Mutex<Vec<String>>>) -> Sources {
    let changes = Arc::clone(commands);
    let reloads = Arc::clone(commands);
    let appointments = Arc::clone(commands);
    let config = EffectiveConfig::default();
    config.set(serde_json::json!({"version": 1}));
    Sources {
        table: SharedTable::default(),
        metrics: Arc::default(),
        stage: stage.clone(),
        config,
        sessions: Arc::new(|| Box::pin(async { (0..3).map(session).collect() })),
        set_admin_state: Arc::new(move |cluster, backend, state| {
            let line = format!("{cluster}/{backend} {}", state.as_str());
            let known = cluster == "orders";
            changes.lock().unwrap().push(line);
            Box::pin(async move {
                let unknown =
                    CommandError::Unknown("no cluster `x`; did you mean `orders`?".into());
                known.then_some(()).ok_or(unknown)
            })
        }),
        appoint: Arc::new(move |cluster, backend| {
            let line = format!("{cluster}/{backend} switchover");
            appointments.lock().unwrap().push(line);
            Box::pin(async move {
                let refused = CommandError::Refused("it is not healthy".into());
                (backend != "sick").then_some(()).ok_or(refused)
            })
        }),
        incidents: Arc::new(|_| Vec::new()),
        reload: Arc::new(move || {
            let mut seen = reloads.lock().unwrap();
            seen.push("reload".to_owned());
            let first = seen.iter().filter(|line| *line == "reload").count() == 1;
            Box::pin(async move {
                first
                    .then(|| "reloaded".to_owned())
                    .ok_or("evergate.yaml:3:1: unknown key".to_owned())
            })
        }),
    }
}

fn session(id: u64) -> SessionView {
    SessionView {
        id,
        listener: "front".into(),
        cluster: Some("orders".into()),
        backend: None,
        backend_id: None,
        client: ([192, 0, 2, 1], 4711).into(),
        phase: crate::cluster::Phase::Hold,
        age_seconds: 1.5,
        idle_seconds: 0.5,
        received_bytes: 1,
        sent_bytes: 2,
    }
}

fn start(token: Option<&str>) -> Api {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let bound = bind(&AdminConfig {
        bind: Some(([127, 0, 0, 1], 0).into()),
        socket: Some(socket.clone()),
        token: token.map(|token| Secret::new(token.to_owned())),
    })
    .unwrap();
    let address = bound.address().unwrap();
    let stage = SharedStage::default();
    let commands = Arc::default();
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(serve(bound, sources(&stage, &commands), async {
        let _ = stopped.await;
    }));
    Api {
        address,
        socket,
        stage,
        commands,
        stop,
        server,
        _dir: dir,
    }
}

impl Api {
    async fn tcp(&self, request: &str) -> String {
        exchange(TcpStream::connect(self.address).await.unwrap(), request).await
    }

    async fn unix(&self, request: &str) -> String {
        exchange(UnixStream::connect(&self.socket).await.unwrap(), request).await
    }

    async fn get(&self, path: &str) -> String {
        self.tcp(&head("GET", path, "")).await
    }

    fn commands(&self) -> Vec<String> {
        self.commands.lock().unwrap().clone()
    }
}

/// A whole request without a body; `headers` end with CRLF each.
fn head(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
}

async fn exchange(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    request: &str,
) -> String {
    let mut answer = Vec::new();
    // A refused body may be cut off while it is still being sent.
    let _ = stream.write_all(request.as_bytes()).await;
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(DEADLINE, read)
        .await
        .expect("no answer");
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> u16 {
    let code = answer.split(' ').nth(1).unwrap_or_default();
    code.parse()
        .unwrap_or_else(|_| panic!("no status in {answer:?}"))
}

fn body(answer: &str) -> serde_json::Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {answer}"))
}
