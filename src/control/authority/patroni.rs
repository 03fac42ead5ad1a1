//! One Patroni node's view of its cluster: `GET /cluster`.
//!
//! Source: <https://patroni.readthedocs.io/en/latest/rest_api.html>. The node reads its store
//! (etcd, …) for every request; one that cannot reach it answers with an error.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::Limited;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header;
use serde::Deserialize;
use tokio::time::Instant;
use tokio::time::timeout_at;

use crate::cluster::Cause;
use crate::config::BackendConfig;
use crate::control::evidence::Authority;
use crate::control::probe;
use crate::tls::TlsConnector;

/// A member takes some 300 bytes: room for thousands.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// One node's REST API.
#[derive(Debug, Clone)]
pub struct Node {
    pub backend: BackendConfig,
    /// Of the backend; `None` while its name is unresolved.
    pub address: Option<IpAddr>,
    pub port: NonZeroU16,
    /// Where it is asked from; empty: the system chooses.
    pub source: Arc<[IpAddr]>,
    /// Asked in the clear without one.
    pub tls: Option<TlsConnector>,
}

/// Fields that are not named here do not matter.
#[derive(Debug, Deserialize)]
struct Cluster {
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
struct Member {
    role: String,
    /// As PostgreSQL is reached there.
    host: Option<String>,
    port: Option<u16>,
    timeline: Option<u32>,
}

/// What the node says by the deadline.
///
/// # Errors
/// It cannot be reached, is late, or its answer is not what Patroni answers.
pub(super) async fn view(node: &Node, deadline: Instant) -> Result<Authority, Cause> {
    let address = node.address.ok_or(Cause::Unresolved)?;
    let address = SocketAddr::new(address, node.port.get());
    let stream = probe::connect_from(&node.source, address, deadline).await?;
    let asked = async {
        let request = request(node)?;
        match &node.tls {
            Some(connector) => {
                let stream = connector.connect(&node.backend, address, stream).await;
                let stream = stream.map_err(|_| Cause::TlsFailed)?;
                probe::exchange(stream, request, body).await
            }
            None => probe::exchange(stream, request, body).await,
        }
    };
    let body = timeout_at(deadline, asked).await;
    parse(&body.unwrap_or(Err(Cause::CheckTimeout))?)
}

fn request(node: &Node) -> Result<Request<Empty<Bytes>>, Cause> {
    Request::get("/cluster")
        .header(header::HOST, format!("{}:{}", node.backend.host, node.port))
        .header(header::USER_AGENT, "evergate")
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        // The configuration was checked; what is wrong all the same is not the node's fault.
        .map_err(|_| Cause::IoError)
}

async fn body(response: Response<Incoming>) -> Result<Bytes, Cause> {
    if response.status() != StatusCode::OK {
        return Err(Cause::UnexpectedAnswer);
    }
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES);
    let body = body.collect().await.map_err(|_| Cause::UnexpectedAnswer)?;
    Ok(body.to_bytes())
}

/// The view in an answer. A cluster without members is an empty or foreign place in the store:
/// that says nothing about ours.
fn parse(body: &[u8]) -> Result<Authority, Cause> {
    let cluster: Cluster = serde_json::from_slice(body).map_err(|_| Cause::UnexpectedAnswer)?;
    let leads = |member: &&Member| matches!(&*member.role, "leader" | "standby_leader");
    let leaders: Vec<_> = cluster.members.iter().filter(leads).collect();
    match &leaders[..] {
        [] if !cluster.members.is_empty() => Ok(Authority::NoLeader),
        [leader] => {
            let place = leader.host.clone().zip(leader.port);
            let (host, port) = place.ok_or(Cause::UnexpectedAnswer)?;
            let timeline = leader.timeline;
            Ok(Authority::Leader {
                host,
                port,
                timeline,
            })
        }
        _ => Err(Cause::UnexpectedAnswer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Patroni 4.1.5 writes it, with a replica that has just started.
    const ANSWER: &str = r#"{"members": [
        {"name": "n1", "role": "leader", "state": "running", "api_url": "http://10.0.0.1:8008/patroni",
         "host": "10.0.0.1", "port": 5432, "timeline": 3, "tags": {"nofailover": true}},
        {"name": "n2", "role": "sync_standby", "state": "streaming", "host": "10.0.0.2", "port": 5432,
         "timeline": 3, "receive_lag": 0, "lag": 0},
        {"name": "n3", "role": "replica", "state": "starting", "lag": "unknown"}],
        "scope": "orders", "pause": true}"#;

    fn leader(host: &str, timeline: Option<u32>) -> Result<Authority, Cause> {
        Ok(Authority::Leader {
            host: host.to_owned(),
            port: 5432,
            timeline,
        })
    }

    #[test]
    fn the_leader_and_its_timeline_are_read() {
        assert_eq!(parse(ANSWER.as_bytes()), leader("10.0.0.1", Some(3)));
        let standby = ANSWER.replace("\"leader\"", "\"standby_leader\"");
        assert_eq!(parse(standby.as_bytes()), leader("10.0.0.1", Some(3)));
        let unknown = ANSWER.replace("\"timeline\": 3", "\"timeline\": null");
        assert_eq!(parse(unknown.as_bytes()), leader("10.0.0.1", None));
    }

    #[test]
    fn members_without_a_leader_are_an_answer() {
        let leaderless = ANSWER.replace("\"leader\"", "\"replica\"");
        assert_eq!(parse(leaderless.as_bytes()), Ok(Authority::NoLeader));
    }

    #[test]
    fn what_patroni_does_not_answer_is_refused() {
        let deep = "[".repeat(100_000);
        let deep = format!("{{\"members\": {deep}");
        let bodies = [
            "",
            "null",
            "[]",
            "{}",
            "<html>It works!</html>",
            r#"{"members": []}"#,
            r#"{"members": {}}"#,
            r#"{"members": [{"role": 1}]}"#,
            r#"{"members": [{"role": "leader"}]}"#,
            r#"{"members": [{"role": "leader", "host": "a"}]}"#,
            r#"{"members": [{"role": "leader", "host": "a", "port": 65536}]}"#,
            r#"{"members": [{"role": "leader", "host": "a", "port": 1, "timeline": -1}]}"#,
            r#"{"members": [{"role": "leader", "host": "a", "port": 1},
                            {"role": "leader", "host": "b", "port": 1}]}"#,
            &deep,
            &ANSWER[..ANSWER.len() - 1],
        ];
        for body in bodies {
            let start: String = body.chars().take(80).collect();
            assert_eq!(
                parse(body.as_bytes()),
                Err(Cause::UnexpectedAnswer),
                "{start}"
            );
        }
    }
}
