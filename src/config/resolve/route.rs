//! A listener's `routes`.

use std::collections::HashMap;

use crate::cluster::Name;
use crate::config::Protocol;
use crate::config::Route;
use crate::config::reader::Reader;
use crate::config::resolve::fit::ClientTls;
use crate::config::source::Sources;
use crate::config::tree::At;
use crate::config::tree::Node;
use crate::config::values;
use crate::config::values::Wrong;

/// What a route may ask of a session.
pub(super) const SESSION_CONDITIONS: [&str; 3] = ["sni", "database", "user"];
/// What only a route of requests has.
const REQUEST_KEYS: [&str; 8] = [
    "host",
    "path",
    "method",
    "header",
    "request_headers",
    "response_headers",
    "rate_limit",
    "timeout",
];

/// A route of which the cluster is read: what else it may have depends on what its listener speaks.
pub(super) struct Opened<'n> {
    pub reader: Reader<'n>,
    pub cluster: Option<Name>,
}

/// The routes, and where each condition of them stands.
#[derive(Default)]
pub(super) struct Routes {
    pub routes: Vec<Route>,
    conditions: Vec<(&'static str, At)>,
}

/// Server name, database and user: `None` fits all.
type Conditions = (Option<String>, Option<String>, Option<String>);

pub(super) fn open<'n>(
    sources: &mut Sources,
    listener: &mut Reader<'n>,
    names: &mut Vec<(Name, At)>,
) -> Vec<Opened<'n>> {
    let readers = listener.list_of_sections(sources, "routes");
    let open = |mut reader: Reader<'n>| {
        let cluster = reader.read(sources, "cluster", values::name, |name| (&**name).into());
        if let Some(cluster) = &cluster {
            names.push((cluster.clone(), reader.place("cluster")));
        }
        Opened { reader, cluster }
    };
    readers.into_iter().flatten().map(open).collect()
}

/// Whether a listener routes requests; where its clusters do not tell, its routes do.
pub(super) fn are_of_requests(opened: &[Opened<'_>], protocol: Option<Protocol>) -> bool {
    let asks = |route: &Opened<'_>| {
        let mut keys = REQUEST_KEYS.iter();
        keys.any(|key| route.reader.entry(key).is_some())
    };
    match protocol {
        Some(protocol) => protocol == Protocol::Http,
        None => opened.iter().any(asks),
    }
}

pub(super) fn read(
    sources: &mut Sources,
    listener: &mut Reader<'_>,
    opened: Vec<Opened<'_>>,
) -> Routes {
    let mut found = Routes::default();
    if opened.is_empty() {
        return found;
    }
    let mut seen: HashMap<Conditions, At> = HashMap::new();
    let mut shown = Vec::new();
    for mut route in opened {
        for name in SESSION_CONDITIONS.into_iter().chain(REQUEST_KEYS) {
            let written = route.reader.entry(name).map(|entry| (name, entry.key_at));
            found.conditions.extend(written);
        }
        let at = route.reader.at;
        let read = read_route(sources, &mut route.reader, route.cluster);
        shown.push(route.reader.finish().0);
        let Some(route) = read else {
            continue;
        };
        refuse_unreachable(sources, &seen, &route, at);
        let Route {
            sni,
            database,
            user,
            ..
        } = route.clone();
        seen.entry((sni, database, user)).or_insert(at);
        found.routes.push(route);
    }
    listener.attach_value("routes", shown.into(), Vec::new());
    found
}

fn read_route(
    sources: &mut Sources,
    route: &mut Reader<'_>,
    cluster: Option<Name>,
) -> Option<Route> {
    let parse = |node: &Node| values::server_name(node, true);
    let sni = route.read(sources, "sni", parse, |sni| sni.as_str().into());
    let database = read_login(sources, route, "database");
    let user = read_login(sources, route, "user");
    if REQUEST_KEYS.iter().any(|name| route.entry(name).is_some()) {
        // Reported once it is known what the listener speaks.
        return None;
    }
    let conditions = SESSION_CONDITIONS.iter();
    if conditions.clone().all(|name| route.entry(name).is_none()) {
        let message = "a route needs a condition";
        let help = "add `sni`, `database` or `user`; sessions without a route go to the listener's `cluster`";
        sources.error(route.at, Wrong::new(message, help));
        return None;
    }
    let is_whole = [
        ("sni", sni.is_some()),
        ("database", database.is_some()),
        ("user", user.is_some()),
    ];
    if is_whole
        .iter()
        .any(|(name, read)| route.entry(name).is_some() && !read)
    {
        return None;
    }
    Some(Route {
        sni,
        database,
        user,
        cluster: cluster?,
    })
}

fn read_login(sources: &mut Sources, route: &mut Reader<'_>, name: &'static str) -> Option<String> {
    let text = route.text(sources, name)?;
    if text.is_empty() || text.contains('\0') {
        let message = format!("`{name}` cannot be empty or contain NUL");
        let help = format!("leave `{name}` out to take every {name}");
        sources.error(route.place(name), Wrong::new(message, help));
        return None;
    }
    Some(text)
}

/// An earlier route with the same conditions, or some of them, takes every session before this one.
fn refuse_unreachable(
    sources: &mut Sources,
    seen: &HashMap<Conditions, At>,
    route: &Route,
    at: At,
) {
    let wildcard = route.sni.as_ref().and_then(|sni| {
        let (label, rest) = sni.split_once('.')?;
        (label != "*").then(|| format!("*.{rest}"))
    });
    // The same server name, then the wildcard over it, then all.
    let names = [route.sni.clone(), wildcard, None];
    for (index, sni) in names.iter().enumerate() {
        if index == 1 && sni.is_none() {
            continue;
        }
        for database in [&route.database, &None] {
            for user in [&route.user, &None] {
                let earlier = (sni.clone(), database.clone(), user.clone());
                let Some(first) = seen.get(&earlier) else {
                    continue;
                };
                let is_same = (sni, database, user) == (&route.sni, &route.database, &route.user);
                let (message, help, label) = if is_same {
                    let message = format!("{} stands twice", describe(route));
                    (message, "remove one", "the other one is here")
                } else {
                    let message = format!("{} is never taken", describe(route));
                    let help = "move it before the other one: the first match wins";
                    (message, help, "this one takes its sessions")
                };
                sources.conflict(at, Wrong::new(message, help), label, *first);
                return;
            }
        }
    }
}

fn describe(route: &Route) -> String {
    let conditions = [
        ("sni", &route.sni),
        ("database", &route.database),
        ("user", &route.user),
    ];
    let written: Vec<String> = conditions
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name} `{}`", value.as_ref()?)))
        .collect();
    format!("the route for {}", written.join(" and "))
}

/// Conditions on what this listener never learns of its clients.
pub(super) fn refuse_unknown(
    sources: &mut Sources,
    routes: &Routes,
    protocol: Protocol,
    tls: ClientTls,
) {
    for (condition, at) in &routes.conditions {
        let (message, help) = match (protocol, *condition, tls) {
            (Protocol::Tcp, "sni", _) | (_, "sni", ClientTls::Ended)
                if protocol != Protocol::MySql =>
            {
                continue;
            }
            (_, key, _) if REQUEST_KEYS.contains(&key) => (
                format!("`{key}` is for requests, and this listener's are sessions"),
                "write `protocol: http` in its clusters, and no `protocol` in the listener",
            ),
            (Protocol::MySql, ..) => (
                format!(
                    "MySQL cannot be routed by `{condition}`: the server speaks first, so it is chosen before the client says a word"
                ),
                "give each cluster a listener of its own",
            ),
            (_, "sni", _) => (
                "the server name is part of a client's TLS, which this listener does not end"
                    .to_owned(),
                "add `tls: {cert_file: …, key_file: …}` to the listener",
            ),
            (Protocol::Postgres, _, ClientTls::Passthrough) => (
                format!("`{condition}` is not known: it is inside the TLS that passes through"),
                "end TLS here with `tls: {cert_file: …, key_file: …}`, or give each cluster a listener of its own",
            ),
            (Protocol::Postgres, ..) => continue,
            (Protocol::Redis, ..) => (
                format!(
                    "Redis cannot be routed by `{condition}`: a client may log in at any time, or never"
                ),
                "give each cluster a listener of its own",
            ),
            // Of requests others are asked, and read elsewhere.
            (Protocol::Http, ..) => continue,
            (Protocol::Tcp, ..) => (
                format!("`{condition}` is not known: this listener relays bytes unseen"),
                "write `protocol: postgres` in its clusters, and none in the listener",
            ),
        };
        sources.error(*at, Wrong::new(message, help));
    }
}
