//! A route of requests: its conditions, and what is done to the requests.

use std::collections::HashMap;
use std::num::NonZeroU32;

use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header;
use serde_json::Map;
use serde_json::Value as Json;

use crate::config::HeaderMatch;
use crate::config::HostPattern;
use crate::config::HttpRoute;
use crate::config::PathPattern;
use crate::config::RateLimit;
use crate::config::RouteActions;
use crate::config::keys;
use crate::config::reader::Reader;
use crate::config::request;
use crate::config::resolve::cluster::narrow;
use crate::config::resolve::fit::Named;
use crate::config::resolve::http_fit::HttpFit;
use crate::config::resolve::http_headers;
use crate::config::resolve::http_headers::Way;
use crate::config::resolve::http_headers::show_value;
use crate::config::resolve::route::Opened;
use crate::config::resolve::route::SESSION_CONDITIONS;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Entry;
use crate::config::tree::Node;
use crate::config::tree::Value;
use crate::config::values;
use crate::config::values::Wrong;

/// What a route may ask of a request.
const CONDITIONS: [&str; 4] = ["host", "path", "method", "header"];

/// Headers that the same request has or has not, by the version of HTTP that brings it.
const FRAMING: [&str; 6] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "trailer",
    "transfer-encoding",
];

/// All conditions of a route for one of its methods.
type Conditions = (
    Option<HostPattern>,
    Option<PathPattern>,
    Option<Method>,
    Vec<(HeaderName, Option<HeaderValue>)>,
);

pub(super) fn read(
    sources: &mut Sources,
    listener: &mut Reader<'_>,
    opened: Vec<Opened<'_>>,
    clusters: &[Named<'_>],
) -> Vec<HttpRoute> {
    let mut routes = Vec::new();
    let mut seen = HashMap::new();
    let mut shown = Vec::new();
    let mut defaults = Vec::new();
    let mut fit = HttpFit::new(listener, clusters);
    for mut route in opened {
        let at = route.reader.at;
        let errors = sources.count_errors();
        let read = read_route(sources, &mut route);
        refuse_untaken_connect(sources, listener, &route.reader, read.as_ref());
        if let Some(read) = &read {
            fit.check(sources, &route.reader, read);
        }
        let (value, mut unwritten) = route.reader.finish();
        shown.push(value);
        defaults.append(&mut unwritten);
        // Half of a condition is another one, which may well stand twice.
        if let Some(read) = read.filter(|_| sources.count_errors() == errors) {
            refuse_double(sources, &mut seen, &read, at);
            routes.push(read);
        }
    }
    if !shown.is_empty() {
        listener.attach_value("routes", shown.into(), defaults);
    }
    routes
}

fn read_route(sources: &mut Sources, opened: &mut Opened<'_>) -> Option<HttpRoute> {
    let route = &mut opened.reader;
    refuse_session_conditions(sources, route);
    let host = route.read(sources, "host", request::host, |host| {
        request::show_host(host).into()
    });
    let path = read_path(sources, route);
    let methods = read_methods(sources, route);
    let headers = read_headers(sources, route);
    let actions = RouteActions {
        request_headers: http_headers::read(sources, route, Way::Request),
        response_headers: http_headers::read(sources, route, Way::Response),
        rate_limit: read_rate_limit(sources, route),
        timeout: route.optional_duration(sources, "timeout"),
    };
    let all = CONDITIONS.iter().chain(&SESSION_CONDITIONS);
    if all.clone().all(|name| route.entry(name).is_none()) {
        let message = "a route needs a condition";
        let help = "add `host`, `path`, `method` or `header`; `path: /` takes every request";
        sources.error(route.at, Wrong::new(message, help));
    }
    Some(HttpRoute {
        host,
        path,
        methods,
        headers,
        cluster: opened.cluster.take()?,
        actions,
    })
}

fn refuse_session_conditions(sources: &mut Sources, route: &Reader<'_>) {
    for name in SESSION_CONDITIONS {
        let Some(entry) = route.entry(name) else {
            continue;
        };
        let message =
            format!("`{name}` is a condition for sessions, and this listener routes requests");
        let help = match name {
            "sni" => "write `host`, which every request has, over TLS or not",
            _ => "route by `host`, `path`, `method` or `header`",
        };
        sources.error(entry.key_at, Wrong::new(message, help));
    }
}

/// `/api/`, `{prefix: /api/}` or `{exact: /health}`.
fn read_path(sources: &mut Sources, route: &mut Reader<'_>) -> Option<PathPattern> {
    let node = route.node("path")?;
    if !matches!(node.value, Value::Map(_)) {
        let show = |path: &String| path.as_str().into();
        let parse = |node: &Node| match node.value {
            Value::List(_) => Err(Wrong {
                help: Some("write a route for each path".to_owned()),
                ..Wrong::expected("a path", node)
            }),
            _ => request::path(node),
        };
        let path = route.read(sources, "path", parse, show);
        return path.map(PathPattern::Prefix);
    }
    let pointer = route.pointer_to("path");
    let mut section = Reader::open(sources, &keys::PATH, node, pointer);
    let show = |path: &String| path.as_str().into();
    let exact = section.read(sources, "exact", request::path, show);
    let prefix = section.read(sources, "prefix", request::path, show);
    match (section.entry("exact"), section.entry("prefix")) {
        (Some(first), Some(second)) => {
            let wrong = Wrong::new("`prefix` beside `exact`", "remove one");
            sources.conflict(second.key_at, wrong, "the other one is here", first.key_at);
        }
        (None, None) if node.map().is_ok_and(<[Entry]>::is_empty) => {
            let message = "a path needs the key `exact` or `prefix`";
            let help = "as in `{exact: /health}`; `path: /api/` is short for a prefix";
            sources.error(node.at, Wrong::new(message, help));
        }
        _ => {}
    }
    route.attach("path", section);
    exact
        .map(PathPattern::Exact)
        .or(prefix.map(PathPattern::Prefix))
}

fn read_methods(sources: &mut Sources, route: &mut Reader<'_>) -> Vec<Method> {
    let mut methods: Vec<Method> = Vec::new();
    for node in route.one_or_many(sources, "method") {
        match request::method(node) {
            Ok(method) if methods.contains(&method) => {
                let wrong = Wrong::new(format!("`{method}` stands twice"), "remove one");
                sources.error(node.at, wrong);
            }
            Ok(method) => methods.push(method),
            Err(wrong) => sources.error(node.at, wrong),
        }
    }
    if !methods.is_empty() {
        let shown: Vec<&str> = methods.iter().map(Method::as_str).collect();
        route.shown("method", shown);
    }
    methods
}

fn read_headers(sources: &mut Sources, route: &mut Reader<'_>) -> Vec<HeaderMatch> {
    let entries = route.free_map(sources, "header");
    let pointer = route.pointer_to("header");
    let mut headers: Vec<HeaderMatch> = Vec::new();
    let mut shown = Map::new();
    for entry in entries {
        let name = match read_header_name(entry, &headers) {
            Ok(name) => name,
            Err(wrong) => {
                sources.error(entry.key_at, wrong);
                continue;
            }
        };
        let value = if matches!(entry.value.value, Value::Map(_)) {
            read_present(sources, entry, format!("{pointer}/{name}"));
            shown.insert(name.to_string(), serde_json::json!({"present": true}));
            None
        } else {
            match http_headers::read_value(&entry.value, &name) {
                Ok(value) => {
                    shown.insert(name.to_string(), show_value(&name, &entry.value));
                    Some(value)
                }
                Err(wrong) => {
                    sources.error(entry.value.at, wrong);
                    continue;
                }
            }
        };
        headers.push(HeaderMatch { name, value });
    }
    if !entries.is_empty() {
        route.shown("header", Json::Object(shown));
    }
    headers
}

fn read_header_name(entry: &Entry, earlier: &[HeaderMatch]) -> Result<HeaderName, Wrong> {
    let name = request::header_name(&entry.key)?;
    if name == header::HOST {
        let help = "write `host: …` beside `header`";
        return Err(Wrong::new("the host has a condition of its own", help));
    }
    if FRAMING.contains(&name.as_str()) {
        let message = format!("`{name}` belongs to the connection or frames the body");
        let help = "ask for another header: over HTTP/2 the same request comes without this one";
        return Err(Wrong::new(message, help));
    }
    // The same spelling is reported as a key that stands twice.
    let is_double = |other: &HeaderMatch| other.name == name && entry.key != name.as_str();
    if earlier.iter().any(is_double) {
        let message = format!("the header `{name}` stands twice");
        let help = "remove one: upper and lower case are the same";
        return Err(Wrong::new(message, help));
    }
    Ok(name)
}

fn read_present(sources: &mut Sources, entry: &Entry, pointer: String) {
    let mut section = Reader::open(sources, &keys::PRESENT, &entry.value, pointer);
    section.require(sources, "present");
    let is_present = section.flag(sources, "present");
    if let Some(node) = section.node("present")
        && matches!(node.value, Value::Flag(false))
        && !is_present
    {
        let message = "a route cannot ask for a header that is not there";
        let help = "send the requests that have it elsewhere with a route of their own";
        sources.error(node.at, Wrong::new(message, help));
    }
}

fn read_rate_limit(sources: &mut Sources, route: &mut Reader<'_>) -> Option<RateLimit> {
    let mut section = route.optional_section(sources, "rate_limit")?;
    let requests = section.count(sources, "requests").map(narrow);
    let per = section.duration(sources, "per");
    let written = section.count(sources, "burst").map(narrow);
    if let (None, Some(requests)) = (section.entry("burst"), requests) {
        section.derived("burst", requests);
    }
    route.attach("rate_limit", section);
    let requests = requests.and_then(NonZeroU32::new)?;
    Some(RateLimit {
        requests,
        per,
        burst: written.and_then(NonZeroU32::new).unwrap_or(requests),
    })
}

/// A route for CONNECT of a listener that refuses CONNECT.
fn refuse_untaken_connect(
    sources: &mut Sources,
    listener: &Reader<'_>,
    route: &Reader<'_>,
    read: Option<&HttpRoute>,
) {
    let asks = read.is_some_and(|read| read.methods.contains(&Method::CONNECT));
    let http = listener.node("http").and_then(|node| node.map().ok());
    let allow = http.and_then(|http| http.iter().find(|entry| entry.key == "allow_connect"));
    let allowed = allow.is_some_and(|allow| values::flag(&allow.value).unwrap_or(true));
    if asks && !allowed {
        let message = "this route asks for CONNECT, which the listener refuses";
        let help = "add `http: {allow_connect: true}` to the listener";
        sources.error(route.place("method"), Wrong::new(message, help));
    }
}

/// Routes with the same conditions: nothing says which is meant.
fn refuse_double(
    sources: &mut Sources,
    seen: &mut HashMap<Conditions, At>,
    route: &HttpRoute,
    at: At,
) {
    let mut headers: Vec<_> = route
        .headers
        .iter()
        .map(|header| (header.name.clone(), header.value.clone()))
        .collect();
    headers.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
    let methods: Vec<Option<Method>> = match route.methods.as_slice() {
        [] => vec![None],
        methods => methods.iter().cloned().map(Some).collect(),
    };
    let mut reported = false;
    for method in methods {
        let described = describe(route, method.as_ref());
        let key = (
            route.host.clone(),
            route.path.clone(),
            method,
            headers.clone(),
        );
        let first = *seen.entry(key).or_insert(at);
        if first != at && !reported {
            reported = true;
            let wrong = Wrong::new(format!("{described} stands twice"), "remove one");
            sources.conflict(at, wrong, "the other one is here", first);
        }
    }
}

/// Values of headers are left out: they may be secret.
fn describe(route: &HttpRoute, method: Option<&Method>) -> String {
    let host = route
        .host
        .as_ref()
        .map(|host| format!("host `{}`", request::show_host(host)));
    let path = route.path.as_ref().map(|path| match path {
        PathPattern::Exact(path) => format!("exactly `{path}`"),
        PathPattern::Prefix(path) => format!("path `{path}`"),
    });
    let method = method.map(|method| format!("method `{method}`"));
    let headers = route
        .headers
        .iter()
        .map(|header| format!("header `{}`", header.name));
    let conditions = [host, path, method].into_iter().flatten().chain(headers);
    format!(
        "the route for {}",
        conditions.collect::<Vec<_>>().join(" and ")
    )
}
