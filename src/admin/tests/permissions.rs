//! Who may read, who may change, and from where.

use super::*;
use std::os::unix::fs::PermissionsExt;

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
