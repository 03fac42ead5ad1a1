//! Each probe against small servers that answer, lie, dawdle or hang.

mod databases;
mod http_roles;
mod mysql;
mod postgres;
mod redis;

use super::*;
use crate::config::HttpCheck;
use crate::config::VerifyMode;
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
use crate::control::fixtures::cluster;
use crate::tls::ClientHandshake;
use rustix::io::Errno;

/// Short for what has to run into its deadline.
const HASTY: Duration = Duration::from_millis(100);

/// Of the backend, as the file has it.
const ADDRESS: &str = "10.0.0.1";

fn target(kind: CheckKind, timeout: Duration) -> Target {
    let mut cluster = cluster("orders", &["db1"]);
    cluster.health_check.kind = kind;
    cluster.health_check.timeout = timeout;
    let backend = cluster.backends[0].clone();
    Target {
        cluster: Arc::new(cluster),
        backend,
        tls: None,
    }
}

fn tcp(send: &str, expect: Option<&str>) -> CheckKind {
    CheckKind::Tcp {
        send: send.into(),
        expect: expect.map(Into::into),
    }
}

fn http(change: impl FnOnce(&mut HttpCheck)) -> CheckKind {
    let mut check = HttpCheck {
        path: "/status".into(),
        host: None,
        method: "GET".into(),
        expect: vec![(200, 299)],
        body: None,
        tls: false,
        roles: None,
    };
    change(&mut check);
    CheckKind::Http(check)
}

fn command(script: &str) -> CheckKind {
    CheckKind::Exec {
        command: ["/bin/sh", "-c", script].map(String::from).into(),
    }
}

/// Writes these pieces, each in a segment of its own, and closes.
async fn says(pieces: &'static [&'static str]) -> Server {
    serve(move |mut stream: TcpStream| async move {
        stream.set_nodelay(true)?;
        for piece in pieces {
            stream.write_all(piece.as_bytes()).await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stream.shutdown().await?;
        stream.read(&mut [0; 1024]).await.map(drop)
    })
    .await
}

async fn ask(kind: CheckKind, timeout: Duration, address: SocketAddr) -> Result<(), Cause> {
    ask_target(&target(kind, timeout), address).await
}

async fn ask_target(target: &Target, address: SocketAddr) -> Result<(), Cause> {
    let commands = Semaphore::new(1);
    let outcome = probe(target, address, None, &commands).await;
    outcome.leftover.close().await;
    outcome.observation.result.map(|_| ())
}

#[tokio::test]
async fn tcp_passes_when_the_connection_stands() {
    let server = hangs().await;
    let result = ask(tcp("", None), PATIENT, server.address).await;
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn tcp_tells_a_refused_connection() {
    let result = ask(tcp("", None), PATIENT, refuses().await.address).await;
    assert_eq!(result, Err(Cause::ConnectRefused));
}

#[tokio::test]
async fn tcp_expects_bytes_across_the_borders_of_segments() {
    let server = says(&["+PO", "N", "G\r\n"]).await;
    let result = ask(tcp("", Some("+PONG")), PATIENT, server.address).await;
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn tcp_sends_before_it_expects() {
    let server = serve(async |mut stream: TcpStream| {
        let request = read_some(&mut stream).await?;
        stream.write_all(&request).await
    })
    .await;
    let result = ask(tcp("PING\r\n", Some("PING")), PATIENT, server.address).await;
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn tcp_tells_the_wrong_answer_from_none() {
    let garbage = says(&["\u{0}\u{1}garbage"]).await;
    let result = ask(tcp("", Some("+PONG")), PATIENT, garbage.address).await;
    assert_eq!(result, Err(Cause::UnexpectedAnswer));
    let closes = says(&[]).await;
    let result = ask(tcp("", Some("+PONG")), PATIENT, closes.address).await;
    assert_eq!(result, Err(Cause::EarlyClose));
}

#[tokio::test]
async fn tcp_gives_up_on_an_endless_answer() {
    let server = serve(async |mut stream: TcpStream| {
        loop {
            stream.write_all(&[b'x'; 4096]).await?;
        }
    })
    .await;
    let result = ask(tcp("", Some("+PONG")), PATIENT, server.address).await;
    assert_eq!(result, Err(Cause::UnexpectedAnswer));
}

#[tokio::test]
async fn silence_and_a_byte_at_a_time_run_into_the_deadline() {
    let expect = || tcp("", Some("+PONG"));
    for server in [hangs().await, dribbles("").await] {
        let result = ask(expect(), HASTY, server.address).await;
        assert_eq!(result, Err(Cause::CheckTimeout));
        let result = ask(http(|_| {}), HASTY, server.address).await;
        assert!(result.is_err());
    }
}

#[tokio::test]
async fn a_probe_closes_with_fin_and_never_with_a_reset() {
    let (sender, mut seen) = tokio::sync::mpsc::channel(1);
    let server = serve(move |mut stream: TcpStream| {
        let sender = sender.clone();
        async move {
            // A greeting that the probe does not read would make a careless close a reset.
            stream.write_all(&[b'x'; 4096]).await?;
            let end = stream.read(&mut [0; 16]).await;
            sender.send(end.map_err(|e| e.kind())).await.unwrap();
            stream.write_all(b"bye").await
        }
    })
    .await;
    let result = ask(tcp("", None), PATIENT, server.address).await;
    assert_eq!(result, Ok(()));
    assert_eq!(seen.recv().await, Some(Ok(0)));
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready";

#[tokio::test]
async fn http_judges_the_status() {
    let server = answers(OK).await;
    assert_eq!(ask(http(|_| {}), PATIENT, server.address).await, Ok(()));
    let server = answers("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(
        ask(http(|_| {}), PATIENT, server.address).await,
        Err(Cause::UnexpectedAnswer)
    );
    let lenient = http(|check| check.expect = vec![(200, 200), (500, 503)]);
    assert_eq!(ask(lenient, PATIENT, server.address).await, Ok(()));
}

#[tokio::test]
async fn http_looks_for_a_text_in_the_body() {
    let server = answers(OK).await;
    let wants = |text: &str| http(|check| check.body = Some(text.into()));
    assert_eq!(ask(wants("ead"), PATIENT, server.address).await, Ok(()));
    assert_eq!(
        ask(wants("down"), PATIENT, server.address).await,
        Err(Cause::UnexpectedAnswer)
    );
}

#[tokio::test]
async fn http_reads_a_body_only_up_to_its_limit() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let huge = answers(format!("{head}{}ready", "x".repeat(4 << 20))).await;
    let wants = http(|check| check.body = Some("ready".into()));
    assert_eq!(
        ask(wants, PATIENT, huge.address).await,
        Err(Cause::UnexpectedAnswer)
    );
}

#[tokio::test]
async fn http_does_not_wait_for_a_slow_body() {
    let server = dribbles("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
    let wants = http(|check| check.body = Some("ready".into()));
    assert_eq!(
        ask(wants, HASTY, server.address).await,
        Err(Cause::CheckTimeout)
    );
}

#[tokio::test]
async fn http_survives_garbage() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases = [
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "HTTP/1.1 abc\r\n\r\n".to_owned(),
        format!("{chunked}zzz\r\nnot a chunk"),
        format!("{chunked}ffffffffffffffffffff\r\n"),
        format!("HTTP/1.1 200 OK\r\n{}", "A: b\r\n".repeat(10_000)),
        String::new(),
    ];
    for case in cases {
        let server = answers(case.clone()).await;
        let wants = http(|check| check.body = Some("ready".into()));
        let result = ask(wants, PATIENT, server.address).await;
        let lies = [Cause::UnexpectedAnswer, Cause::EarlyClose, Cause::Reset];
        let cause = result.unwrap_err();
        assert!(lies.contains(&cause), "{cause} for {case:.40?}");
    }
}

#[tokio::test]
async fn http_sends_what_was_configured() {
    let (sender, mut seen) = tokio::sync::mpsc::channel(1);
    let server = serve(move |mut stream: TcpStream| {
        let sender = sender.clone();
        async move {
            sender.send(read_some(&mut stream).await?).await.unwrap();
            stream.write_all(OK.as_bytes()).await
        }
    })
    .await;
    let kind = http(|check| {
        check.method = "HEAD".into();
        check.path = "/primary?x=1".into();
        check.host = Some("db.example".into());
    });
    assert_eq!(ask(kind, PATIENT, server.address).await, Ok(()));
    let request = String::from_utf8(seen.recv().await.unwrap()).unwrap();
    assert!(
        request.starts_with("HEAD /primary?x=1 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("host: db.example\r\n"), "{request}");
}

#[tokio::test]
async fn exec_judges_the_exit_code() {
    let address = "10.0.0.7:5433".parse().unwrap();
    let asks = r#"[ "$EVERGATE_ADDRESS $EVERGATE_PORT $EVERGATE_CLUSTER $EVERGATE_BACKEND" = "10.0.0.7 5433 orders db1" ]"#;
    assert_eq!(ask(command(asks), PATIENT, address).await, Ok(()));
    assert_eq!(
        ask(command("exit 3"), PATIENT, address).await,
        Err(Cause::CommandFailed)
    );
    let missing = CheckKind::Exec {
        command: vec!["/no/such/program".into()],
    };
    assert_eq!(
        ask(missing, PATIENT, address).await,
        Err(Cause::CommandFailed)
    );
}

#[tokio::test]
async fn exec_ignores_endless_output() {
    let address = "10.0.0.7:5433".parse().unwrap();
    let chatty = command("head -c 10000000 /dev/zero; head -c 10000000 /dev/zero >&2");
    assert_eq!(ask(chatty, PATIENT, address).await, Ok(()));
}

#[tokio::test]
async fn exec_kills_what_hangs_with_everything_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pids");
    let script = format!("sleep 1000 & echo $! $$ > {}; wait", file.display());
    let address = "10.0.0.7:5433".parse().unwrap();
    // Long enough for the shell to have started its child.
    let timeout = Duration::from_secs(1);
    let result = ask(command(&script), timeout, address).await;
    assert_eq!(result, Err(Cause::CheckTimeout));
    let pids = std::fs::read_to_string(&file).unwrap();
    assert_eq!(pids.split_whitespace().count(), 2);
    for pid in pids.split_whitespace() {
        eventually(|| !is_running(pid)).await;
    }
}

/// Neither gone nor waiting to be reaped.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim().chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

async fn eventually(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENT;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never came true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn waiting_for_a_command_slot_is_not_the_backends_time() {
    let directory = tempfile::tempdir().unwrap();
    let ended = directory.path().join("ended");
    let commands = Arc::new(Semaphore::new(1));
    let slow = command(&format!("sleep 1.2; touch {}", ended.display()));
    let slow = target(slow, PATIENT);
    // Fails beside the slow one, and would be late if its time had begun with the wait.
    let quick = command(&format!("test -e {}", ended.display()));
    let quick = target(quick, Duration::from_secs(1));
    let address = "10.0.0.7:5433".parse().unwrap();
    let (slow, quick) = tokio::join!(
        probe(&slow, address, None, &commands),
        probe(&quick, address, None, &commands)
    );
    assert_eq!(slow.observation.result, Ok(Evidence::Silent));
    assert_eq!(quick.observation.result, Ok(Evidence::Silent));
    assert_eq!(commands.available_permits(), 1);
}

fn secured(kind: CheckKind, mode: VerifyMode, ca_file: Option<std::path::PathBuf>) -> Target {
    secured_by(kind, mode, ca_file, &[])
}

fn secured_by(
    kind: CheckKind,
    mode: VerifyMode,
    ca_file: Option<std::path::PathBuf>,
    alpn: &[&str],
) -> Target {
    Target {
        tls: Some(connector(mode, ca_file, alpn)),
        ..target(kind, PATIENT)
    }
}

#[tokio::test]
async fn tls_passes_only_with_a_certificate_that_is_accepted() {
    let made = certificate(ADDRESS, &[]);
    let acceptor = made.acceptor.clone();
    let server = serve(move |stream: TcpStream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            stream.read(&mut [0; 16]).await.map(drop)
        }
    })
    .await;
    let trusting = secured(
        CheckKind::Tls,
        VerifyMode::VerifyFull,
        Some(made.ca_file.clone()),
    );
    assert_eq!(ask_target(&trusting, server.address).await, Ok(()));
    let strict = secured(CheckKind::Tls, VerifyMode::VerifyFull, None);
    assert_eq!(
        ask_target(&strict, server.address).await,
        Err(Cause::TlsFailed)
    );
}

#[tokio::test]
async fn tls_tells_a_server_that_speaks_something_else() {
    let server = answers("SSH-2.0-OpenSSH_9.2\r\n").await;
    let insecure = secured(CheckKind::Tls, VerifyMode::Insecure, None);
    assert_eq!(
        ask_target(&insecure, server.address).await,
        Err(Cause::TlsFailed)
    );
}

#[tokio::test]
async fn http_asks_over_tls() {
    let made = certificate(ADDRESS, &[]);
    let acceptor = made.acceptor.clone();
    let server = serve(move |stream: TcpStream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            let asked = stream.read(&mut [0; 4096]).await?;
            assert!(asked > 0);
            stream.write_all(OK.as_bytes()).await?;
            stream.shutdown().await
        }
    })
    .await;
    let kind = http(|check| {
        check.tls = true;
        check.body = Some("ready".into());
    });
    let insecure = secured(kind, VerifyMode::Insecure, None);
    assert_eq!(ask_target(&insecure, server.address).await, Ok(()));
}

#[tokio::test]
async fn http_asks_in_http1_where_requests_go_by_http2() {
    let made = certificate(ADDRESS, &["h2", "http/1.1"]);
    let acceptor = made.acceptor.clone();
    let server = serve(move |stream: TcpStream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            if stream.alpn() == Some(b"h2") {
                // What speaks HTTP/2 does not understand a request of HTTP/1.1.
                return stream.shutdown().await;
            }
            let asked = stream.read(&mut [0; 4096]).await?;
            assert!(asked > 0);
            stream.write_all(OK.as_bytes()).await?;
            stream.shutdown().await
        }
    })
    .await;
    for offered in [&["h2"][..], &["h2", "http/1.1"], &["http/1.1"]] {
        let kind = http(|check| check.tls = true);
        let target = secured_by(kind, VerifyMode::Insecure, None, offered);
        assert_eq!(ask_target(&target, server.address).await, Ok(()));
    }
}

#[test]
fn our_own_shortages_are_told_apart_from_the_backends_failures() {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    for errno in ours {
        assert_eq!(cause_of(&errno.into()), Cause::OutOfResources, "{errno}");
    }
    assert_eq!(cause_of(&Errno::CONNREFUSED.into()), Cause::ConnectRefused);
    assert_eq!(cause_of(&Errno::HOSTUNREACH.into()), Cause::Unreachable);
    assert_eq!(cause_of(&Errno::CONNRESET.into()), Cause::Reset);
    assert_eq!(cause_of(&Errno::TIMEDOUT.into()), Cause::ConnectTimeout);
}
