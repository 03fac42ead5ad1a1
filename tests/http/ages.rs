//! Connections that are old enough: their clients are told in time, and no request is lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client;
use http::Request;
use tokio::time::timeout;

use crate::harness::Plan;
use crate::recorder::Recorder;
use crate::recorder::ok;
use crate::support::PATIENCE;
use crate::world::runtime;

/// So many requests are always under way on one connection.
const AT_ONCE: usize = 8;

/// One request after the other, until the connection takes no more; `Err`: one was not answered.
async fn ask_on(
    sender: client::SendRequest<Bytes>,
    answered: Arc<AtomicUsize>,
) -> Result<(), h2::Error> {
    loop {
        let Ok(mut ready) = sender.clone().ready().await else {
            return Ok(());
        };
        let request = Request::get("http://a.test/x").body(()).unwrap();
        let Ok((response, _)) = ready.send_request(request, true) else {
            return Ok(());
        };
        let response = response.await?;
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        while let Some(piece) = body.data().await {
            body.flow_control().release_capacity(piece?.len())?;
        }
        answered.fetch_add(1, Ordering::AcqRel);
    }
}

/// Whether it was the proxy who had enough, in order.
async fn until_sent_away(addr: SocketAddr, answered: &Arc<AtomicUsize>) {
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let (sender, connection) = client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let clients: Vec<_> = (0..AT_ONCE)
        .map(|_| tokio::spawn(ask_on(sender.clone(), Arc::clone(answered))))
        .collect();
    drop(sender);
    for client in clients {
        let ended = timeout(PATIENCE, client).await;
        ended.expect("sent away in time").unwrap().unwrap();
    }
    let ended = timeout(PATIENCE, connection).await.unwrap().unwrap();
    let reason = ended.err().and_then(|error| error.reason());
    assert!(
        matches!(reason, None | Some(Reason::NO_ERROR)),
        "{reason:?}"
    );
}

#[test]
fn an_http_2_client_that_never_rests_is_sent_away_at_max_age_and_loses_nothing() {
    let backend = Recorder::answering(|head| {
        if !head.starts_with("GET /check ") {
            std::thread::sleep(Duration::from_millis(5));
        }
        ok("answer")
    });
    let limits = "http: {max_age: 1s, keep_alive: 1s}";
    let stage = Plan::new(&[backend.addr()]).listener(limits).start();
    let answered = Arc::<AtomicUsize>::default();
    runtime().block_on(async {
        for _ in 0..2 {
            until_sent_away(stage.addr, &answered).await;
        }
    });
    let answered = answered.load(Ordering::Acquire);
    assert!(answered > AT_ONCE, "{answered}");
    assert_eq!(backend.text().matches("GET /x ").count(), answered);
    let labels = [("cause", "max_age")];
    let ended = "evergate_sessions_ended_total";
    stage.evergate.wait_for_metric(ended, &labels, 2.0);
}
