//! What a configuration says of HTTP: limits, routes, pools, and what is shown of them.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use evergate::config;
use evergate::config::CheckKind;
use evergate::config::ClusterConfig;
use evergate::config::HashKey;
use evergate::config::HeaderMatch;
use evergate::config::HostPattern;
use evergate::config::HttpClusterConfig;
use evergate::config::HttpListenerConfig;
use evergate::config::HttpRoute;
use evergate::config::HttpVersion;
use evergate::config::ListenerConfig;
use evergate::config::Loaded;
use evergate::config::PathPattern;
use evergate::config::Protocol;
use http::HeaderName;
use http::HeaderValue;
use http::Method;

const SECRET: &str = "0123456789-secret-abcdef";

#[test]
fn what_is_not_written_is_the_documented_default() {
    let loaded = load(&whole("", ""));
    let cluster = loaded.config.clusters[0].http.as_deref();
    assert_eq!(cluster, Some(&HttpClusterConfig::default()));
    let listener = &loaded.config.listeners[0];
    assert_eq!(listener.protocol, Protocol::Http);
    assert_eq!(
        listener.http.as_deref(),
        Some(&HttpListenerConfig::default())
    );
    let shown = &loaded.effective["config"]["clusters"]["web"]["http"];
    assert_eq!(shown["retry"]["budget"], 0.2);
    assert_eq!(shown["max_age"], "1h");
    let shown = &loaded.effective["config"]["listeners"]["main"]["http"];
    assert_eq!(shown["max_head"], "32KiB");
    let defaults = loaded.effective["defaults"].as_array().unwrap();
    for pointer in defaults {
        let pointer = pointer.as_str().unwrap();
        let shown = loaded.effective["config"].pointer(pointer);
        assert!(shown.is_some(), "{pointer}");
    }
}

#[test]
fn other_protocols_have_no_http() {
    let text = whole("", "").replace("protocol: http", "protocol: tcp");
    let loaded = load(&text);
    assert_eq!(loaded.config.clusters[0].http, None);
    assert_eq!(loaded.config.listeners[0].http, None);
    // A `tcp` listener relays unseen what an `http` cluster speaks.
    let listener = listener("", "protocol: tcp");
    assert_eq!((listener.protocol, listener.http), (Protocol::Tcp, None));
}

#[test]
fn every_key_of_a_cluster_is_read() {
    let http = http_cluster(
        "http: {version: 2, max_idle: 5, idle_timeout: 6s, max_requests: 7, max_age: 8m, \
         retry: {attempts: 3, budget: 0.5, min_per_second: 4, statuses: [502, 503], \
         hedge: {percentile: 0.9, min_delay: 20ms}}, \
         sticky: {cookie: sid, secret: 0123456789abcdef, max_age: 1d}, \
         outlier: {consecutive_5xx: 1, consecutive_gateway: 2, success_rate_factor: 2.5, \
         latency_factor: 3.5, min_requests: 4, min_backends: 2, interval: 6s, base_ejection: 7s, \
         max_ejection: 8s, max_ejected: 0.9}}",
    );
    assert_eq!(http.version, HttpVersion::Two);
    assert_eq!(http.pool.max_idle, 5);
    assert_eq!(http.pool.idle_timeout, Duration::from_secs(6));
    assert_eq!(http.pool.max_requests.unwrap().get(), 7);
    assert_eq!(http.pool.max_age, Duration::from_secs(8 * 60));
    assert_eq!((http.retry.attempts, http.retry.budget), (3, 0.5));
    assert_eq!(http.retry.min_per_second, 4);
    assert_eq!(http.retry.statuses, [502, 503]);
    let hedge = http.retry.hedge.unwrap();
    assert_eq!((hedge.percentile, hedge.min_delay.as_millis()), (0.9, 20));
    let sticky = http.sticky.unwrap();
    assert_eq!(sticky.cookie, "sid");
    assert_eq!(sticky.secret.expose(), "0123456789abcdef");
    assert_eq!(sticky.max_age, Some(Duration::from_secs(86_400)));
    let outlier = http.outlier.unwrap();
    assert_eq!(
        (outlier.consecutive_5xx, outlier.consecutive_gateway),
        (1, 2)
    );
    assert_eq!(
        (outlier.success_rate_factor, outlier.latency_factor),
        (2.5, 3.5)
    );
    assert_eq!((outlier.min_requests, outlier.min_backends), (4, 2));
    assert_eq!(outlier.interval, Duration::from_secs(6));
    assert_eq!(outlier.base_ejection, Duration::from_secs(7));
    assert_eq!(outlier.max_ejection, Duration::from_secs(8));
    assert_eq!(outlier.max_ejected, 0.9);
}

#[test]
fn an_empty_section_switches_on_with_defaults() {
    let http = http_cluster("http: {outlier: {}, retry: {hedge: {}}}");
    let outlier = http.outlier.unwrap();
    assert_eq!(
        (outlier.consecutive_5xx, outlier.consecutive_gateway),
        (5, 3)
    );
    assert_eq!(outlier.max_ejected, 0.5);
    assert_eq!(http.retry.hedge.unwrap().percentile, 0.95);
    let log = http_listener("http: {access_log: {}}").access_log.unwrap();
    assert_eq!((log.path, log.sample), (None, 1.0));
}

#[test]
fn every_limit_of_a_listener_is_read() {
    let http = http_listener(
        "http: {max_head: 16KiB, max_headers: 64, max_uri: 4KiB, max_body: 1GiB, max_streams: 9, \
         header_timeout: 1s, body_timeout: 2s, keep_alive: 3s, max_age: 4s, \
         trusted: [10.0.0.0/8, '::1'], allow_connect: true, \
         access_log: {path: /var/log/x.json, sample: 0.25}}",
    );
    let limits = &http.limits;
    assert_eq!((limits.max_head_bytes, limits.max_headers), (16 << 10, 64));
    assert_eq!(limits.max_uri_bytes, 4 << 10);
    assert_eq!(limits.max_body_bytes.unwrap().get(), 1 << 30);
    assert_eq!(limits.max_streams, 9);
    let seconds = [
        limits.header_timeout,
        limits.body_timeout,
        limits.keep_alive,
        limits.max_age,
    ];
    assert_eq!(seconds.map(|time| time.as_secs()), [1, 2, 3, 4]);
    let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    assert_eq!(http.trusted, trusted);
    assert!(http.allow_connect);
    let log = http.access_log.unwrap();
    assert_eq!(log.path, Some(PathBuf::from("/var/log/x.json")));
    assert_eq!(log.sample, 0.25);
}

#[test]
fn a_log_that_evergate_writes_is_not_watched() {
    let loaded = load(&whole("", "http: {access_log: {path: /var/log/x.json}}"));
    assert_eq!(loaded.files, Vec::<PathBuf>::new());
}

#[test]
fn a_route_is_read_with_its_conditions_and_actions() {
    let route = route(
        "host: '*.Example.com', path: /api/, method: [GET, HEAD], \
         header: {X-Tenant: acme, x-debug: {present: true}}, \
         request_headers: {remove: [X-A], set: {x-b: '1'}, add: {x-c: '2'}}, \
         response_headers: {remove: [server]}, \
         rate_limit: {requests: 10, per: 1m, burst: 20}, timeout: 30s",
    );
    assert_eq!(route.host, Some(HostPattern::Below(".example.com".into())));
    assert_eq!(route.path, Some(PathPattern::Prefix("/api/".into())));
    assert_eq!(route.methods, [Method::GET, Method::HEAD]);
    let headers = [
        HeaderMatch {
            name: HeaderName::from_static("x-tenant"),
            value: Some(HeaderValue::from_static("acme")),
        },
        HeaderMatch {
            name: HeaderName::from_static("x-debug"),
            value: None,
        },
    ];
    assert_eq!(route.headers, headers);
    let actions = route.actions;
    assert_eq!(actions.request_headers.remove, ["x-a"]);
    assert_eq!(actions.request_headers.set, [pair("x-b", "1")]);
    assert_eq!(actions.request_headers.add, [pair("x-c", "2")]);
    assert_eq!(actions.response_headers.remove, ["server"]);
    let limit = actions.rate_limit.unwrap();
    assert_eq!((limit.requests.get(), limit.burst.get()), (10, 20));
    assert_eq!(limit.per, Duration::from_secs(60));
    assert_eq!(actions.timeout, Some(Duration::from_secs(30)));
}

#[test]
fn a_condition_may_be_written_in_several_ways() {
    for (written, expected) in [
        ("path: /a", PathPattern::Prefix("/a".into())),
        ("path: {prefix: /a}", PathPattern::Prefix("/a".into())),
        ("path: {exact: /a%20b}", PathPattern::Exact("/a%20b".into())),
        ("path: /", PathPattern::Prefix("/".into())),
    ] {
        assert_eq!(route(written).path, Some(expected), "{written}");
    }
    for (written, expected) in [
        ("host: a.example.com", "a.example.com"),
        ("host: 10.0.0.1", "10.0.0.1"),
        ("host: '[0::1]'", "[::1]"),
    ] {
        let expected = HostPattern::Exact(expected.into());
        assert_eq!(route(written).host, Some(expected), "{written}");
    }
    assert_eq!(route("method: PURGE").methods.len(), 1);
    // Not said: as many at once as in the whole time.
    let limit = route("path: /, rate_limit: {requests: 7}")
        .actions
        .rate_limit;
    assert_eq!(limit.unwrap().burst.get(), 7);
}

#[test]
fn every_cluster_of_a_route_counts() {
    let text = "version: 1\nclusters:\n  a: {protocol: http, backends: ['a:1']}\n  \
                b: {protocol: http, backends: ['b:1']}\n\
                listeners:\n  main: {bind: '127.0.0.1:1', routes: [{path: /, cluster: a}, \
                {path: /b, cluster: b}]}\n";
    let loaded = load(text);
    assert_eq!(loaded.warnings, []);
    let listener = &loaded.config.listeners[0];
    assert_eq!(listener.cluster, None);
    assert!(listener.routes.is_empty());
    let routes = &listener.http.as_ref().unwrap().routes;
    let clusters: Vec<&str> = routes.iter().map(|route| &*route.cluster).collect();
    assert_eq!(clusters, ["a", "b"]);
}

#[test]
fn what_is_hashed_may_come_from_the_request() {
    for (key, expected) in [
        (
            "header:X-Tenant",
            HashKey::Header(HeaderName::from_static("x-tenant")),
        ),
        ("cookie:sid", HashKey::Cookie("sid".into())),
        ("query:id", HashKey::Query("id".into())),
        ("path", HashKey::Path),
    ] {
        let balance = format!("balance: {{policy: consistent_hash, hash: {{key: '{key}'}}}}");
        let loaded = load(&whole(&balance, ""));
        assert_eq!(loaded.config.clusters[0].balance.key, expected);
        let shown = &loaded.effective["config"]["clusters"]["web"]["balance"]["hash"]["key"];
        assert_eq!(shown, &expected.to_string());
    }
}

#[test]
fn tls_offers_what_is_spoken() {
    let alpn = |keys: &str| cluster(keys).tls.unwrap().alpn;
    assert_eq!(alpn("tls: {ca_file: a.pem}"), ["http/1.1"]);
    assert_eq!(alpn("tls: {ca_file: a.pem}, http: {version: 2}"), ["h2"]);
    let tls = "tls: {cert_file: a.pem, key_file: a.key}";
    assert_eq!(listener("", tls).tls.unwrap().alpn, ["h2", "http/1.1"]);
    let tls = "tls: {cert_file: a.pem, key_file: a.key, alpn: [http/1.1]}";
    assert_eq!(listener("", tls).tls.unwrap().alpn, ["http/1.1"]);
}

#[test]
fn a_check_asks_over_tls_where_requests_do() {
    let asks_over_tls = |keys: &str| {
        let CheckKind::Http(check) = cluster(keys).health_check.kind else {
            panic!("not an HTTP check");
        };
        check.tls
    };
    let tls = "tls: {ca_file: a.pem}";
    assert!(!asks_over_tls(""));
    assert!(asks_over_tls(tls));
    assert!(!asks_over_tls(&format!(
        "{tls}, health_check: {{port: 8008}}"
    )));
    assert!(!asks_over_tls(&format!(
        "{tls}, health_check: {{tls: false}}"
    )));
}

#[test]
fn secrets_of_cookies_and_headers_are_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("main.yaml");
    let file = directory.path().join("cookie.key");
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    let rules = format!("set: {{Authorization: 'Basic {SECRET}', x-clickhouse-key: {SECRET}}}");
    // Set by cargo for every test.
    let rules = format!("{{{rules}, add: {{x-from: '${{CARGO_PKG_NAME}}'}}}}");
    for sticky in [
        format!("secret: {SECRET}"),
        "secret_file: cookie.key".to_owned(),
    ] {
        let text = whole(
            &format!("http: {{sticky: {{{sticky}}}}}"),
            &format!("routes: [{{path: /, cluster: web, request_headers: {rules}}}]"),
        );
        fs::write(&path, text).unwrap();
        for path in [&path, &file] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        }

        let loaded = config::load(&path).unwrap();

        let http = loaded.config.clusters[0].http.as_deref().unwrap();
        assert_eq!(http.sticky.as_ref().unwrap().secret.expose(), SECRET);
        // Whatever stands in a file that all may read: the cookie's secret, and two headers.
        assert_eq!(loaded.warnings.len(), 3);
        let listener = &loaded.effective["config"]["listeners"]["main"];
        let rules = &listener["routes"][0]["request_headers"];
        assert_eq!(rules["set"]["authorization"], "***");
        assert_eq!(rules["set"]["x-clickhouse-key"], "***");
        assert_eq!(rules["add"]["x-from"], "${CARGO_PKG_NAME}");
        let set = &loaded.config.listeners[0].http.as_ref().unwrap().routes[0].actions;
        assert_eq!(
            set.request_headers.add,
            [pair("x-from", env!("CARGO_PKG_NAME"))]
        );
        for shown in [
            format!("{loaded:?}"),
            loaded.effective.to_string(),
            loaded.warnings.iter().map(ToString::to_string).collect(),
        ] {
            assert!(!shown.contains(SECRET), "{shown}");
        }
    }
}

fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    )
}

fn cluster(keys: &str) -> ClusterConfig {
    load(&whole(keys, "")).config.clusters.remove(0)
}

fn http_cluster(keys: &str) -> HttpClusterConfig {
    cluster(keys).http.unwrap().as_ref().clone()
}

fn listener(cluster: &str, keys: &str) -> ListenerConfig {
    load(&whole(cluster, keys)).config.listeners.remove(0)
}

fn http_listener(keys: &str) -> HttpListenerConfig {
    listener("", keys).http.unwrap().as_ref().clone()
}

fn route(keys: &str) -> HttpRoute {
    let mut http = http_listener(&format!("routes: [{{cluster: web, {keys}}}]"));
    assert_eq!(http.routes.len(), 1);
    http.routes.remove(0)
}

fn whole(cluster: &str, listener: &str) -> String {
    format!(
        "version: 1\nclusters: {{web: {{protocol: http, backends: ['a:1', 'b:1'], {cluster}}}}}\n\
         listeners: {{main: {{bind: '127.0.0.1:8080', cluster: web, {listener}}}}}\n"
    )
}

fn load(text: &str) -> Loaded {
    let loaded = config::load_text(Path::new("test.yaml"), text);
    loaded.unwrap_or_else(|problems| panic!("{problems}"))
}
