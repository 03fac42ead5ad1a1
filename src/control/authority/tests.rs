//! Polls of small servers that answer, lie, dawdle or hang.

use super::*;
use crate::config::Host;
use crate::config::Secret;
use crate::config::VerifyMode;
use crate::control::fakes::LOCALHOST;
use crate::control::fakes::PATIENT;
use crate::control::fakes::Server;
use crate::control::fakes::answers;
use crate::control::fakes::certificate;
use crate::control::fakes::connector;
use crate::control::fakes::dribbles;
use crate::control::fakes::hangs;
use crate::control::fakes::read_some;
use crate::control::fakes::refuses;
use crate::control::fakes::serve;
use crate::control::fixtures::backend;
use std::sync::Arc;
use std::sync::Mutex;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Short for what has to run into its deadline.
const HASTY: Duration = Duration::from_millis(200);

/// The same bytes again and again, for as long as somebody reads them.
async fn floods(head: &'static str, part: Vec<u8>) -> Server {
    let part: Arc<[u8]> = part.into();
    serve(move |mut stream: TcpStream| {
        let part = Arc::clone(&part);
        async move {
            read_some(&mut stream).await?;
            stream.write_all(head.as_bytes()).await?;
            loop {
                stream.write_all(&part).await?;
            }
        }
    })
    .await
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
        port: server.port(),
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
            let request = read_some(&mut stream).await?;
            *sees.lock().unwrap() = String::from_utf8_lossy(&request).into_owned();
            stream.write_all(http(&members("db1", 1)).as_bytes()).await
        }
    })
    .await;
    assert_eq!(
        poll(vec![node(&server)], PATIENT).await,
        leader("db1", Some(1))
    );
    let port = server.port();
    let seen = seen.lock().unwrap();
    assert!(seen.starts_with("GET /cluster HTTP/1.1\r\n"), "{seen}");
    assert!(
        seen.contains(&format!("host: 10.0.0.1:{port}\r\n")),
        "{seen}"
    );
}

#[tokio::test]
async fn patroni_is_asked_over_tls() {
    let made = certificate("127.0.0.1", &[]);
    let acceptor = made.acceptor.clone();
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
    let trusting = |ca_file| Some(connector(VerifyMode::VerifyFull, ca_file, &[]));
    let mut node = node(&server);
    node.backend.host = Host::Ip(LOCALHOST);
    node.tls = trusting(Some(made.ca_file.clone()));
    assert_eq!(
        poll(vec![node.clone()], PATIENT).await,
        leader("db1", Some(1))
    );
    node.tls = trusting(None);
    let silence = Err(Silence::Unanswered(Cause::TlsFailed));
    assert_eq!(poll(vec![node], PATIENT).await, silence);
}

fn sentinel(server: &Server) -> sentinel::Node {
    sentinel::Node {
        address: Some(LOCALHOST),
        port: server.port(),
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
        if read_some(&mut stream).await? != login.as_bytes() {
            stream
                .write_all(b"-WRONGPASS invalid username-password pair\r\n")
                .await?;
            return stream.shutdown().await;
        }
        stream.write_all(b"+OK\r\n").await?;
        assert_eq!(
            read_some(&mut stream).await?,
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
