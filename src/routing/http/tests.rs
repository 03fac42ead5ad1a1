//! Which route is the most specific, by the rules and by a definition that is too slow to use.

use std::cmp::Reverse;

use http::HeaderName;
use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::config::HashKey;
use crate::config::RouteActions;

fn route(host: &str, path: &str) -> HttpRoute {
    let exact = |text: &str| text.strip_prefix('=').map(str::to_owned);
    HttpRoute {
        host: match host.strip_prefix('*') {
            _ if host.is_empty() => None,
            Some(suffix) => Some(HostPattern::Below(suffix.to_owned())),
            None => Some(HostPattern::Exact(host.to_owned())),
        },
        path: match exact(path) {
            _ if path.is_empty() => None,
            Some(exact) => Some(PathPattern::Exact(exact)),
            None => Some(PathPattern::Prefix(path.to_owned())),
        },
        methods: Vec::new(),
        headers: Vec::new(),
        cluster: format!("{host}{path}").into(),
        actions: RouteActions::default(),
    }
}

fn header(name: &'static str, value: Option<&'static str>) -> HeaderMatch {
    HeaderMatch {
        name: HeaderName::from_static(name),
        value: value.map(HeaderValue::from_static),
    }
}

/// A listener's routes with their index.
struct Listener {
    config: HttpListenerConfig,
    routes: HttpRoutes,
}

impl Listener {
    fn new(routes: Vec<HttpRoute>) -> Self {
        Self {
            routes: HttpRoutes::new(&routes),
            config: HttpListenerConfig {
                routes,
                ..HttpListenerConfig::default()
            },
        }
    }

    fn find(&self, view: &HttpRequestView<'_>) -> Option<usize> {
        self.routes.find(&self.config.routes, view)
    }

    /// Position of the route of a GET without fields.
    fn get(&self, host: &str, path: &str) -> Option<usize> {
        self.find(&HttpRequestView {
            host: Some(host),
            path,
            method: &Method::GET,
            headers: &HeaderMap::new(),
        })
    }
}

#[test]
fn the_host_counts_before_the_path() {
    let listener = Listener::new(vec![
        route("", "=/metrics"),
        route("*.example.com", "/metrics"),
        route("*.eu.example.com", ""),
        route("api.eu.example.com", ""),
    ]);
    assert_eq!(listener.get("other.org", "/metrics"), Some(0));
    assert_eq!(listener.get("a.example.com", "/metrics"), Some(1));
    assert_eq!(listener.get("a.b.example.com", "/metrics"), Some(1));
    assert_eq!(listener.get("a.eu.example.com", "/metrics"), Some(2));
    assert_eq!(listener.get("api.eu.example.com", "/metrics"), Some(3));
    assert_eq!(listener.get("example.com", "/"), None);
    assert_eq!(listener.get(".example.com", "/metrics"), Some(0));
}

#[test]
fn an_exact_path_counts_before_the_longest_prefix() {
    let listener = Listener::new(vec![
        route("", ""),
        route("", "/"),
        route("", "/api"),
        route("", "/api/"),
        route("", "/api/v1"),
        route("", "=/api/v1/health"),
    ]);
    for (path, expected) in [
        ("*", 0),
        ("/", 1),
        ("/apix", 1),
        ("/api", 2),
        ("/api/", 3),
        ("/api/v", 3),
        ("/api/v1", 4),
        ("/api/v1/x", 4),
        ("/api/v1/health", 5),
        ("/api/v1/health/x", 4),
    ] {
        assert_eq!(listener.get("a", path), Some(expected), "{path}");
    }
}

#[test]
fn a_path_is_cut_only_where_a_character_ends() {
    let listener = Listener::new(vec![route("", "/aa"), route("", "/\u{e9}")]);
    assert_eq!(listener.get("a", "/a\u{e9}"), None);
    assert_eq!(listener.get("a", "/\u{e9}/x"), Some(1));
}

#[test]
fn methods_count_before_header_conditions_and_the_file_decides_last() {
    let mut by_method = route("", "/");
    by_method.methods = vec![Method::GET, Method::HEAD];
    let mut by_header = route("", "/");
    by_header.headers = vec![header("x-a", None)];
    let mut by_two = route("", "/");
    by_two.headers = vec![header("x-a", None), header("x-b", Some("2"))];
    let routes = vec![route("", "/"), route("", "/"), by_header, by_two, by_method];
    let listener = Listener::new(routes);
    let find = |method, fields: &[(&'static str, &'static str)]| {
        let field = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        let headers = HeaderMap::from_iter(fields.iter().map(field));
        listener.find(&HttpRequestView {
            host: None,
            path: "/x",
            method: &method,
            headers: &headers,
        })
    };
    assert_eq!(find(Method::GET, &[("x-a", "1"), ("x-b", "2")]), Some(4));
    assert_eq!(find(Method::POST, &[("x-a", "1"), ("x-b", "2")]), Some(3));
    assert_eq!(
        find(Method::POST, &[("x-a", "1"), ("x-b", "1"), ("x-b", "2")]),
        Some(3)
    );
    assert_eq!(find(Method::POST, &[("x-a", "1"), ("x-b", "3")]), Some(2));
    assert_eq!(find(Method::POST, &[("x-b", "2")]), Some(0));
}

#[test]
fn a_more_specific_route_that_does_not_match_gives_way() {
    let mut posts = route("a.example", "/x");
    posts.methods = vec![Method::POST];
    let listener = Listener::new(vec![posts, route("*.example", "/x"), route("", "")]);
    assert_eq!(listener.get("a.example", "/x"), Some(1));
    assert_eq!(listener.get("a.example", "/y"), Some(2));
}

#[test]
fn what_no_route_takes_goes_to_the_default() {
    let listener = Listener::new(vec![route("a", "/x")]);
    let headers = HeaderMap::new();
    let view = |path| HttpRequestView {
        host: Some("a"),
        path,
        method: &Method::GET,
        headers: &headers,
    };
    let default: Name = "default".into();
    let routed =
        |path, default| route_http(&listener.routes, &listener.config, default, &view(path));
    let by_route = HttpRouted {
        cluster: &"a/x".into(),
        route: Some(0),
    };
    assert_eq!(routed("/x", Some(&default)), Some(by_route));
    let by_default = HttpRouted {
        cluster: &default,
        route: None,
    };
    assert_eq!(routed("/y", Some(&default)), Some(by_default));
    assert_eq!(routed("/y", None), None);
}

#[test]
fn each_route_says_why() {
    let mut posts = route("a", "/x");
    posts.methods = vec![Method::POST];
    let mut marked = route("a", "/x");
    marked.headers = vec![header("x-a", None), header("x-b", Some("2"))];
    let listener = Listener::new(vec![
        route("b", "/y"),
        route("a", "/y"),
        posts,
        marked,
        route("a", "/x"),
        route("a", ""),
    ]);
    let headers = HeaderMap::from_iter([
        (
            HeaderName::from_static("x-a"),
            HeaderValue::from_static("1"),
        ),
        (
            HeaderName::from_static("x-b"),
            HeaderValue::from_static("1"),
        ),
    ]);
    let view = HttpRequestView {
        host: Some("a"),
        path: "/x/1",
        method: &Method::GET,
        headers: &headers,
    };
    let expected = [
        HttpVerdict::OtherHost,
        HttpVerdict::OtherPath,
        HttpVerdict::OtherMethod,
        HttpVerdict::OtherHeader(1),
        HttpVerdict::Taken,
        HttpVerdict::LessSpecific,
    ];
    assert_eq!(
        explain_http(&listener.routes, &listener.config, &view),
        expected
    );
}

#[test]
fn a_requests_key_is_what_the_cluster_hashes() {
    let headers = HeaderMap::from_iter([
        (http::header::COOKIE, HeaderValue::from_static("sid=7")),
        (
            HeaderName::from_static("x-tenant"),
            HeaderValue::from_static("acme"),
        ),
        (
            HeaderName::from_static("x-latin"),
            HeaderValue::from_bytes(b"\xe9").unwrap(),
        ),
    ]);
    let view = HttpRequestView {
        host: None,
        path: "/db/x",
        method: &Method::GET,
        headers: &headers,
    };
    let name = HeaderName::from_static;
    for (key, value) in [
        (HashKey::Header(name("x-tenant")), Some("acme")),
        (HashKey::Header(name("x-none")), None),
        (HashKey::Header(name("x-latin")), None),
        (HashKey::Cookie("sid".into()), Some("7")),
        (HashKey::Cookie("other".into()), None),
        (HashKey::Query("id".into()), Some("9")),
        (HashKey::Query("other".into()), None),
        (HashKey::Path, Some("/db/x")),
        (HashKey::ClientIp, None),
    ] {
        assert_eq!(request_key(&key, &view, Some("a=1&id=9")), value, "{key:?}");
    }
    assert_eq!(request_key(&HashKey::Query("id".into()), &view, None), None);
}

/// How specific a route is: the greatest that matches is taken.
fn rank(route: &HttpRoute, at: usize) -> impl Ord + use<> {
    let host = match &route.host {
        None => (0, 0),
        Some(HostPattern::Below(suffix)) => (1, suffix.len()),
        Some(HostPattern::Exact(_)) => (2, 0),
    };
    let path = match &route.path {
        None => (0, 0),
        Some(PathPattern::Prefix(prefix)) => (1, prefix.len()),
        Some(PathPattern::Exact(_)) => (2, 0),
    };
    (
        host,
        path,
        !route.methods.is_empty(),
        route.headers.len(),
        Reverse(at),
    )
}

fn by_definition(routes: &[HttpRoute], view: &HttpRequestView<'_>) -> Option<usize> {
    let matching = routes.iter().enumerate().filter(|(_, route)| {
        let host = match (&route.host, view.host) {
            (None, _) => true,
            (Some(HostPattern::Exact(exact)), Some(host)) => exact == host,
            (Some(HostPattern::Below(suffix)), Some(host)) => host
                .strip_suffix(suffix.as_str())
                .is_some_and(|labels| !labels.is_empty()),
            (Some(_), None) => false,
        };
        let path = match &route.path {
            None => true,
            Some(PathPattern::Exact(exact)) => exact == view.path,
            Some(PathPattern::Prefix(prefix)) => match view.path.strip_prefix(prefix.as_str()) {
                Some(rest) => rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'),
                None => false,
            },
        };
        let method = route.methods.is_empty() || route.methods.contains(view.method);
        let mut headers = route.headers.iter();
        host && path
            && method
            && headers.all(|wanted| {
                let mut values = view.headers.get_all(&wanted.name).iter();
                values.any(|has| wanted.value.as_ref().is_none_or(|value| value == has))
            })
    });
    matching
        .max_by_key(|(at, route)| rank(route, *at))
        .map(|(at, _)| at)
}

/// Few words, so that routes overlap.
fn any_host() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "com"]), 1..5)
        .prop_map(|labels| labels.join("."))
}

fn any_path() -> impl Strategy<Value = String> {
    let segments = prop::collection::vec(prop::sample::select(vec!["a", "b", "aa"]), 0..4);
    (segments, any::<bool>()).prop_map(|(segments, slash)| {
        let path = format!("/{}", segments.join("/"));
        if slash && path.len() > 1 {
            path + "/"
        } else {
            path
        }
    })
}

fn any_method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::GET, Method::POST, Method::PUT])
}

fn any_field() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    let name = prop::sample::select(vec!["x-a", "x-b"]);
    (name, prop::sample::select(vec!["1", "2"])).prop_map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    })
}

fn any_route() -> impl Strategy<Value = HttpRoute> {
    let host = prop_oneof![
        Just(None),
        any_host().prop_map(|host| Some(HostPattern::Exact(host))),
        any_host().prop_map(|host| Some(HostPattern::Below(format!(".{host}")))),
    ];
    let path = prop_oneof![
        Just(None),
        any_path().prop_map(|path| Some(PathPattern::Exact(path))),
        any_path().prop_map(|path| Some(PathPattern::Prefix(path))),
    ];
    let header = (any_field(), any::<bool>()).prop_map(|((name, value), any)| HeaderMatch {
        name,
        value: (!any).then_some(value),
    });
    let methods = prop::collection::vec(any_method(), 0..2);
    let headers = prop::collection::vec(header, 0..3);
    (host, path, methods, headers).prop_map(|(host, path, methods, headers)| HttpRoute {
        host,
        path,
        methods,
        headers,
        ..route("", "")
    })
}

proptest! {
    #[test]
    fn the_index_finds_what_the_definition_says(
        routes in prop::collection::vec(any_route(), 0..60),
        requests in prop::collection::vec(
            (prop::option::of(any_host()), any_path(), any_method(), prop::collection::vec(any_field(), 0..3)),
            1..20,
        ),
    ) {
        let listener = Listener::new(routes);
        for (host, path, method, fields) in requests {
            let headers = HeaderMap::from_iter(fields);
            let view = HttpRequestView {
                host: host.as_deref(),
                path: &path,
                method: &method,
                headers: &headers,
            };
            let expected = by_definition(&listener.config.routes, &view);
            prop_assert_eq!(listener.find(&view), expected);
            let verdicts = explain_http(&listener.routes, &listener.config, &view);
            let taken = verdicts.iter().position(|verdict| *verdict == HttpVerdict::Taken);
            prop_assert_eq!(taken, expected);
            for (at, verdict) in verdicts.into_iter().enumerate() {
                let alone = &listener.config.routes[at..=at];
                let matches = by_definition(alone, &view).is_some();
                let says = matches!(verdict, HttpVerdict::Taken | HttpVerdict::LessSpecific);
                prop_assert_eq!(says, matches);
            }
        }
    }
}
