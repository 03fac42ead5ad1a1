//! What the API shows, and what it says of what cannot be.

use super::*;
use crate::cluster::BackendId;
use crate::cluster::Cause;
use crate::cluster::FastMap;
use crate::cluster::Health;
use crate::cluster::Role;
use crate::config::CheckKind;
use crate::config::DatabaseCheck;
use crate::routing::BackendEntry;
use crate::routing::BackendHandle;
use crate::routing::ClusterHandle;
use crate::routing::ClusterTable;
use crate::routing::ListenerEntry;
use crate::routing::ListenerHandle;
use crate::routing::RateLimiters;
use crate::routing::RoutingTable;
use crate::shutdown::Stage;
use std::time::Instant;

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

/// Went wrong once: the address was taken for the key, and a backend named that the client would
/// not go to.
#[test]
fn a_session_whose_key_is_not_kept_is_not_told_where_it_would_go() {
    for (key, action) in [
        ("client_ip", "pick"),
        ("user", "unknown"),
        ("database", "unknown"),
        ("'startup:app'", "unknown"),
    ] {
        let table = table_with(&format!(
            "protocol: postgres\n    balance: {{policy: consistent_hash, hash: {{key: {key}}}}}"
        ));
        let view = session(2);
        let told = explain::session(&table, &[view], 2, Instant::now()).unwrap();
        assert_eq!(told["outcome"]["action"], action, "{key}: {told}");
        assert_eq!(told["hash"].is_null(), action == "unknown", "{key}");
        let standing = if action == "pick" {
            "picked"
        } else {
            "eligible"
        };
        assert_eq!(told["backends"][0]["standing"], standing, "{key}");
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
        clusters: FastMap::from_iter([(name, Arc::new(cluster))]),
        listeners: FastMap::from_iter([("front".into(), Arc::new(listener))]),
        ..RoutingTable::default()
    }
}
