//! The API over real sockets, with a control plane that only remembers.

use super::*;
use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::Health;
use crate::cluster::Role;
use crate::config::AdminConfig;
use crate::config::CheckKind;
use crate::config::DatabaseCheck;
use crate::config::Secret;
use crate::routing::BackendEntry;
use crate::routing::BackendHandle;
use crate::routing::ClusterHandle;
use crate::routing::ClusterTable;
use crate::routing::ListenerEntry;
use crate::routing::ListenerHandle;
use crate::routing::RateLimiters;
use crate::routing::RoutingTable;
use crate::shutdown::Stage;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;
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

#[tokio::test]
async fn reading_is_open_and_changing_needs_the_token_or_the_unix_socket() {
    let get = [
        "/",
        "/healthz",
        "/metrics",
        "/api/v1/status",
        "/api/v1/clusters",
        "/api/v1/sessions",
        "/api/v1/incidents",
        "/api/v1/explain?session=1",
        "/api/v1/config",
    ];
    let verbs = ["drain", "ready", "maintenance", "switchover"];
    let mut changes: Vec<String> = verbs
        .map(|verb| format!("/api/v1/clusters/orders/backends/a/{verb}"))
        .into();
    changes.push("/api/v1/reload".to_owned());
    let presented = [
        (None, ""),
        (Some(false), "Authorization: Bearer wrong\r\n"),
        (Some(true), "Authorization: Bearer right\r\n"),
    ];
    for configured in [None, Some("right")] {
        for (right, headers) in presented {
            for path in get {
                let api = start(configured);
                let request = head("GET", path, headers);
                assert_eq!(status(&api.tcp(&request).await), 200, "{path}");
                assert_eq!(status(&api.unix(&request).await), 200, "{path}");
            }
            for path in &changes {
                let api = start(configured);
                let request = head("POST", path, headers);
                let expected = match (configured, right) {
                    (None, _) => 403,
                    (Some(_), Some(true)) => 200,
                    (Some(_), _) => 401,
                };
                let answer = api.tcp(&request).await;
                assert_eq!(status(&answer), expected, "{path} {configured:?} {headers}");
                assert_eq!(api.commands().len(), usize::from(expected == 200));
                let api = start(configured);
                assert_eq!(status(&api.unix(&request).await), 200, "{path}");
                assert_eq!(api.commands().len(), 1);
            }
        }
    }
}

#[tokio::test]
async fn a_change_without_a_token_says_what_to_do() {
    let api = start(None);
    let answer = api
        .tcp(&head("POST", DRAIN, "X-Forwarded-For: 127.0.0.1\r\n"))
        .await;
    assert_eq!(status(&answer), 403);
    let error = body(&answer)["error"].to_string();
    assert!(
        error.contains("admin.token") && error.contains("admin.socket"),
        "{error}"
    );
}

#[tokio::test]
async fn a_foreign_host_or_origin_is_refused() {
    let api = start(Some("right"));
    for request in [
        "GET /api/v1/sessions HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ] {
        assert_eq!(status(&api.tcp(request).await), 403, "{request}");
    }
    let without = "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&api.tcp(without).await), 400);
    assert_eq!(status(&api.tcp("GET /healthz HTTP/1.0\r\n\r\n").await), 200);
    for (origin, expected) in [
        ("http://evil.example", 403),
        ("null", 403),
        ("http://localhost", 200),
    ] {
        let headers = format!("Origin: {origin}\r\nAuthorization: Bearer right\r\n");
        let answer = api.tcp(&head("POST", DRAIN, &headers)).await;
        assert_eq!(status(&answer), expected, "{origin}");
    }
    assert_eq!(api.commands(), ["orders/pg1:5432 drain"]);
}

#[tokio::test]
async fn a_huge_body_is_refused_and_changes_nothing() {
    let api = start(None);
    let announced = format!("Content-Length: {}\r\n", 65 * 1024);
    let request = head("POST", "/api/v1/reload", &announced) + &"x".repeat(65 * 1024);
    assert_eq!(status(&api.unix(&request).await), 413);
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", 65 * 1024, "x".repeat(65 * 1024));
    let request = head("POST", "/api/v1/reload", "Transfer-Encoding: chunked\r\n") + &chunk;
    assert_eq!(status(&api.unix(&request).await), 413);
    assert!(api.commands().is_empty());
}

#[tokio::test]
async fn slow_clients_are_closed_and_cannot_lock_out_the_unix_socket() {
    let api = start(None);
    let mut slow = Vec::new();
    for _ in 0..80 {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let _ = stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: local")
            .await;
        slow.push(stream);
    }
    let answer = api.unix(&head("GET", "/healthz", "")).await;
    assert_eq!(status(&answer), 200);
    for mut stream in slow {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert!(
            closed.is_ok(),
            "a client that never ends its header was kept"
        );
    }
    assert_eq!(status(&api.get("/healthz").await), 200);
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let api = start(None);
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "an idle connection was kept");
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn readiness_follows_the_stage() {
    let api = start(None);
    for (stage, reason) in [
        (Stage::Starting, "starting"),
        (Stage::Serving, "no listener has an eligible backend"),
        (Stage::Draining, "draining"),
    ] {
        api.stage.set(stage);
        let answer = api.get("/readyz").await;
        assert_eq!(status(&answer), 503);
        assert_eq!(body(&answer)["error"], reason);
        let overview = body(&api.get("/api/v1/status").await);
        assert_eq!(overview["stage"], stage.as_str());
        assert_eq!(overview["ready"], false);
    }
    assert_eq!(status(&api.get("/healthz").await), 200);
}

#[tokio::test]
async fn a_backend_shows_in_status_metrics_and_readiness() {
    let table = SharedTable::default();
    table.publish(table_with_one_backend());
    let stage = SharedStage::default();
    stage.set(Stage::Serving);
    let mut sources = sources(&stage, &Arc::default());
    sources.table = table;
    let sources = Arc::new(sources);
    let get = async |path: &str| {
        let request = hyper::Request::get(path).body(String::new()).unwrap();
        let answer = answer::answer(request, access::Door::Unix, None, &sources).await;
        let (head, body) = answer.into_parts();
        let body = http_body_util::BodyExt::collect(body).await.unwrap();
        let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        (head.status.as_u16(), text)
    };
    assert_eq!(get("/readyz").await, (200, "ready\n".to_owned()));
    let (_, status) = get("/api/v1/status").await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["ready"], true);
    let backend = &status["clusters"][0]["backends"][0];
    assert_eq!(backend["name"], "pg1");
    assert_eq!(backend["health"], "up");
    assert_eq!(backend["cause"], "check_passed");
    assert_eq!(backend["role"], "unknown");
    assert!(backend["lag_bytes"].is_null());
    let (_, metrics) = get("/metrics").await;
    for sample in [
        "evergate_backend_up{cluster=\"orders\",backend=\"pg1\"} 1\n",
        "evergate_backend_admin_state{cluster=\"orders\",backend=\"pg1\",state=\"drain\"} 0\n",
        "evergate_listener_connections_active{listener=\"front\"} 0\n",
        "evergate_cluster_headroom_backends{cluster=\"orders\"} 0\n",
    ] {
        assert!(metrics.contains(sample), "{sample}{metrics}");
    }
}

#[tokio::test]
async fn roles_and_lag_show_where_the_health_check_tells_them() {
    let mut table = table_with_one_backend();
    let plain = samples(&table);
    let told = change_cluster(&mut table, |cluster| {
        let mut config = (*cluster.config).clone();
        config.health_check.kind = CheckKind::Redis(DatabaseCheck {
            user: None,
            password: None,
            database: None,
        });
        cluster.config = Arc::new(config);
        cluster.is_split_brain = true;
        cluster.backends[0].role = Role::Replica;
        let lag = cluster.backends[0].handle.lag();
        lag.set(Some(Duration::from_millis(1500)), Some(42));
    });
    let backend = &told[0]["backends"][0];
    assert_eq!(
        (&backend["role"], &backend["lag_bytes"]),
        (&"replica".into(), &42.into())
    );
    assert_eq!(backend["lag_seconds"], 1.5);
    assert_eq!(
        (&told[0]["primary"], &told[0]["split_brain"]),
        (&serde_json::Value::Null, &true.into())
    );
    let told = samples(&table);
    for sample in [
        "evergate_backend_role{cluster=\"orders\",backend=\"pg1\",role=\"replica\"} 1\n",
        "evergate_backend_role{cluster=\"orders\",backend=\"pg1\",role=\"primary\"} 0\n",
        "evergate_backend_replication_lag_seconds{cluster=\"orders\",backend=\"pg1\"} 1.5\n",
        "evergate_backend_replication_lag_bytes{cluster=\"orders\",backend=\"pg1\"} 42\n",
        "evergate_cluster_has_primary{cluster=\"orders\"} 0\n",
        "evergate_cluster_split_brain{cluster=\"orders\"} 1\n",
    ] {
        assert!(told.contains(sample), "{sample}{told}");
        let name = sample.split('{').next().unwrap();
        assert!(!plain.contains(&format!("{name}{{")), "{name}");
    }
}

/// Changes cluster `orders` and returns what the API shows then.
fn change_cluster(
    table: &mut RoutingTable,
    change: impl FnOnce(&mut ClusterTable),
) -> serde_json::Value {
    let cluster = table.clusters.get_mut("orders").unwrap();
    change(Arc::get_mut(cluster).unwrap());
    view::clusters(table, Instant::now())
}

fn samples(table: &RoutingTable) -> String {
    crate::metrics::Metrics::default().render(|scrape| scrape::publish(table, scrape))
}

/// Cluster `orders` with the backend `pg1`, which is up, behind the listener `front`.
fn table_with_one_backend() -> RoutingTable {
    table_with("protocol: tcp")
}

/// `cluster` is one more line of the cluster.
fn table_with(cluster: &str) -> RoutingTable {
    let text = format!(
        "version: 1\nclusters:\n  orders:\n    {cluster}\n    backends:\n      \
         - {{address: \"127.0.0.1:5432\", name: pg1}}\nlisteners:\n  \
         front: {{bind: \"127.0.0.1:5433\", cluster: orders}}\n"
    );
    let config = crate::config::load_text(std::path::Path::new("test.yaml"), &text)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .config;
    let cluster = Arc::new(config.clusters[0].clone());
    let name = crate::cluster::Name::from("orders");
    let backend = BackendEntry {
        config: cluster.backends[0].clone(),
        handle: Arc::new(BackendHandle::new(BackendId(1), name.clone(), "pg1".into())),
        address: Some(([127, 0, 0, 1], 5432).into()),
        health: Health::Up,
        admin: AdminState::Ready,
        cause: Cause::CheckPassed,
        role: Role::Unknown,
        role_cause: Cause::Started,
        over: Vec::new(),
        since: Instant::now(),
        since_epoch: 1.0,
        warming_since: None,
        ejected: None,
    };
    let handle = Arc::new(ClusterHandle::new(name.clone()));
    let cluster = ClusterTable::new(cluster, handle, vec![backend], None, None, &[]);
    let handle = Arc::new(ListenerHandle::new("front".into()));
    let listener = ListenerEntry::new(
        config.listeners[0].clone(),
        handle,
        None,
        RateLimiters::default(),
    );
    RoutingTable {
        clusters: [(name, Arc::new(cluster))].into(),
        listeners: [("front".into(), Arc::new(listener))].into(),
        ..RoutingTable::default()
    }
}

#[tokio::test]
async fn errors_are_json_with_the_right_status() {
    let api = start(None);
    let answer = api.get("/nothing").await;
    assert_eq!(status(&answer), 404);
    assert!(body(&answer)["error"].is_string());
    let answer = api.get("/api/v1/reload").await;
    assert_eq!(status(&answer), 405);
    assert!(answer.contains("allow: POST\r\n"), "{answer}");
    let unknown = DRAIN.replace("orders", "x");
    let answer = api.unix(&head("POST", &unknown, "")).await;
    assert_eq!(status(&answer), 404);
    assert!(body(&answer)["error"].to_string().contains("did you mean"));
}

#[tokio::test]
async fn a_switchover_that_cannot_be_is_a_conflict() {
    let api = start(None);
    let path = "/api/v1/clusters/orders/backends/pg1%3A5432/switchover";
    assert_eq!(status(&api.unix(&head("POST", path, "")).await), 200);
    assert_eq!(api.commands(), ["orders/pg1:5432 switchover"]);
    let path = "/api/v1/clusters/orders/backends/sick/switchover";
    let answer = api.unix(&head("POST", path, "")).await;
    assert_eq!(status(&answer), 409);
    assert_eq!(body(&answer)["error"], "it is not healthy");
    assert_eq!(status(&api.get(path).await), 405);
}

#[tokio::test]
async fn what_cannot_be_explained_says_why() {
    let api = start(None);
    for (query, expected, part) in [
        ("", 400, "needs a listener or a session"),
        ("?listener=", 400, "needs a listener or a session"),
        ("?session=x", 400, "must be a number"),
        ("?session=4711", 404, "no session 4711"),
        ("?listener=front", 404, "no listener"),
        ("?listener=front&source=db", 400, "must be an IP address"),
        ("?listener=%zz", 400, "percent-encoding"),
    ] {
        let answer = api.get(&format!("/api/v1/explain{query}")).await;
        assert_eq!(status(&answer), expected, "{query}");
        let error = body(&answer)["error"].to_string();
        assert!(error.contains(part), "{query}: {error}");
    }
    let answer = body(&api.get("/api/v1/explain?session=2").await);
    assert_eq!(answer["session"]["phase"], "hold");
    assert_eq!(answer["session"]["fate"], serde_json::Value::Null);
}

#[test]
fn a_client_s_way_is_explained() {
    let table = table_with_one_backend();
    let now = Instant::now();
    let mut client = explain::Client {
        listener: "front".to_owned(),
        ..Default::default()
    };
    let told = explain::client(&table, &client, now).unwrap();
    assert_eq!(told["outcome"]["action"], "pick");
    assert_eq!(told["outcome"]["text"], "the client goes to pg1");
    assert_eq!(told["backends"][0]["standing"], "picked");
    assert_eq!(told["source_assumed"], true);
    assert_eq!(told["route"]["text"], "the listener's cluster");
    assert_eq!(told["intent"]["role"], "any");
    assert_eq!(told["hash"], serde_json::Value::Null);
    client.listener = "fron".to_owned();
    let error = explain::client(&table, &client, now).unwrap_err();
    assert_eq!(error, "no listener \"fron\"; did you mean \"front\"?");
}

#[test]
fn a_client_s_hashed_startup_parameter_is_explained() {
    let balance =
        "protocol: postgres\n    balance: {policy: consistent_hash, hash: {key: 'startup:app'}}";
    let table = table_with(balance);
    let told = |startup: &str| {
        let client = explain::Client {
            listener: "front".to_owned(),
            startup: explain::parse_startup(startup),
            ..Default::default()
        };
        explain::client(&table, &client, Instant::now()).unwrap()["hash"].clone()
    };
    let hash = told("app=reports=eu");
    assert_eq!(
        (&hash["source"], &hash["value"]),
        (&"startup_parameter".into(), &"reports=eu".into())
    );
    for other in ["other=reports", "=reports", "app", ""] {
        assert_eq!(told(other)["source"], "client_ip", "{other}");
    }
}

#[tokio::test]
async fn incidents_are_limited() {
    let api = start(None);
    let answer = body(&api.get("/api/v1/incidents").await);
    assert_eq!(answer["incidents"], serde_json::json!([]));
    for wrong in ["0", "257", "x", ""] {
        let answer = api.get(&format!("/api/v1/incidents?limit={wrong}")).await;
        assert_eq!(status(&answer), 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_rejected_reload_shows_the_full_error() {
    let api = start(None);
    let reload = head("POST", "/api/v1/reload", "");
    assert_eq!(status(&api.unix(&reload).await), 200);
    let answer = api.unix(&reload).await;
    assert_eq!(status(&answer), 422);
    assert_eq!(body(&answer)["error"], "evergate.yaml:3:1: unknown key");
}

#[tokio::test]
async fn sessions_are_limited_and_say_so() {
    let api = start(None);
    let answer = body(&api.get("/api/v1/sessions?limit=2").await);
    assert_eq!(answer["total"], 3);
    assert_eq!(answer["truncated"], true);
    assert_eq!(answer["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(answer["sessions"][0]["phase"], "hold");
}

#[tokio::test]
async fn the_unix_socket_is_private_and_goes_away_at_the_end() {
    let api = start(None);
    let mode = std::fs::metadata(&api.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    api.stop.send(()).unwrap();
    tokio::time::timeout(DEADLINE, api.server)
        .await
        .unwrap()
        .unwrap();
    assert!(!api.socket.exists());
    assert!(TcpStream::connect(api.address).await.is_err());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_but_a_served_one_or_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let config = AdminConfig {
        bind: None,
        socket: Some(path.clone()),
        token: None,
    };
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let served = bind(&config).expect("a stale socket is in the way of nobody");
    let error = bind(&config).expect_err("the socket is in use");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
    drop(served);
    std::fs::write(&path, "precious").unwrap();
    let error = bind(&config).expect_err("a file is in the way");
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn hostile_requests_do_not_add_series() {
    let api = start(None);
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    let before = series(&api.get("/metrics").await);
    for number in 0..50 {
        api.get(&format!("/{number}")).await;
        api.unix(&head(
            "POST",
            &format!("/api/v1/clusters/{number}/backends/b/drain"),
            "",
        ))
        .await;
    }
    assert_eq!(series(&api.get("/metrics").await), before);
}

/// The nice values of this process's threads of one name.
fn nice_of(thread: &str) -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.filter_map(|task| {
        let path = task.unwrap().path();
        // It may have ended since.
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        (name.trim() == thread).then(|| std::fs::read_to_string(path.join("stat")))
    });
    stats
        .filter_map(|stat| {
            let stat = stat.ok()?;
            let (_, fields) = stat.rsplit_once(") ")?;
            // The 19th of proc_pid_stat(5); the third comes first here.
            fields.split(' ').nth(16)?.parse().ok()
        })
        .collect()
}

#[tokio::test]
async fn the_api_has_a_thread_that_lets_workers_go_first() {
    let own = rustix::process::getpriority_process(None).unwrap();
    let bound = bind(&AdminConfig {
        bind: Some(([127, 0, 0, 1], 0).into()),
        socket: None,
        token: None,
    })
    .unwrap();
    let address = bound.address().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let sources = sources(&SharedStage::default(), &Arc::default());
    let thread = IdleThread::start().unwrap();
    let running = thread.serve(bound, sources, async {
        let _ = stopped.await;
    });
    let client = TcpStream::connect(address).await.unwrap();
    let answer = exchange(client, "GET /healthz HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains("alive"), "{answer}");
    assert_eq!(nice_of("evergate-admin"), [thread::NICE]);
    assert_eq!(rustix::process::getpriority_process(None).unwrap(), own);
    drop(stop);
    running.ended().await;
    assert!(TcpStream::connect(address).await.is_err());
}
