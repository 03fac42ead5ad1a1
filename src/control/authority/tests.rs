//! Polls of small servers that answer, lie, dawdle or hang.

use super::*;
use crate::config::BackendTlsConfig;
use crate::config::CertificatePair;
use crate::config::Host;
use crate::config::ListenerTlsConfig;
use crate::config::Secret;
use crate::config::TlsVersion;
use crate::config::VerifyMode;
use crate::control::fixtures::backend;
use crate::tls::TlsAcceptor;
use crate::tls::TlsConnector;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::Mutex;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// Generous for what has to succeed on a busy machine.
const PATIENT: Duration = Duration::from_secs(10);
/// Short for what has to run into its deadline.
const HASTY: Duration = Duration::from_millis(200);

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server that treats every connection alike; ends when dropped.
struct Server {
    port: NonZeroU16,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<F>(treat: impl Fn(TcpStream) -> F + Send + 'static) -> Server
where
    F: Future<Output = io::Result<()>> + Send,
{
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A poll that has gone is no failure of the server.
            let _ = treat(stream).await;
        }
    });
    Server {
        port,
        task: task.abort_handle(),
    }
}

/// Reads what is asked, answers, closes.
async fn answers(answer: impl Into<Vec<u8>>) -> Server {
    let answer: Arc<[u8]> = answer.into().into();
    serve(move |mut stream: TcpStream| {
        let answer = Arc::clone(&answer);
        async move {
            let _ = stream.read(&mut [0; 4096]).await?;
            stream.write_all(&answer).await?;
            stream.shutdown().await?;
            stream.read(&mut [0; 1]).await.map(drop)
        }
    })
    .await
}

async fn hangs() -> Server {
    serve(async |_stream: TcpStream| std::future::pending().await).await
}

/// The same bytes again and again, for as long as somebody reads them.
async fn floods(head: &'static str, part: Vec<u8>) -> Server {
    let part: Arc<[u8]> = part.into();
    serve(move |mut stream: TcpStream| {
        let part = Arc::clone(&part);
        async move {
            let _ = stream.read(&mut [0; 4096]).await?;
            stream.write_all(head.as_bytes()).await?;
            loop {
                stream.write_all(&part).await?;
            }
        }
    })
    .await
}

async fn dribbles(head: &'static str) -> Server {
    serve(move |mut stream: TcpStream| async move {
        stream.write_all(head.as_bytes()).await?;
        loop {
            stream.write_all(b" ").await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

async fn refuses() -> Server {
    let server = hangs().await;
    server.task.abort();
    // Until the listener is gone.
    while TcpStream::connect((LOCALHOST, server.port.get()))
        .await
        .is_ok()
    {
        tokio::task::yield_now().await;
    }
    server
}

fn http(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}")
        .replace("\r\n\r\n", &format!("\r\nContent-Length: {length}\r\n\r\n"))
}

fn members(leader: &str, timeline: u32) -> String {
    format!(
        r#"{{"members": [{{"name": "x", "role": "replica", "host": "other", "port": 5432}},
        {{"name": "y", "role": "leader", "host": "{leader}", "port": 5432, "timeline": {timeline}}}]}}"#
    )
}

async fn patroni(leader: &str, timeline: u32) -> Server {
    answers(http(&members(leader, timeline))).await
}

fn node(server: &Server) -> patroni::Node {
    patroni::Node {
        backend: backend("db1"),
        address: Some(LOCALHOST),
        port: server.port,
        source: Arc::default(),
        tls: None,
    }
}

async fn poll(nodes: Vec<patroni::Node>, patience: Duration) -> Result<Authority, Silence> {
    let floor = None;
    let deadline = Instant::now() + patience;
    ask(Question::Patroni { nodes, floor }, deadline).await
}

fn leader(host: &str, timeline: Option<u32>) -> Result<Authority, Silence> {
    Ok(Authority::Leader {
        host: host.to_owned(),
        port: 5432,
        timeline,
    })
}

/// Everything that a node may do wrong, and what it is called.
async fn evil_nodes() -> Vec<(&'static str, Server, Cause)> {
    const OK: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let unavailable = "HTTP/1.0 503 Service Unavailable\r\n\r\n".to_owned() + &members("x", 99);
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let announced = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{\"members\": [";
    let header = "HTTP/1.1 200 OK\r\nX: ";
    vec![
        ("refuses", refuses().await, Cause::ConnectRefused),
        ("closes", answers("").await, Cause::EarlyClose),
        (
            "garbage",
            answers("garbage\n").await,
            Cause::UnexpectedAnswer,
        ),
        ("500", answers(unavailable).await, Cause::UnexpectedAnswer),
        (
            "no JSON",
            answers(http("oops")).await,
            Cause::UnexpectedAnswer,
        ),
        (
            "nobody",
            answers(http(r#"{"members": []}"#)).await,
            Cause::UnexpectedAnswer,
        ),
        ("cut off", answers(announced).await, Cause::UnexpectedAnswer),
        (
            "endless body",
            floods(OK, chunk.into()).await,
            Cause::UnexpectedAnswer,
        ),
        (
            "endless header",
            floods(header, vec![b'x'; 65536]).await,
            Cause::UnexpectedAnswer,
        ),
        ("hangs", hangs().await, Cause::CheckTimeout),
        (
            "dribbles",
            dribbles("HTTP/1.1 200 OK\r\nX:").await,
            Cause::CheckTimeout,
        ),
    ]
}

#[tokio::test]
async fn the_leader_that_all_nodes_name_is_told() {
    let [one, two, three] = [
        patroni("db2", 3).await,
        patroni("db2", 3).await,
        patroni("db2", 3).await,
    ];
    let nodes = [&one, &two, &three].map(node).into();
    assert_eq!(poll(nodes, PATIENT).await, leader("db2", Some(3)));
}

#[tokio::test]
async fn one_evil_node_changes_and_delays_nothing() {
    let good = [patroni("db2", 3).await, patroni("db2", 3).await];
    let liar = patroni("elsewhere", 4_000_000_000).await;
    let mut evil = evil_nodes().await;
    evil.push(("lies", liar, Cause::CheckPassed));
    for (name, server, _) in &evil {
        let nodes = [&good[0], server, &good[1]].map(node).into();
        let started = Instant::now();
        assert_eq!(poll(nodes, PATIENT).await, leader("db2", Some(3)), "{name}");
        assert!(started.elapsed() < PATIENT / 2, "{name}");
    }
}

#[tokio::test]
async fn the_only_node_that_answers_is_waited_for_and_then_believed() {
    let good = patroni("db2", 3).await;
    for (name, server, _) in evil_nodes().await {
        let started = Instant::now();
        let nodes = [&server, &good].map(node).into();
        assert_eq!(poll(nodes, PATIENT).await, leader("db2", Some(3)), "{name}");
        assert!(started.elapsed() < PATIENT / 2, "{name}");
    }
}

#[tokio::test]
async fn evil_nodes_alone_are_silence() {
    for (name, server, cause) in evil_nodes().await {
        let patience = match cause {
            Cause::CheckTimeout => HASTY,
            _ => PATIENT,
        };
        let silence = Err(Silence::Unanswered(cause));
        assert_eq!(poll(vec![node(&server)], patience).await, silence, "{name}");
    }
}

#[tokio::test]
async fn a_node_without_an_address_is_not_waited_for() {
    let good = patroni("db2", 3).await;
    let mut lost = node(&good);
    lost.address = None;
    let silence = Err(Silence::Unanswered(Cause::Unresolved));
    assert_eq!(poll(vec![lost.clone()], PATIENT).await, silence);
    let nodes = vec![lost, node(&good)];
    assert_eq!(poll(nodes, PATIENT).await, leader("db2", Some(3)));
}

/// A frozen node that thaws must not bring back the past.
#[tokio::test]
async fn an_old_leader_is_not_believed_of_a_minority() {
    let thawed = patroni("db1", 1).await;
    let frozen = hangs().await;
    let nodes = [&thawed, &frozen].map(node).into();
    let floor = Some(2);
    let question = Question::Patroni { nodes, floor };
    let answer = ask(question, Instant::now() + PATIENT).await;
    assert_eq!(answer, Err(Silence::Outdated));
}

#[tokio::test]
async fn the_request_is_one_that_patroni_understands() {
    let seen = Arc::new(Mutex::new(String::new()));
    let sees = Arc::clone(&seen);
    let server = serve(move |mut stream: TcpStream| {
        let sees = Arc::clone(&sees);
        async move {
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).await?;
            *sees.lock().unwrap() = String::from_utf8_lossy(&request[..count]).into_owned();
            stream.write_all(http(&members("db1", 1)).as_bytes()).await
        }
    })
    .await;
    assert_eq!(
        poll(vec![node(&server)], PATIENT).await,
        leader("db1", Some(1))
    );
    let port = server.port;
    let seen = seen.lock().unwrap();
    assert!(seen.starts_with("GET /cluster HTTP/1.1\r\n"), "{seen}");
    assert!(
        seen.contains(&format!("host: 10.0.0.1:{port}\r\n")),
        "{seen}"
    );
}

#[tokio::test]
async fn patroni_is_asked_over_tls() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (directory.path().join("cert"), directory.path().join("key"));
    std::fs::write(&cert_file, made.cert.pem()).unwrap();
    std::fs::write(&key_file, made.signing_key.serialize_pem()).unwrap();
    let acceptor = TlsAcceptor::load(&ListenerTlsConfig {
        certificates: vec![CertificatePair {
            cert_file: cert_file.clone(),
            key_file,
        }],
        client_ca_file: None,
        optional: false,
        min_version: TlsVersion::V1_2,
        alpn: Vec::new(),
    })
    .unwrap();
    let server = serve(move |stream: TcpStream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            let _ = stream.read(&mut [0; 4096]).await?;
            stream
                .write_all(http(&members("db1", 1)).as_bytes())
                .await?;
            stream.shutdown().await
        }
    })
    .await;
    let connector = |ca_file| {
        TlsConnector::load(&BackendTlsConfig {
            mode: VerifyMode::VerifyFull,
            ca_file,
            client_pair: None,
            server_name: None,
            alpn: Vec::new(),
        })
        .unwrap()
    };
    let mut node = node(&server);
    node.backend.host = Host::Ip(LOCALHOST);
    node.tls = Some(connector(Some(cert_file)));
    assert_eq!(
        poll(vec![node.clone()], PATIENT).await,
        leader("db1", Some(1))
    );
    node.tls = Some(connector(None));
    let silence = Err(Silence::Unanswered(Cause::TlsFailed));
    assert_eq!(poll(vec![node], PATIENT).await, silence);
}

fn sentinel(server: &Server) -> sentinel::Node {
    sentinel::Node {
        address: Some(LOCALHOST),
        port: server.port,
        source: Arc::default(),
        service: "mymaster".into(),
        user: None,
        password: None,
    }
}

async fn ask_sentinels(
    nodes: impl IntoIterator<Item = sentinel::Node>,
    patience: Duration,
) -> Result<Authority, Silence> {
    let question = Question::Sentinel(nodes.into_iter().collect());
    ask(question, Instant::now() + patience).await
}

fn names(host: &str) -> String {
    format!("*2\r\n${}\r\n{host}\r\n$4\r\n5432\r\n", host.len())
}

async fn evil_sentinels() -> Vec<(&'static str, Server, Cause)> {
    vec![
        ("refuses", refuses().await, Cause::ConnectRefused),
        ("closes", answers("").await, Cause::EarlyClose),
        ("hangs", hangs().await, Cause::CheckTimeout),
        ("dribbles", dribbles("+").await, Cause::CheckTimeout),
        (
            "endless",
            floods("+", vec![b'x'; 65536]).await,
            Cause::UnexpectedAnswer,
        ),
        (
            "unknown service",
            answers("*-1\r\n").await,
            Cause::UnexpectedAnswer,
        ),
        (
            "wants a login",
            answers("-NOAUTH Authentication required.\r\n").await,
            Cause::LoginFailed,
        ),
        (
            "no Sentinel",
            answers("-ERR unknown command\r\n").await,
            Cause::UnexpectedAnswer,
        ),
        (
            "garbage",
            answers("HTTP/1.1 400 Bad Request\r\n\r\n").await,
            Cause::UnexpectedAnswer,
        ),
        (
            "announces much",
            answers("*2\r\n$999999999\r\n").await,
            Cause::UnexpectedAnswer,
        ),
        (
            "three",
            answers("*3\r\n+a\r\n+1\r\n+b\r\n").await,
            Cause::UnexpectedAnswer,
        ),
        (
            "no port",
            answers("*2\r\n+a\r\n+99999\r\n").await,
            Cause::UnexpectedAnswer,
        ),
        (
            "says more",
            answers(names("a") + "+x\r\n").await,
            Cause::UnexpectedAnswer,
        ),
    ]
}

#[tokio::test]
async fn a_majority_of_sentinels_names_the_primary() {
    let good = [answers(names("r2")).await, answers(names("r2")).await];
    let liar = answers(names("r9")).await;
    let mut evil = evil_sentinels().await;
    evil.push(("lies", liar, Cause::CheckPassed));
    for (name, server, _) in &evil {
        let nodes = [server, &good[0], &good[1]].map(sentinel);
        let started = Instant::now();
        assert_eq!(
            ask_sentinels(nodes, PATIENT).await,
            leader("r2", None),
            "{name}"
        );
        assert!(started.elapsed() < PATIENT / 2, "{name}");
    }
}

#[tokio::test]
async fn a_minority_of_sentinels_is_silence() {
    let good = answers(names("r2")).await;
    for (name, server, cause) in evil_sentinels().await {
        let hanging = cause == Cause::CheckTimeout;
        let patience = if hanging { HASTY } else { PATIENT };
        let few = Err(Silence::TooFew {
            answers: 1,
            asked: 2,
        });
        let nodes = [&server, &good].map(sentinel);
        assert_eq!(ask_sentinels(nodes, patience).await, few, "{name}");
        let alone = Err(Silence::Unanswered(cause));
        let nodes = [sentinel(&server)];
        assert_eq!(ask_sentinels(nodes, patience).await, alone, "{name}");
    }
}

#[tokio::test]
async fn sentinels_that_disagree_are_silence() {
    let [one, two] = [answers(names("r1")).await, answers(names("r2")).await];
    let nodes = [&one, &two].map(sentinel);
    let silence = Err(Silence::Disagreement);
    assert_eq!(ask_sentinels(nodes, PATIENT).await, silence);
}

/// Lets in whoever shows this login.
async fn guarded(login: &'static str) -> Server {
    serve(move |mut stream: TcpStream| async move {
        let mut request = vec![0; 4096];
        let count = stream.read(&mut request).await?;
        if &request[..count] != login.as_bytes() {
            stream
                .write_all(b"-WRONGPASS invalid username-password pair\r\n")
                .await?;
            return stream.shutdown().await;
        }
        stream.write_all(b"+OK\r\n").await?;
        let count = stream.read(&mut request).await?;
        assert_eq!(
            &request[..count],
            b"*3\r\n$8\r\nSENTINEL\r\n$23\r\nget-master-addr-by-name\r\n$8\r\nmymaster\r\n"
        );
        stream.write_all(names("r1").as_bytes()).await?;
        stream.shutdown().await
    })
    .await
}

#[tokio::test]
async fn sentinels_are_logged_in_to() {
    let server = guarded("*3\r\n$4\r\nAUTH\r\n$3\r\napp\r\n$6\r\nsesame\r\n").await;
    let mut node = sentinel(&server);
    node.user = Some("app".to_owned());
    node.password = Some(Secret::new("sesame".to_owned()));
    assert_eq!(
        ask_sentinels([node.clone()], PATIENT).await,
        leader("r1", None)
    );
    node.password = Some(Secret::new("wrong".to_owned()));
    let silence = Err(Silence::Unanswered(Cause::LoginFailed));
    assert_eq!(ask_sentinels([node], PATIENT).await, silence);
}
