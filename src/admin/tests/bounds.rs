//! What a client cannot do to the API, and the API not to the sessions.

use super::*;

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
