//! The route that takes a client, and what the others say to its request.

use serde_json::Value;
use serde_json::json;

use crate::config::HostPattern;
use crate::config::HttpListenerConfig;
use crate::config::HttpRoute;
use crate::config::PathPattern;
use crate::routing;
use crate::routing::HttpQuestion;
use crate::routing::HttpVerdict;
use crate::routing::ListenerEntry;

/// The route that takes a request.
pub fn http_route(config: &HttpListenerConfig, routed: Option<routing::HttpRouted<'_>>) -> Value {
    let Some(routed) = routed else {
        return Value::Null;
    };
    let Some(at) = routed.route else {
        return json!({ "cluster": &**routed.cluster, "number": null,
            "text": "the listener's cluster" });
    };
    let text = config.routes.get(at).map(conditions).unwrap_or_default();
    let text = format!("route {} ({text})", at + 1);
    json!({ "cluster": &**routed.cluster, "number": at + 1, "text": text })
}

/// What each route says to the request.
pub fn verdicts(
    entry: &ListenerEntry,
    config: &HttpListenerConfig,
    question: &HttpQuestion,
) -> Value {
    let verdicts = routing::explain_http(&entry.http_routes, config, &question.view());
    let routes = config.routes.iter().zip(&verdicts).enumerate();
    let routes = routes.map(|(at, (route, verdict))| {
        let header = match verdict {
            HttpVerdict::OtherHeader(at) => route.headers.get(*at).map(|it| it.name.as_str()),
            _ => None,
        };
        json!({ "number": at + 1, "text": conditions(route), "verdict": verdict.as_str(),
            "header": header })
    });
    routes.collect()
}

/// As in the file, on one line.
fn conditions(route: &HttpRoute) -> String {
    let mut conditions = Vec::new();
    match &route.host {
        Some(HostPattern::Exact(host)) => conditions.push(format!("host: {host}")),
        Some(HostPattern::Below(suffix)) => conditions.push(format!("host: *{suffix}")),
        None => {}
    }
    match &route.path {
        Some(PathPattern::Exact(path)) => conditions.push(format!("path: exact {path}")),
        Some(PathPattern::Prefix(path)) => conditions.push(format!("path: {path}")),
        None => {}
    }
    if !route.methods.is_empty() {
        let methods: Vec<_> = route.methods.iter().map(|it| it.as_str()).collect();
        conditions.push(format!("method: {}", methods.join(" ")));
    }
    for header in &route.headers {
        let value = header.value.as_ref().and_then(|value| value.to_str().ok());
        conditions.push(format!(
            "header {}: {}",
            header.name,
            value.unwrap_or("any")
        ));
    }
    conditions.join(", ")
}

/// The route that takes a session.
pub fn route(entry: &ListenerEntry, routed: Option<routing::Routed<'_>>) -> Value {
    let Some(routed) = routed else {
        return Value::Null;
    };
    let Some(at) = routed.route else {
        return json!({ "cluster": &**routed.cluster, "number": null,
            "text": "the listener's cluster" });
    };
    let route = &entry.config.routes[at];
    let conditions = [
        ("sni", &route.sni),
        ("database", &route.database),
        ("user", &route.user),
    ];
    let conditions: Vec<String> = conditions
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}: {value}")))
        .collect();
    let text = format!("route {} ({})", at + 1, conditions.join(", "));
    json!({ "cluster": &**routed.cluster, "number": at + 1, "text": text })
}
